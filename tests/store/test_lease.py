"""One process at a time holds a lease, whatever the clocks of two machines show."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime.background import repeated
from pipelines.runtime.errors import StorageError
from pipelines.store import lease, storage
from pipelines.store.lease import HeldError, held, holder

ELSEWHERE = {"host": "other", "processes": "another machine", "pid": os.getpid(), "id": "1", "since": 0.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"EVERY": 0.1, "STALE": 0.8, "LOOK": 0.05}.items():
        monkeypatch.setattr(lease, name, seconds)


def write(folder: Path, other: dict[str, Any], clock: float = 0.0) -> None:
    storage.write_json(str(folder / "lease" / "3.json"), {**other, "renewed": time.time() + clock})


def taken(folder: Path) -> float:
    """Seconds until the lease was ours."""
    start = time.monotonic()
    with held(str(folder), "the training"):
        took = time.monotonic() - start
        assert [file.name for file in (folder / "lease").iterdir()] == ["4.json"]
        with (
            pytest.raises(HeldError, match=rf"the training is being made by process {os.getpid()}"),
            held(str(folder), "the training"),
        ):
            pass
    assert not list((folder / "lease").iterdir()) and holder(str(folder)) is None
    return took


@pytest.mark.parametrize("clock", [-3600, -30, 0, 30, 3600])
def test_a_live_holder_is_recognised_by_renewals_and_not_by_its_clock(tmp_path: Path, clock: float) -> None:
    write(tmp_path, ELSEWHERE, clock)
    with (
        repeated(lambda: write(tmp_path, ELSEWHERE, clock), 0.3),
        pytest.raises(HeldError, match=rf"by process {os.getpid()} on other"),
        held(str(tmp_path), "the training"),
    ):
        pass
    assert [file.name for file in (tmp_path / "lease").iterdir()] == ["3.json"]


def test_a_holder_that_was_suspended_learns_that_its_lease_is_taken(tmp_path: Path) -> None:
    with held(str(tmp_path), "the training") as lease:
        lease.refuse_lost()
        write(tmp_path, ELSEWHERE)
        with pytest.raises(HeldError, match="the training is being made by process .* on other"):
            lease.refuse_lost()
        for file in (tmp_path / "lease").iterdir():
            file.unlink()
        time.sleep(0.3)
        assert not list((tmp_path / "lease").iterdir()), "a renewal does not take it back"
        with pytest.raises(HeldError, match="by another process while this one was suspended"):
            lease.refuse_lost()
        storage.write_json(str(tmp_path / "lease" / "1.json"), {**ELSEWHERE, "renewed": 0.0})
        with pytest.raises(HeldError, match="on other"):
            lease.refuse_lost()
    assert (tmp_path / "lease" / "1.json").exists(), "the lease of the other process stays"


@pytest.mark.parametrize("clock", [-3600, 0, 3600])
def test_a_holder_without_renewals_loses_the_lease_after_the_same_time(
    tmp_path: Path, clock: float, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, ELSEWHERE, clock)
    assert 0.8 <= taken(tmp_path) < 5
    said = " ".join(capsys.readouterr().err.split())
    assert f"other holds the lease {tmp_path}/lease/3.json. Waiting up to 1 s for its renewal" in said


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = {**ELSEWHERE, "processes": lease._processes(), "pid": gone.pid}
    write(tmp_path, mine)
    assert holder(str(tmp_path)) is None and taken(tmp_path) < 0.7


@pytest.mark.parametrize("other", [{"processes": "4f6 pid:[1]"}, {}])
def test_a_container_with_the_same_host_name_is_waited_for(tmp_path: Path, other: dict[str, str]) -> None:
    """Each container numbers its own processes; leases of earlier versions do not name the machine."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(tmp_path, {"host": lease.platform.node(), "pid": gone.pid, "id": "1", "since": 0.0, **other})
    assert holder(str(tmp_path)) is not None and taken(tmp_path) >= 0.8


def test_an_unavailable_store_frees_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder may live."""
    with held(str(tmp_path), "a training"):

        def away(url: str) -> None:
            raise StorageError(f"{url} cannot be used: 503")

        monkeypatch.setattr(storage, "read_json", away)
        with pytest.raises(StorageError, match="503"):
            with held(str(tmp_path), "a training"):
                pass
        monkeypatch.undo()
        assert len(storage.names(f"{tmp_path}/lease")) == 1


def test_a_holder_writes_its_note_at_each_renewal_and_says_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that fails for a moment ends nothing. The first lease of a folder has the number 1."""

    def until(true: Any) -> None:
        end = time.monotonic() + 5
        while not true():
            assert time.monotonic() < end
            time.sleep(0.02)

    def away(*_: object) -> None:
        raise StorageError("503")

    with held(str(tmp_path), "the training") as lease:
        note = lease.note
        assert [file.name for file in (tmp_path / "lease").iterdir()] == ["1.json"]
        note["step"] = 3
        until(lambda: (holder(str(tmp_path)) or {}).get("note") == {"step": 3})
        with monkeypatch.context() as during:
            during.setattr(storage, "write_bytes", away)
            until(lambda: "Could not renew the lease" in capsys.readouterr().err)
        note["step"] = 4
        until(lambda: (holder(str(tmp_path)) or {}).get("note") == {"step": 4})
