"""One at a time: a second process on the same folder is told, before it touches anything.

    <folder>/lease/<n>.json    who holds it; the highest n does

A lease is renewed while it is held, with a note of how far its holder is, and deleted afterwards. One that is not
renewed any more belongs to a process that was killed: whoever comes takes the next number, which only one of several at
once can create. Clocks of two machines may differ by any time: whoever comes reads the lease until it changes, and
measures by a clock of its own how long it did not. Our design.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from pipelines.runtime.background import repeated
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

EVERY, STALE = 5.0, 20.0  # s: how often it is renewed, and after how long without it is nobody's
LOOK = 1.0  # s: how often whoever waits reads it


class HeldError(ZseError):
    """Another process is at work on the same."""


@contextmanager
def held(folder: str, what: str) -> Iterator[dict[str, Any]]:
    """Hold the lease of a folder; gives a note that each renewal takes along. Raises HeldError where another process
    does, and shows that it lives.

    Where there is a lease this waits for its next renewal, up to `STALE` seconds; not where its process is known to be
    gone from this machine. `what` says what it is.
    """
    note: dict[str, Any] = {}
    me = {
        "host": platform.node(),
        "processes": _processes(),
        "pid": os.getpid(),
        "id": uuid.uuid4().hex,
        "since": time.time(),
    }
    before = _numbers(folder)
    if before and (other := _alive(_url(folder, before[-1]))):
        raise HeldError(_said(what, other))
    mine = _url(folder, max(before, default=0) + 1)
    if not storage.create(mine, _signed(me)):
        raise HeldError(_said(what, _read(mine) or {}))
    for old in before:
        storage.remove(_url(folder, old))
    try:
        with repeated(lambda: _renew(mine, me | {"note": dict(note)}), EVERY):
            yield note
    finally:
        with suppress(StorageError):  # a store that is away: it is nobody's after a while, too
            storage.remove(mine)


def holder(folder: str) -> dict[str, Any] | None:
    """Who held the lease of a folder last: host, pid, since, renewed (s since the epoch of its clock), note. None =
    nobody, as far as that is seen from here: a lease of a process that was killed elsewhere stays as it is."""
    numbers = _numbers(folder)
    return _known(_url(folder, numbers[-1])) if numbers else None


def _url(folder: str, number: int) -> str:
    return storage.join(folder, "lease", f"{number}.json")


def _numbers(folder: str) -> list[int]:
    found = (re.fullmatch(r"([0-9]+)\.json", name) for name in storage.names(storage.join(folder, "lease")))
    return sorted(int(one[1]) for one in found if one)


def _signed(me: dict[str, Any]) -> bytes:
    return storage.as_json({**me, "renewed": time.time()})


def _renew(url: str, me: dict[str, Any]) -> None:
    try:
        storage.write_bytes(url, _signed(me))
    except (StorageError, OSError) as error:
        say(f"The lease {url} could not be renewed ({error}); it is tried again", logging.WARNING)


def _alive(url: str) -> dict[str, Any] | None:
    """Who holds it, if that is seen to live. Raises StorageError where the store does not answer: then nobody knows."""
    first = _known(url)
    if first is None:
        return None
    say(f"{first['host']} holds {url}; waiting up to {STALE:.0f} s for its next sign of life")
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(LOOK)
        now = _read(url)
        if now is None or now != first:
            return now
    return None


def _known(url: str) -> dict[str, Any] | None:
    """Who wrote it, unless that is a process of this machine which is gone."""
    found = _read(url)
    if found and found.get("processes") == _processes() and not psutil.pid_exists(found["pid"]):
        return None
    return found


@cache
def _processes() -> str:
    """Whose process ids these are: of this start of this machine, or of a container on it. Containers may share a host
    name, and each counts its processes from 1."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _read(url: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(url)
    except FileNotFoundError:
        return None


def _said(what: str, other: dict[str, Any]) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.get("since", time.time())))
    return (
        f"{what} is being made by process {other.get('pid', '?')} on {other.get('host', 'another machine')}, since "
        f"{began}. Wait for it, or stop it and give the same command again"
    )
