"""`qmul`: QMUL-Shoe-V2 and QMUL-Chair-V2 (Yu et al.), sketches of single products.

    trainA/<id>_<n>.png   trainB/<id>.png   testA/<id>_<n>.png   testB/<id>.png     A sketches, B photos
    ShoeV2_sketch/*       ShoeV2_photo/*    {sketch,photo}_{train,test}.txt         or so: the parts as lists of names

The published test is of products, not of classes: some pairs of a class are trained on, others tested. A
`ZeroShotSplit` keeps classes apart, and what it holds back it draws by itself; so the test part is a class of its own,
`shoe test` beside `shoe`, and an unseen one: no stage trains on it or chooses by it. The splits `shoe-v2` and
`chair-v2` say so, each for itself. A list of a user's own that leaves a test part out is refused, as it would be
trained on. The published numbers are the `-fg-class` rows of the evaluation (acc@k among the test photos of the class);
rows by class mean little here, and none is a zero-shot result.

One of the two is one class: it is trained on with `shard.hard_negatives: 1`, every negative a photo of another product,
and chooses its checkpoint by held-back pairs of the training part (`dataset.held_back`).
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
    """A folder, URL or archive of one of the two, or one that has them as folders; or several."""
    category: str | None = None
    """What a single data set shows. None = shoe or chair, read off the folder's name."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.split, tuple) and self.split not in SPLITS:
            raise ZseError(
                f"dataset.split is {self.split!r}. For qmul it is one of {SPLITS}, or lists the test parts, as "
                "[shoe test]"
            )

    def placed(self, place: Place) -> Self:
        return replace(super().placed(place), source=placed_source(self.source, place))


class Qmul:
    """Sketch `<id>_<n>.png` is of photo `<id>.png`."""

    def __init__(self, config: QmulConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        branches = list(self._branches())
        if not branches:
            raise LayoutError(
                f"{self.config.source} is not a QMUL data set. Expected trainA, trainB, testA and testB, or folders "
                "*sketch and *photo with sketch_train.txt, sketch_test.txt, photo_train.txt and photo_test.txt, in it "
                f"or one folder below. The folders there: {[storage.folders(r.url)[:20] for r in self.tree.roots()]}"
            )
        if not isinstance(self.config.split, tuple):  # what a built-in split does not name is on neither side of it
            return self.tree.records(branches)
        tests = {branch.category for branch in branches if branch.category and branch.category.endswith(TEST)}
        if missing := sorted(tests - set(self.config.split)):
            raise ZseError(f"dataset.split {self.config.split} lacks {missing}: they would be trained on. Add them")
        return self.tree.records(branches)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)

    def _branches(self) -> Iterator[Branch]:
        """Of each data set that is there."""
        kinds: set[str] = set()
        for root, above in self.tree.places():
            parts = list(_parts(below(root.url, above)))
            if not parts:
                continue
            kind = self._category(root, above)
            if kind in kinds:
                raise ZseError(f"{self.config.source} has two data sets of the category {kind!r}. Give one of them")
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
        raise ZseError(f"Neither {above!r} nor {source!r} says what it shows. Give dataset.category, as shoe or chair")


def _parts(url: str) -> Iterator[tuple[Modality, str, str, frozenset[str] | None]]:
    """(modality, train or test, folder, names of its files or None for all) of a data set; nothing where none is."""
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
                    raise StorageError(f"{url} has {modality}_{part}.txt, but no folder *{modality} for it")
                file = storage.join(url, f"{modality}_{part}.txt")
                # The lists of sketches name vector files: the ending does not count.
                there = {stem(name) for name in storage.names(storage.join(url, folder))}
                listed = [line.strip() for _, line in rows(file)]  # a line is a name, or several without spaces
                names = frozenset(
                    stem(name) for line in listed for name in ([line] if stem(line) in there else line.split())
                )
                if missing := sorted(names - there):
                    raise ZseError(f"{file} names {len(missing)} files that {folder} does not have: {some(missing)}")
                if both := sorted(names & other.get(modality, frozenset())):
                    raise ZseError(f"{file} names {len(both)} files that are in training too: {some(both)}")
                other[modality] = other.get(modality, frozenset()) | names
                if part == "test" and (left := len(there - other[modality])):
                    say(f"{storage.join(url, folder)}: {left} pictures are passed over, no list names them")
                yield modality, part, folder, names
