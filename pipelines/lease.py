"""One at a time: a second process on the same folder is told, before it touches anything.

    <folder>/lease/<n>.json    who holds it; the highest n does

A lease is renewed while it is held, with a note of how far its holder is, and deleted afterwards. One that is not
renewed any more belongs to a process that was killed: whoever comes takes the next number, which only one of several at
once can create. Our design.
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
from typing import Any

import psutil

from pipelines import storage
from pipelines.background import repeated
from pipelines.progress import say
from zse_model.errors import ZseError

EVERY, STALE = 5.0, 20.0  # s: how often it is renewed, and after how long without it is nobody's


class HeldError(ZseError):
    """Another process is at work on the same."""


@contextmanager
def held(folder: str, what: str) -> Iterator[dict[str, Any]]:
    """Hold the lease of a folder; gives a note that each renewal takes along. Raises HeldError where another process
    does, and shows that it lives.

    Where its last sign of life is young this waits for the next one, up to `STALE` seconds. `what` says what it is.
    """
    note: dict[str, Any] = {}
    me = {"host": platform.node(), "pid": os.getpid(), "id": uuid.uuid4().hex, "since": time.time()}
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
        with suppress(storage.StorageError):  # a store that is away: it is nobody's after a while, too
            storage.remove(mine)


def holder(folder: str) -> dict[str, Any] | None:
    """Who held the lease of a folder last: host, pid, since, renewed (s since the epoch), note. None = nobody, as far
    as that is seen from here: of a process that was killed elsewhere, `renewed` is more than `STALE` s ago."""
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
    except (storage.StorageError, OSError) as error:
        say(f"The lease {url} could not be renewed ({error}); it is tried again", logging.WARNING)


def _alive(url: str) -> dict[str, Any] | None:
    """Who holds it, if that is seen to live."""
    first = _known(url)
    if first is None:
        return None
    if (left := first["renewed"] + STALE - time.time()) > 0:
        say(f"{first['host']} gave a sign of life {STALE - left:.0f} s ago; waiting up to {left:.0f} s for the next")
    while time.time() < first["renewed"] + STALE:
        time.sleep(1)
        now = _read(url)
        if now is None or now != first:
            return now
    return None


def _known(url: str) -> dict[str, Any] | None:
    """Who wrote it, unless that is a process of this machine which is gone."""
    found = _read(url)
    gone = found and found["host"] == platform.node() and not psutil.pid_exists(found["pid"])
    return None if gone else found


def _read(url: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(url)
    except (FileNotFoundError, storage.StorageError):
        return None


def _said(what: str, other: dict[str, Any]) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.get("since", time.time())))
    return (
        f"{what} is being made by process {other.get('pid', '?')} on {other.get('host', 'another machine')}, since "
        f"{began}. Wait for it, or stop it and give the same command again"
    )
