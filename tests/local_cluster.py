"""A whole cluster on this machine: a Ray head and three nodes, MLflow on PostgreSQL, and an S3 store.

make local-cluster                              # stays in the foreground; Ctrl-C takes all of it down
. local-cluster/env                             # in another shell: every command is now one of the cluster
zse doctor --workspace s3://zse/work            # or: ray job submit -- zse run ...
python -m tests.local_cluster kill 2            # as if node 2's machine lost power
python -m tests.local_cluster add               # another one
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.helpers.nodes import Nodes
from tests.helpers.servers import BIN, INITDB, kill_all, mlflow_server, postgresql, s3_server

FOLDER = Path("local-cluster")
NODES, CPUS = 3, 2


def up() -> None:
    FOLDER.mkdir(exist_ok=True)
    for told in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignored: in the background
        signal.signal(told, signal.default_int_handler)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{stack.enter_context(s3_server('zse'))}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        print(f"S3       {environment['AWS_ENDPOINT_URL']}, bucket zse, in memory", flush=True)
        if INITDB:
            database = stack.enter_context(postgresql())
        else:
            print("PostgreSQL is not installed (apt-get install postgresql): MLflow takes SQLite", flush=True)
            database = f"sqlite:///{FOLDER.resolve()}/mlflow.db"
        artifacts = str(FOLDER.resolve() / "mlartifacts")
        environment["MLFLOW_TRACKING_URI"] = stack.enter_context(mlflow_server(database, artifacts))
        print(f"MLflow   {environment['MLFLOW_TRACKING_URI']}, on {database.split(':')[0]}", flush=True)
        nodes = Nodes(environment)
        stack.callback(nodes.close)
        for _ in range(NODES):
            _add(nodes)
        environment |= {"RAY_ADDRESS": nodes.head.dashboard, "RAY_AUTH_MODE": "disabled"}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        (FOLDER / "env").write_text("\n".join([*lines, f'export PATH="{BIN}:$PATH"']) + "\n")
        print(f"Ray      {nodes.head.dashboard}, a head and {NODES} nodes with {CPUS} CPUs each", flush=True)
        print(f"Next: . {FOLDER}/env   in another shell. Ctrl-C here ends it all", flush=True)
        stack.callback(print, "Going down", flush=True)
        while True:
            time.sleep(0.5)
            _obey(nodes)


def _add(nodes: Nodes) -> None:
    number = nodes.add(CPUS)
    (FOLDER / f"node-{number}.pid").write_text(str(nodes.nodes[number].pid))


def _obey(nodes: Nodes) -> None:
    """What the other commands ask for."""
    for number in [number for number, node in nodes.nodes.items() if node.poll() is not None]:
        nodes.nodes.pop(number)
        (FOLDER / f"node-{number}.pid").unlink(missing_ok=True)
        print(f"Node {number} is gone", flush=True)
    if (FOLDER / "add").exists():
        (FOLDER / "add").unlink()
        _add(nodes)
        print(f"Node {max(nodes.nodes)} is there", flush=True)


def kill(number: str) -> None:
    file = FOLDER / f"node-{number}.pid"
    if not file.exists():
        there = sorted(file.stem.removeprefix("node-") for file in FOLDER.glob("node-*.pid"))
        raise SystemExit(f"There is no node {number}; there are {', '.join(there) or 'none'}")
    kill_all(int(file.read_text()))
    print(f"Node {number} is dead")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["up"]:
            up()
        case ["kill", number]:
            kill(number)
        case ["add"]:
            if not FOLDER.exists():
                raise SystemExit("There is no cluster here: make local-cluster")
            (FOLDER / "add").touch()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
