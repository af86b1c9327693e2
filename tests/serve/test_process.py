"""`zse serve` as a process: it says where it is, ends when it has answered, and names what keeps it from starting."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.serve.run import serve
from pipelines.serve.service import Settings
from tests.helpers.servers import BIN, free_ports
from tests.search.test_searcher import CODES, TOKENS
from tests.serve.client import STROKES, asked
from zse_model.errors import ZseError


@contextmanager
def process(settings: Settings, *options: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The URL of a service when it is ready, and its process."""
    (port,) = free_ports(1)
    command = [str(BIN / "zse"), "serve", "--index", settings.index, "--model", settings.model, "--port", str(port)]
    server = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        while server.poll() is None:
            try:
                if asked(f"{url}readyz").status == 200:
                    break
            except OSError:
                time.sleep(0.2)
        yield url, server
    finally:
        server.kill()
        server.communicate()


def test_a_service_that_is_told_to_end_answers_what_runs(catalogue: Settings) -> None:
    with process(catalogue, ZSE_TOKEN="correct-horse-battery") as (url, server), ThreadPoolExecutor(16) as pool:
        body = json.dumps({"strokes": STROKES, "mode": "rn"}).encode()
        token = "Bearer correct-horse-battery"
        assert asked(f"{url}v1/search", body).status == 401
        answers = [pool.submit(asked, f"{url}v1/search", body, authorization=token) for _ in range(16)]
        while 'route="/v1/search",status="200"' not in asked(f"{url}metrics", authorization=token).body.decode():
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        assert {answer.result().status for answer in answers} == {200}
        _, said = server.communicate(timeout=60)
        assert server.returncode == 0, said
        assert f"{url.rstrip('/')} opens the page" in said and "45 photos can be searched" in said
        assert "correct-horse" not in said and "Traceback" not in said
        with pytest.raises(OSError):
            asked(f"{url}healthz")


def test_an_index_of_another_model_ends_the_service(catalogue: Settings) -> None:
    with pytest.raises(ZseError, match="was not encoded by"):
        serve(replace(catalogue, model=CODES), "127.0.0.1", 0)


def test_what_keeps_it_from_starting_is_named(catalogue: Settings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ZseError, match=f"--host 127.0.0.1 --port {port} cannot be had: Address already in use"):
            serve(catalogue, "127.0.0.1", port)
    with pytest.raises(ZseError, match="--host no.such.name.example is no address of this machine"):
        serve(catalogue, "no.such.name.example", 0)
    with pytest.raises(ZseError, match="is not an index"):
        serve(Settings(index=str(tmp_path), model=TOKENS), "127.0.0.1", 0)


def test_it_may_open_as_many_files_as_the_machine_allows(catalogue: Settings) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard - 1, 1024), hard))
    try:
        with pytest.raises(ZseError, match="is no address"):
            serve(catalogue, "no.such.name.example", 0)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_replicas_on_ray_answer_alike(catalogue: Settings) -> None:
    token = {"authorization": "Bearer correct-horse-battery"}
    body = json.dumps({"strokes": STROKES}).encode()
    options = ("--on", "ray", "--replicas", "2")
    with (
        process(catalogue, *options, ZSE_TOKEN="correct-horse-battery") as (url, server),
        ThreadPoolExecutor(8) as pool,
    ):
        assert asked(f"{url}v1/search", body).status == 401, "each replica has the token of its environment"
        answers = list(pool.map(lambda _: asked(f"{url}v1/search", body, **token), range(40)))
        assert {answer.status for answer in answers} == {200}
        assert len({json.dumps(answer.json["photos"]) for answer in answers}) == 1
        assert asked(url).headers["content-security-policy"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
