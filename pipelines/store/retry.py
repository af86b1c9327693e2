"""Requests to a store: asked again while it is away, and errors that say what it answered.

Credentials and endpoints come from the environment or the machine's role (AWS_ENDPOINT_URL for other stores)."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import fsspec
from fsspec import AbstractFileSystem, asyn

from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store.urls import OF_URLS, is_local, is_web

ATTEMPTS = 8
FETCH_AT_ONCE = 32
LONG = 4.0  # s; whoever waits longer for a store is told
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # s, of an attempt: until connected, and for the next byte


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path on it."""
    if is_local(url):  # fsspec would take a name with :: in it for a chain of URLs
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))
    if is_web(url):
        url = quote(url, safe=OF_URLS)
    s3 = url.startswith(("s3://", "s3a://"))
    options = _s3_options() if s3 else {}
    try:
        if s3 and "::" in url:  # a key: no chain of URLs begins with s3
            fs: Any = fsspec.filesystem("s3", **options)
            path = fs._strip_protocol(url)
        else:
            fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"Cannot use {url!r}: {error}. Allowed: a folder, s3://bucket/prefix, any fsspec URL"
        ) from error
    except OSError as error:  # FTP connects at once
        raise failure(url, error) from error
    if s3:
        fs.retries = 1  # s3fs would begin botocore's attempts again, five times and for reads 25 times, without jitter
    return fs, path


def patience() -> float:
    """Seconds for which a store that fails is asked again: what AWS_MAX_ATTEMPTS, which every client of AWS knows,
    comes to at most where the waits double from one second on."""
    return 2.0 ** (int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS) - 1)


def _s3_options() -> dict[str, Any]:
    """Botocore asks again after 500, 502, 503 SlowDown, a reset or a time-out, and waits longer each time, with jitter:
    here within a few seconds; `persist` goes on where that was not enough.

    `legacy` is its mode without a quota: `standard` gives up on everything after 100 failed attempts of a process,
    which 32 reads at once make in a few seconds of SlowDown. Concurrency within a file would ask for its size first.
    """
    retries = {"mode": "legacy", "total_max_attempts": 3}
    return {"max_concurrency": 1, "config_kwargs": {"retries": retries, **TIMEOUTS}}


def ask(url: str, method: str, *args: Any, **options: Any) -> Any:
    """A method of the store of a URL, on its path. What is not there raises FileNotFoundError, as everywhere; a store
    is asked again, and what it fails for good raises StorageError."""
    fs: Any
    fs, path = filesystem(url)
    fs.invalidate_cache()
    try:
        if fs.async_impl:
            return asyn.sync(fs.loop, persist, fs, method, path, *args, **options)
        return getattr(fs, method)(path, *args, **options)
    except NO_FAILURE:
        raise
    except Exception as error:
        if is_local(url):  # the system's errors name the path and the reason
            raise
        raise failure(url, error) from error


async def persist(fs: Any, method: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A method of a file system, or what takes one. Asks again until `patience` is over: where a store is away for
    longer than botocore waits, where an answer broke off on its way, which botocore does not notice, and where
    credentials expired: they are then read anew from where they come from."""
    ask = getattr(fs, f"_{method}") if isinstance(method, str) else partial(method, fs)
    end, wait = 0.0, 1.0
    while True:
        session = getattr(fs, "_s3", None)
        try:
            return await ask(*args, **options)
        except Exception as error:
            end = end or time.monotonic() + patience()  # from the first failure on: what is large takes its time
            left = end - time.monotonic()
            expired = answer_of(error).get("Code") in _EXPIRED
            if left <= 0 or not (expired or _broke_off(error) or _away(error)):
                raise
            if wait > LONG:
                _tell(f"The store is waited for, {left:.0f} s more: {_reason(error)}")
        await asyncio.sleep(min(random.uniform(wait / 2, wait), left))
        wait = min(2 * wait, 2 * LONG)
        if expired and fs._s3 is session:  # of many reads that it failed, the first renews it
            await fs.set_session(refresh=True)


_told = -math.inf


def _tell(what: str) -> None:
    """Of many that wait at once, one tells."""
    global _told
    if time.monotonic() - _told > 2 * LONG:
        _told = time.monotonic()
        say(what)


NO_FAILURE = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_BUSY = (429, 500, 502, 503, 504)
_CROSSED = ("ConditionalRequestConflict", "OperationAborted")  # 409: another write was under way; nobody has it yet
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")


def answer_of(error: BaseException) -> dict[str, str]:
    """The Code and Message of an error that S3 answered with; empty where it did not answer."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {})


def _reason(error: Exception) -> str:
    answer = answer_of(error)
    return f"{answer.get('Code', type(error).__name__)}: {answer.get('Message', error)}".rstrip(".")


def _away(error: Exception) -> bool:
    """Whether a store answered that it is itself to blame, or not at all."""
    from aiohttp import ClientResponseError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    cause = error.__cause__ or error
    if isinstance(cause, ClientResponseError):
        return cause.status in _BUSY
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _BUSY or answer_of(error).get("Code") in _CROSSED
    return isinstance(cause, ConnectionError | HTTPClientError)


def _broke_off(error: Exception) -> bool:
    from aiobotocore.response import AioReadTimeoutError  # s3fs brings them; slow to import, and rarely needed
    from aiohttp import ClientPayloadError
    from botocore.exceptions import ResponseStreamingError

    return isinstance(error, ClientPayloadError | ResponseStreamingError | AioReadTimeoutError)


def failure(url: str, error: Exception) -> StorageError:
    mend = f"It was asked for {patience():.0f} s" if _away(error) or _broke_off(error) else "It is not asked again"
    if isinstance(error, PermissionError):
        mend = "Check that the credentials are valid and allow it"
    # Raised in a task it is in Ray's logs, too, and a URL may hold a password.
    reason, user = _reason(error), re.match(r"[\w+.-]+://([^/]+)@", url)
    reason = reason.replace(user[1], "***") if user else reason  # a client may repeat them without what is before
    said = f"{url} cannot be used: {reason}. {mend}. What is written is kept: the same command goes on from there"
    failure = StorageError(shown(said))
    failure.passes = _away(error) or _broke_off(error)
    return failure
