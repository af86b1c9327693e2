"""Parse, join and resolve URLs as text. The modules of `store` call it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from pipelines.runtime.errors import StorageError
from pipelines.runtime.redaction import printable
from zse_model.errors import ZseError

ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")  # readable as a source


def is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


OF_URLS = "%/:?#&=@+,;~!$'()*[]"  # characters that are not quoted in the URL of a web server


def in_url(url: str, name: str) -> str:
    """A name as the store's URLs spell it: quoted on a web server (%20 for a space)."""
    return quote(name, errors="surrogateescape") if is_web(url) else name


def absolute(url: str) -> str:
    """A URL that means the same in every process: a local path becomes absolute, without `~`, `..` and links."""
    if is_local(url):
        return str(Path(url.removeprefix("file://")).expanduser().resolve())
    return url.rstrip("/")


def join(url: str, *parts: str) -> str:
    """url/part/part. A part is a name; a web server's URL quotes it. Raises ZseError for an absolute part or a `..`."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ZseError(f"{part!r} would leave {url}. Give a relative name without ..")
    return "/".join([url.rstrip("/"), *(in_url(url, part) for part in parts)])


def below(url: str, key: str) -> str:
    """The rest of a key or URL after its folder, as a path. Raises StorageError for a key that is not a path."""
    if is_web(url):
        return unquote(key, errors="surrogateescape")
    no_path = key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/"))
    if no_path or (url.startswith("s3") and "?versionId=" in key):
        raise StorageError(
            f"{printable(f'{url}/{key}')} cannot be read: a key with an empty part (//), a part . or .., or "
            "?versionId= is not a path. Rename the object, or give a folder without it"
        )
    return key
