"""Run one row and write its results. `python -m benchmarks.results` calls `make`."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import record
from benchmarks.results.plan import MEASURES, Row
from benchmarks.world import REAL
from pipelines.config.experiment import ExperimentConfig
from pipelines.config.load import load_experiment
from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.built_in import built_in
from pipelines.run import Outputs, evaluate_checkpoint, run
from pipelines.workspace.members import Members
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.queries import Queries
from zse_model.checkpoint import load_checkpoint
from zse_model.explanation.faithfulness import curves, orders
from zse_model.methods import RetrievalMethod
from zse_model.split import conflicts

DATA = os.environ.get("DATA") or str(REAL.parent)
WEIGHTS = os.environ.get("WEIGHTS") or str(REAL.parents[1] / "weights" / "mobilenetv2_100_imagenet.safetensors")
KEPT = ("mAP_all", "P_1", "P_25", "acc_1", "acc_5", "acc_10")
PAIRS = 250


def make(row: Row, seed: int, workspace: str) -> None:
    """Run one row and write its file."""
    config, start = configured(row, seed, workspace), time.time()
    out = run(config, workspace)
    (name,) = config.methods
    training = out.checkpoints[name]
    found = {
        "command": row.command(seed),
        "cpu_minutes": round(training.cpu_seconds / 60, 2),
        "steps": training.training["steps"],
        "wall_minutes": round((time.time() - start) / 60, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        **measured(out, name),
    }
    if row.cross:
        found["cross"] = measured(*across(config, training.url, workspace))["test"]
    if row.faithful:
        found |= faithfulness(out, name)
    record.write(row.file(seed), found)


def configured(row: Row, seed: int, workspace: str) -> ExperimentConfig:
    """The experiment of a row. Runs the training that it starts from, if any."""
    start = ""
    if row.start is not None:
        config = configured(row.start, 0, workspace)
        (training,) = run(config, workspace, until="train").checkpoints.values()
        start = training.url
    values = {"$DATA": DATA, "$WEIGHTS": WEIGHTS, "$START": start}
    overrides = row.overrides(seed)
    for name, value in values.items():
        overrides = [s.replace(name, value) for s in overrides]
    return load_experiment(row.experiment, [*overrides, "tracking.enabled=false"])


def measured(out: Outputs, name: str) -> dict[str, Any]:
    """The metrics of the page by part: "test", and "seen" of held-back sketches of seen classes, if asked for."""
    queries = Queries(out.reports[name])
    columns: dict[str, dict[str, torch.Tensor]] = {}
    for column in queries.keys:
        part, key = kept_as(column)
        if key is not None:
            columns.setdefault(part, {})[key] = queries.values(column)
    return {part: kept_part(queries, found) for part, found in columns.items()}


def kept_part(queries: Queries, columns: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The record of the queries that the columns have a value of. Raises ValueError for columns of other queries."""
    first, *others = columns
    asked = ~columns[first].isnan().numpy()
    for other in others:
        if not columns[other][~asked].isnan().all():
            raise ValueError(f"{other} answers queries that {first} does not. A part has one set of queries.")
    categories, photos = queries.category[asked].tolist(), [str(x) for x in queries.instance[asked]]
    return record.kept(categories, photos, {key: values[asked].tolist() for key, values in columns.items()})


def kept_as(column: str) -> tuple[str, str | None]:
    """The part of a report's column, and its key in a row: `ret/mAP_all` by class, `fg:ret/acc_1` by photo,
    `generalised:ret/mAP_all` with held-back photos in the gallery; None for a column that no table draws."""
    setting, protocol, mode, metric = column.split("/")
    found = re.search(r"-(fg|fg-class|fg-all|fg-seen|generalised|seen)\.[0-9a-f]{8}$", setting)
    kind = found[1] if found else ""
    by_class = kind in ("generalised", "seen")
    if protocol != "plain" or metric not in KEPT or kind == "fg-seen" or (by_class and metric != "mAP_all"):
        return "test", None
    if kind == "seen":
        return "seen", f"{mode}/{metric}"
    return "test", (f"{kind}:" if kind else "") + f"{mode}/{metric}"


def across(config: ExperimentConfig, checkpoint: str, workspace: str) -> tuple[Outputs, str]:
    """Evaluate the checkpoint on QuickDraw sketches and Caltech-101 photos of classes that it has not seen under any
    name; one that settings are chosen by, only on classes that every final row has seen."""
    source = f"{DATA}/quickdraw_x_caltech101"
    split = load_checkpoint(checkpoint).split
    unseen = [c for c in sorted(p.name for p in Path(source, "sketch").iterdir()) if not conflicts(split.seen, [c])]
    if split.name == "sketchy-selection":
        trained = [built_in(name)["seen"] for name in ("sketchy-25", "sketchy-21")]
        unseen = [c for c in unseen if all(conflicts(seen, [c]) for seen in trained)]
    dataset = FolderConfig(name="quickdraw_x_caltech101", source=source, split=tuple(unseen), pseudo_unseen=0)
    other = dataclasses.replace(config, dataset=dataset)
    (name,) = config.methods
    return evaluate_checkpoint(other, workspace, checkpoint), name


def faithfulness(out: Outputs, name: str) -> dict[str, Any]:
    """`faithfulness_<mode>` of each explained mode -> MEASURES for each order of the patches, on sketches of unseen
    classes with their own photos."""
    checkpoint = load_checkpoint(out.checkpoints[name].url)
    members = out.images.members().of(categories=checkpoint.split.unseen)
    sketches, photos = pairs(members)
    sides = [
        [torch.from_numpy(decode_pixels(data)) for data in out.images.data(members.where(side))]
        for side in (sketches, photos)
    ]
    found = {}
    for explainer in checkpoint.method.EXPLAINERS:
        if explainer.mode in checkpoint.method.modes:
            columns = patches_removed(checkpoint.method, *sides, mode=explainer.mode)
            categories, instances = members.category[sketches].tolist(), members.instance[sketches].tolist()
            found[f"faithfulness_{explainer.mode}"] = record.kept(categories, instances, columns, digits=4)
    return found


def pairs(members: Members) -> tuple[np.ndarray, np.ndarray]:
    """Rows of sketches and of their photos, int64 [at most PAIRS] each, spread evenly over the classes."""
    photo_of = {members.instance[i]: i for i in np.flatnonzero(members.modality == "photo")}
    sketches = [i for i in np.flatnonzero(members.modality == "sketch") if members.instance[i] in photo_of]
    sketches = sketches[:: max(1, len(sketches) // PAIRS)][:PAIRS]
    return np.array(sketches), np.array([photo_of[members.instance[i]] for i in sketches])


def patches_removed(
    method: RetrievalMethod, sketches: Sequence[torch.Tensor], photos: Sequence[torch.Tensor], *, mode: str
) -> dict[str, list[float]]:
    """`<order>/<measure>` -> value of each pair: how its score changes when photo patches are replaced."""
    generator = torch.Generator().manual_seed(0)
    columns: dict[str, list[float]] = {}
    for drawn, pixels in zip(sketches, photos, strict=True):
        sketch, photo = drawn[None], pixels.permute(2, 0, 1)
        for order, patches in orders(method, sketch, photo, generator, mode).items():
            c = curves(method, sketch, photo, patches, mode)
            values = (c.drop(0.1), c.drop(0.2), c.drop(0.3), c.deletion_auc, c.insertion_auc)
            for measure, value in zip(MEASURES, values, strict=True):
                columns.setdefault(f"{order}/{measure}", []).append(value)
    return columns
