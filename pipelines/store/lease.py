"""A lease on a folder. A second process on the folder fails before it writes anything; `zse train` holds one.

    <folder>/lease/<n>.json    a holder; the highest n counts

The holder renews its lease with a note of its progress, and deletes it at the end. A lease without renewals belongs to
a killed process. The next process creates the next number, which only one of several processes can. The clocks of two
machines may differ by any time: the next process reads the lease until it changes, and measures the time by its own
clock. Our design.
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
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from pipelines.runtime.background import repeated
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

EVERY, STALE = 5.0, 20.0  # s between renewals, and s without a renewal after which the lease is free
LOOK = 1.0  # s between reads of a waiting process


class HeldError(ZseError):
    """Another process works in the folder."""


@dataclass(frozen=True)
class Lease:
    folder: str
    number: int
    what: str
    id: str
    note: dict[str, Any] = field(default_factory=dict)
    """Each renewal writes it."""

    @property
    def url(self) -> str:
        return _url(self.folder, self.number)

    def refuse_lost(self) -> None:
        """Raise HeldError if another process has taken the lease, and may have ended since: this one was suspended, as
        a machine that sleeps is, for longer than a lease lasts."""
        last = max(_numbers(self.folder), default=0)
        found = _read(_url(self.folder, last)) if last else None
        if last != self.number or (found or {}).get("id") != self.id:
            raise HeldError(
                _message(self.what, found)
                if found
                else f"{self.what} was made by another process while this one was suspended. Run the same command again"
            )

    def renew(self, me: dict[str, Any]) -> None:
        """Write the lease again, if it is still this process's: a renewal must not hide that it was taken."""
        try:
            found = _read(self.url)
            if found is not None and found.get("id") == self.id:
                storage.write_bytes(self.url, _signed(me | {"note": dict(self.note)}))
        except (StorageError, OSError) as error:
            say(f"Could not renew the lease {self.url} ({error}). Retrying every {EVERY:.0f} s", logging.WARNING)

    def end(self) -> None:
        """Delete the lease, if it is still this process's."""
        if (_read(self.url) or {}).get("id") == self.id:
            storage.remove(self.url)


@contextmanager
def held(folder: str, what: str) -> Iterator[Lease]:
    """Hold the lease of a folder. Raises HeldError if another process holds and renews the lease.

    If there is a lease, this waits up to `STALE` seconds for its renewal, unless its process ran on this machine and is
    gone. `what` is the name of the work in the error.
    """
    me = {
        "host": platform.node(),
        "processes": _processes(),
        "pid": os.getpid(),
        "id": uuid.uuid4().hex,
        "since": time.time(),
    }
    before = _numbers(folder)
    if before and (other := _alive(_url(folder, before[-1]))):
        raise HeldError(_message(what, other))
    mine = Lease(folder, max(before, default=0) + 1, what, me["id"])
    if not storage.create(mine.url, _signed(me)):
        raise HeldError(_message(what, _read(mine.url) or {}))
    for old in before:
        storage.remove(_url(folder, old))
    try:
        with repeated(lambda: mine.renew(me), EVERY):
            yield mine
    finally:
        with suppress(StorageError):  # without a store the lease expires by itself
            mine.end()


def holder(folder: str) -> dict[str, Any] | None:
    """The last holder of a folder's lease: host, pid, since, renewed (s since the epoch by its clock), note. None if
    there is none, or if its process ran on this machine and is gone. A process killed elsewhere is still the holder."""
    numbers = _numbers(folder)
    return _known(_url(folder, numbers[-1])) if numbers else None


def _url(folder: str, number: int) -> str:
    return storage.join(folder, "lease", f"{number}.json")


def _numbers(folder: str) -> list[int]:
    found = (re.fullmatch(r"([0-9]+)\.json", name) for name in storage.names(storage.join(folder, "lease")))
    return sorted(int(one[1]) for one in found if one)


def _signed(me: dict[str, Any]) -> bytes:
    return storage.as_json({**me, "renewed": time.time()})


def _alive(url: str) -> dict[str, Any] | None:
    """The holder, if it renews the lease. Raises StorageError if the store does not answer: the holder may live."""
    first = _known(url)
    if first is None:
        return None
    say(f"{first['host']} holds the lease {url}. Waiting up to {STALE:.0f} s for its renewal")
    end = time.monotonic() + STALE
    while time.monotonic() < end:
        time.sleep(LOOK)
        now = _read(url)
        if now is None or now != first:
            return now
    return None


def _known(url: str) -> dict[str, Any] | None:
    """The holder that a lease names, unless its process ran on this machine and is gone."""
    found = _read(url)
    if found and found.get("processes") == _processes() and not psutil.pid_exists(found["pid"]):
        return None
    return found


@cache
def _processes() -> str:
    """The scope of process ids: this boot of the machine and its container. Containers may share a host name, and each
    counts its processes from 1."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _read(url: str) -> dict[str, Any] | None:
    try:
        return storage.read_json(url)
    except FileNotFoundError:
        return None


def _message(what: str, other: dict[str, Any]) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.get("since", time.time())))
    return (
        f"{what} is being made by process {other.get('pid', '?')} on {other.get('host', 'another machine')}, since "
        f"{began}. Wait for it, or stop it and run the same command again"
    )
