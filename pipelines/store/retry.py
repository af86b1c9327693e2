"""Send requests to a store, retry while the store is unavailable, and raise errors with the store's answer.

`files` and `listing` call it. Credentials and endpoints come from the environment or the machine's role
(AWS_ENDPOINT_URL for other stores).
"""

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

ATTEMPTS = 8  # unless AWS_MAX_ATTEMPTS is set
FETCH_AT_ONCE = 32  # parallel requests
LONG = 4.0  # s; longer waits are logged
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # s an attempt: for the connection, and for the next byte


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URL, and the path on it. Raises StorageError for an unknown protocol."""
    if is_local(url):  # fsspec reads a name with :: as a chain of URLs
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url.removeprefix("file://")))
    if is_web(url):
        url = quote(url, safe=OF_URLS)
    s3 = url.startswith(("s3://", "s3a://"))
    options = _s3_options() if s3 else {}
    try:
        if s3 and "::" in url:  # part of a key: a chain of URLs does not begin with s3
            fs: Any = fsspec.filesystem("s3", **options)
            path = fs._strip_protocol(url)
        else:
            fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"Cannot use {url!r}: {error}. Allowed: a folder, s3://bucket/prefix, any fsspec URL"
        ) from error
    except OSError as error:  # FTP connects here
        raise failure(url, error) from error
    if s3:
        fs.retries = 1  # s3fs would repeat botocore's attempts without jitter, 5 times and for reads 25 times
    return fs, path


def patience() -> float:
    """Seconds for which a failed request is retried: at most the waits between AWS_MAX_ATTEMPTS attempts, which double
    from 1 s. Every client of AWS reads this variable."""
    return 2.0 ** (int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS) - 1)


def _s3_options() -> dict[str, Any]:
    """Botocore retries after 500, 502, 503 SlowDown, a reset or a time-out, with growing waits and jitter, for a few
    seconds. Then `persist` retries.

    `legacy` is the retry mode without a quota. `standard` fails every request after 100 failed attempts of a process,
    which 32 parallel reads reach in a few seconds of SlowDown. Concurrency within a file would request its size first.
    """
    retries = {"mode": "legacy", "total_max_attempts": 3}
    return {"max_concurrency": 1, "config_kwargs": {"retries": retries, **TIMEOUTS}}


def ask(url: str, method: str, *args: Any, **options: Any) -> Any:
    """Call a method of the store of a URL on its path, with retries. Raises FileNotFoundError for a missing file,
    OSError for a local failure, and StorageError for a store that still fails."""
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
        if is_local(url):  # an OSError names the path and the reason
            raise
        raise failure(url, error) from error


async def persist(fs: Any, method: str | Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a method of a file system, or a function of one, and retry for `patience` seconds. Retried are a store that
    is unavailable for longer than botocore waits, an answer that broke off, which botocore does not notice, and expired
    credentials, which are read again from their source."""
    ask = getattr(fs, f"_{method}") if isinstance(method, str) else partial(method, fs)
    end, wait = 0.0, 1.0
    while True:
        session = getattr(fs, "_s3", None)
        try:
            return await ask(*args, **options)
        except Exception as error:
            end = end or time.monotonic() + patience()  # from the first failure on: a large file takes long
            left = end - time.monotonic()
            expired = answer_of(error).get("Code") in _EXPIRED
            if left <= 0 or not (expired or _broke_off(error) or _away(error)):
                raise
            if wait > LONG:
                _log_wait(f"Waiting for the store, up to {left:.0f} s more: {_reason(error)}")
        await asyncio.sleep(min(random.uniform(wait / 2, wait), left))
        wait = min(2 * wait, 2 * LONG)
        if expired and fs._s3 is session:  # the first of many failed reads renews the session
            await fs.set_session(refresh=True)


_last_logged = -math.inf


def _log_wait(message: str) -> None:
    """Log a wait, once for all requests that wait in parallel."""
    global _last_logged
    if time.monotonic() - _last_logged > 2 * LONG:
        _last_logged = time.monotonic()
        say(message)


NO_FAILURE = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_BUSY = (429, 500, 502, 503, 504)
_CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")  # 409: another write was in progress, undecided
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")


def answer_of(error: BaseException) -> dict[str, str]:
    """Code and Message of S3's error answer; empty if S3 did not answer."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {})


def _reason(error: Exception) -> str:
    answer = answer_of(error)
    return f"{answer.get('Code', type(error).__name__)}: {answer.get('Message', error)}".rstrip(".")


def _away(error: Exception) -> bool:
    """Whether a store did not answer, or answered that the fault is its own."""
    from aiohttp import ClientResponseError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    cause = error.__cause__ or error
    if isinstance(cause, ClientResponseError):
        return cause.status in _BUSY
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _BUSY or answer_of(error).get("Code") in _CONFLICTS
    return isinstance(cause, ConnectionError | HTTPClientError)


def _broke_off(error: Exception) -> bool:
    from aiobotocore.response import AioReadTimeoutError  # slow to import, and rarely needed
    from aiohttp import ClientPayloadError
    from botocore.exceptions import ResponseStreamingError

    return isinstance(error, ClientPayloadError | ResponseStreamingError | AioReadTimeoutError)


def failure(url: str, error: Exception) -> StorageError:
    """The error of a failed request: the URL, the reason, whether it was retried, and what to do."""
    from botocore.exceptions import NoCredentialsError

    advice = f"Retried for {patience():.0f} s" if _away(error) or _broke_off(error) else "Not retried"
    if isinstance(error, PermissionError):
        advice = "Check that the credentials are valid and allow it"
    elif isinstance(error, NoCredentialsError):
        advice = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    # Ray logs the errors of tasks, and a URL may hold a password.
    reason, user = _reason(error), re.match(r"[\w+.-]+://([^/]+)@", url)
    reason = reason.replace(user[1], "***") if user else reason  # a client may repeat the user without the protocol
    message = f"{url} cannot be used: {reason}. {advice}. Finished work is kept; run the same command again to continue"
    failure = StorageError(shown(message))
    failure.passes = _away(error) or _broke_off(error)
    return failure
