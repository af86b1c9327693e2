"""Which filters a service evaluates: comparisons of the user's columns, with a few functions that take no time.

The store's SQL has functions that take minutes or gigabytes of a short text, such as repeat and levenshtein, and reads
columns that are the index's own. So every word of a filter is looked up here. Our design.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pipelines.search.searcher import AskedError

OWN = ("id", "width", "height", "indexed_at")
"""Columns of the index that a filter may name, beside the user's."""
FUNCTIONS = ("lower", "upper", "trim", "length", "abs", "contains", "starts_with", "ends_with", "cast")
TYPES = ("double", "float", "bigint", "int", "string", "varchar", "date", "timestamp", "boolean")
KEYWORDS = ("and", "or", "not", "in", "is", "null", "like", "ilike", "between", "true", "false", "as")
_PARTS = re.compile(
    r"""\s+ | (?P<text>'(?:[^']|'')*') | `(?P<quoted>[^`]+)` | (?P<word>[^\W\d]\w*)(?P<call>\s*\()?
    | \d+(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+ | <= | >= | <> | != | [=<>+\-*/%(),]""",
    re.VERBOSE,
)


def check_filter(where: str, columns: Collection[str]) -> None:
    """Raises AskedError for a filter that names anything but these columns, those of OWN, and the words above.

    columns: the user's own. The store says what is wrong with the grammar.
    """
    at = 0
    while at < len(where):
        part = _PARTS.match(where, at)
        if part is None or where.startswith("--", at):
            raise AskedError(f"The filter cannot be used from {where[at : at + 20]!r} on", "where")
        word = part["word"]
        if part["quoted"] is not None:
            _check_column(part["quoted"], columns)
        elif word is not None and part["call"] and word.lower() not in (*FUNCTIONS, *KEYWORDS):
            raise AskedError(f"A filter has no function {word!r}. Functions: {', '.join(FUNCTIONS)}", "where")
        elif word is not None and not part["call"] and word.lower() not in (*KEYWORDS, *TYPES):
            _check_column(word, columns)
        at = part.end()


def _check_column(name: str, columns: Collection[str]) -> None:
    known = [*columns, *OWN]
    if name.lower() not in {one.lower() for one in known}:
        raise AskedError(f"There is no column {name!r}. Columns: {', '.join(known)}", "where")
