"""Groups of parameters, and their learning rate at each step."""

from __future__ import annotations

import math

import torch
from torch import nn

from zse_model.backbones import Backbone
from zse_model.fit.config import TrainConfig


def make_optimizer(method: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms and single tokens; backbones at their own share of the learning rate."""
    backbone = {id(p) for module in method.modules() if isinstance(module, Backbone) for p in module.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in (p for p in method.parameters() if p.requires_grad):
        groups.setdefault((id(p) in backbone, p.squeeze().dim() > 1), []).append(p)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": config.backbone_lr if in_backbone else 1.0,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (in_backbone, decays), parameters in groups.items()
        ],
        lr=config.lr,
        fused=True,
    )


def learning_rate(config: TrainConfig, step: int, total: int | None) -> float:
    """Linear warm-up, then half a cosine to 0 at `total` steps. None = not known yet: it stays at `config.lr`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if total is None or config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup) / max(total - config.warmup, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
