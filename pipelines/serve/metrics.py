"""The metrics of a service, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TOGETHER = (1, 2, 3, 4, 6, 8)


class Metrics:
    """One of each app: two apps of one process count apart."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        self.seconds = Histogram(
            "zse_serve_seconds", "Time of a request", ["route", "status"], buckets=SECONDS, registry=self._all
        )
        self.together = Histogram(
            "zse_serve_batch", "Requests that the model did together", buckets=TOGETHER, registry=self._all
        )
        self.under_way = Gauge("zse_serve_under_way", "Requests that wait for the model or run", registry=self._all)
        self.refused = Counter("zse_serve_refused", "Requests refused because too much waited", registry=self._all)
        self.photos = Gauge("zse_serve_photos", "Photos of the index that answers", registry=self._all)
        self.version = Gauge("zse_serve_index_version", "Version of the index that answers", registry=self._all)
        self.behind = Gauge(
            "zse_serve_behind", "1 = the last look for a newer one failed, 0 = not", ["what"], registry=self._all
        )

    def took(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. route: as it is declared, so that ids make no labels."""
        self.seconds.labels(route, str(status)).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._all)
