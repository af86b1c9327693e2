"""Read pair shards: the planned and augmented training items of a split, written by `zse shard`.

    <workspace>/pairs/<dataset>-<key>/part-00000-of-00020.parquet ... manifest.json

With the layout `memory` there is only a manifest, and the training makes the same items from the image shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.workspace.kept import Kept
from zse_model.split import ZeroShotSplit


class Pairs(Kept):
    KIND, MADE_BY = "pairs", "zse shard"
    SHEET = "items.png"
    """Some items as a training sees them."""

    SCHEMA = pa.schema(
        [
            ("item", pa.int64()),
            ("label", pa.int32()),
            ("negative_label", pa.int32()),
            ("sketch", pa.binary()),
            ("photo", pa.binary()),
            ("sketch2", pa.binary()),
            ("negative", pa.binary()),
        ]
    )

    @property
    def dataset(self) -> str:
        return self.manifest["dataset"]

    @property
    def images(self) -> str:
        """The URL of the image shards."""
        return self.manifest["images"]

    @property
    def fingerprint(self) -> str:
        """Of the image shards."""
        return self.manifest["fingerprint"]

    @property
    def transforms(self) -> Mapping[str, Any]:
        """Of the image shards."""
        return self.manifest["transforms"]

    @cached_property
    def split(self) -> ZeroShotSplit:
        return ZeroShotSplit.from_json(json.dumps(self.manifest["split"]))

    @property
    def split_hash(self) -> str:
        return self.manifest["split_hash"]

    @property
    def classes(self) -> Sequence[str]:
        """The trained classes, in the order of their labels."""
        return self.manifest["classes"]

    @property
    def left_out(self) -> Sequence[str]:
        """Training classes without a sketch or without a photo."""
        return self.manifest["left_out"]

    @property
    def pictures(self) -> int:
        """Number of pictures that training may use."""
        return self.manifest["pictures"]

    @property
    def pictures_hash(self) -> str | None:
        """sha256 of the ids and contents of these pictures; None in a manifest of earlier code, whose key does not
        cover the ids."""
        return self.manifest.get("pictures_hash")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the `ShardConfig`."""
        return self.manifest["shard"]

    @property
    def row_group(self) -> int:
        return self.manifest["row_group"]

    @property
    def parts(self) -> Mapping[str, int]:
        """Name of each part -> number of its items; empty with the layout `memory`."""
        return {shard["name"]: shard["rows"] for shard in self.manifest["shards"]}
