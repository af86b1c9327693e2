"""Find, list and read data sets of the form `<folder of a modality>/<class>/<picture>`. Most adapters use it.

An adapter declares the names of its folders as `Branch`es. They are looked for in each source and one folder below it,
ignoring case and any of `-_ ` in names. A source is a folder, a URL or an archive.
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
from urllib.parse import urlsplit

from pipelines.datasets.archives import opened
from pipelines.datasets.base import DatasetConfig, ImageRecord, Place, source_hash
from pipelines.datasets.texts import named, rows, some, tell
from pipelines.runtime.errors import StorageError
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.split import normalise_name
from zse_model.transforms import ENDINGS, Modality

PICTURES = ENDINGS

# Pictures that are not read: what they are and what to convert them to, and their endings. HEIC needs a decoder that
# Pillow does not have; Pillow runs Ghostscript for EPS; a raw file holds the values of a sensor, which each program
# develops in its own way; of a vector drawing or a document the size in pixels is a choice.
_FORMATS_UNREAD = {
    "HEIC is not read: convert it to JPEG": ".heic .heif .hif .heics .heifs",
    "JPEG XL is not read: convert it to JPEG or PNG": ".jxl",
    "JPEG 2000 is not read: convert it to JPEG or PNG": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "JPEG XR is not read: convert it to JPEG or PNG": ".jxr .wdp .hdp",
    "a Photoshop file is not read: export it as JPEG or PNG": ".psd .psb",
    "a file of a paint program is not read: export it as JPEG or PNG": ".xcf .kra .ora .clip .afphoto .procreate",
    "SVG is not read as a photo: export it as PNG": ".svg .svgz",
    "a vector drawing is not read as a photo: export it as PNG": ".eps .ps .ai .cdr .wmf .emf",
    "PDF is not read: export its pages as JPEG or PNG": ".pdf",
    "a raw photo is not read: export it as JPEG": ".raw .dng .cr2 .cr3 .crw .nef .nrw .arw .sr2 .srf .srw .orf .rw2"
    " .rwl .raf .pef .x3f .3fr .fff .iiq .mef .mos .mrw .erf .kdc .dcr",
    "this format is not read: convert it to JPEG or PNG": ".tga .exr .hdr .dds .pcx .ico .icns .sgi .dcm .bpg .flif",
}
_UNREADABLE = {ending: reason for reason, endings in _FORMATS_UNREAD.items() for ending in endings.split()}

# A folder with more subfolders than this holds classes: the subfolders are not searched for data sets.
MOST_BELOW = 40
LONGEST_ENDING = 12  # characters; a longer text after the dot is not counted as an ending


class LayoutError(StorageError):
    """A source without the folders or files that an adapter needs."""

    def __init__(self, message: str, found: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.found = tuple(found)
        """The needed folders that the source does have."""


@dataclass(frozen=True, kw_only=True)
class FileLists:
    """Lists as in the public code of SAKE and ZSE-SBIR. Each field is a file or URL.

    Lines of `sketches` and `photos` are `<path> <class id>`, those of `classes` are `<class name> <class id>`. Names
    may contain spaces. Ids start at 0 in each `classes` file, so training and test lists are two `FileLists`.
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
    """Settings of the data sets with class folders."""

    source: str | tuple[str, ...]
    """A folder, URL or archive (.zip .7z .tar .tar.gz .tar.bz2 .tar.xz), or several that make up the data set."""
    lists: tuple[FileLists, ...] = ()
    """Lists of the pictures that belong to the data set. Empty = all pictures."""
    name: str = ""
    """Name in outputs and settings: lower case letters, digits and `_.-`. Empty = that of the first source's folder."""

    def __post_init__(self) -> None:
        if not self.name:
            source = self.source if isinstance(self.source, str) else next(iter(self.source), "")
            object.__setattr__(self, "name", name_of(source))
        super().__post_init__()

    def placed(self, place: Place) -> Self:
        lists = tuple(group.placed(place) for group in self.lists)
        return replace(super().placed(place), source=placed_source(self.source, place), lists=lists)


