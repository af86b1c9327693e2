"""A Ray cluster of several nodes on one machine: each a raylet of its own, with an address and an object store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.servers import BIN, free_ports, wait_for

STORE = 500_000_000  # bytes of a node's object store: with 100 MB Ray Data waits for ever


class Nodes:
    """A head that runs no tasks, and nodes that come and go. `environment` is what all of their processes have.

    Nodes are numbered from 1 in the order in which they came; a number is not used again.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.folder = tempfile.mkdtemp(prefix="zn")  # short: the path of a socket has at most 107 bytes
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        # Ray gives its workers the lowest priority but one: whatever else the machine does would starve them.
        fixed = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}
        self.env = kept | fixed | (environment or {})
        self.nodes: dict[int, psutil.Popen] = {}
        self.count = 0
        flags = ("--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port")
        ports = dict(zip(flags, free_ports(len(flags)), strict=True))
        self.address = f"127.0.0.1:{ports['--port']}"
        self.dashboard = f"http://127.0.0.1:{ports['--dashboard-port']}"
        listening = [f"{flag}={port}" for flag, port in ports.items()]
        self.head = self._start("head", "--head", "--num-cpus=0", f"--temp-dir={self.folder}", *listening)
        wait_for(f"{self.dashboard}/api/version", self.head)

    def _start(self, name: str, *arguments: str) -> psutil.Popen:
        with (Path(self.folder) / f"{name}.log").open("wb") as log:
            command = [str(BIN / "ray"), "start", "--block", f"--object-store-memory={STORE}", *arguments]
            return psutil.Popen(command, env=self.env, stdout=log, stderr=log)

    def add(self, cpus: int = 2) -> int:
        """One node more; gives its number when it is there.

        One at a time: of two that start at once on one machine, one may wait for its raylet in vain.
        """
        self.count += 1
        own = f"127.0.0.{1 + self.count}"  # a machine of its own, as far as Ray can tell
        arguments = (f"--address={self.address}", f"--num-cpus={cpus}", f"--node-ip-address={own}")
        flags = ("--dashboard-agent-listen-port", "--metrics-export-port", "--runtime-env-agent-port")
        arguments += tuple(f"{flag}={port}" for flag, port in zip(flags, free_ports(len(flags)), strict=True))
        node = self.nodes[self.count] = self._start(f"node-{self.count}", *arguments)
        end = time.monotonic() + 120
        while time.monotonic() < end and node.poll() is None:
            with suppress(OSError):
                if self.count in self.alive():
                    return self.count
            time.sleep(0.5)
        raise TimeoutError(
            f"Node {self.count} did not join:\n{(Path(self.folder) / f'node-{self.count}.log').read_text()}"
        )

    def alive(self) -> dict[int, str]:
        """Number and Ray's id of the nodes that Ray takes for alive, without the head."""
        with urllib.request.urlopen(f"{self.dashboard}/api/v0/nodes?detail=1", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return {
            int(node["node_ip"].rsplit(".", 1)[1]) - 1: node["node_id"]
            for node in found
            if node["state"] == "ALIVE" and not node["is_head_node"]
        }

    def kill(self, number: int) -> None:
        """As if the node's machine lost power."""
        _kill(self.nodes.pop(number))

    def drain(self, number: int, seconds: int) -> None:
        """As a cloud's notice that it takes the machine away in so many seconds; `kill` takes it."""
        command = ["ray", "drain-node", f"--address={self.address}", f"--node-id={self.alive()[number]}"]
        notice = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        subprocess.run(
            [*command, *notice, f"--deadline-remaining-seconds={seconds}"],
            env=self.env,
            check=True,
            capture_output=True,
        )

    def workers(self) -> dict[int, list[psutil.Process]]:
        """The training workers of each node."""
        return {number: _of(node, "RayTrainWorker") for number, node in self.nodes.items()}

    def zse(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A command on this cluster, with what it says."""
        return subprocess.Popen(
            [str(BIN / "zse"), *arguments],
            env=self.env | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def logs(self, pattern: str) -> str:
        """What Ray's log files of that pattern hold."""
        files = sorted(Path(self.folder).glob(f"session_2*/logs/{pattern}"))
        return "".join(file.read_text(errors="replace") for file in files)

    def close(self) -> None:
        for node in [*self.nodes.values(), self.head]:
            _kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)


def _of(parent: psutil.Popen, name: str) -> list[psutil.Process]:
    found = []
    for process in parent.children(recursive=True):
        with suppress(psutil.Error):  # it may have ended meanwhile
            found += [process] if name in " ".join(process.cmdline()) else []
    return found


def _kill(parent: psutil.Popen) -> None:
    with suppress(psutil.Error):
        for process in [*parent.children(recursive=True), parent]:
            with suppress(psutil.Error):
                process.kill()
    parent.wait()
