"""URLs as text: which store they are of, joined, made absolute."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from pipelines.runtime.errors import StorageError
from pipelines.runtime.redaction import printable
from zse_model.errors import ZseError

ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")  # that may be a source


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


OF_URLS = "%/:?#&=@+,;~!$'()*[]"  # what the URL of a web server may hold as it is


def in_url(url: str, name: str) -> str:
    """A name as URLs of this store spell it: on a web server with %20 for a space."""
    return quote(name, errors="surrogateescape") if is_web(url) else name


def absolute(url: str) -> str:
    """A URL that means the same in every process: local paths lose `~`, `..` and the working folder."""
    if is_local(url):
        return str(Path(url.removeprefix("file://")).expanduser().resolve())
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """url/part/part. A part is a name, which the URL of a web server spells with %20 for a space. One that is absolute
    or climbs out raises ValueError."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ZseError(f"{part!r} would leave {url}")
    return "/".join([url.rstrip("/"), *(in_url(url, part) for part in parts)])


def below(url: str, key: str) -> str:
    """What follows a folder in a key or URL, as a path. Raises StorageError where the path would lead elsewhere."""
    if is_web(url):
        return unquote(key, errors="surrogateescape")
    no_path = key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/"))
    if no_path or (url.startswith("s3") and "?versionId=" in key):
        raise StorageError(
            f"{printable(f'{url}/{key}')} cannot be read: a key with an empty part (//) for a folder's name, "
            "with . or .. as a part or with ?versionId= is no path. Rename that object, or give a folder without it"
        )
    return key
