"""`qmul`: QMUL-Shoe-V2 and QMUL-Chair-V2 (Yu et al.), sketches of single products.

    trainA/<id>_<n>.png   trainB/<id>.png   testA/<id>_<n>.png   testB/<id>.png     A sketches, B photos
    ShoeV2_sketch/*       ShoeV2_photo/*    {sketch,photo}_{train,test}.txt         or the parts as lists of names

The published test separates products, not classes: some pairs of a class are trained on, others tested. A
`ZeroShotSplit` separates classes and draws held-back instances itself. So the test part is an unseen class of its own
(`shoe test` beside `shoe`), which no stage trains on or selects by. The built-in splits `shoe-v2` and `chair-v2` do so
for one data set each. A user's list without a test part is refused: the test part would be trained on. The published
numbers are the `-fg-class` rows of the evaluation (acc@k among the test photos of the class). Category-level rows mean
little here, and no row is a zero-shot result.

Each data set has one training class. Train with `shard.hard_negatives: 1`: every negative is a photo of another
product. Checkpoints are chosen on held-back pairs of the training part (`dataset.held_back`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from pipelines.datasets.base import DatasetConfig, ImageRecord, Place
from pipelines.datasets.texts import rows, some
from pipelines.datasets.tree import (
    Branch,
    LayoutError,
    Root,
    Tree,
    below,
    drawn_instance,
    loose,
    own_instance,
    placed_source,
    stem,
)
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.transforms import Modality

KINDS = ("shoe", "chair")
TEST = " test"
SPLITS = ("shoe-v2", "chair-v2")
MODALITIES: tuple[tuple[Modality, str], ...] = (("sketch", "a"), ("photo", "b"))


@dataclass(frozen=True, kw_only=True)
class QmulConfig(DatasetConfig):
    adapter: Literal["qmul"] = "qmul"
    source: str | tuple[str, ...]
    """A folder, URL or archive of one data set or with one folder for each; or several."""
    category: str | None = None
    """The class of a single data set. None = shoe or chair, from the folder's name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.split, tuple) and self.split not in SPLITS:
            raise ZseError(
                f"dataset.split is {self.split!r}. For qmul give one of {SPLITS}, or a list of the test parts, such as "
                "[shoe test]"
            )

    def placed(self, place: Place) -> Self:
        return replace(super().placed(place), source=placed_source(self.source, place))


class Qmul:
    """Sketch `<id>_<n>.png` was drawn from photo `<id>.png`."""

    def __init__(self, config: QmulConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        branches = list(self._branches())
        if not branches:
            raise LayoutError(
                f"{self.config.source} is not a QMUL data set. Expected trainA, trainB, testA and testB, or folders "
                "*sketch and *photo with sketch_train.txt, sketch_test.txt, photo_train.txt and photo_test.txt, in it "
                f"or one folder below; found {[storage.folders(r.url)[:20] for r in self.tree.roots()]}"
            )
        if not isinstance(self.config.split, tuple):  # a class that a built-in split does not name is not trained on
            return self.tree.records(branches)
        tests = {branch.category for branch in branches if branch.category and branch.category.endswith(TEST)}
        if missing := sorted(tests - set(self.config.split)):
            raise ZseError(f"dataset.split {self.config.split} lacks {missing}, which would be trained on. Add them")
        return self.tree.records(branches)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)

    def _branches(self) -> Iterator[Branch]:
        """The branches of each data set in the sources."""
        kinds: set[str] = set()
        for root, above in self.tree.places():
            parts = list(_parts(below(root.url, above)))
            if not parts:
                continue
            kind = self._category(root, above)
            if kind in kinds:
                raise ZseError(f"{self.config.source} has two data sets of the class {kind!r}. Give one of them")
            kinds.add(kind)
            for modality, part, folder, names in parts:
                yield Branch(
                    modality=modality,
                    folders=(below(above, folder),),
                    source=root.index,
                    category=kind + (TEST if part == "test" else ""),
                    instance=drawn_instance("_") if modality == "sketch" else own_instance,
                    names=names,
                )

    def _category(self, root: Root, above: str) -> str:
        source = self.tree.sources[root.index]
        for name in (above, source.rsplit("/", 1)[-1]):
            if found := self.config.category or next((kind for kind in KINDS if kind in name.lower()), None):
                return found
        raise ZseError(f"Neither {above!r} nor {source!r} names a class. Set dataset.category, such as shoe or chair")


def _parts(url: str) -> Iterator[tuple[Modality, str, str, frozenset[str] | None]]:
    """(modality, train or test, folder, names of its files or None for all) of each part of a data set at `url`.

    Raises StorageError for a list without its folder; ZseError for names without a file or in both lists.
    """
    folders = {loose(name): name for name in storage.folders(url)}
    lists = storage.names(url)
    other: dict[Modality, frozenset[str]] = {}
    for part in ("train", "test"):
        if {f"{part}a", f"{part}b"} <= folders.keys():
            for modality, letter in MODALITIES:
                yield modality, part, folders[f"{part}{letter}"], None
        elif {f"sketch_{part}.txt", f"photo_{part}.txt"} <= lists:
            for modality, _ in MODALITIES:
                folder = next((name for key, name in folders.items() if key.endswith(modality)), None)
                if folder is None:
                    raise StorageError(f"{url} has {modality}_{part}.txt, but no folder *{modality}. Add the folder")
                file = storage.join(url, f"{modality}_{part}.txt")
                # The lists of sketches name vector files, so endings are not compared.
                there = {stem(name) for name in storage.names(storage.join(url, folder))}
                listed = [line.strip() for _, line in rows(file)]  # each line is one name, or several without spaces
                names = frozenset(
                    stem(name) for line in listed for name in ([line] if stem(line) in there else line.split())
                )
                if missing := sorted(names - there):
                    raise ZseError(f"{file} names {len(missing)} files that {folder} does not have: {some(missing)}")
                if both := sorted(names & other.get(modality, frozenset())):
                    raise ZseError(f"{file} names {len(both)} files of the training list: {some(both)}. Remove them")
                other[modality] = other.get(modality, frozenset()) | names
                if part == "test" and (left := len(there - other[modality])):
                    say(f"{storage.join(url, folder)}: {left} pictures are passed over, since no list names them")
                yield modality, part, folder, names
