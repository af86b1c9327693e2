"""Render SVG drawings. What is in the document is drawn; other files and URLs are not read.

`render` renders in this process and is for the files of a data set. `render_apart` is for documents from anybody: a
short one can take hours (nested patterns and masks, filters) or end the process (nested elements overflow the stack of
the renderer), so a child process with limits of time and memory renders it. The child imports this module by its path
and the standard library, and starts in about 30 ms.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import resvg_py

MAX_BYTES = 16 * 2**20  # of a document, also after the decompression of an .svgz
MAX_DEPTH = 100  # of nested elements
MAX_SECONDS, MAX_MEMORY = 5, 2**30  # of processor time; bytes. Usual documents take 0.1 s and 50 MB

_START = re.compile(rb"(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\0?(?:[ \t\r\n]\0?)*<")
_GZIP = b"\x1f\x8b"
_PAGE = re.compile(rb"\s*<(!doctype\s+)?html", re.IGNORECASE)
_PICTURED = ("image", "feImage", "use")
_OWN = re.compile(r"\s*(#|data:image/(png|jpe?g|gif|webp)[;,])", re.IGNORECASE)
_ELSEWHERE = re.compile(r"url\(\s*['\"]?\s*(?!['\"#\s])[^)]*\)", re.IGNORECASE)
_SHAPES = {"path", "line", "polyline", "polygon", "rect", "circle", "ellipse", "image", "use"}


def is_svg(data: bytes) -> bool:
    """Whether the bytes of a file are markup, such as SVG, or compressed as an .svgz is. No picture begins so."""
    return bool(_START.match(data)) or data.startswith(_GZIP)


def render(svg: bytes, side: int, background: str | None = None) -> bytes:
    """An SVG or .svgz document as a PNG file with transparency, its longer side `side` px.

    Raises ValueError for bytes that are not an SVG drawing, for a drawing that shows another file or URL (neither is
    read), for one of text alone (no fonts are loaded), and above MAX_BYTES and MAX_DEPTH.
    """
    if _PAGE.match(svg):
        raise ValueError("it is a web page")
    try:
        return resvg_py.svg_to_bytes(
            svg_string=_by_itself(_inflated(svg)),
            width=side,
            height=side,
            background=background,
            skip_system_fonts=True,
        )
    except (LookupError, ElementTree.ParseError, zlib.error) as error:  # LookupError: an unknown encoding
        raise ValueError(str(error)) from error


def render_apart(svg: bytes, side: int) -> bytes:
    """`render` in a child process. Raises ValueError also for a document that takes more than MAX_SECONDS of processor
    time or MAX_MEMORY."""
    folder = str(Path(resvg_py.__file__).parents[1])
    limits = [str(limit) for limit in (side, MAX_SECONDS, MAX_MEMORY)]
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD, folder, __file__, *limits],
            input=svg,
            capture_output=True,
            check=False,
            timeout=20 * MAX_SECONDS,  # of a machine that is full
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(_TOO_MUCH.format(MAX_SECONDS, MAX_MEMORY / 2**30)) from error
    if child.returncode == 0:
        return child.stdout
    if child.returncode == _REFUSED:
        raise ValueError(child.stderr.decode(errors="replace"))
    raise ValueError(_TOO_MUCH.format(MAX_SECONDS, MAX_MEMORY / 2**30))


_TOO_MUCH = "it takes more than {} s or {:g} GiB to draw, or is nested too deeply"
_REFUSED = 3
_CHILD = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"


def _main(side: int, seconds: int, memory: int) -> None:
    """The child: the document from stdin, the PNG to stdout."""
    import resource  # absent on some systems, which can still read a data set

    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
        with suppress(ValueError, OSError):  # the limit is lower already, or the system has none of memory
            resource.setrlimit(kind, (limit, limit))
    try:
        sys.stdout.buffer.write(render(sys.stdin.buffer.read(), side))
    except ValueError as error:
        sys.stderr.buffer.write(str(error).encode(errors="replace"))
        sys.exit(_REFUSED)


def _inflated(svg: bytes) -> bytes:
    if svg.startswith(_GZIP):
        svg = zlib.decompressobj(wbits=31).decompress(svg, MAX_BYTES + 1)
    if len(svg) > MAX_BYTES:
        raise ValueError(f"it is above the limit of {MAX_BYTES / 2**20:.0f} MiB")
    return svg


def _by_itself(svg: bytes) -> str:
    """The drawing without references to other files. Raises ValueError for one that a visible part depends on.

    The parser expands entities within bounds, never from other files, and its output has no DTD."""
    root = _parsed(svg)
    kinds = set()
    below = [(root, 1)]
    while below:
        element, depth = below.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"its elements are nested more than {MAX_DEPTH} deep")
        below += [(child, depth + 1) for child in element]
        kinds.add(kind := element.tag.rpartition("}")[2])
        _without_references(element, kind)
    if "text" in kinds and not kinds & _SHAPES:
        raise ValueError("it has text alone, which needs fonts and is not drawn. Convert the text to paths")
    return ElementTree.tostring(root, encoding="unicode")


def _without_references(element: ElementTree.Element, kind: str) -> None:
    for name, value in list(element.attrib.items()):
        if name.rpartition("}")[2] == "href" and not _OWN.match(value):
            if kind in _PICTURED:
                raise ValueError(
                    f"its <{kind}> refers to another file or URL, which is not read. Embed it as data:image/png"
                )
            del element.attrib[name]
        else:
            element.attrib[name] = _ELSEWHERE.sub("none", value)
    if element.text and kind == "style":
        element.text = _ELSEWHERE.sub("none", element.text)


def _parsed(svg: bytes) -> ElementTree.Element:
    """Parse in the encoding that the XML declares, else (wrong or missing declaration) in UTF-8 or Latin-1."""
    try:
        return ElementTree.fromstring(svg)
    except (ValueError, LookupError, ElementTree.ParseError) as error:
        for encoding in ("utf-8-sig", "latin-1"):
            with suppress(ValueError, ElementTree.ParseError):
                return ElementTree.fromstring(svg.decode(encoding))
        raise error


if __name__ == "__main__":
    _main(*map(int, sys.argv[3:]))
