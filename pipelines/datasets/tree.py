"""What the data sets of this field have in common: `<somewhere>/<class>/<picture>`, once for each modality.

A data set says what its folders are called (`Branch`), this file finds, lists and reads them: at a source or one folder
below it, in any capitals and with any of `-_ ` between the words. A source is a folder, a URL or an archive.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self, TypeVar

from pipelines.datasets.archives import opened
from pipelines.datasets.base import DatasetConfig, ImageRecord, Place
from pipelines.datasets.texts import named, rows, some, tell
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.split import normalise_name
from zse_model.transforms import ENDINGS, Modality

PICTURES = ENDINGS

# A folder with more folders than this is one of classes: no data set is looked for in each of them.
MOST_BELOW = 40
LONGEST_ENDING = 12  # of a file's name, where it is counted by its ending; what is longer is no ending


class LayoutError(StorageError):
    """A source that does not have the folders that a data set has."""

    def __init__(self, message: str, found: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)
        """Those of its folders that are there."""


@dataclass(frozen=True, kw_only=True)
class FileLists:
    """Lists in the form of the public SAKE and ZSE-SBIR code: files or URLs.

    A line of sketches and photos is `<path> <class id>`, one of classes `<class name> <class id>`; names may hold
    spaces. Ids count from 0 in every `classes` file anew, so the lists of training and test are two `FileLists`.
    """

    __pydantic_config__ = {"extra": "forbid"}

    classes: str
    sketches: str | None = None
    photos: str | None = None

    def placed(self, place: Place) -> FileLists:
        given = {field: url for field, url in vars(self).items() if url is not None}
        return replace(self, **{field: place(f"lists.{field}", url) for field, url in given.items()})


@dataclass(frozen=True, kw_only=True)
class TreeConfig(DatasetConfig):
    """What the data sets with class folders are told."""

    source: str | tuple[str, ...]
    """A folder, a URL or an archive (.zip .7z .tar .tar.gz .tar.bz2 .tar.xz); several where the data set lies in
    several."""
    lists: tuple[FileLists, ...] = ()
    """Which pictures belong to the data set, where lists say so. None = all that there are."""

    def placed(self, place: Place) -> Self:
        lists = tuple(group.placed(place) for group in self.lists)
        return replace(super().placed(place), source=placed_source(self.source, place), lists=lists)


def placed_source(source: str | tuple[str, ...], place: Place) -> str | tuple[str, ...]:
    """One or several sources, each in its place."""
    return place("source", source) if isinstance(source, str) else tuple(place("source", one) for one in source)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Pictures of one modality below one folder."""

    modality: Modality
    folders: tuple[str, ...]
    """What the folder is called in the copies that circulate; the first that is there counts. `.` = the source."""
    instance: Callable[[str, str], str | None] = lambda category, file: None
    """(class, file) -> the instance."""
    category: str | None = None
    """Of every picture; None = the folder that it lies in."""
    tag: str = ""
    """Stands before the file in the ids, where two branches may hold the same file names."""
    needed: bool = True
    source: int | None = None
    """Only in this one; None = in any."""
    endings: tuple[str, ...] = PICTURES
    names: frozenset[str] | None = None
    """Only files with these names (without their ending); None = all."""
    drawn_at: str = ""
    """What else a picture's bytes depend on, where we draw it ourselves: part of its version."""


@dataclass(frozen=True)
class Root:
    """A source, ready to be listed."""

    index: int
    url: str
    version: str | None
    """Of the archive that it was."""
    mark: str = ""
    """Before its records' paths, where there are several sources."""


@dataclass(frozen=True, slots=True)
class _Listed:
    branch: Branch
    root: Root
    folder: str
    """The branch's, below the root."""
    file: storage.FileInfo
    """Its path is below that folder."""


