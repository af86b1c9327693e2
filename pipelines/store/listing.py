"""List folders, and get the size and version of files. Other rooms call it as `store.storage`."""

from __future__ import annotations

import asyncio
import html
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from fsspec import AbstractFileSystem, asyn

from pipelines.runtime.errors import StorageError
from pipelines.runtime.redaction import printable
from pipelines.store.retry import FETCH_AT_ONCE, NO_FAILURE, ask, failure, filesystem, persist
from pipelines.store.urls import ARCHIVES, absolute, below, is_local, is_web
from pipelines.store.walk import entries, walk

PAGE = 1000  # keys a request for a bucket's listing


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A listed file."""

    path: str
    """Relative to the listed folder, `/` between parts."""
    size: int
    version: str
    """A hash, an ETag or the modification time. It or the size changes when the content does. Empty for a broken
    link."""


def list_files(url: str) -> Iterator[FileInfo]:
    """Yield every file below a folder, in any order. Raises StorageError for a missing folder, for a file without a
    version, and for a key that is not a path."""
    if is_local(url):
        root = absolute(url)
        if not os.path.exists(root):
            raise StorageError(f"{url} does not exist")
        if not os.path.isdir(root):
            raise StorageError(no_folder(url))
        for path, status in walk(root):
            size, version = (status.st_size, str(status.st_mtime)) if status else (0, "")
            yield FileInfo(os.path.relpath(path, root), size, version)
        return
    root = filesystem(url)[1].rstrip("/")
    listed = _listed(url)
    first = next(listed, None)
    if first is None and not exists(url):
        raise missing(url)
    if first is None and ask(url, "isfile"):
        raise StorageError(no_folder(url))
    for info in chain([first] if first else [], listed):
        path = str(info["name"])
        if path.rstrip("/") == root or path.endswith("/"):  # some writers leave an empty object named like a folder
            continue
        path = below(url, path[len(root) + 1 :])
        yield FileInfo(path, int(info.get("size") or 0), "" if info.get("gone") else sure_version(url, path, info))


def missing(url: str) -> StorageError:
    return StorageError(
        f"{url} does not exist, or these credentials may not list it. Check the URL and the credentials"
    )


def no_folder(url: str) -> str:
    return f"{url} is a file. Give a folder, or an archive of pictures: {' '.join(ARCHIVES)}"


def _listed(url: str) -> Iterator[dict[str, Any]]:
    """What a store says of each file. S3 is listed by page, other stores by folder: `fs.find` holds the whole listing,
    and s3fs keeps it."""
    fs: Any
    fs, root = filesystem(url)
    fs.invalidate_cache()
    try:
        if url.startswith(("s3://", "s3a://")):
            yield from _objects(fs, root.rstrip("/"))
        elif is_web(url):
            yield from _web_files(fs, root)
        else:
            for info in _walked(fs, root):
                yield info if _version(info) else info | {"modified": _modified(fs, info["name"])}
    except NO_FAILURE:
        raise
    except Exception as error:  # errors of aiohttp are no OSError
        raise failure(url, error) from error


def _walked(fs: AbstractFileSystem, root: str) -> Iterator[dict[str, Any]]:
    """Every file below a folder. `fs.walk` skips a folder that may not be listed; this raises its error."""
    left = [root]
    while left:
        folder = left.pop()
        with suppress(FileNotFoundError):  # the folder is missing or was deleted
            for info in cast(list[dict[str, Any]], fs.ls(folder, detail=True)):
                if info["type"] != "directory":
                    yield info
                elif info["name"].rstrip("/") != folder.rstrip("/"):
                    left.append(info["name"])


def _objects(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    bucket, key, _ = fs.split_path(root)
    wanted = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", "MaxKeys": PAGE, **fs.req_kw}  # requester pays
    while wanted:
        page: Any = asyn.sync(fs.loop, persist, fs, "call_s3", "list_objects_v2", **wanted)
        for found in page.get("Contents", ()):
            yield {"name": f"{bucket}/{found['Key']}", "size": found["Size"], "ETag": found["ETag"]}
        more = page.get("NextContinuationToken")
        wanted = wanted | {"ContinuationToken": more} if more else {}


def _web_files(fs: Any, root: str) -> Iterator[dict[str, Any]]:
    """What a web server says of each file that its folder pages link to. The pages give no version, so each file takes
    a HEAD request."""
    left, seen = [root], {root.rstrip("/")}
    while left:
        new = [(link, folder) for link, folder in _web_links(fs, left.pop()) if link not in seen]
        seen |= {link for link, _ in new}
        left += [link for link, folder in new if folder]
        files = [link for link, folder in new if not folder]
        for i in range(0, len(files), FETCH_AT_ONCE):
            yield from cast(list[Any], asyn.sync(fs.loop, _heads, fs, files[i : i + FETCH_AT_ONCE]))


def _web_links(fs: Any, folder: str) -> list[tuple[str, bool]]:
    """(URL, whether it is a folder) of each link on a folder's page, without links that sort the page or lead out of
    the folder."""
    page: Any = asyn.sync(fs.loop, persist, fs, "ls", f"{folder.rstrip('/')}/", detail=True)
    inside = f"{folder.rstrip('/')}/"
    links = sorted({html.unescape(info["name"]).replace("/./", "/") for info in page})
    own = [
        link
        for link in links
        if link.startswith(inside) and not re.search(r"[?#]|/\.\.?(/|$)", link[len(inside) - 1 :])
    ]
    return [(link.rstrip("/"), link.endswith("/")) for link in own if link != inside]


async def _heads(fs: Any, urls: Sequence[str]) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(persist(fs, _head, url) for url in urls)))


async def _head(fs: Any, url: str) -> dict[str, Any]:
    """The headers of a file on a web server; `gone` for a broken link."""
    session = await fs.set_session()
    plain = {"headers": {"Accept-Encoding": "identity"}, "allow_redirects": True}
    async with session.head(fs.encode_url(url), **plain) as answer:
        if answer.status in (404, 410):
            return {"name": url, "gone": True}
        if answer.status not in (405, 501):  # a server without HEAD gives no version
            answer.raise_for_status()
        return {**answer.headers, "name": url, "size": answer.headers.get("Content-Length")}


# The names that fsspec's stores give to a hash of the content and to the modification time, in lower case and without
# punctuation.
_HASHES = (
    *("etag", "md5", "md5hash", "md5checksum", "contentmd5", "crc32c", "crc", "checksum", "contenthash"),
    *("sha256", "sha1", "sha", "blobid", "generation", "digest"),
)
_TIMES = ("mtime", "lastmodified", "modified", "modifiedtime", "timemodified", "updated", "modify", "datetime")


def _version(info: dict[str, Any]) -> str:
    """A file's version; empty without a hash and without time and size. Other content may have the same size."""
    told = {re.sub("[^a-z0-9]", "", key.lower()): value for key, value in info.items()}
    keys = (*_HASHES, *_TIMES) if told.get("size") is not None else _HASHES
    return str(next((told[key] for key in keys if told.get(key)), "")).strip('"')


