"""What a user can fix is one line that names it, wherever it was raised; a defect keeps its traceback."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipelines
import zse_model
from pipelines.cli import app
from pipelines.runtime.failures import to_fix
from pipelines.workspace.endings import Ending, ending
from tests.conftest import TINY, merged
from tests.helpers.pictures import picture
from zse_model.errors import ZseError
from zse_model.synthetic import draw_sketch

Zse = Callable[..., tuple[int, str]]


@pytest.fixture
def zse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zse:
    """The command in this process: its exit code and its stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("warnings.filterwarnings", lambda *_, **__: None)  # main sets them for the process

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["zse", *arguments])
        code: Any = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code
        return code or 0, capsys.readouterr().err

    return run


def one_line(said: str) -> str:
    """The line of an error, which is all that is said of it."""
    assert "Traceback" not in said, said
    (line,) = [line for line in said.splitlines() if line.startswith("zse: ")]
    assert said.rstrip().splitlines()[-2:] == [line, "(ZSE_DEBUG=1 shows the traceback)"], said
    return line


def subclasses(kind: type) -> Iterator[type]:
    yield kind
    for below in kind.__subclasses__():
        yield from subclasses(below)


def test_every_error_of_ours_comes_back_from_another_process() -> None:
    for package in (pipelines, zse_model):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("ranker"):  # MLflow's: it sets its model when it is imported
                importlib.import_module(module.name)
    kinds = [kind for kind in subclasses(ZseError) if kind.__module__.startswith(("pipelines", "zse_model"))]
    assert len(kinds) > 10
    for kind in kinds:
        error = kind("what; where")
        error.found = ("a",)  # type: ignore[attr-defined]
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind and str(back) == "what; where" and back.found == ("a",)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/s.png"), "/x/s.png does not exist"),
        (FileNotFoundError("bucket/s.png"), "bucket/s.png does not exist"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "/x is a folder, expected a file"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/é"), "/x/é may not be read or written by this user"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y cannot be written: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (OSError(errno.EMFILE, "Too many open files", b"/x/y"), "/x/y cannot be opened: this process has too many"),
        (OSError(errno.EIO, "Input/output error", "/x/y"), "/x/y cannot be used: Input/output error"),
        (ZseError("this\nand that"), "this and that"),
    ],
)
def test_an_error_of_the_system_is_one_line_with_the_file(error: Exception, said: str) -> None:
    line = to_fix(error)
    assert line is not None and said in line and "\n" not in line and "Errno" not in line


@pytest.mark.parametrize(
    "error", [OSError("bare"), ConnectionResetError(), KeyError("x"), ValueError("x"), OSError(9, "x")]
)
def test_what_names_no_file_is_a_defect(error: Exception) -> None:
    assert to_fix(error) is None


def test_what_ray_puts_around_an_error_is_taken_off() -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    def of_task(cause: Exception) -> Exception:
        return RayTaskError("work", "many\nlines\n" * 50, cause).as_instanceof_cause()

    mine, missing, lost = ZseError("fix this"), FileNotFoundError(2, "No such file", "/a"), RuntimeError("Connection")
    assert to_fix(of_task(mine)) == "fix this"
    assert to_fix(of_task(of_task(missing))) == "/a does not exist"
    assert to_fix(of_task(KeyError("x"))) is None
    workers: dict[int, Exception] = {
        0: UserExceptionWithTraceback(lost, "lines"),
        1: UserExceptionWithTraceback(mine, "lines\n" * 99),
    }
    assert to_fix(WorkerGroupError("lines\n" * 99, workers)) == "fix this", "the other lost its connection by it"
    assert ending(WorkerGroupError("lines\n" * 99, workers)) == Ending("FAILED", "fix this"), (
        "the same reason in MLflow"
    )
    assert ending(of_task(missing)) == Ending("FAILED", "/a does not exist")
    assert ending(of_task(KeyError("x"))) == Ending("FAILED", "KeyError: 'x'")
    assert to_fix(WorkerGroupError("lines", {0: UserExceptionWithTraceback(lost, "lines")})) is None
    assert to_fix(ControllerError(of_task(missing))) == "/a does not exist"
    memory = to_fix(OutOfMemoryError("Task was killed due to the node running low on memory.\nMore\nlines"))
    assert memory is not None and memory.startswith("A task ran out of memory: Task was killed") and "\n" not in memory
    died = to_fix(ActorDiedError())
    assert died is not None and "run the same command again" in died and "\n" not in died


