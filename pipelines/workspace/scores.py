"""Read the scores of a pair network for the encodings of a test: of all pairs, or of the pairs of a shortlist.

    <workspace>/scores/<encodings>-<mode>/part-00000-of-00007.parquet ... manifest.json

A part holds the columns of some photos; its rows are all sketches in stored order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipelines.store import storage
from pipelines.workspace.kept import Kept
from pipelines.workspace.parts import open_part


class Scores(Kept):
    KIND, MADE_BY = "scores", "zse evaluate"

    def rows(self) -> Iterator[Tensor]:
        """Yield the score matrix in stored order, float32 [sketches of a row group, photos]."""
        parts = [open_part(storage.join(self.url, shard["name"])) for shard in self.manifest["shards"]]
        for group in range(parts[0].num_row_groups):
            columns = []
            for part in parts:
                rows = part.read_row_group(group, columns=["scores"]).column(0).combine_chunks()
                columns.append(rows.flatten().to_numpy().reshape(len(rows), -1))
            yield torch.from_numpy(np.concatenate(columns, axis=1))
