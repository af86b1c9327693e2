"""A kept form: a folder that its manifest, written last, makes complete. One class each says what is in the folder.

    <workspace>/<KIND>/<name>-<short key>/manifest.json ...

The key is the hash of everything that the folder depends on. The folder's name has its first digits, the manifest all
of them, so that two folders that share the short one are told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from zse_model.errors import ZseError

MANIFEST = "manifest.json"
SUMMARY = "report.json"  # of a stage's output, for scripts
SHORT = 8  # digits of the key in a folder's name
_NAMED = re.compile(rf".*-([0-9a-f]{{{SHORT}}})")


@dataclass(frozen=True)
class Kept:
    """A complete folder. The manifest is read once, when the folder is opened; the rest when it is asked for.

    A subclass names its folder in the workspace, the verb that makes it, and the properties that its manifest has. One
    that changes what its manifest means raises VERSION and adds to OLDER.
    """

    url: str
    manifest: Mapping[str, Any] = field(repr=False)

    KIND: ClassVar[str]
    """The folder of a workspace that holds it."""
    MADE_BY: ClassVar[str]
    """The command that makes it."""
    VERSION: ClassVar[int] = 1
    """Of the schema: what `write` writes."""
    OLDER: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """What an older version is read as: version -> the manifest as the next version would have it."""

    @classmethod
    def place(cls, workspace: str, name: str, key: str) -> str:
        """The folder of what has this key."""
        return storage.join(workspace, cls.KIND, f"{name}-{key[:SHORT]}")

    @classmethod
    def open(cls, url: str) -> Self:
        """Raises StorageError for a folder that is not complete or of an unknown version, ZseError for one whose name
        is not that of its key."""
        if (found := cls.find(url)) is None:
            raise StorageError(f"{url} is not complete: it has no {MANIFEST}. Run `{cls.MADE_BY}` first")
        return found

    @classmethod
    def find(cls, url: str, key: str = "") -> Self | None:
        """The same; None for a folder that is not complete. key: what it has to be made from, where that is known."""
        if not complete(url):
            return None
        found = cls(url, cls._current(url, storage.read_json(storage.join(url, MANIFEST))))
        found._check_key(key)
        return found

    @classmethod
    def write(cls, url: str, key: str = "", **about: Any) -> Self:
        """Make a folder complete. key: empty for what no key was made of, such as an imported checkpoint."""
        manifest = storage.as_json({"schema_version": cls.VERSION, **({"key": key} if key else {}), **about})
        storage.write_bytes(storage.join(url, MANIFEST), manifest)
        return cls(url, json.loads(manifest))

    @property
    def name(self) -> str:
        """The folder's."""
        return self.url.rstrip("/").rsplit("/", 1)[1]

    @property
    def key(self) -> str:
        """All 64 digits; empty where older code wrote the manifest."""
        return self.manifest.get("key", "")

    @property
    def about(self) -> dict[str, Any]:
        """The manifest without the key: what is hashed of it is the same whoever wrote it."""
        return {name: value for name, value in self.manifest.items() if name != "key"}

    def summarise(self, stage: str) -> None:
        """Write what the folder is beside its manifest, for scripts, unless it is there."""
        url = storage.join(self.url, SUMMARY)
        if not storage.exists(url):
            said = {name: value for name, value in self.about.items() if name != "shards"}
            storage.write_json(url, {"stage": stage, "output": self.url, **said})

    @classmethod
    def _current(cls, url: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """A manifest as this version has it."""
        version, known = manifest.get("schema_version"), sorted({*cls.OLDER, cls.VERSION})
        if version not in known:
            raise StorageError(
                f"{url}/{MANIFEST} has schema version {version}, this code reads {', '.join(map(str, known))}. "
                f"Delete {url} and run `{cls.MADE_BY}` again"
            )
        for older in known[known.index(version) : -1]:
            manifest = {**cls.OLDER[older](manifest), "schema_version": older + 1}
        return manifest

    def _check_key(self, asked: str) -> None:
        """Raise ZseError for a folder that holds what belongs into another one."""
        named = _NAMED.fullmatch(self.name)
        other = asked or (named[1] if named else "")
        if self.key and other and not self.key.startswith(other):
            raise ZseError(
                f"{self.url} holds something else: its {MANIFEST} has the key {self.key}, the folder belongs to "
                f"{other}. Move or delete the folder, and run `{self.MADE_BY}` again"
            )


def complete(url: str) -> bool:
    """Whether the manifest of a folder is there."""
    return storage.exists(storage.join(url, MANIFEST))