def test_what_an_own_error_is_caused_by_does_not_matter(zse: Zse, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("internal")

    monkeypatch.setattr("pipelines.operate.experiments.experiment_names", broken)
    code, said = zse("experiments")
    assert code == 1 and "Traceback" in said and "KeyError: 'internal'" in said and "zse: " not in said


def test_an_interrupted_command_says_so(zse: Zse, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.operate.experiments.experiment_names", interrupted)
    code, said = zse("experiments")
    assert code == 130 and said.count("zse: interrupted. Finished work is kept") == 1 and "Traceback" not in said


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Things that a user may give by mistake."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.yaml").write_text("a: [b")
    (tmp_path / "s.png").write_bytes(picture(draw_sketch("car", 0, size=64)))
    (tmp_path / "photos").mkdir()
    for name, text in (("cut", "{"), ("other", "{}")):
        (tmp_path / name).mkdir()
        for part in ("manifest.json", "checkpoint.json"):
            (tmp_path / name / part).write_text(text)
    training = tmp_path / "ws" / "checkpoints" / "x-1"
    training.mkdir(parents=True)
    (training / "run.json").write_text("{")
    return tmp_path


FOLDER = ("-e", "folder+global")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-e", "bad.yaml"], "bad.yaml is not YAML: line 1"),
        (["run", "-e", "folder"], "It is a folder, not a YAML file"),
        (["run", "-e", "quickstrat"], "Unknown experiment 'quickstrat'. Did you mean quickstart?"),
        (["run", *FOLDER, "--set", "dataset.splitt=x"], "dataset.splitt: unknown. Did you mean dataset.split?"),
        (["run", *FOLDER, "--set", "backbone.weights=folder"], "backbone.weights: 'folder' is not a file"),
        (["run", *FOLDER, "--report", "folder"], "--report 'folder' is a folder"),
        (["run", *FOLDER, "--report", "file/r.json"], "file is a file. Give a path in a folder"),
        (["evaluate", *FOLDER, "--report", "folder"], "--report 'folder' is a folder"),
        (["ingest", *FOLDER, "--set", "dataset.source=nowhere"], "nowhere does not exist"),
        (["train", *FOLDER, "--set", "start=models:/zse"], "models:/zse is not a model"),
        (
            ["search", "--sketch", "s.png", "--gallery", "photos", "-c", "cut"],
            "cut/checkpoint.json is damaged: it is not JSON",
        ),
        (["search", "--sketch", "s.png", "--gallery", "photos", "-c", "nowhere"], "nowhere does not exist"),
        (
            ["search", "--sketch", "s.png", "--gallery", "photos", "-c", "cut", "-o", "folder"],
            "--out 'folder' is a fol",
        ),
        (["explain", "--sketch", "s.png", "-c", "cut", "--photo", "s.png", "-o", "file"], "--out 'file' is a file"),
        (["embed", "--gallery", "photos", "-c", "other"], "other has format version None"),
        (["evaluate", *FOLDER, "-c", "other", "--settings", "all", "--datasets", "bad.yaml"], "bad.yaml' is not YAML"),
        (
            ["evaluate", *FOLDER, "-c", "other", "--settings", "all", "--datasets", "folder"],
            "folder is a folder, expec",
        ),
        (["compare", "cut", "other", "--out", "file"], "--out 'file' is a file"),
        (["promote", "models:/zse@challenger", "--rules", "bad.yaml"], "bad.yaml is not YAML"),
        (["promote", "models:/zse@challenger", "--rules", "folder"], "folder is a folder, expected a file"),
        (["reevaluate", "--catalog", "folder", "--models", ","], "--models ',' names no model"),
        (["report", "-w", "ws", "--out", "folder"], "--out 'folder' is a folder"),
        (["status", "-w", "ws"], "x-1/run.json is not JSON, line 1"),
        *(
            ([*verb, "-w", "file"], "--workspace file is a file. Give a folder, or s3://bucket/prefix")
            for verb in (
                ["status"],
                ["report"],
                ["promote", "x", "--name", "y"],
                ["compare", "cut", "other"],
                ["reevaluate", "--catalog", "folder"],
                ["run", *FOLDER],
            )
        ),
        (["status", "-w", "http://127.0.0.1:9/ws"], "http://127.0.0.1:9/ws cannot be used: ClientConnectorError"),
        (["status", "y", "-w", "ws"], "begins with 'y'. Trainings: x-1"),
        (["import-checkpoint", "file", "--split", "folder", "-o", "out"], "folder is a folder, expected a file"),
        (["import-checkpoint", "file", "--split", "sketchy-25", "-o", "file"], "--out 'file' is a file"),
        (["datasets", "show", "sketchi"], "Unknown data set 'sketchi'. Did you mean sketchy?"),
        (["datasets", "doctor", "nowhere"], "nowhere does not exist"),
        (["datasets", "subset", "folder", "--source", "photos", "-o", "out"], "folder is a folder, expected a file"),
        (["datasets", "subset", "sketchy125_128", "--source", "photos", "-o", "file"], "--out 'file' is a file"),
    ],
)
def test_bad_input_is_one_line(zse: Zse, files: Path, arguments: list[str], said: str) -> None:
    code, text = zse(*arguments)
    assert code == 1 and said in one_line(text), text


def test_unknown_verbs_and_options_are_wrong_use(zse: Zse) -> None:
    code, text = zse("rnu")
    assert code == 2 and "Did you mean 'run'?" in text


def test_a_wrong_use_shows_no_secret(zse: Zse) -> None:
    for arguments in (
        ["http://me:hunter2@h/a"],
        ["status", "a", "http://me:hunter2@h/a"],
    ):
        code, text = zse(*arguments)
        assert code == 2 and "hunter2" not in text and "***@h/a" in text


def test_a_folder_that_may_not_be_written_is_said_before_the_work(
    zse: Zse, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "folder").chmod(0o500)
    if os.getuid() == 0:  # who may write everywhere: the system's answer to another user stands in
        monkeypatch.setattr(os, "access", lambda path, mode: mode & os.W_OK == 0)
    code, text = zse("run", *FOLDER, "--report", "folder/new/report.json")
    assert code == 1 and "--report 'folder/new/report.json' cannot be written" in one_line(text)


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_a_worker_of_a_training_lacks_is_said_once_and_not_tried_again(zse: Zse, tmp_path: Path) -> None:
    experiment = tmp_path / "tiny.yaml"
    experiment.write_text(yaml.safe_dump(merged(TINY, {"cluster": {"workers": 2, "max_failures": 30}})))
    code, text = zse("shard", "-e", str(experiment), "-w", str(tmp_path / "w"))
    assert code == 0, text
    parts = sorted((tmp_path / "w").glob("pairs/*/part-*"))
    for part in parts:
        part.unlink()
    code, text = zse("train", "-e", str(experiment), "-w", str(tmp_path / "w"))
    line = one_line(text)
    assert code == 1 and str(parts[0].parent) in line and ".parquet does not exist" in line and "rrno" not in line
