"""A Ray cluster of several nodes on one machine: each a raylet of its own, with an address and an object store."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from contextlib import ExitStack, suppress
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from tests.helpers.servers import BIN, NO_MONITOR, free_ports, kill_all, ray_head

STORE = "--object-store-memory=500000000"  # bytes: with 100 MB Ray Data waits for ever


class Nodes:
    """A head that runs no tasks, and nodes that come and go. `environment` is what all of their processes have.

    Nodes are numbered from 1 in the order in which they came; a number is not used again.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.nodes: dict[int, psutil.Popen] = {}
        self.count = 0
        self._stack = ExitStack()
        self.head = self._stack.enter_context(ray_head("--num-cpus=0", STORE, environment=environment))

    def add(self, cpus: int = 2) -> int:
        """One node more; gives its number when it is there.

        One at a time: of two that start at once on one machine, one may wait for its raylet in vain.
        """
        self.count += 1
        own = f"127.0.0.{1 + self.count}"  # a machine of its own, as far as Ray can tell
        command = [str(BIN / "ray"), "start", "--block", NO_MONITOR, STORE, f"--address={self.head.address}"]
        command += [f"--num-cpus={cpus}", f"--node-ip-address={own}"]
        flags = ("--dashboard-agent-listen-port", "--metrics-export-port", "--runtime-env-agent-port")
        command += [f"{flag}={port}" for flag, port in zip(flags, free_ports(len(flags)), strict=True)]
        said = self.head.folder / f"node-{self.count}.log"
        with said.open("wb") as log:
            node = self.nodes[self.count] = psutil.Popen(command, env=self.head.env, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while time.monotonic() < end and node.poll() is None:
            with suppress(OSError):
                if self.count in self.alive():
                    return self.count
            time.sleep(0.5)
        raise TimeoutError(f"Node {self.count} did not join:\n{said.read_text()}")

    def alive(self) -> dict[int, str]:
        """Number and Ray's id of the nodes that Ray takes for alive, without the head."""
        with urllib.request.urlopen(f"{self.head.dashboard}/api/v0/nodes?detail=1", timeout=30) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return {
            int(node["node_ip"].rsplit(".", 1)[1]) - 1: node["node_id"]
            for node in found
            if node["state"] == "ALIVE" and not node["is_head_node"]
        }

    def kill(self, number: int) -> None:
        """As if the node's machine lost power."""
        node = self.nodes.pop(number)
        kill_all(node.pid)
        node.wait()

    def drain(self, number: int, seconds: int) -> None:
        """As a cloud's notice that it takes the machine away in so many seconds; `kill` takes it.

        It is what `ray drain-node` asks for, without the seconds of its start, in which a short training would end.
        """
        reason, end = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), 1000 * (int(time.time()) + seconds)
        accepted, why = GcsClient(address=self.head.address).drain_node(self.alive()[number], reason, "spot", end)
        assert accepted, why

    def workers(self, name: str = "RayTrainWorker") -> dict[int, list[psutil.Process]]:
        """The processes of each node with this in their name: those that train."""
        return {number: _of(node, name) for number, node in self.nodes.items()}

    def zse(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """A command on this cluster, with what it says."""
        return subprocess.Popen(
            [str(BIN / "zse"), *arguments],
            env=self.head.env | {"RAY_ADDRESS": self.head.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def logs(self, pattern: str) -> str:
        """What Ray's log files of that pattern hold."""
        files = sorted(self.head.folder.glob(f"session_2*/logs/{pattern}"))
        return "".join(file.read_text(errors="replace") for file in files)

    def close(self) -> None:
        for number in list(self.nodes):
            self.kill(number)
        self._stack.close()


def _of(parent: psutil.Popen, name: str) -> list[psutil.Process]:
    found = []
    for process in parent.children(recursive=True):
        with suppress(psutil.Error):  # it may have ended meanwhile
            found += [process] if name in " ".join(process.cmdline()) else []
    return found
