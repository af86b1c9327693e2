"""Read the metadata of photos: a table with one row for each photo. `zse index --metadata FILE` joins it by path."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pyarrow import csv, parquet

from pipelines.datasets.tree import is_picture
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from zse_model.errors import ZseError

pc: Any = pyarrow.compute  # makes its functions when it is imported: type checkers do not see them
KEYS = ("path", "id", "file_name")  # names of the column that names the photo
ENDINGS = (".csv", ".tsv", ".parquet")
QUOTED_FIELD = re.compile(rb'(?:^|\t)"[^\t\n]*"(?=\t|\r?$)', re.MULTILINE)
LEADING = r"^\s*[+-]?0\d"
LEADING_OR_LONG = r"^\s*[+-]?(0\d|\d{16,}\s*$)"


def read_metadata(url: str, reserved: Sequence[str]) -> pa.Table:
    """The columns `id` (path below the source) and those of the file. Texts are string, decimals are double, times are
    in microseconds; a column without a value has the type null.

    reserved: names that the index uses itself. Raises ZseError for a missing file, a file of another kind, without a
    column of paths, with a path twice, or with a column that cannot be used.
    """
    table = _read(url)
    names = table.column_names
    key = next((name for name in KEYS if name in names), None)
    if key is None:
        said = f"{url}: no column names the photos. Name one of its columns ({_some(names)}) {KEYS[0]!r}"
        raise ZseError(f"{said}: the path below the source, such as cats/1.jpg")
    for name in names:
        if names.count(name) > 1:
            raise ZseError(f"{url}: two columns are called {name!r}. Rename one")
        if name != key and (name in ("id", *reserved) or name.startswith("_")):
            raise ZseError(f"{url}: the column {name!r} has a name that the index uses itself. Rename it")
        if not name or set(name) & set(".`\"'"):
            raise ZseError(f"{url}: the column name {name!r} is empty or has one of . ` \" '. Rename it")
    ids = _plain(url, key, table[key]).cast(pa.string())
    counted = pc.value_counts(ids)
    twice = [one["values"].as_py() for one in counted if one["counts"].as_py() > 1][:3]
    if twice or ids.null_count:
        raise ZseError(
            f"{url}: each photo has one row, but {key} is {_some([str(t) for t in twice]) or 'empty'} twice or more"
        )
    return pa.table({"id": ids, **{name: _plain(url, name, table[name]) for name in names if name != key}})


def _read(url: str) -> pa.Table:
    if not url.lower().endswith(ENDINGS):
        raise ZseError(f"--metadata {url}: a file with the ending {', '.join(ENDINGS)} is needed")
    try:
        data = storage.read_bytes(url)
    except FileNotFoundError as error:
        raise ZseError(f"--metadata {url} does not exist. Check the path") from error
    try:
        if url.lower().endswith(".parquet"):
            return parquet.read_table(io.BytesIO(data))
        return _delimited(url, data)
    except (pa.ArrowException, OSError) as error:
        raise ZseError(f"--metadata {url} cannot be read: {printable(str(error))}") from error


def _delimited(url: str, data: bytes) -> pa.Table:
    """A .csv or .tsv file. Numbers that are codes stay text: of 00123 or of a number with more digits than an integer
    holds, a number would lose digits."""
    mark = "\t" if url.lower().endswith(".tsv") else ","
    # Most .tsv files have no quotation marks: a quote is a character of the text, and would join rows.
    quoted = mark == "," or QUOTED_FIELD.search(data) is not None
    options = csv.ParseOptions(delimiter=mark, quote_char=quoted and '"', newlines_in_values=quoted)

    def read(texts: Sequence[str], **more: Any) -> pa.Table:
        convert = csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()), **more)
        return csv.read_csv(io.BytesIO(data), parse_options=options, convert_options=convert)

    found = read(KEYS)  # a path of digits is a text
    numbers = [f.name for f in found.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    codes = []
    if numbers and len(set(found.column_names)) == found.num_columns:
        texts = read(numbers, include_columns=numbers, strings_can_be_null=True)
        for name in numbers:
            digits = LEADING if pa.types.is_integer(found.schema.field(name).type) else LEADING_OR_LONG
            if pc.any(pc.match_substring_regex(texts[name], digits)).as_py():
                found = found.set_column(found.schema.get_field_index(name), name, texts[name])
                codes.append(name)
    if codes:
        say(f"{url}: {_some(codes)} is kept as text, because a number would lose digits")
    if quoted and (swallowed := _swallowed(found, mark)):
        say(f"{url}: {swallowed} holds a whole line of the file. Is a quotation mark missing?", logging.WARNING)
    return found


def _swallowed(table: pa.Table, mark: str) -> str | None:
    """The first text that has a line of as many fields as a row, one of them the path of a picture."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type) and table.num_columns > 1:
            broken = pc.match_substring(column, "\n")
            for text in column.filter(broken).to_pylist():
                for line in text.split("\n")[1:]:
                    fields = line.split(mark)
                    if len(fields) >= table.num_columns and any(is_picture(field.strip('" ')) for field in fields):
                        return f"the {name} that begins with {printable(text.splitlines()[0][:20])!r}"
    return None


def _plain(url: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as the index keeps it. NaN is no number, so it is null. Raises ZseError for a type that it cannot
    keep."""
    kind = column.type
    if pa.types.is_dictionary(kind):  # a category of pandas
        kind, column = kind.value_type, column.cast(kind.value_type)
    if kind in (pa.string(), pa.large_string(), pa.string_view()):
        return column.cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_date(kind):
        return column.cast(pa.date32())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_time(kind) or pa.types.is_null(kind):
        return column
    said = "is not UTF-8 text" if pa.types.is_binary(kind) else f"has the type {kind}"
    raise ZseError(f"{url}: the column {name!r} {said}. Allowed: text in UTF-8, numbers, booleans, dates and times")


def _some(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:10])
