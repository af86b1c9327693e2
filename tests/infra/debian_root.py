"""The Dockerfile's steps in a Debian root, where no image can be built: does what they install train and track?

sudo python3 tests/infra/debian_root.py --build-arg COMMIT=$(git rev-parse HEAD)

Debian and its own Python stand in for the base image. Every step and the run get a mount and a process namespace of
their own, so nothing stays mounted, and no process stays, whatever happens. Needs root, mmdebstrap, the network or
what `--show` shows of it, 10 GB in the temporary folder, and about ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "infra/docker"
# What python:slim adds to debian:slim, and Debian's Python in the place of the one that it builds.
PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-pip,python-is-python3"
CONTAINER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
RUN = (
    "zse run --experiment quickstart --workspace workspace --set dataset.instances=4 --set dataset.size=32"
    " --set transforms.size=32 --set shard.items=64 --set train.minutes= --set train.steps=5 --set train.warmup=1"
    " --set cluster.workers=1"
)
TRACKED = """
import sys
from mlflow import MlflowClient
client, found = MlflowClient("sqlite:///workspace/mlflow.db"), set()
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        what = run.data.tags["zse.kind"], run.info.status, run.data.tags.get("mlflow.source.git.commit", "")
        print(*what, run.info.run_name, len(run.data.metrics), "metrics")
        found.add(what)
expected = {(kind, "FINISHED", sys.argv[1]) for kind in ("training", "evaluation")}
sys.exit(0 if found == expected else f"debian_root: MLflow has {found}, not {expected}")
"""

Steps = list[tuple[str, str]]


def stage(dockerfile: str, arguments: Mapping[str, str]) -> tuple[str, Steps]:
    """The base image of the last stage, and the steps from there to its end. `arguments` replace defaults of ARG."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", dockerfile)).splitlines()
    instructions = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word]
    given: dict[str, str] = {}
    stages: dict[str, tuple[str, Steps]] = {}
    base, steps = "", []
    for word, rest in instructions:
        if word == "FROM":
            parent, _, name = Template(rest).substitute(given).partition(" AS ")
            base, before = stages.get(parent, (parent, []))
            steps = [*before]
            stages[name] = base, steps
        elif word == "ARG" and not stages:  # before the first FROM: for FROM alone
            name, _, default = rest.partition("=")
            given[name] = arguments.get(name, "".join(shlex.split(default)))
        else:
            steps.append((word, rest))
    return base, steps


@dataclass
class Root:
    """A Debian root in which steps are done as `docker build` does them, and commands as `docker run` does."""

    folder: Path
    shown: list[Path]  # of this machine, at the same path in the root, read-only
    arguments: dict[str, str]
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    workdir: str = "/"

    def do(self, steps: Steps) -> None:
        for word, rest in steps:
            print(f"{word} {rest}", flush=True)
            match word:
                case "ARG":
                    name, _, default = rest.partition("=")
                    self.arguments.setdefault(name, "".join(shlex.split(default)))
                case "ENV":
                    self.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
                case "WORKDIR":
                    self.workdir = rest
                    self.inside(rest).mkdir(parents=True, exist_ok=True)
                case "USER":
                    self.user = rest
                case "COPY":
                    self.copy(*rest.split())
                case "RUN":
                    # What pip and a proxy are told here, which is nothing of the image's.
                    here = {k: v for k, v in os.environ.items() if re.match("(?i)PIP_|[a-z]+_proxy$", k)}
                    self.run(["sh", "-c", rest], here | self.arguments)
                case "HEALTHCHECK" | "CMD":
                    pass
                case _:
                    sys.exit(f"debian_root: {word} of the Dockerfile is not known here; teach Root.do what it does")

    def inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def copy(self, *words: str) -> None:
        """Files and folders of the build context, as the ignore file lets them in."""
        ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
        to = self.inside(os.path.join(self.workdir, words[-1]))
        for name in words[:-1]:
            if f"!{name}" not in ignored:
                sys.exit(f"debian_root: COPY {name}: Dockerfile.dockerignore keeps it out of the build context")
            if (REPOSITORY / name).is_dir():  # docker copies what is in a folder, not the folder
                patterns = [line.removeprefix("**/") for line in ignored if line.startswith("**/")]
                shutil.copytree(REPOSITORY / name, to, ignore=shutil.ignore_patterns(*patterns), dirs_exist_ok=True)
            else:
                shutil.copy(REPOSITORY / name, to)

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Ends the script where the command fails. Mounts and processes are those of a namespace, gone with it."""
        mounts = [
            ["mount", "-t", "proc", "proc", self.inside("proc")],
            ["mount", "-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", self.inside("dev/pts")],
            ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", self.inside("dev/shm")],
            *(["mount", "--bind", "-o", "ro", path, self.inside(str(path))] for path in self.shown),
        ]
        entered = ["exec", "chroot", f"--userspec={self.user}", self.folder, "env", f"--chdir={self.workdir}", *command]
        script = " && ".join(shlex.join(map(str, words)) for words in [*mounts, entered])
        done = subprocess.run(
            [*CONTAINER, "sh", "-c", script],
            env={**self.environment, "HOME": self.home(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            shown = " ".join(command).partition("\n")[0]
            sys.exit(f"debian_root: {shown} ended with {done.returncode}; what it said is above")

    def home(self) -> str:
        entries = [line.split(":") for line in self.inside("etc/passwd").read_text().splitlines()]
        return next((entry[5] for entry in entries if self.user in (entry[0], entry[2])), "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as for docker build")
    parser.add_argument(
        "--show",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="show the root this file or folder, read-only: pip's configuration, certificates, a package index on disk",
    )
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("debian_root: needs root, for chroot and mounts")
    if missing := [name for name in ("mmdebstrap", "unshare") if not shutil.which(name)]:
        sys.exit(f"debian_root: no {' and no '.join(missing)} here; apt-get install mmdebstrap util-linux")
    if lost := [str(path) for path in options.show if not path.exists()]:
        sys.exit(f"debian_root: --show {lost[0]}: no such file or folder")
    arguments = dict(pair.partition("=")[::2] for pair in options.build_arg)
    base, steps = stage((DOCKER / "Dockerfile").read_text(), arguments)
    if not (known := re.fullmatch(r"python:(3\.\d+)\.\d+-slim-(\w+)", base)):
        sys.exit(f"debian_root: the base image is {base}; only python:X.Y.Z-slim-RELEASE has a stand-in")
    python, release = known.groups()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`
    folder = Path(tempfile.mkdtemp(prefix="debian-root-"))
    try:
        print(f"FROM {base}: Debian {release} with its own Python stands in", flush=True)
        made = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", release, folder]
        if subprocess.run([*CONTAINER, *made], check=False).returncode:
            sys.exit("debian_root: mmdebstrap failed; what it said is above")
        folder.chmod(0o755)
        (folder / f"usr/lib/python{python}/EXTERNALLY-MANAGED").unlink()  # the image's Python has none
        shown = [Path("/etc/resolv.conf"), Path("/etc/hosts"), *map(Path.absolute, options.show)]
        root = Root(folder, shown, arguments)
        for path in shown:
            place = root.inside(str(path))
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
        root.do(steps)
        root.run(["sh", "-c", "id && python --version && ! command -v git"])
        root.run(RUN.split())
        root.run(["python", "-c", TRACKED, arguments.get("COMMIT", "")])
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


if __name__ == "__main__":
    main()
