"""Measure the service: requests a second, p50 and p99 of one client and of eight, and whether its memory grows.

    python -m benchmarks serve --index photos.index --model models:/zse@champion
    ... --seconds 60 --clients 8 --mode fused

Each client sends the next drawing when it has the answer to the last. Drawings are lines at random, all different, sent
as strokes; an answer has 20 photos. The service is a process of its own, as `zse serve` starts it. Its memory is read
every second; the slope of a line through the second half says whether it grows.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

WARM = 3.0  # s before anything is counted
GROWS = 1.0  # MB a minute, from which memory is said to grow; give enough --seconds to tell it from chance
LONG = 240  # s that show whether memory grows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks serve")
    parser.add_argument("--index", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mode", default=None)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args(arguments)
    asked = {"top": 20} | ({"mode": given.mode} if given.mode else {})
    with _service(given.index, given.model) as (port, process):
        about = json.loads(_answer(port, "GET", "/v1/about")[1])
        print(f"{about['photos']:,} photos, {about['model']['method']}, {given.mode or about['modes'][0]['name']}")
        _load(port, asked, 1, WARM)
        alone = _load(port, asked, 1, given.seconds / 4)
        with _memory_of(process) as memory:
            together = _load(port, asked, given.clients, given.seconds)
        text = _answer(port, "GET", "/metrics")[1].decode()
    _line("1 client", alone, given.seconds / 4)
    _line(f"{given.clients} clients", together, given.seconds)
    counted = dict(re.findall(r"zse_serve_batch_(count|sum) (\S+)", text))
    batches, requests = float(counted["count"]), float(counted["sum"])
    ratio = (len(together) / given.seconds) / (len(alone) / (given.seconds / 4))
    print(
        f"{given.clients} clients / 1 client: {ratio:.2f} x the throughput; {requests / batches:.1f} requests a batch"
    )
    print("memory, MB: " + ", ".join(f"{memory[round(at * (len(memory) - 1) / 4)][1]:.0f}" for at in range(5)))
    seconds, megabytes = np.array(memory[len(memory) // 2 :]).T
    slope = 60 * np.polyfit(seconds, megabytes, 1)[0]
    grows = f"it {'grows' if slope >= GROWS else 'does not grow'} (from {GROWS:g} MB a minute)"
    verdict = grows if given.seconds >= LONG else f"--seconds {LONG} or more would tell whether it grows"
    print(f"memory in the second half: {slope:+.2f} MB a minute; {verdict}")


def _load(port: int, asked: Mapping[str, Any], clients: int, seconds: float) -> list[float]:
    """Seconds of each request of so many clients. Raises if one fails."""
    took: list[float] = []
    failed: list[int] = []
    until = time.monotonic() + seconds

    def client(seed: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for drawing in _drawings(seed):
            if (began := time.monotonic()) > until:
                return
            body = json.dumps({"strokes": drawing, **asked})
            connection.request("POST", "/v1/search", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(time.monotonic() - began)
            if answer.status != 200:
                failed.append(answer.status)

    threads = [threading.Thread(target=client, args=(time.monotonic_ns() % 2**32 + i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(took)} requests failed: {sorted(set(failed))}")
    return took


def _drawings(seed: int) -> Iterator[list[list[list[int]]]]:
    """Strokes of some thirty points each, as a hand draws them."""
    random = np.random.default_rng(seed)
    while True:
        strokes = []
        for _ in range(random.integers(2, 8)):
            steps = random.normal(0, 8, (2, 30)).cumsum(1).cumsum(1)
            strokes.append((random.uniform(0, 512, (2, 1)) + steps).round().astype(int).tolist())
        yield strokes


@contextmanager
def _memory_of(process: psutil.Process) -> Iterator[list[tuple[float, float]]]:
    """(s, MB) of every second of the context."""
    read: list[tuple[float, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while True:
            read.append((time.monotonic(), process.memory_info().rss / 1e6))
            if ended.wait(1):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield read
    finally:
        ended.set()
        thread.join()


def _line(what: str, took: Sequence[float], seconds: float) -> None:
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    print(f"{what:10s} {len(took) / seconds:7.1f} requests/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   n {len(took)}")


@contextmanager
def _service(index: str, model: str) -> Iterator[tuple[int, psutil.Process]]:
    command = [str(Path(sys.executable).parent / "zse"), "serve", "--index", index, "--model", model, "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"http://127.0.0.1:(\d+) opens the page", line):
                port = int(found[1])
                break
        else:
            raise RuntimeError("The service did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        for _ in itertools.count():
            if _answer(port, "GET", "/readyz")[0] == 200:
                break
            time.sleep(0.1)
        yield port, psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def _answer(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()
