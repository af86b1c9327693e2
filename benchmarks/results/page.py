"""Draw docs/results.md with its figures and the table of the README, and find outdated quotes of the rows on other
pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from benchmarks.results import prose, tables
from benchmarks.results.columns import Found, read
from benchmarks.results.figures import figures
from benchmarks.results.plan import ALL_ROWS, ROOT, Row

PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
PICTURES = ROOT / "docs" / "pictures" / "results"
NAMES = (
    "selection",
    "crossatnet",
    "rates",
    "recipes",
    "late",
    "photos",
    "styles",
    "pairs",
    "final",
    "diffusion",
)


def draw() -> None:
    """Write the page, its figures and the README's table."""
    found = by_table(ALL_ROWS)
    drawn = figures(found)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in PICTURES.iterdir():
        if path.stem not in drawn:
            path.unlink()
    for name, figure in drawn.items():
        (PICTURES / f"{name}.svg").write_text(figure)
    PAGE.write_text(page(found, drawn))
    README.write_text(with_table(README.read_text(), tables.readme(found["final"])))


def by_table(rows: Iterable[Row]) -> dict[str, dict[str, Found]]:
    found = read(rows)
    return {name: {one.row.name: one for one in found if one.row.table == name} for name in NAMES}


def page(found: prose.Tables, drawn: Collection[str]) -> str:
    """drawn: names of the figures."""
    chosen, parted, rates, recipes, late, photos, styles, pairs, last, spread = (found[name] for name in NAMES)

    def table(name: str, *lines: str) -> list[str]:
        """The lines of a table, below its figure."""
        picture = [f"![Means and intervals of the table below](pictures/results/{name}.svg)"] if name in drawn else []
        return [*picture, *([""] if picture and lines else []), *lines]

    parts = [prose.INTRODUCTION, *table("selection", *tables.selection(chosen, ("ret", "rn", "fused"), "zse"))]
    parts += [prose.CHOSEN_TEXT, prose.CROSSATNET_TEXT]
    parts += table("crossatnet", *tables.selection(parted, ("ret", "hash-64", "itq-64"), "crossatnet"))
    parts += [prose.PARTS_TEXT.rstrip(), prose.RATES_TEXT, *table("rates")]
    for name, modes in (("global", ("ret",)), ("crossatnet", ("ret", "hash-64")), ("zse", ("ret", "rn", "fused"))):
        parts += ["", *tables.selection({k: v for k, v in rates.items() if k.startswith(name)}, modes, name)]
    parts += [prose.RECIPES_TEXT, *table("recipes", *tables.selection(recipes, ("ret",), "lite2-192"))]
    parts += [prose.RECIPES_READ.rstrip()]
    modes = ("ret", "rn", "fused", "late", "fused-late")
    reference = {name: one for name, one in late.items() if name == "global"}
    parts += [prose.LATE_TEXT, *table("late", *tables.selection(late, modes, "global", by="ret"))]
    parts += [prose.LATE_READ.rstrip(), prose.PHOTOS_TEXT]
    parts += table("photos", *tables.selection({**reference, **photos}, ("ret",), "global"))
    parts += [prose.PHOTOS_READ.rstrip(), prose.STYLES_TEXT, *table("styles", *tables.styles(styles))]
    parts += [prose.STYLES_READ.rstrip(), prose.PAIRS_TEXT, *table("pairs", *tables.pairs(pairs))]
    parts += [prose.PAIRS_READ.rstrip(), prose.LONGER_TEXT]
    longer = {name: one for name, one in {**pairs, **late}.items() if name in ("plain", "late-96")}
    parts += tables.selection(longer, ("ret", "late", "fused"), "plain")
    parts += [prose.FINAL_TEXT, *table("final", *tables.final(last)), prose.CODES_TEXT, *tables.codes(last)]
    parts += [prose.GENERALISED_TEXT, *table("generalised", *tables.generalised(last))]
    parts += [prose.FINE_TEXT, *table("fine", *tables.fine_grained(last))]
    parts += [prose.CROSS_TEXT, *table("across", *tables.across(last))]
    parts += [prose.DIFFUSION_TEXT, *table("diffusion", *tables.diffusion(spread))]
    parts += [prose.SEEN_TEXT, *table("seen", *tables.seen(last))]
    parts += [prose.FAITHFUL_TEXT, *tables.faithful({**chosen, **last}), ""]
    # Replaced one by one, not with str.format, so that other braces, such as those of a table, stay.
    text = "\n".join(parts)
    for name, number in prose.numbers(found).items():
        text = text.replace(f"{{{name}}}", number)
    return text


def with_table(text: str, table: Sequence[str]) -> str:
    """The text with `table` in place of the table with the same head. Raises ValueError if there is none."""
    lines = text.split("\n")
    start = lines.index(table[0])
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    return "\n".join([*lines[:start], *table, *lines[end:]])


def stale_quotes() -> list[str]:
    """For each outdated number on another page: the page and the words that it should have."""
    return [
        f"{name} should say: {quote}"
        for name, quotes in prose.quotes(by_table(ALL_ROWS)).items()
        for quote in quotes
        if quote not in " ".join((ROOT / name).read_text().split())
    ]
