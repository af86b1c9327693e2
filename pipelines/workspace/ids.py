"""The grammar of picture ids: `modality/category/file`, in a `union` `modality/category/<part>//<file>`."""

from __future__ import annotations

import re

from zse_model.transforms import BadPicture

MARK = "//"
"""Follows the name of the part in the ids and instances of a `union`."""


def own_name(key: str) -> str:
    """An id or instance as in the part's own data set, without the name of the part."""
    before, mark, rest = key.partition(MARK)
    return before[: before.rfind("/") + 1] + rest if mark else key


def refuse_name(path: str) -> None:
    """Raise BadPicture for a name that is not UTF-8: Python reads such names, Parquet refuses them."""
    if path != path.encode(errors="replace").decode():
        raise BadPicture("its name is not UTF-8: rename it")


def as_id(path: str) -> str:
    """The id of a path in an index: the path, but bytes that are not UTF-8 as `\\udce9`, since Arrow refuses them."""
    return _NOT_UTF8.sub(lambda found: f"\\u{ord(found[0]):x}", path)


def as_path(id: str) -> str:
    """The inverse of `as_id`."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), id)


_NOT_UTF8, _ESCAPED = re.compile("[\udc80-\udcff]"), re.compile(r"\\u(dc[89a-f][0-9a-f])")
