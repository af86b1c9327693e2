"""Filters: which words a service looks up, each refused by itself."""

from __future__ import annotations

import pytest

from pipelines.search.searcher import AskedError
from pipelines.serve.filters import FUNCTIONS, KEYWORDS, OWN, check_filter

COLUMNS = ("price", "Größe", "for sale")


@pytest.mark.parametrize(
    "where",
    [
        "price < 1",
        "PRICE<1.5e3 and not (price >= .5)",
        "größe = 'repeat(id, 9)'",
        "`for sale` is not null",
        "price in (1, 2, 3) or price between -1 and +2",
        "id like '%it''s%' and width <> 3 and height != 4",
        "indexed_at > timestamp '2026-01-01 10:00:00'",
        "cast(price as double) / 2 * 3 % 4 - 1 = 0",
        *(f"{function}(id) = 'a'" for function in FUNCTIONS),
        "",
    ],
)
def test_comparisons_of_columns_are_let_through(where: str) -> None:
    check_filter(where, COLUMNS)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("cost < 1", "There is no column 'cost'. Columns: price, Größe, for sale, id, width, height, indexed_at"),
        ("`cost` < 1", "There is no column 'cost'"),
        ("sha256 = 'a'", "There is no column 'sha256'"),
        ("repeat('a', 9) = 'a'", "A filter has no function 'repeat'. Functions: lower"),
        ("price (3)", "A filter has no function 'price'"),
        ("id (select 1)", "A filter has no function 'id'"),
        ("select 1", "There is no column 'select'"),
        ("price < 1; drop", "cannot be used from '; drop' on"),
        ("price < 1 -- more", "cannot be used from '-- more' on"),
        ("price ~ '('", "cannot be used from \"~ '('\" on"),
        ("id = 'open", 'cannot be used from "\'open" on'),
        ('"id" = 3', "cannot be used from '\"id\" = 3' on"),
        ("price::int = 3", "cannot be used from '::int = 3' on"),
        ("price[0] = 3", "cannot be used from '[0] = 3' on"),
        ("price = $1", "cannot be used from '$1' on"),
    ],
)
def test_all_else_is_refused_with_its_place(where: str, said: str) -> None:
    with pytest.raises(AskedError) as error:
        check_filter(where, COLUMNS)
    assert said in str(error.value) and error.value.field == "where"


def test_no_function_is_a_keyword_or_a_column() -> None:
    assert not set(FUNCTIONS) & {*KEYWORDS, *OWN}
