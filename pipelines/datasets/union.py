"""`union`: several data sets as one, to train one network on all of them.

    parts:
      sketchy: {adapter: sketchy, source: /data/Sketchy}
      strokes: {adapter: quickdraw_strokes, source: /data/quickdraw, photos: /data/photos}

Two spellings of a class are one class, spelled as in the first part that has it; aliases stay two classes. A part may
have sketches only or photos only. `split: sketchy-25+tuberlin-30` keeps the unseen classes of both splits unseen, by
name and by alias. Ids are `modality/class/<part>//<file>`. `shard.weights` reads the part; without the part the id is
that of the data set alone, so that the same pictures are held back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator

from pipelines.datasets.adapters import ADAPTERS, AnyPartConfig
from pipelines.datasets.base import DatasetAdapter, DatasetConfig, ImageRecord, Place
from pipelines.datasets.tree import in_order, meaning
from pipelines.runtime.validate import read_section
from pipelines.workspace.ids import MARK
from zse_model.errors import ZseError


@dataclass(frozen=True, kw_only=True)
class UnionConfig(DatasetConfig):
    adapter: Literal["union"] = "union"
    parts: Mapping[str, Mapping[str, Any]]
    """Name -> settings of the data set, without those of the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise ZseError("dataset.parts is empty. Give each data set a name, an adapter and the adapter's settings")
        for name, part in self.parts.items():
            if wrong := sorted({"name", "split", "pseudo_unseen", "held_back", "split_seed"} & part.keys()):
                raise ZseError(f"dataset.parts.{name} sets {wrong}, which a part cannot set. Set them in dataset")
            if part.get("adapter") == "union":
                raise ZseError(f"dataset.parts.{name} is a union. List its parts in dataset.parts instead")
        self.configs()

    @staticmethod
    def __read_as__() -> dict[str, Any]:
        """The types that `validate` checks a user's `parts` against: a part has no name and no split."""
        return {"parts": Mapping[str, AnyPartConfig]}

    def configs(self) -> dict[str, DatasetConfig]:
        """The configuration of each part. Raises ConfigError for a part that cannot be used."""
        split = {"qmul": "shoe-v2"}
        return {
            name: read_section(
                Annotated[AnyPartConfig, Discriminator("adapter")],
                {"name": name, "split": split.get(str(part.get("adapter")), ("-",)), **part},
                f"{name}.",
            )
            for name, part in self.parts.items()
        }

    def placed(self, place: Place) -> Self:
        parts = {}
        for name, config in self.configs().items():
            own = asdict(config.placed(lambda field, given, name=name: place(f"parts.{name}.{field}", given)))
            parts[name] = {field: own[field] if field in own else value for field, value in self.parts[name].items()}
        return replace(super().placed(place), parts=parts)


class Union:
    def __init__(self, config: UnionConfig) -> None:
        self.parts: dict[str, DatasetAdapter] = {n: ADAPTERS[type(c)](c) for n, c in config.configs().items()}

    def records(self) -> list[ImageRecord]:
        spelled: dict[str, str] = {}
        kept: set[str] = set()
        records = []
        for name, part in self.parts.items():
            own = part.records()
            # Two spellings of a class within one part stay two classes, so that `refuse_names` names both.
            names = dict.fromkeys(record.category for record in own)
            spelling = {c: c if c in kept else spelled.get(meaning(c), c) for c in names}
            kept |= {*spelling.values()}
            spelled = {meaning(c): c for c in spelling.values()} | spelled
            records += [_of_part(name, record, spelling[record.category]) for record in own]
        return in_order(records, "dataset.parts")

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        out: list[bytes | Exception] = [b""] * len(records)
        for name, part in self.parts.items():
            mark = name + MARK
            rows = [i for i, record in enumerate(records) if record.path.startswith(mark)]
            own = [replace(records[i], path=records[i].path.removeprefix(mark)) for i in rows]
            for i, data in zip(rows, part.read(own) if own else [], strict=True):
                out[i] = data
        return out


def _of_part(name: str, record: ImageRecord, category: str) -> ImageRecord:
    file = record.id.split("/", 2)[2]
    return replace(
        record,
        id=f"{record.modality}/{category}/{name}{MARK}{file}",
        category=category,
        instance=f"{name}{MARK}{record.instance}" if record.instance is not None else None,
        path=f"{name}{MARK}{record.path}",
    )
