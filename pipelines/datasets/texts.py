"""Text files that people write by hand or by a spreadsheet: lists and tables. Nothing of them is dropped unsaid.

UTF-8, with or without a byte order mark, and lines that end as on any system. An error names the file and the row, and
quotes no more than a name: an error is shown to more people than the file is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError

LONGEST = 100  # characters of a name that are shown


def named(name: str) -> str:
    """A name as an error shows it: in quotes, on one line, printable and not longer than a name is."""
    return repr(name if len(name) <= LONGEST else name[:LONGEST] + "…")


def some(names: Iterable[str], most: int = 10) -> str:
    """The first of several names, for an error."""
    names = list(names)
    return ", ".join(map(named, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def rows(url: str, data: bytes | None = None) -> list[tuple[int, str]]:
    """The lines that are not blank, and their numbers from 1. Raises ZseError for text that is not UTF-8.

    data: of the file, where it has been read.
    """
    data = storage.read_bytes(url) if data is None else data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        raise ZseError(f"{url} row {row} is not UTF-8 text. Save the file as UTF-8") from None
    lines = re.split(r"\r\n|\r|\n", text)  # not str.splitlines: names may hold what Unicode calls a line break
    return [(i, line) for i, line in enumerate(lines, 1) if line.strip()]


def table(url: str, columns: Sequence[str], data: bytes | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Number and fields of each row of a TSV with a header: of these columns, in this order; others are passed over.

    A quote is a character as any other, unless a field stands in quotes as a whole. Raises ZseError for text that is
    not UTF-8, a column that is not there or there twice, and a row with fewer or more fields than the header.
    """
    lines = rows(url, data)
    header = [_unquoted(name) for name in lines[0][1].split("\t")] if lines else []
    if wrong := [column for column in columns if header.count(column) != 1]:
        raise ZseError(
            f"{url} row 1 must name the columns {', '.join(columns)} once each, with tabs between; wrong: {some(wrong)}"
        )
    places = [header.index(column) for column in columns]
    for row, line in lines[1:]:
        fields = line.split("\t")
        if len(fields) != len(header):
            raise ZseError(f"{url} row {row} has {len(fields)} fields, expected {len(header)} with tabs between")
        yield row, tuple(_unquoted(fields[place]) for place in places)


def _unquoted(field: str) -> str:
    """Spreadsheets put a field with a quote in it into quotes, and double that quote."""
    whole = re.fullmatch(r'"((?:[^"]|"")*)"', field)
    return whole[1].replace('""', '"') if whole else field


def tell(url: str, what: str, found: Sequence[tuple[int, str]]) -> None:
    """Say how many rows, and which, are of no use; nothing for none."""
    if found:
        first = "; ".join(f"row {row}: {named(name)}" for row, name in found[:5])
        say(f"{url}: {len(found)} rows {what}, such as {first}")