def name_of(source: str) -> str:
    """The last part of a path or URL as a data set's name; `folder` if no character of it is allowed in one."""
    place = urlsplit(source) if "://" in source else None  # a user, password or signature is no part of a name
    path = source if place is None else place.path.strip("/") or place.hostname or ""
    last = path.rstrip("/").rpartition("/")[2].lower()
    for ending in sorted(storage.ARCHIVES, key=len, reverse=True):
        last = last.removesuffix(ending)
    return re.sub("[^a-z0-9_.-]+", "-", last).strip("-.") or "folder"


def placed_source(source: str | tuple[str, ...], place: Place) -> str | tuple[str, ...]:
    """`place` applied to each source."""
    return place("source", source) if isinstance(source, str) else tuple(place("source", one) for one in source)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Pictures of one modality below one folder."""

    modality: Modality
    folders: tuple[str, ...]
    """Names of the folder in the copies in circulation. The first name that exists is used. `.` = the source."""
    instance: Callable[[str, str], str | None] = lambda category, file: None
    """(class, file) -> instance, or None if unknown."""
    category: str | None = None
    """The class of every picture; None = the name of its folder."""
    tag: str = ""
    """Prefix of the file in ids, to tell apart two branches with the same file names."""
    needed: bool = True
    source: int | None = None
    """Index of the only source to look in; None = any."""
    endings: tuple[str, ...] = PICTURES
    names: frozenset[str] | None = None
    """Names, without ending, of the files to take; None = all."""
    drawn_at: str = ""
    """Settings of our rendering that the bytes depend on; part of the version."""


@dataclass(frozen=True)
class Root:
    """A source, ready to be listed."""

    index: int
    url: str
    version: str | None
    """Version of the archive; None for a folder."""
    source: str
    """`ImageRecord.source` of its records."""
    mark: str = ""
    """Prefix of its records' paths, if there are several sources."""


@dataclass(frozen=True, slots=True)
class _Listed:
    branch: Branch
    root: Root
    folder: str
    """The branch's folder, relative to the root."""
    file: storage.FileInfo
    """Its path is relative to `folder`."""


