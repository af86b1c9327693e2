"""Real processes on one index: killed at random points, two at once, and a bucket of many pages."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.store import storage
from tests.encode.test_index import CODES, catalogue, photo, put, rows, skipped, updated
from tests.helpers.faulty_store import FaultyStore

pytestmark = pytest.mark.cluster

INDEX = """
import sys
from pipelines.encode import index as indexing
indexing.PART, indexing.STEP = 4, 8
indexing.index(sys.argv[1], sys.argv[2], sys.argv[3], called="kept")
"""


def started(source: Path, url: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INDEX, str(source), str(url), CODES]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def commits(url: Path) -> int:
    return len(list(url.rglob("photos.lance/_versions/*.manifest")))


def test_ten_kills_at_random_points_change_no_row_and_no_order(tmp_path: Path) -> None:
    source, url, chance = catalogue(tmp_path / "photos", 200), tmp_path / "index", random.Random(7)
    put(source / "bad.png", b"no picture")
    updated(source, tmp_path / "at once")
    killed, seen = 0, set()
    for _ in range(30):
        process, wanted = started(source, url), commits(url) + chance.randrange(4)
        while process.poll() is None and not (commits(url) >= wanted and list(url.rglob("lease/*.json"))):
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        killed += process.wait() == -9
        seen.add(commits(url))
        if killed == 10:
            break
        if process.returncode == 0:
            put(source / f"more{killed}.png", photo(300 + killed))  # it was too fast: more work
            updated(source, tmp_path / "at once")
    assert killed == 10 and len(seen) > 3, f"killed after {sorted(seen)} commits"
    process = started(source, url)
    assert process.wait(120) == 0, process.communicate()[0]
    assert rows(url) == rows(tmp_path / "at once") and set(skipped(url)) == {"bad.png"}


def test_two_indexers_at_once_lose_nothing(tmp_path: Path) -> None:
    source, url = catalogue(tmp_path / "photos", 40), tmp_path / "index"
    both = [started(source, url) for _ in range(2)]
    said = [process.communicate(timeout=180)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    updated(source, tmp_path / "at once")
    assert rows(url) == rows(tmp_path / "at once")


@pytest.mark.timeout(600)  # a model's worker starts in two minutes beside other tests on a slow machine
@pytest.mark.usefixtures("ray_cluster")
def test_a_bucket_of_many_photos_costs_its_pages(tmp_path: Path, s3: str, store: FaultyStore) -> None:
    source, url = f"{s3}/many-{os.getpid()}", str(tmp_path / "index")
    data = photo(1)
    for _ in storage.side_by_side(lambda i: storage.write_bytes(f"{source}/{i:04d}.png", data), range(1200)):
        pass
    assert updated(source, url).new == 1200
    store.clear()
    assert updated(None, url).text() == "1,200 photos are indexed; nothing has changed"
    folder = source.removeprefix(f"{s3}/")
    lists = [one for one in store.asked if "list-type=2" in one]
    assert len(lists) <= 2 + 20  # a page of a list has 1,000
    assert not [one for one in store.asked if one.startswith("GET") and f"/{folder}/" in one.partition("?")[0]]
