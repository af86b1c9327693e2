"""Measure the share of mAP_all that codes keep of their floats, and which step loses the rest.

Uses the row `crossatnet` of the ablation in docs/results.md, on its 20 classes, none of which is in a test. Codes of
every length are fitted as at the end of a training, and the projections are also ranked before their signs are taken.
The loss from the embedding to the projection comes from its few dimensions. The rest comes from the signs: of both
sides, or of the photos alone if the sketch's projection is compared with codes.

    DATA=... WEIGHTS=... ZSE_BENCH_WORKSPACE=workspace/results python -m benchmarks codes
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.results.make import DATA, configured
from benchmarks.results.plan import CROSSATNET
from pipelines.run import run
from pipelines.train.sources import ShardSource
from zse_model.checkpoint import load_checkpoint
from zse_model.evaluation.metrics import average_precision
from zse_model.evaluation.search import rank
from zse_model.hashing import Asymmetric, CodeHead, Hamming, pack
from zse_model.losses import normalised
from zse_model.methods.crossatnet import CrossATNet
from zse_model.scoring import score_all

LENGTHS = (32, 64, 128, 256)


def main() -> None:
    if not Path(DATA).exists():
        print(f"Skipped: the data {DATA} does not exist. Set DATA=folder WEIGHTS=file")
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(os.environ.get("ZSE_BENCH_WORKSPACE") or scratch)


def compare(workspace: str) -> None:
    (row,) = (row for row in CROSSATNET if row.name == "crossatnet")
    config = configured(row, 0, workspace)
    out = run(config, workspace, until="embed")
    checkpoint = load_checkpoint(out.checkpoints["crossatnet"].url)
    method = checkpoint.method
    assert isinstance(method, CrossATNet)
    asked, there = (out.encodings["crossatnet"].read(side, out.images) for side in ("sketch", "photo"))
    sketches, photos = asked.values["embedding"], there.values["embedding"]
    relevant = torch.from_numpy(asked.members.category[:, None] == there.members.category)

    heads = {f"{name}-{n}": CodeHead(method.config.dim, n) for n in LENGTHS for name in ("hash", "itq")}
    method.codes = nn.ModuleDict(heads)  # type: ignore[assignment]
    assert out.pairs is not None
    source = ShardSource(out.pairs, config.train.batch_size, row.seeds[0])
    method.conclude(source.batch(i, 0, config.cluster.workers) for i in itertools.count())

    whole = mean_ap(sketches @ photos.T, relevant)
    print(f"{len(sketches)} sketches, {len(photos)} photos; mAP_all, and its share of the floats' mAP_all")
    print(f"{f'floats, {sketches.shape[1]}-d':20s} {whole:.3f}")
    print(f"{'':20s} projected floats   signs of photos   of both sides")
    for name, head in heads.items():
        sides_of = zip((sketches, photos), head.mean, strict=True)
        projected = [normalised((x - mean) @ head.projection) for x, mean in sides_of]
        floats = mean_ap(projected[0] @ projected[1].T, relevant)
        queries = {"embedding": sketches, name: pack(head(sketches, "sketch"))}
        gallery = {name: pack(head(photos, "photo"))}
        scorers = Asymmetric(method.device, name, head), Hamming(method.device, name)
        kept = [floats, *(mean_ap(score_all(scorer, queries, gallery), relevant) for scorer in scorers)]
        print(f"{name:20s} " + "     ".join(f"{value:.3f} ({value / whole:.0%})" for value in kept), flush=True)


def mean_ap(scores: Tensor, relevant: Tensor) -> float:
    hits = relevant.gather(1, rank(scores).indices)
    return float(average_precision(hits, relevant.sum(1)).mean())


if __name__ == "__main__":
    main()