class PassedOver:
    """Files of a listing that are not read, by the reason: how many, and the first by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, path: str, reason: str = "") -> None:
        """A file by its ending, or for another reason. What systems leave in folders is not counted."""
        if _is_litter_in(path):
            return
        name, dot, ending = path.rsplit("/", 1)[-1].rpartition(".")
        reason = reason or (
            f".{ending.lower()}" if name and dot and len(ending) <= LONGEST_ENDING else "without ending"
        )
        self.counts[reason] += 1
        self.examples[reason] = min(path, self.examples.get(reason, path))

    def __str__(self) -> str:
        """`35 files: 32 .heic (ant/1.heic), 3 without ending (bee/x)`."""
        most = sorted(self.counts.items(), key=lambda kind: (-kind[1], kind[0]))
        kinds = [f"{n:,} {reason} ({printable(self.examples[reason])})" for reason, n in most[:8]]
        more = f" and {len(most) - 8} endings more" if len(most) > 8 else ""
        return f"{self.counts.total():,} files: {', '.join(kinds)}{more}"

    def tell(self, where: str, endings: Sequence[str] = PICTURES) -> None:
        """Say it, if there are any."""
        if self.counts:
            say(f"Passed over {self} in {printable(where)}. Endings that are read: {' '.join(endings)}")


class Tree:
    """One or several sources. Cheap to build and to pickle; archives are unpacked when something is listed or read."""

    def __init__(self, source: str | Sequence[str]) -> None:
        self.sources = tuple(storage.absolute(s) for s in ([source] if isinstance(source, str) else source))
        if not self.sources:
            raise ZseError("dataset.source is empty. Give a folder, a URL or an archive, or a list of them")

    def roots(self) -> list[Root]:
        found = [opened(source) for source in self.sources]
        return [Root(i, o.folder, o.version, f"{i}//" if len(found) > 1 else "") for i, o in enumerate(found)]

    def places(self) -> list[tuple[Root, str]]:
        """Where a data set may begin: at each source, and at each folder in it."""
        roots = self.roots()
        return [(root, "") for root in roots] + _one_below(roots, _listing())

    def folder_of(self, name: str) -> str | None:
        """The URL of the folder of that name, at a source or one folder below; None where there is none."""
        where = _find((name,), self.roots(), _listing())
        return below(where[0].url, where[1]) if where else None

    def records(
        self, branches: Sequence[Branch], lists: Sequence[FileLists] = (), spelled: Iterable[str] = ()
    ) -> list[ImageRecord]:
        """All pictures of the branches, or those that lists name, sorted by id.

        A class that two branches spell differently is spelled as in `spelled` or else in the first branch: `hot air
        balloon` of the sketches for `hot-air_balloon` of the photos. Two spellings within a branch stay two, for the
        split to name them. Raises StorageError for a folder that is needed and not there, or holds no picture;
        ValueError for lists that name what there is not.
        """
        passed = PassedOver()
        found = self._find_all(branches, passed)
        if lists:
            records = _listed_records(dict(found), lists)
        else:
            spelled = [*spelled]
            known, kept = {meaning(name): name for name in spelled}, {*spelled}
            records = []
            for _, files in found:  # a branch at a time: what is listed is larger than the records made of it
                own = sorted({_category(listed) for listed in files})
                names = {c: c if c in kept else known.get(meaning(c), c) for c in own}
                kept |= {*names.values()}
                records += [_record(listed, names[_category(listed)]) for listed in files]
                known = {meaning(c): names[c] for c in reversed(own)} | known
        endings = dict.fromkeys(ending for branch in branches for ending in branch.endings)
        passed.tell(", ".join(self.sources), tuple(endings))
        return in_order(records, "dataset.lists" if lists else f"dataset.source {self.sources}")

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        out: list[bytes | Exception] = [b""] * len(records)
        by_source: dict[int, list[tuple[int, str]]] = {}
        for i, record in enumerate(records):
            source, _, path = record.path.partition("//") if len(self.sources) > 1 else ("0", "", record.path)
            by_source.setdefault(int(source), []).append((i, path))
        for source, wanted in by_source.items():
            data = storage.read_many(opened(self.sources[source]).folder, [path for _, path in wanted])
            for (i, _), content in zip(wanted, data, strict=True):
                out[i] = content
        return out

    def _find_all(self, branches: Sequence[Branch], passed: PassedOver) -> Iterator[tuple[Branch, list[_Listed]]]:
        roots = self.roots()
        folders = _listing()
        seen: list[str] = []
        for branch in branches:
            allowed = roots if branch.source is None else [roots[branch.source]]
            where = _find(branch.folders, allowed, folders)
            files = list(_files(branch, *where, passed)) if where else []
            seen += [where[1] or "."] if where else []
            if where and not files and branch.needed:
                raise LayoutError(
                    f"{below(where[0].url, where[1])} holds no {branch.modality} pictures. Expected "
                    f"{_inside(branch)}, ending in {branch.endings}"
                    + (f"; there are {passed}" if passed.counts else ""),
                    seen,
                )
            if not where and branch.needed:
                there = {source: folders(root.url)[:20] for source, root in zip(self.sources, roots, strict=True)}
                raise LayoutError(
                    f"No {branch.modality} folder was found. Expected {' or '.join(branch.folders)} (with "
                    f"{_inside(branch)} in it) in dataset.source or one folder below. The folders there: {there}. Give "
                    "the folder that holds it as dataset.source",
                    seen,
                )
            yield branch, files


def in_order(records: Sequence[ImageRecord], source: str) -> list[ImageRecord]:
    """Sorted by id. Raises ValueError for an id that two have."""
    ordered = sorted(records, key=lambda r: r.id)
    if doubled := {a.id: f"{a.path} = {b.path}" for a, b in pairwise(ordered) if a.id == b.id}:
        raise ZseError(
            f"{source} has {len(doubled)} pictures more than once: {some(doubled)}. Take the others out; the first: "
            f"{printable(next(iter(doubled.values())))}"
        )
    return ordered


def is_picture(name: str, endings: tuple[str, ...] = PICTURES) -> bool:
    """By its ending; hidden files and what systems leave in folders are none."""
    return name.lower().endswith(endings) and not _is_litter_in(name)


def own_instance(category: str, file: str) -> str:
    """An instance for each file, whatever its folder and ending: of photos that are one thing each."""
    return f"{category}/{stem(file)}"


def drawn_instance(mark: str) -> Callable[[str, str], str | None]:
    """Of sketches `<photo><mark><number>.png`; None for other names."""

    def instance(category: str, file: str) -> str | None:
        photo, _, number = stem(file).rpartition(mark)
        return f"{category}/{photo}" if photo and number.isdigit() else None

    return instance


def stem(file: str) -> str:
    """A file's name without its folders and its ending."""
    return file.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _is_litter_in(path: str) -> bool:
    return any(map(_is_litter, path.split("/")))