class PassedOver:
    """Files of a listing that are not read: for each reason their number, and the first by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, path: str, reason: str = "") -> None:
        """Count a file under its ending or another reason. Hidden and system files are not counted."""
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
        """Report them, if there are any."""
        if self.counts:
            say(f"Passed over {self} in {printable(where)}. Endings that are read: {' '.join(endings)}")


class Tree:
    """One or several sources. Cheap to build and to pickle: archives are unpacked at the first listing or read."""

    def __init__(self, source: str | Sequence[str]) -> None:
        self.sources = tuple(storage.absolute(s) for s in ([source] if isinstance(source, str) else source))
        if not self.sources:
            raise ZseError("dataset.source is empty. Give a folder, a URL or an archive, or a list of them")

    def roots(self) -> list[Root]:
        found = [opened(source) for source in self.sources]
        return [
            Root(
                index=i,
                url=o.folder,
                version=o.version,
                source="" if o.version else source_hash(o.folder),
                mark=f"{i}//" if len(found) > 1 else "",
            )
            for i, o in enumerate(found)
        ]

    def places(self) -> list[tuple[Root, str]]:
        """(root, folder) of each place where a data set may be: each source, and each folder in it."""
        roots = self.roots()
        return [(root, "") for root in roots] + _one_below(roots, _listing())

    def folder_of(self, name: str) -> str | None:
        """The URL of the folder of that name, in a source or one folder below; None if there is none."""
        where = _find((name,), self.roots(), _listing())
        return below(where[0].url, where[1]) if where else None

    def records(
        self, branches: Sequence[Branch], lists: Sequence[FileLists] = (), spelled: Iterable[str] = ()
    ) -> list[ImageRecord]:
        """All pictures of the branches, or those that lists name, sorted by id.

        A class with several spellings is spelled as in `spelled`, or else as in the first branch: `hot air balloon` of
        the sketches replaces `hot-air_balloon` of the photos. Two spellings within one branch stay two classes, so that
        `refuse_names` names both. Raises LayoutError for a needed folder that is missing or has no picture,
        StorageError for a folder that is there twice, ZseError for lists that name missing files and for a picture
        found twice.
        """
        passed = PassedOver()
        found = self._find_all(branches, passed)
        if lists:
            records = _listed_records(dict(found), lists)
        else:
            spelled = [*spelled]
            known, kept = {meaning(name): name for name in spelled}, {*spelled}
            records = []
            for _, files in found:  # a branch at a time: a listing needs more memory than its records
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
                    f"{below(where[0].url, where[1])} has no {branch.modality} pictures. Expected "
                    f"{_inside(branch)}, ending in {branch.endings}" + (f"; found {passed}" if passed.counts else ""),
                    seen,
                )
            if not where and branch.needed:
                there = {source: folders(root.url)[:20] for source, root in zip(self.sources, roots, strict=True)}
                raise LayoutError(
                    f"No {branch.modality} folder was found. Expected {' or '.join(branch.folders)} (with "
                    f"{_inside(branch)} in it) in dataset.source or one folder below; found {there}. Set "
                    "dataset.source to the folder that contains it",
                    seen,
                )
            yield branch, files


def in_order(records: Sequence[ImageRecord], source: str) -> list[ImageRecord]:
    """The records sorted by id. Raises ZseError for an id that two records have."""
    ordered = sorted(records, key=lambda r: r.id)
    if doubled := {a.id: f"{a.path} = {b.path}" for a, b in pairwise(ordered) if a.id == b.id}:
        raise ZseError(
            f"{source} has {len(doubled)} pictures more than once: {some(doubled)}. Remove the duplicates, such as "
            f"{printable(next(iter(doubled.values())))}"
        )
    return ordered


def is_picture(name: str, endings: tuple[str, ...] = PICTURES) -> bool:
    """Whether a file name has one of the endings and is not a hidden or system file."""
    return name.lower().endswith(endings) and not _is_litter_in(name)


def unreadable(path: str) -> str | None:
    """Why a file is not read although its ending says that it is a picture, and what to do; None for other files.

    For a listing that names what it leaves out. Hidden and system files are other files.
    """
    _, dot, ending = path.rsplit("/", 1)[-1].lower().rpartition(".")
    return None if _is_litter_in(path) else _UNREADABLE.get(dot + ending)


def own_instance(category: str, file: str) -> str:
    """An instance for each file name: `<class>/<name>` without folder and ending. For photos of one thing each."""
    return f"{category}/{stem(file)}"


def drawn_instance(mark: str) -> Callable[[str, str], str | None]:
    """The `Branch.instance` of sketches named `<photo><mark><number>.png`; None for other names."""

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
    """A folder's name for comparisons: lower case, without `-_ `."""
    return re.sub(r"[-_ ]", "", name.casefold())


def _listing() -> Callable[[str], list[str]]:
    """A cached function: URL of a folder -> names of its folders."""
    return functools.cache(lambda url: [f for f in storage.folders(url) if not _is_litter(f)])


def _find(names: Sequence[str], roots: Sequence[Root], folders: Callable[[str], list[str]]) -> tuple[Root, str] | None:
    """(root, folder) of the first of the names that exists; None if none does.

    Raises StorageError for two folders of that name: the choice would be arbitrary.
    """
    deeper = _one_below(roots, folders)
    for wanted in names:
        for places in ([(root, "") for root in roots], deeper):
            walked = [(root, _walk(root.url, above, wanted, folders)) for root, above in places]
            found = [(root, path) for root, path in walked if path is not None]
            if len(found) > 1:
                where = [below(root.url, path) for root, path in found]
                raise StorageError(f"Folder {wanted} was found more than once: {where}. Set dataset.source to one")
            if found:
                return found[0]
    return None


