"""A random sequence of faults over a small training and a re-evaluation, on a Ray of several nodes.

    make chaos                        # 20 faults
    python -m tests.chaos --faults 3 --seed 7

Each fault comes once the last one is overcome: a state more is kept, or a report more is there. At the end the training
has the weights of one that nothing happened to, the re-evaluation its numbers. Ends with 1 if not, with the seed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import yaml
from mlflow import MlflowClient

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from tests.conftest import TINY, merged
from tests.helpers.faulty_store import FaultyStore
from tests.helpers.nodes import Nodes
from tests.helpers.pictures import write
from tests.helpers.servers import free_ports, mlflow_server, s3_server
from tests.helpers.trainings import copy_inputs

OVERCOME = 600.0  # s; nothing takes longer


class Chaos:
    """The machines, what runs on them, and what can be done to both."""

    def __init__(self, folder: Path, store: FaultyStore, stack: ExitStack) -> None:
        self.folder, self.store, self.stack = folder, store, stack
        self.mlflow_port, self.mlflow = free_ports(1)[0], ExitStack()
        self.environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.mlflow_port}", "AWS_MAX_ATTEMPTS": "8"}
        self.environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        self._open_mlflow()
        stack.callback(self.mlflow.close)
        self._open_cluster()
        stack.callback(lambda: self.nodes.close())
        self.command: tuple[str, ...] = ()
        self.process: subprocess.Popen[str] | None = None
        stack.callback(lambda: self.process.kill() if self.process else None)
        self.attempts = 0

    def _open_mlflow(self) -> None:
        store, artifacts = f"sqlite:///{self.folder}/mlflow.db", f"{self.folder}/artifacts"
        self.mlflow.enter_context(mlflow_server(store, artifacts, self.mlflow_port))

    def _open_cluster(self) -> None:
        self.nodes = Nodes(self.environment)
        for _ in range(2):
            self.nodes.add(2)

    # What runs ------------------------------------------------------------------------------------------------------

    def begin(self, *command: str) -> None:
        self.command, self.attempts = command, 1
        self.process = self.nodes.zse(*command)

    def ended(self) -> bool:
        """Whether the command came to its end; where it failed, it is given again."""
        assert self.process is not None
        if self.process.poll() is None:
            return False
        if self.process.returncode == 0:
            return True
        said = self.process.communicate()[0]
        assert self.attempts < 40, f"it fails whenever it is given:\n{said[-3000:]}"
        self.attempts += 1
        say("   it failed, and is given again")
        self.process = self.nodes.zse(*self.command)
        return False

    def wait(self, what: Callable[[], bool]) -> float | None:
        """Seconds until it is so, None where the command ended before."""
        start = time.monotonic()
        while time.monotonic() < start + OVERCOME:
            with suppress(StorageError):
                if what():
                    return time.monotonic() - start
            if self.ended():
                return None
            time.sleep(0.3)
        raise AssertionError(f"not overcome after {OVERCOME:.0f} s")

    # What happens ---------------------------------------------------------------------------------------------------

    def possible(self) -> list[Callable[[Chaos, random.Random], None]]:
        """The faults that have something to hit now: a small re-evaluation has no workers most of the time."""
        without = [] if self._workers() else [Chaos.worker_stopped]
        without += [] if self._tasks() else [Chaos.worker_killed]
        return [fault for fault in FAULTS if fault not in without]

    def worker_killed(self, rng: random.Random) -> None:
        with suppress(psutil.Error, IndexError):
            rng.choice(self._tasks()).kill()

    def worker_stopped(self, rng: random.Random) -> None:
        """It hangs: the others wait for it until their watchdog ends them."""
        with suppress(psutil.Error, IndexError):
            rng.choice(self._workers()).send_signal(signal.SIGSTOP)

    def _workers(self, name: str = "RayTrainWorker") -> list[psutil.Process]:
        return [worker for found in self.nodes.workers(name).values() for worker in found]

    def _tasks(self) -> list[psutil.Process]:
        return self._workers() or self._workers("ray::Map")

    def node_killed(self, rng: random.Random) -> None:
        self.nodes.kill(rng.choice(sorted(self.nodes.nodes)))
        self.nodes.add(2)

    def node_taken_away(self, rng: random.Random) -> None:
        """With a notice of 20 s."""
        number = rng.choice(sorted(self.nodes.nodes))
        self.nodes.add(2)
        self.nodes.drain(number, 20)
        threading.Timer(20, lambda: self.nodes.kill(number)).start()
        time.sleep(21)

    def head_killed(self, rng: random.Random) -> None:
        self.nodes.close()
        self._open_cluster()

    def driver_killed(self, rng: random.Random) -> None:
        assert self.process is not None
        self.process.kill()

    def store_away(self, rng: random.Random) -> None:
        self.store.fail("slow down", ".")
        time.sleep(rng.uniform(5, 20))
        self.store.clear()

    def mlflow_away(self, rng: random.Random) -> None:
        self.mlflow.close()
        time.sleep(rng.uniform(5, 20))
        self._open_mlflow()


FAULTS: tuple[Callable[[Chaos, random.Random], None], ...] = (
    Chaos.worker_killed,
    Chaos.worker_stopped,
    Chaos.node_killed,
    Chaos.node_taken_away,
    Chaos.head_killed,
    Chaos.driver_killed,
    Chaos.store_away,
    Chaos.mlflow_away,
)


def training(folder: Path) -> str:
    """Its experiment."""
    changes = {
        "train": {"steps": 300, "checks": 10},
        "cluster": {"workers": 2, "max_failures": 100, "hang_minutes": 0.2},
        "tracking": {"enabled": True},
    }
    file = folder / "chaos.yaml"
    file.write_text(yaml.safe_dump(merged(TINY, changes)))
    return str(file)


def states(workspace: str) -> int:
    """The last step that is kept."""
    found = [name.split("/") for name in _below(workspace, "checkpoints") if name.endswith("/state.json")]
    return max((int(parts[-2][:8]) for parts in found), default=0)


def reports(workspace: str) -> int:
    return sum(name.endswith("manifest.json") for name in _below(workspace, "reports"))


def _below(workspace: str, name: str) -> list[str]:
    url = storage.join(workspace, name)
    return [file.path for file in storage.list_files(url)] if storage.exists(url) else []


def digests(workspace: str) -> tuple[str, str]:
    (name,) = storage.folders(storage.join(workspace, "checkpoints"))
    manifest = storage.read_json(storage.join(workspace, "checkpoints", name, "manifest.json"))
    return manifest["last_weights_sha256"], manifest["digest"]


def hit(chaos: Chaos, rng: random.Random, before: int, total: int, progress: Callable[[], int]) -> int:
    """Faults until there were `total` with those before, or the command has ended; gives how many there were here."""
    done = 0
    while before + done < total and _goes_on(chaos, progress) is not None:
        time.sleep(rng.uniform(0, 1))
        fault = rng.choice(chaos.possible())
        say(f"{before + done + 1}: {fault.__name__.replace('_', ' ')}")
        fault(chaos, rng)
        done += 1
        seconds = _goes_on(chaos, progress)
        say("   it ended" if seconds is None else f"   went on after {seconds:.0f} s")
    assert chaos.wait(lambda: False) is None
    return done


def _goes_on(chaos: Chaos, progress: Callable[[], int]) -> float | None:
    now = progress()
    return chaos.wait(lambda: progress() > now)


def say(text: str) -> None:
    print(text, flush=True)


def run(faults: int, seed: int) -> None:
    """Raises AssertionError where anything is not as it would have been without faults."""
    rng, began, later = random.Random(seed), time.monotonic(), max(faults // 4, 1)
    say(f"seed {seed}, {faults} faults")
    with served() as store, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zse-chaos-")))
        chaos = Chaos(folder, store, stack)
        file = training(folder)
        chaos.begin("train", "-e", file, "-w", "s3://zse/whole")
        assert chaos.wait(lambda: False) is None
        say(f"undisturbed: {time.monotonic() - began:.0f} s with the start of the cluster")
        done, workspace = 0, ""
        while done < faults - later:  # a training that ends between two faults is followed by another
            workspace = f"s3://zse/work-{done}"
            copy_inputs("s3://zse/whole", workspace)
            chaos.begin("train", "-e", file, "-w", workspace)
            done += hit(chaos, rng, done, faults - later, partial(states, workspace))
            assert digests(workspace) == digests("s3://zse/whole"), "other weights than the undisturbed training's"
            say(f"the weights are those of the undisturbed training, after {time.monotonic() - began:.0f} s")

        (checkpoint,) = storage.folders(storage.join(workspace, "checkpoints"))
        models, names = storage.join(workspace, "checkpoints", checkpoint), []
        command = ("reevaluate", "--catalog", str(folder / "datasets"), "--models", models, "-w", workspace)
        while done < faults:
            for _ in range(2):
                write(folder / "datasets" / f"set-{len(names)}", range(len(names), len(names) + 4))
                names.append(f"set-{len(names)}")
            chaos.begin(*command)
            done += hit(chaos, rng, done, faults, partial(reports, workspace))
        chaos.begin(*command)
        assert chaos.wait(lambda: False) is None and chaos.process is not None
        assert "nothing is new" in " ".join(chaos.process.communicate()[0].split())
        client = MlflowClient(chaos.environment["MLFLOW_TRACKING_URI"])
        runs = client.search_runs(
            [experiment.experiment_id for experiment in client.search_experiments()],
            "tags.`zse.kind` = 'evaluation'",
        )
        tracked = sorted(run.data.tags["zse.dataset"] for run in runs)
        assert tracked == sorted(names), f"each is to be tracked once, these are: {tracked}"
        assert {run.info.status for run in runs} == {"FINISHED"}
        say(f"each data set has one report and one run, after {time.monotonic() - began:.0f} s")
    say(f"Nothing is lost or changed by {faults} faults, seed {seed}")


@contextmanager
def served() -> Iterator[FaultyStore]:
    """An S3 server that can be made to fail, and the environment that leads every client to it."""
    with s3_server("zse") as port, FaultyStore(port) as store:
        keys = {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update({"AWS_ENDPOINT_URL": store.url, **keys})
        yield store
        store.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    try:
        run(arguments.faults, arguments.seed)
    except AssertionError as error:
        sys.exit(f"{error}\nBroken. Again: python -m tests.chaos --faults {arguments.faults} --seed {arguments.seed}")


if __name__ == "__main__":
    main()
