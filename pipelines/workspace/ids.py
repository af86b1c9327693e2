"""The grammar of picture ids: `modality/category/file`, in a `union` `modality/category/<part>//<file>`."""

from __future__ import annotations

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