def _is_litter(name: str) -> bool:
    return name.startswith((".", "@eaDir", "__MACOSX")) or name in ("Thumbs.db", "desktop.ini")


def _inside(branch: Branch) -> str:
    return "<picture>" if branch.category else "<class>/<picture>"


def loose(name: str) -> str:
    """A folder's name as people spell it from memory: no capitals, no `-_ `."""
    return re.sub(r"[-_ ]", "", name.casefold())


def _listing() -> Callable[[str], list[str]]:
    """Names of the folders in a folder, each listed once."""
    return functools.cache(lambda url: [f for f in storage.folders(url) if not _is_litter(f)])


def _find(names: Sequence[str], roots: Sequence[Root], folders: Callable[[str], list[str]]) -> tuple[Root, str] | None:
    """The root, and the folder below it that has the first of the names that any has.

    Two folders of one name raise StorageError: nobody can tell which is meant.
    """
    deeper = _one_below(roots, folders)
    for wanted in names:
        for places in ([(root, "") for root in roots], deeper):
            walked = [(root, _walk(root.url, above, wanted, folders)) for root, above in places]
            found = [(root, path) for root, path in walked if path is not None]
            if len(found) > 1:
                where = [below(root.url, path) for root, path in found]
                raise StorageError(f"{wanted} is there more than once: {where}. Give one as dataset.source")
            if found:
                return found[0]
    return None


def _one_below(roots: Sequence[Root], folders: Callable[[str], list[str]]) -> list[tuple[Root, str]]:
    return [(root, name) for root in roots for name in folders(root.url) if len(folders(root.url)) <= MOST_BELOW]


def _walk(url: str, above: str, wanted: str, folders: Callable[[str], list[str]]) -> str | None:
    """The folder `wanted` below `above`, as it is spelled there."""
    path = above
    for part in () if wanted == "." else wanted.split("/"):
        names = folders(below(url, path))
        match = part if part in names else next((n for n in names if loose(n) == loose(part)), None)
        if match is None:
            return None
        path = below(path, match)
    return path


def below(folder: str, path: str) -> str:
    """folder/path, either of which may be empty."""
    return storage.join(folder, path) if folder and path else folder or path


def _files(branch: Branch, root: Root, folder: str, passed: PassedOver) -> Iterator[_Listed]:
    for file in storage.list_files(below(root.url, folder)):
        if branch.names is not None and stem(file.path) not in branch.names:
            continue
        if not is_picture(file.path, branch.endings):
            passed.add(below(folder, file.path))
        elif branch.category is None and "/" not in file.path:
            passed.add(below(folder, file.path), "in no class folder")
        else:
            yield _Listed(branch, root, folder, file)


def _category(listed: _Listed) -> str:
    return listed.branch.category or listed.file.path.split("/", 1)[0]


