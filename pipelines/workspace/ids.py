"""The grammar of the ids of pictures: `modality/category/file`, in a `union` `modality/category/<part>//<file>`."""

from __future__ import annotations

from zse_model.transforms import BadPicture

MARK = "//"
"""In the ids and instances of a `union`, after the name of the part."""


def own_name(key: str) -> str:
    """An id or instance as the data set itself has it, without the part of a union."""
    before, mark, rest = key.partition(MARK)
    return before[: before.rfind("/") + 1] + rest if mark else key


def refuse_name(path: str) -> None:
    """Raise BadPicture for a name whose bytes are not UTF-8: Python reads such names, Parquet refuses them."""
    if path != path.encode(errors="replace").decode():
        raise BadPicture("its name is not UTF-8: rename it")
