"""Read the scores of a pair network for the encodings of a test: of all pairs, or of the pairs of a shortlist.

    <workspace>/scores/<encodings>-<mode>/sketches-0-1024-photos-0-512.parquet ... manifest.json

A block is one file: the scores of a band of sketches with a range of photos, both in stored order. Its name says which
pairs it has. Blocks with the same sketches are read together, so that each file is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from pipelines.store import storage
from pipelines.workspace.kept import Kept
from pipelines.workspace.parts import open_part, write_part


def _one_band(manifest: dict[str, Any]) -> dict[str, Any]:
    """Version 1: each part has the scores of all sketches with up to 256 photos, in many row groups."""
    return {**manifest, "row_groups": True, "shards": [{**shard, "band": 0} for shard in manifest["shards"]]}


class Scores(Kept):
    KIND, MADE_BY = "scores", "zse evaluate"
    VERSION, OLDER = 2, {1: _one_band}

    @staticmethod
    def block_name(sketches: range, photos: range) -> str:
        """The file of a block: the positions of its pictures in stored order."""
        return f"sketches-{sketches.start}-{sketches.stop}-photos-{photos.start}-{photos.stop}.parquet"

    def rows(self) -> Iterator[Tensor]:
        """Yield the score matrix in stored order, float32 [sketches of a band, photos]."""
        for _, band in groupby(self.manifest["shards"], key=lambda shard: shard["band"]):
            urls = [storage.join(self.url, shard["name"]) for shard in band]
            blocks = list(storage.side_by_side(partial(open_part, whole=not self.manifest.get("row_groups")), urls))
            for group in range(blocks[0].num_row_groups):
                columns = storage.side_by_side(partial(_read, group=group), blocks)
                yield torch.from_numpy(np.concatenate(list(columns), axis=1))


def write_block(url: str, scores: Tensor) -> None:
    """Write the scores of a block, float32 [sketches, photos]."""
    flat = pa.array(scores.numpy().reshape(-1))
    table = pa.table({"scores": pa.FixedSizeListArray.from_arrays(flat, scores.shape[1])})
    write_part(url, table, row_group=len(scores))


def _read(block: pq.ParquetFile, *, group: int) -> np.ndarray:
    """float32 [rows of the row group, photos]"""
    rows = block.read_row_group(group, columns=["scores"]).column(0).combine_chunks()
    return rows.flatten().to_numpy().reshape(len(rows), -1)