def _one_below(roots: Sequence[Root], folders: Callable[[str], list[str]]) -> list[tuple[Root, str]]:
    return [(root, name) for root in roots for name in folders(root.url) if len(folders(root.url)) <= MOST_BELOW]


def _walk(url: str, above: str, wanted: str, folders: Callable[[str], list[str]]) -> str | None:
    """The path of the folder `wanted` below `above`, in its own spelling; None if there is none."""
    path = above
    for part in () if wanted == "." else wanted.split("/"):
        names = folders(below(url, path))
        match = part if part in names else next((n for n in names if loose(n) == loose(part)), None)
        if match is None:
            return None
        path = below(path, match)
    return path


def below(folder: str, path: str) -> str:
    """folder/path. Either may be empty."""
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
        source=root.source,
    )


def meaning(category: str) -> str:
    """The normalised name of a class: equal for all spellings. A name without any letter stays as it is."""
    return normalise_name(category) or category


T = TypeVar("T")


def by_name(named: Iterable[tuple[str, T]]) -> dict[tuple[str, str], T]:
    """The mapping that `look_up` reads, from (`<class>/<file>`, value)."""
    exact = {_key(path): one for path, one in named}
    return {_composed(key): one for key, one in exact.items()} | exact


def look_up(there: Mapping[tuple[str, str], T], path: str) -> T | None:
    """The value of `<class>/<file>`, or None. The class may have any spelling. The file is compared exactly, then in
    Unicode form NFC: some systems decompose accents in file names."""
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
                    f"{url} names {len(missing)} files that the data does not have: {', '.join(missing[:10])}. Paths "
                    f"must begin with one of {prefixes}"
                )
        unused = [names[number] for number in names.keys() - used]
        tell(group.classes, "name a class without listed pictures", sorted(unused))
    return records


def _class_names(url: str) -> dict[int, tuple[int, str]]:
    """Class id -> (row, name). Raises ZseError for an id of two classes, and for a class with two ids."""
    names: dict[int, tuple[int, str]] = {}
    ids: dict[str, int] = {}
    for row, name, number in _lines(url):
        if number in names:
            raise ZseError(
                f"{url} row {row} gives the class id {number} a second time. Give each class an id of its own"
            )
        if ids.setdefault(meaning(name), number) != number:
            raise ZseError(f"{url} row {row} gives the class {named(name)} a second id. Keep one row for each class")
        names[number] = row, name
    return names


def _look_up(
    path: str, branches: Sequence[Branch], there: dict[Branch, dict[tuple[str, str], _Listed]]
) -> _Listed | None:
    """The file at the path of a list, or None. The list may use another name of the branch's folder and another
    spelling of the class."""
    for branch in branches:
        for folder in branch.folders:
            rest = path.removeprefix(f"{folder}/")
            if rest != path and (listed := look_up(there[branch], rest)):
                return listed
    return None


def _lines(url: str) -> list[tuple[int, str, int]]:
    """(row, name, number) of `<name> <number>` lines. Raises ZseError for other lines, and for a file without any."""
    if not storage.exists(url):
        raise ZseError(f"dataset.lists {url!r} does not exist. Give a file or URL")
    out = []
    for row, line in rows(url):
        *name, number = line.rsplit(maxsplit=1)
        if not name or not re.fullmatch("[0-9]{1,9}", number):
            raise ZseError(f"{url} row {row} must be `<path or class name> <class id>`")
        out.append((row, name[0].strip(), int(number)))
    if not out:
        raise ZseError(f"{url} is empty. Expected lines `<path or class name> <class id>`")
    return out
