"""`domains`: PACS and DomainNet, `<domain>/<class>/*`. One domain has the sketches, one or more the photos.

There are no instances: no sketch was drawn from one of the photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.datasets.base import ImageRecord
from pipelines.datasets.tree import Branch, Tree, TreeConfig


@dataclass(frozen=True, kw_only=True)
class DomainsConfig(TreeConfig):
    adapter: Literal["domains"] = "domains"
    sketch: str = "sketch"
    """Folder of the sketches: sketch, or quickdraw (DomainNet)."""
    photos: tuple[str, ...] = ()
    """Folders of the photos. Empty = photo (PACS), or else real (DomainNet)."""


class Domains:
    def __init__(self, config: DomainsConfig) -> None:
        self.config, self.tree = config, Tree(config.source)

    def records(self) -> list[ImageRecord]:
        photos = [Branch(modality="photo", folders=(d,), tag=f"{d}/") for d in self.config.photos]
        photos = photos or [Branch(modality="photo", folders=("photo", "real"))]
        return self.tree.records([Branch(modality="sketch", folders=(self.config.sketch,)), *photos], self.config.lists)

    def read(self, records: Sequence[ImageRecord]) -> list[bytes | Exception]:
        return self.tree.read(records)
