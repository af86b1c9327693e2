"""The base class of artefacts. An artefact is a folder; its manifest is written last and makes it complete.

    <workspace>/<KIND>/<name>-<short key>/manifest.json ...

The key is the hash of everything that the artefact depends on. The folder's name has the first digits of the key, the
manifest all: so folders with the same first digits are told apart.
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
SUMMARY = "report.json"  # a stage's output, for scripts
SHORT = 8  # digits of the key in the name of a folder
_SHORT_KEY = re.compile(rf".*-([0-9a-f]{{{SHORT}}})")


@dataclass(frozen=True)
class Kept:
    """A complete artefact. The manifest is read when the artefact is opened, other files when they are needed.

    A subclass declares its folder in the workspace, the command that makes it, and the properties of its manifest. If
    the meaning of the manifest changes, raise VERSION and add to OLDER.
    """

    url: str
    manifest: Mapping[str, Any] = field(repr=False)

    KIND: ClassVar[str]
    """The folder of the workspace with all artefacts of this class."""
    MADE_BY: ClassVar[str]
    """The command that makes the artefact."""
    VERSION: ClassVar[int] = 1
    """The schema version that `write` writes."""
    OLDER: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """Older schema version -> a function from its manifest to the manifest of the next version."""

    @classmethod
    def place(cls, workspace: str, name: str, key: str) -> str:
        """The folder of the artefact with this key."""
        return storage.join(workspace, cls.KIND, f"{name}-{key[:SHORT]}")

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an artefact. Raises StorageError for an incomplete folder and an unknown schema version, and ZseError
        for a folder of a workspace whose name does not fit the key of its manifest."""
        if (found := cls.find(url)) is None:
            raise StorageError(f"{url} is not complete: it has no {MANIFEST}. Run `{cls.MADE_BY}` first")
        return found

    @classmethod
    def find(cls, url: str, key: str = "") -> Self | None:
        """Open an artefact as `open` does; None for an incomplete folder. key: the key that it must have, if known."""
        if not complete(url):
            return None
        found = cls(url, cls._current(url, storage.read_json(storage.join(url, MANIFEST))))
        found._check_key(key)
        return found

    @classmethod
    def write(cls, url: str, key: str = "", **about: Any) -> Self:
        """Write the manifest, which makes the folder complete. key: empty for an artefact without one, such as an
        imported checkpoint."""
        manifest = storage.as_json({"schema_version": cls.VERSION, **({"key": key} if key else {}), **about})
        storage.write_bytes(storage.join(url, MANIFEST), manifest)
        return cls(url, json.loads(manifest))

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self._parts()[1]

    @property
    def key(self) -> str:
        """All 64 hex digits; empty in a manifest of older code."""
        return self.manifest.get("key", "")

    @property
    def about(self) -> dict[str, Any]:
        """The manifest without the key, which older code did not write: the same content has the same hash."""
        return {name: value for name, value in self.manifest.items() if name != "key"}

    def summarise(self, stage: str) -> None:
        """Write SUMMARY beside the manifest, for scripts, unless it exists."""
        url = storage.join(self.url, SUMMARY)
        if not storage.exists(url):
            said = {name: value for name, value in self.about.items() if name != "shards"}
            storage.write_json(url, {"stage": stage, "output": self.url, **said})

    def _parts(self) -> tuple[str, str]:
        """The names of the parent folder and of the folder; the first is empty for a relative name alone."""
        parent, _, name = self.url.rstrip("/").rpartition("/")
        return parent.rpartition("/")[2], name

    @classmethod
    def _current(cls, url: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """A manifest in the current schema version."""
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
        """Raise ZseError for a folder with the artefact of another key."""
        kind, name = self._parts()
        # Elsewhere a name is the user's choice, such as best-20261126.
        named = _SHORT_KEY.fullmatch(name) if kind == self.KIND else None
        other = asked or (named[1] if named else "")
        if self.key and other and not self.key.startswith(other):
            raise ZseError(
                f"{self.url} holds another artefact: its {MANIFEST} has the key {self.key}, but the folder belongs to "
                f"{other}. Move or delete the folder, and run `{self.MADE_BY}` again"
            )


def complete(url: str) -> bool:
    """Whether a folder has a manifest."""
    return storage.exists(storage.join(url, MANIFEST))
