"""The servers that a cluster has beside it, real ones, on ports of this machine."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
INITDB = next(map(str, _PLACES), None) or shutil.which("initdb")
"""PostgreSQL's, None where it is not installed."""


_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_CANDIDATES = range(20_000 + _PROCESS % 8, 32_768, 8)
"""Above the ports that Ray gives to its workers, below those that Linux gives to connections: one of the latter may be
taken between the choice of a port and its use, as it once was. Each process of the tests has its own."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, at any address of this machine."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_CANDIDATES, len(_CANDIDATES)):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))  # Ray listens on the machine's own address, not on 127.0.0.1
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"fewer than {count} ports of {_CANDIDATES} are free")


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until the URL answers, which the server, a process of the test's own, may take three minutes for."""
    for _ in range(360):
        assert server.poll() is None, f"what should answer at {url} ended with {server.returncode}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{url} does not answer")


@contextmanager
def _running(command: list[str], answers: str) -> Iterator[None]:
    """The server of a command, which has a session of its own: its children end with it, and no Ctrl-C reaches it."""
    # Eight processes for background jobs of MLflow's, of which zse uses none, take 40 s of CPU time to start.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=env, start_new_session=True, **quiet)
    try:
        wait_for(answers, server)
        yield
    finally:
        os.killpg(server.pid, 9)
        server.wait()


@contextmanager
def s3_server(bucket: str) -> Iterator[int]:
    """The port of an S3 server with an empty bucket."""
    (port,) = free_ports(1)
    with _running(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], f"http://127.0.0.1:{port}"
    ):
        url = f"http://127.0.0.1:{port}/{bucket}"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()
        yield port


@contextmanager
def mlflow_server(store: str, artifacts: str, port: int | None = None) -> Iterator[str]:
    """The URL of an MLflow server on a database, with its artifacts in a folder or bucket."""
    port = port or free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    with _running([*command, "--artifacts-destination", artifacts, "--workers", "1"], f"{url}/health"):
        yield url


@contextmanager
def postgresql() -> Iterator[str]:
    """The URI of an empty database on a server of its own, which root may not run: then the user postgres does."""
    folder, (port,) = tempfile.mkdtemp(prefix="zpg"), free_ports(1)
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    programs = Path(str(INITDB)).resolve().parent

    def call(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    call("initdb", "-D", f"{folder}/data", "-U", "zse", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    call("pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "zse", "mlflow")
        yield f"postgresql+psycopg2://zse@127.0.0.1:{port}/mlflow"
    finally:
        call("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Head:
    """Where a Ray head answers."""

    address: str
    """For nodes, and for a command that is a driver itself."""
    dashboard: str
    """For submitted jobs."""
    folder: Path
    """Ray's own, with its logs."""
    env: dict[str, str]
    """Of its processes, and of those that join or use it."""

    def job(self, *options: str) -> list[str]:
        """The command that submits one from this repository, up to what the job runs."""
        excludes = json.dumps({"excludes": ["/.git", "/.venv*", "/workspace*"]})
        of_code = ("--working-dir", str(REPOSITORY), "--runtime-env-json", excludes)
        return [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, *options, *of_code, "--"]


HEAD_PORTS = (
    "--port",
    "--dashboard-port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)
NO_MONITOR = "--include-log-monitor=false"
"""What workers say goes to no driver here; the process that would send it takes a twentieth of a core for each node."""


@contextmanager
def ray_head(*arguments: str, port: int | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Head]:
    """`ray start --head` with these arguments, this environment beside that of the tests, on a port of choice.

    Raises RuntimeError with the end of Ray's output if the head ends before the test does.
    """
    ports = dict(zip(HEAD_PORTS, free_ports(len(HEAD_PORTS)), strict=True))
    ports["--port"] = port or ports["--port"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    # By default workers have a low priority: whatever else the machine does would starve them.
    fixed = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    fixed["PATH"] = f"{BIN}:{os.environ['PATH']}"
    env = kept | fixed | dict(environment or {})
    folder = Path(tempfile.mkdtemp(prefix="zr"))  # short: the path of a socket has at most 107 bytes
    listening = [f"{flag}={port}" for flag, port in ports.items()]
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        NO_MONITOR,
        f"--temp-dir={folder}",
        *listening,
        *arguments,
    ]
    output = folder / "head.log"
    with output.open("wb") as log:
        head = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        dashboard = f"http://127.0.0.1:{ports['--dashboard-port']}"
        wait_for(f"{dashboard}/api/version", head)
        _wait_for_head(dashboard, head)
        yield Head(f"127.0.0.1:{ports['--port']}", dashboard, folder, env)
    finally:
        ended = head.poll()
        kill_all(head.pid)
        head.wait()
        said = output.read_text(errors="replace")[-2000:]
        shutil.rmtree(folder, ignore_errors=True)
        if ended is not None:
            raise RuntimeError(f"The Ray head ended with {ended} during the test:\n{said}")


def _wait_for_head(dashboard: str, head: subprocess.Popen[bytes]) -> None:
    """Until the head's own node has joined: the dashboard answers before, and a raylet that fails ends the head."""
    end = time.monotonic() + 120
    while time.monotonic() < end and head.poll() is None:
        with suppress(OSError, TypeError, KeyError):  # the answer has no result yet
            with urllib.request.urlopen(f"{dashboard}/api/v0/nodes?detail=1", timeout=30) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
            if any(node["state"] == "ALIVE" and node["is_head_node"] for node in nodes):
                return
        time.sleep(0.5)
    raise TimeoutError(f"The node of the Ray head at {dashboard} did not join")


def kill_all(pid: int) -> None:
    """A process and all below it, at once: a Ray head that is asked to stop drains its nodes for half a minute."""
    with suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
