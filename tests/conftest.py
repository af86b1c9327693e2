"""What several tests share: a tiny real world, a real Ray, a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import validate
from tests.helpers.faulty_store import FaultyStore
from tests.helpers.servers import free_ports, s3_server
from tests.slow import SLOW

# Property tests draw the same cases in every run, and a slow machine fails none of them.
settings.register_profile(
    "repeatable", derandomize=True, max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.partition("[")[0].removeprefix("tests/") in SLOW:
            item.add_marker(pytest.mark.slow)


os.environ |= {
    "RAY_AUTH_MODE": "disabled",  # whatever the user's own Ray has
    "RAY_worker_niceness": "0",  # by default the workers of one test would be starved by another process of the tests
    "RAY_USAGE_STATS_ENABLED": "0",  # the actor that collects them for Ray Data takes 5 s of CPU time to start
}

SHARED = Path(__file__).parents[2] / "shared"

TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {
        "adapter": "synthetic",
        "name": "synthetic",
        "split": ["fish", "teapot", "church"],
        "categories": ["fish", "teapot", "church", "airplane", "bicycle", "car", "umbrella", "rabbit"],
        "instances": 4,
        "size": 64,
        "pseudo_unseen": 0.25,
    },
    "transforms": {"size": 32},
    "ingest": {"part_size": 16},
    "shard": {"items": 48, "part_size": 20, "row_group": 6},
    "backbone": {"name": "test_resnet"},
    "methods": {"global": {"dim": 16, "readout": "head"}},
    "train": {"steps": 6, "batch_size": 4, "warmup": 2, "checks": 3},
    "cluster": {"workers": 0},
    "evaluation": {"classes": "unseen"},
    "tracking": {"enabled": False},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def tiny(**changes: Any) -> ExperimentConfig:
    """The tiny experiment with some sections changed."""
    return validate(merged(TINY, changes))


def tiny_folder(source: str, unseen: list[str], **changes: Any) -> ExperimentConfig:
    """The tiny experiment on a folder of pictures."""
    dataset = {"adapter": "folder", "name": "pictures", "source": source, "split": unseen, "pseudo_unseen": 0}
    return validate(merged(TINY | {"dataset": dataset}, changes))


@pytest.fixture(scope="session")
def metrics_url() -> str:
    """The Prometheus endpoint of `ray_cluster`."""
    return f"http://127.0.0.1:{free_ports(1)[0]}/metrics"


@pytest.fixture(scope="session")
def ray_cluster(s3: str, metrics_url: str) -> Iterator[None]:
    """One Ray for all tests that need one; its workers inherit the way to the S3 server."""
    import ray

    from pipelines.runtime.ray_tasks import quiet_ray_data

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=int(metrics_url.rpartition(":")[2].partition("/")[0]),
        _system_config={"metrics_report_interval_ms": 1000},
    )
    quiet_ray_data()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3(_store: FaultyStore) -> str:
    """The URL of an empty bucket on a real S3 server, with the environment that leads every client to it."""
    return "s3://zse"


@pytest.fixture
def store(_store: FaultyStore) -> Iterator[FaultyStore]:
    """The server of `s3`, to be told which answers to spoil."""
    _store.clear()
    yield _store
    _store.clear()


@pytest.fixture(scope="session")
def _store() -> Iterator[FaultyStore]:
    with s3_server("zse") as port, FaultyStore(port) as front:
        environment = {
            "AWS_ENDPOINT_URL": front.url,
            "AWS_MAX_ATTEMPTS": "3",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        before = {key: os.environ.get(key) for key in environment}
        os.environ |= environment
        try:
            yield front
        finally:
            front.shutdown()
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)
