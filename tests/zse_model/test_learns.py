"""Training is worth it: what it teaches holds for classes that it has not seen. On the synthetic world, in seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zse_model.backbones import BackboneConfig
from zse_model.fit import LocalContext, TrainConfig, fit
from zse_model.methods import GlobalConfig, RetrievalMethod, TrainBatch, create_method
from zse_model.synthetic import CATEGORIES, UNSEEN, draw_photo, draw_sketch

SIZE, INSTANCES, ITEMS = 32, 4, 12
SEEN = tuple(category for category in CATEGORIES if category not in UNSEEN)


def drawn(category: str) -> tuple[Tensor, Tensor]:
    """Sketches [n, 1, s, s] and photos [n, 3, s, s] of a category, uint8; n is INSTANCES."""
    sketches, photos = (
        np.stack([draw(category, i, size=SIZE) for i in range(INSTANCES)]) for draw in (draw_sketch, draw_photo)
    )
    return torch.from_numpy(sketches)[:, None], torch.from_numpy(photos).permute(0, 3, 1, 2)


class Items:
    """Random items of the seen classes, by step."""

    def __init__(self) -> None:
        self.sketches, self.photos = (torch.stack(column) for column in zip(*map(drawn, SEEN), strict=True))

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        generator = torch.Generator().manual_seed(step)
        labels = torch.randperm(len(SEEN), generator=generator)[: 2 * ITEMS]
        label, other = labels[:ITEMS], labels[ITEMS:]
        first, second, third = (torch.randint(INSTANCES, (ITEMS,), generator=generator) for _ in range(3))
        return TrainBatch(
            sketch=self.sketches[label, first],
            photo=self.photos[label, first],
            sketch2=self.sketches[label, second],
            negative=self.photos[other, third],
            label=label,
            negative_label=other,
        )


def mean_average_precision(method: RetrievalMethod, pictures: list[tuple[Tensor, Tensor]]) -> float:
    """Of every sketch's ranking of all photos, relevant those of its class."""
    method.eval()
    with torch.no_grad():
        sketches, photos = (torch.cat(list(column)) for column in zip(*pictures, strict=True))
        queries, gallery = method.encode(sketches, "sketch"), method.encode(photos, "photo")
        scores = method.score(queries, gallery, "ret").numpy()
    labels = np.arange(len(pictures)).repeat(INSTANCES)
    found = []
    for row, label in zip(scores, labels, strict=True):
        hits = labels[np.argsort(-row, kind="stable")] == label
        found.append(np.mean([hits[: place + 1].mean() for place in np.flatnonzero(hits)]))
    return float(np.mean(found))


def test_a_trained_network_beats_an_untrained_one_on_classes_that_neither_has_seen() -> None:
    unseen = [drawn(category) for category in UNSEEN]
    torch.manual_seed(0)
    method = create_method(
        "global",
        GlobalConfig(dim=32, readout="head"),
        BackboneConfig(name="test_resnet"),
        size=SIZE,
        classes=len(SEEN),
    )
    untrained = mean_average_precision(method, unseen)
    settings = TrainConfig(steps=80, lr=6e-3, warmup=5, checks=1, batch_size=ITEMS)
    fit(method, Items(), LocalContext(device=torch.device("cpu")), settings, prepare_steps=0)
    trained = mean_average_precision(method, unseen)
    assert trained > 1.15 * untrained, (untrained, trained)
