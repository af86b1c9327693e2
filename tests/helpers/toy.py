"""A method so small that its losses and gradients are worked out in numpy, and batches of numbers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from zse_model.backbones import Backbone
from zse_model.methods import RetrievalMethod, TrainBatch

STRENGTH = 0.3  # of the second loss
Arrays = dict[str, np.ndarray]


class ToyBackbone(Backbone):
    """A linear layer [2, 3] that counts as a backbone."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.model = nn.Linear(3, 2)


class Toy(RetrievalMethod):
    """h = W x + c, e = V h + d + token - target; the losses of an item are |e|^2 / 2 and 0.3 |h|^2 / 2."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.backbone = ToyBackbone()
        self.distillation = None
        self.head = nn.Linear(2, 3)
        self.token = nn.Parameter(torch.empty(1, 1, 3))
        self.fixed = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.seen: list[tuple[int, int]] = []
        """The (step, share) of every batch that was trained on."""
        self.told: list[float] = []
        """The loss of each of them."""
        self.drawn: list[float] = []
        """The first random number of each of them."""

    def encode(self, images: Tensor, modality: str) -> Any:
        raise NotImplementedError

    def losses(self, batch: TrainBatch) -> dict[str, Tensor]:
        assert self.training and torch.is_grad_enabled()
        x, target = batch.sketch.flatten(1), batch.photo.flatten(1)
        h = self.backbone.model(x)
        e = self.head(h) + self.token[0] - target
        losses = {"fit": e.square().sum(1) / 2, "size": STRENGTH * h.square().sum(1) / 2}
        self.seen.append((int(batch.label[0]), int(batch.negative_label[0])))
        self.told.append(float(sum(loss.detach().double().mean() for loss in losses.values())))
        self.drawn.append(float(torch.rand(())))
        return losses


class Numbers:
    """Batches of b items for a Toy, by position; `asked` are the positions that were read."""

    def __init__(self, b: int = 2) -> None:
        self.b, self.asked = b, list[tuple[int, int]]()

    def arrays(self, step: int, share: int) -> tuple[np.ndarray, np.ndarray]:
        """x [b, 3] and targets [b, 3]. Those of some steps are larger."""
        generator = np.random.default_rng((step, share))
        return generator.normal(0.5, 1, (self.b, 3)), generator.normal(-0.2, 1 + 3 * (step % 2), (self.b, 3))

    def batch(self, step: int, rank: int, world_size: int) -> TrainBatch:
        self.asked.append((step, rank))
        x, target = (torch.tensor(values, dtype=torch.float32) for values in self.arrays(step, rank))
        of = SimpleNamespace(step=torch.full((self.b,), step), share=torch.full((self.b,), rank))
        return TrainBatch(sketch=x, photo=target, sketch2=x, negative=target, label=of.step, negative_label=of.share)


def arrays(toy: Toy) -> Arrays:
    """Its trained parameters, float64."""
    return {n: p.detach().double().numpy().copy() for n, p in toy.named_parameters() if p.requires_grad}


def gradients(at: Arrays, x: np.ndarray, target: np.ndarray) -> Arrays:
    """Of the mean loss of the items, by the chain rule."""
    w, c, v, d = (at[n] for n in ("backbone.model.weight", "backbone.model.bias", "head.weight", "head.bias"))
    found = {name: np.zeros_like(value) for name, value in at.items()}
    for row, wanted in zip(x, target, strict=True):
        h = w @ row + c
        e = v @ h + d + at["token"][0, 0] - wanted
        of_h = v.T @ e + STRENGTH * h
        found["head.weight"] += np.outer(e, h) / len(x)
        found["head.bias"] += e / len(x)
        found["token"][0, 0] += e / len(x)
        found["backbone.model.weight"] += np.outer(of_h, row) / len(x)
        found["backbone.model.bias"] += of_h / len(x)
    return found


def norm(gradient: Arrays) -> float:
    return float(np.sqrt(sum((value**2).sum() for value in gradient.values())))


class Steps:
    """What the optimizer is given before each of its updates, by parameter name, while it is entered."""

    def __init__(self, method: nn.Module) -> None:
        self.names = {p: n for n, p in method.named_parameters()}
        self.lr: list[dict[str, float]] = []
        self.decay: list[dict[str, float]] = []
        self.gradient: list[Arrays] = []

    def __enter__(self) -> Steps:
        self.handle = register_optimizer_step_pre_hook(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _look(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.lr.append(dict(self._each(optimizer, lambda _, group: group["lr"])))
        self.decay.append(dict(self._each(optimizer, lambda _, group: group["weight_decay"])))
        self.gradient.append(dict(self._each(optimizer, lambda p, _: p.grad.double().numpy().copy())))

    def _each(self, optimizer: torch.optim.Optimizer, read: Callable[[Any, Any], Any]) -> Iterator[tuple[str, Any]]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield self.names[parameter], read(parameter, group)
