"""A real service on an index of drawn photos, at a port of this machine."""

from __future__ import annotations

import csv
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from pipelines.serve.app import create_app
from pipelines.serve.run import server_of
from pipelines.serve.service import Service, Settings
from tests.encode.test_index import NAMES as ODD
from tests.encode.test_index import put, updated
from tests.helpers.pictures import picture
from tests.search.test_searcher import TOKENS
from tests.serve.client import asked
from zse_model.synthetic import CATEGORIES, draw_photo

KINDS = CATEGORIES[:10]
NAMES = ("grün.jpg", "100%.jpg", "#1?.jpg", "кошка/рыжая кошка.jpg", "<img src=x onerror=alert(1)>.jpg")


@dataclass
class Running:
    url: str
    """With a slash at its end."""
    app: FastAPI
    server: uvicorn.Server
    index: Path
    photos: Path

    @property
    def service(self) -> Service:
        return self.app.state.service


@contextmanager
def running(settings: Settings, token: str | None = None, wait: bool = True) -> Iterator[Running]:
    """The service in a thread of this process, when it is ready, or at once without `wait`."""
    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(settings, token, failed=lambda: None)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    service = Running(
        f"http://127.0.0.1:{listening.getsockname()[1]}/",
        app,
        server,
        Path(settings.index),
        Path(settings.index).parent / "photos",
    )
    try:
        if wait:
            until_ready(service)
        yield service
    finally:
        server.should_exit = True
        thread.join()


def until_ready(service: Running) -> None:
    for _ in range(600):
        if asked(f"{service.url}readyz").status == 200:
            return
        assert service.service.failed is None, service.service.failed
        time.sleep(0.05)
    raise TimeoutError("the service is not ready after 30 s")


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """40 drawn photos of ten categories and five with difficult names, with metadata, indexed with tokens."""
    folder = tmp_path_factory.mktemp("catalogue")
    names = [f"{kind}/{i}.png" for kind in KINDS for i in range(4)]
    for i, name in enumerate(names):
        put(folder / "photos" / name, picture(draw_photo(name.partition("/")[0], i, size=200)))
    for i, name in enumerate(NAMES):
        put(folder / "photos" / name, picture(draw_photo(KINDS[i], 100 + i, size=200), "JPEG"))
    with (folder / "about.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "category", "price", "new", "day"])
        for i, name in enumerate(names):
            writer.writerow([name, name.partition("/")[0], i, str(i % 2 == 0).lower(), f"2026-01-{i % 28 + 1:02d}"])
    updated(folder / "photos", folder / "index", TOKENS, metadata=str(folder / "about.csv"), tokens=True)
    return Settings(index=str(folder / "index"), model=TOKENS)


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, int]]]:
    """A service of photos whose names are in many scripts, one of them not in UTF-8; and the seed of each drawn photo
    by its id."""
    folder = tmp_path_factory.mktemp("odd")
    for seed, name in enumerate(ODD):
        put(folder / "photos" / name, picture(draw_photo("fish", seed, size=48), "JPEG"))
    path = Path(os.fsdecode(os.fsencode(folder / "photos") + b"/\xff\xfe.jpg"))
    put(path, picture(draw_photo("fish", len(ODD), size=48), "JPEG"))
    updated(folder / "photos", folder / "index", TOKENS)
    with running(Settings(index=str(folder / "index"), model=TOKENS, originals=True)) as started:
        yield started, {name: seed for seed, name in enumerate([*ODD, r"\udcff\udcfe.jpg"])}


@pytest.fixture(scope="session")
def service(catalogue: Settings) -> Iterator[Running]:
    with running(catalogue) as started:
        yield started