def _record(listed: _Listed, category: str) -> ImageRecord:
    branch, root, path = listed.branch, listed.root, below(listed.folder, listed.file.path)
    file = listed.file.path if branch.category else listed.file.path.split("/", 1)[1]
    return ImageRecord(
        id=f"{branch.modality}/{category}/{branch.tag}{file}",
        modality=branch.modality,
        category=category,
        instance=branch.instance(category, file),
        path=root.mark + path,
        size=listed.file.size,
        version=" ".join(filter(None, (root.version or listed.file.version, branch.drawn_at))),
    )


def meaning(category: str) -> str:
    """A class's name in one form, whatever its spelling."""
    return normalise_name(category) or category


T = TypeVar("T")


def by_name(named: Iterable[tuple[str, T]]) -> dict[tuple[str, str], T]:
    """`<class>/<file>` and what it names, for `look_up`."""
    exact = {_key(path): one for path, one in named}
    return {_composed(key): one for key, one in exact.items()} | exact


def look_up(there: Mapping[tuple[str, str], T], path: str) -> T | None:
    """What `<class>/<file>` names: the class in any spelling, the file as it is, or else composed as text is: some
    systems decompose the accents of file names."""
    return there.get(key := _key(path)) or there.get(_composed(key))


def _key(path: str) -> tuple[str, str]:
    category, _, file = path.partition("/")
    return meaning(category), file


def _composed(key: tuple[str, str]) -> tuple[str, str]:
    return key[0], unicodedata.normalize("NFC", key[1])


def _listed_records(found: dict[Branch, list[_Listed]], lists: Sequence[FileLists]) -> list[ImageRecord]:
    there = {branch: by_name((listed.file.path, listed) for listed in files) for branch, files in found.items()}
    records: list[ImageRecord] = []
    for group in lists:
        names = _class_names(group.classes)
        used: set[int] = set()
        for modality, url in (("sketch", group.sketches), ("photo", group.photos)):
            if url is None:
                continue
            branches = [branch for branch in there if branch.modality == modality]
            missing: list[str] = []
            for row, path, number in _lines(url):
                if number not in names:
                    raise ZseError(f"{url} row {row} has the class id {number}, which {group.classes} does not name")
                used.add(number)
                listed = _look_up(path, branches, there)
                if listed is None:
                    missing.append(f"row {row}: {named(path)}")
                else:
                    records.append(_record(listed, names[number][1]))
            if missing:
                prefixes = [folder for branch in branches for folder in branch.folders]
                raise ZseError(
                    f"{url} names {len(missing)} files that the data does not have: {', '.join(missing[:10])}. Looked "
                    f"for below {prefixes}"
                )
        unused = [names[number] for number in names.keys() - used]
        tell(group.classes, "name a class of which no picture is listed", sorted(unused))
    return records


def _class_names(url: str) -> dict[int, tuple[int, str]]:
    """Class id -> its row and name. Raises ZseError for an id of two classes, and for a class with two ids."""
    names: dict[int, tuple[int, str]] = {}
    ids: dict[str, int] = {}
    for row, name, number in _lines(url):
        if number in names:
            raise ZseError(
                f"{url} row {row} gives the class id {number} a second time. Each class has an id of its own"
            )
        if ids.setdefault(meaning(name), number) != number:
            raise ZseError(f"{url} row {row} gives the class {named(name)} a second id. Leave one row for each class")
        names[number] = row, name
    return names


def _look_up(
    path: str, branches: Sequence[Branch], there: dict[Branch, dict[tuple[str, str], _Listed]]
) -> _Listed | None:
    """The listed file that a list means: its folder and its class may be spelled otherwise here than in the list."""
    for branch in branches:
        for folder in branch.folders:
            rest = path.removeprefix(f"{folder}/")
            if rest != path and (listed := look_up(there[branch], rest)):
                return listed
    return None


def _lines(url: str) -> list[tuple[int, str, int]]:
    """Row, name and number of `<name> <number>` lines. Raises ZseError for others, and for a file without any."""
    if not storage.exists(url):
        raise ZseError(f"dataset.lists: {url!r} does not exist. Give a file or URL")
    out = []
    for row, line in rows(url):
        *name, number = line.rsplit(maxsplit=1)
        if not name or not re.fullmatch("[0-9]{1,9}", number):
            raise ZseError(f"{url} row {row} is not `<path or class name> <class id>`")
        out.append((row, name[0].strip(), int(number)))
    if not out:
        raise ZseError(f"{url} is empty, expected lines `<path or class name> <class id>`")
    return out