def sure_version(url: str, path: str, info: dict[str, Any]) -> str:
    """A file's version. Raises StorageError if the store gives none."""
    if version := _version(info):
        return version
    raise StorageError(
        f"{url} gives neither an ETag nor a modification time and size for {printable(path)!r}, so a change of the "
        "file could not be noticed. Copy the files to a folder or a bucket and give its URL, or have the server send "
        "ETag or Last-Modified"
    )


def _modified(fs: AbstractFileSystem, path: str) -> Any:
    """A file's modification time, from a store that answers a request for it; else None."""
    try:
        return fs.modified(path)
    except NotImplementedError:
        return None


def exists(url: str) -> bool:
    """Whether a file or a folder exists. Raises StorageError for a failure of the store."""
    return ask(url, "exists")


def names(url: str) -> set[str]:
    """Names of the files directly in a folder; empty for a missing folder."""
    try:
        inside = _inside(url)
    except FileNotFoundError:
        return set()
    return {name for name, folder in inside if not folder}


def folders(url: str) -> list[str]:
    """Sorted names of the folders directly in a folder. Raises StorageError for a missing folder and for a file."""
    try:
        found = sorted({name for name, folder in _inside(url) if folder})
        if not found and not is_local(url) and ask(url, "isfile"):
            raise NotADirectoryError(url)
        return found
    except NotADirectoryError as error:
        raise StorageError(no_folder(url)) from error
    except FileNotFoundError as error:
        raise missing(url) from error


def _inside(url: str) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of the files and folders directly in a folder."""
    if is_local(url):
        modes = [(entry.name, status.st_mode) for entry, status in entries(absolute(url)) if status]
        return [(name, stat.S_ISDIR(mode)) for name, mode in modes if stat.S_ISDIR(mode) or stat.S_ISREG(mode)]
    fs, root = filesystem(url)
    if is_web(url):
        try:
            links = _web_links(fs, root)
        except NO_FAILURE:
            raise
        except Exception as error:
            raise failure(url, error) from error
        return [(below(url, link.rsplit("/", 1)[-1]), folder) for link, folder in links]
    root = root.strip("/")
    found = [(str(entry["name"]), entry["type"] == "directory") for entry in ask(url, "ls", detail=True)]
    if any(folder and name.endswith("/") and name.strip("/") == root for name, folder in found):
        below(url, "/")
    # As in `list_files`, without the empty object that is named like the folder.
    real = [(name.rstrip("/"), folder) for name, folder in found if folder or not name.endswith("/")]
    return [(name.rsplit("/", 1)[-1], folder) for name, folder in real if name.strip("/") != root]


def file_info(url: str) -> FileInfo | None:
    """Size and version of a file; None for a folder. Raises StorageError if there is neither."""
    try:
        info = ask(url, "info")
    except FileNotFoundError as error:
        raise StorageError(f"{url} does not exist: no file and no folder has this name. Check the spelling") from error
    if info["type"] == "directory":
        return None
    name = url.rsplit("/", 1)[-1]
    return FileInfo(name, int(info.get("size") or 0), sure_version(url, name, info))
