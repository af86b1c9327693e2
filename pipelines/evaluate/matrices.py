"""Score matrices of one checkpoint's encodings, in blocks of rows. The stage `evaluate` reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig
from pipelines.evaluate.score import score
from pipelines.workspace.encodings import Encoded, Encodings
from zse_model.checkpoint import Checkpoint
from zse_model.scoring import count

EMBEDDING_TILE = 512  # rows of a block


class Matrices:
    """The score matrix of every mode, in blocks of rows.

    Rows are the sketches in stored order. Columns are the photos in the order of their content hash, so that ties do
    not favour a class. A pair network runs on the cluster, once for each matrix.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        workspace: str,
        encodings: Encodings,
        checkpoint: Checkpoint,
        sketches: Encoded,
        photos: Encoded,
    ) -> None:
        self.config, self.workspace, self.encodings, self.method = config, workspace, encodings, checkpoint.method
        self.sketches, self.photos = sketches.values, photos.values
        members = photos.members
        self.columns = torch.from_numpy(members.content_order())
        self.gallery = members.by_content()

    def rows(self, mode: str, among: Tensor | None = None) -> Iterator[Tensor]:
        """Blocks float32 [at most EMBEDDING_TILE, photos] of a mode's matrix.

        among: int64 [sketches, k], the columns that `rerank-K` ranks; all others are -inf. None = all columns.
        """
        for scores in self._stored(mode, None if among is None else self.columns[among]):
            yield scores[:, self.columns]

    def _stored(self, mode: str, among: Tensor | None = None) -> Iterator[Tensor]:
        """`rows` with columns, and `among`, in stored order."""
        scored_by = self.method.ranked_by(mode)
        declared = self.method.mode(scored_by)
        if declared.combined and declared.combine:
            for parts in zip(*map(self._stored, declared.combined), strict=True):
                yield declared.combine(self.method, *parts)
        elif declared.pair_network:
            yield from tiles(score(self.config, self.workspace, self.encodings, mode, among).rows())
        else:
            for start in range(0, count(self.sketches), EMBEDDING_TILE):
                yield self._block(scored_by, start, EMBEDDING_TILE)

    def _block(self, mode: str, start: int, rows: int) -> Tensor:
        sketches = {name: value[start : start + rows] for name, value in self.sketches.items()}
        return self.method.score(sketches, self.photos, mode)


def tiles(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """The rows of blocks of any height, in blocks of EMBEDDING_TILE rows; the last may have fewer."""
    left: list[Tensor] = []
    for block in blocks:
        block = torch.cat([*left, block]) if left else block
        whole = len(block) - len(block) % EMBEDDING_TILE
        if whole:
            yield from block[:whole].split(EMBEDDING_TILE)
        left = [block[whole:]] if whole < len(block) else []
    yield from left
