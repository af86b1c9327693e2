"""Read lists and tables that people write by hand or in a spreadsheet. Every row that is left out is reported.

Files are UTF-8, with or without a byte order mark, with the line ends of any system. An error names the file and the
row and quotes at most one name: more people see an error than may read the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

LONGEST = 100  # characters of a name in a message


def named(name: str) -> str:
    """A name for an error: quoted, printable, on one line, cut after `LONGEST` characters."""
    return repr(name if len(name) <= LONGEST else name[:LONGEST] + "…")


def some(names: Iterable[str], most: int = 10) -> str:
    """The first `most` names and the number of the others, for an error."""
    names = list(names)
    return ", ".join(map(named, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def rows(url: str, data: bytes | None = None) -> list[tuple[int, str]]:
    """(number from 1, line) of each line that is not blank. Raises ZseError for text that is not UTF-8.

    data: the file's bytes, if already read.
    """
    data = storage.read_bytes(url) if data is None else data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise ZseError(f"{url} row {row} is not UTF-8 text. Save the file as UTF-8") from None
    lines = re.split(r"\r\n|\r|\n", text)  # str.splitlines would also split names at Unicode's other line breaks
    return [(i, line) for i, line in enumerate(lines, 1) if line.strip()]


def table(url: str, columns: Sequence[str], data: bytes | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(row, fields) of each row of a TSV with a header. The fields are those of `columns`, in that order.

    Quotes are removed only from a field that is quoted as a whole. Raises ZseError for text that is not UTF-8, for a
    column that is missing or there twice, and for a row with fewer or more fields than the header.
    """
    lines = rows(url, data)
    header = [_unquoted(name) for name in lines[0][1].split("\t")] if lines else []
    if wrong := [column for column in columns if header.count(column) != 1]:
        raise ZseError(
            f"{url} row 1 must name the columns {', '.join(columns)} once each, separated by tabs; wrong: {some(wrong)}"
        )
    places = [header.index(column) for column in columns]
    for row, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ZseError(f"{url} row {row} has {len(fields)} fields, expected {len(header)} separated by tabs")
        yield row, tuple(_unquoted(fields[place]) for place in places)


def _unquoted(field: str) -> str:
    """Undo a spreadsheet's quoting: a field with a quote in it is quoted, and that quote doubled."""
    whole = re.fullmatch(r'"((?:[^"]|"")*)"', field)
    return whole[1].replace('""', '"') if whole else field


def tell(url: str, what: str, found: Sequence[tuple[int, str]]) -> None:
    """Report how many rows are not used, and the first five; nothing if there are none."""
    if found:
        first = "; ".join(f"row {row}: {named(name)}" for row, name in found[:5])
        say(f"{url}: {len(found)} rows {what}, such as {first}")
