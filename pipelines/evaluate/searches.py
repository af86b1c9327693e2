"""What is searched in what: the settings of an experiment, as queries and galleries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig
from pipelines.workspace.images import Images
from pipelines.workspace.looks import repeated
from pipelines.workspace.members import (
    Members,
    drawn,
    held_back,
)
from zse_model.evaluation.evaluate import Task
from zse_model.evaluation.protocol import CATEGORY_METRICS, INSTANCE_METRICS, PROTOCOLS
from zse_model.split import ZeroShotSplit


@dataclass(frozen=True)
class Search:
    """A task with the pictures behind it: which of the encoded sketches and photos take part."""

    task: Task
    queries: np.ndarray
    """int64, rows of the encoded sketches"""
    gallery: np.ndarray
    """int64, rows of the encoded photos"""
    within: tuple[Tensor, Tensor] | None = None
    """int64 [sketches], [g]: a sketch is searched only among the photos with its number; None = among all"""


def setting_name(split: ZeroShotSplit, fingerprint: str, form: str = "") -> str:
    """The setting with what it was run on: members other than the published ones never carry the bare name."""
    return f"{split.name}{form}.{fingerprint[:8]}"


def plan_searches(
    config: ExperimentConfig,
    split: ZeroShotSplit,
    fingerprint: str,
    sketches: Members,
    photos: Members,
    everyone: Members | None,
) -> list[Search]:
    """By class among the unseen photos; where pairs are known also by instance: among the drawn ones of them (`-fg`)
    and among those of the sketch's class (`-fg-class`), of a seen class among the held-back ones (`-fg-seen`).
    Distractors make one more each: `-generalised`, `-fg-all`.

    everyone: all pictures of the data set, to know which photos of seen classes are drawn; needed for `drawn` alone.
    """
    labels = {category: i for i, category in enumerate(split.unseen)}
    classes, others = (torch.tensor([labels.get(c, -1) for c in m.category]) for m in (sketches, photos))
    asked, unseen, distractors = (classes >= 0).numpy(), (others >= 0).numpy(), config.evaluation.distractors
    galleries = {"": unseen}
    if "held_back" in distractors:
        galleries["-generalised"] = unseen | held_back(photos, split)

    def task(form: str, wanted: Tensor, there: Tensor, **how: tuple[str, ...]) -> Task:
        name = setting_name(split, fingerprint, form)
        return Task(setting=name, query_labels=wanted, gallery_labels=there, query_groups=wanted, **how)

    searches = []
    for form, gallery in galleries.items():
        how = {"metrics": CATEGORY_METRICS, "protocols": config.evaluation.protocols}
        own = task(form, classes[asked], others[gallery], **how)
        searches.append(Search(own, np.flatnonzero(asked), np.flatnonzero(gallery)))
    if not config.evaluation.instance_level:
        return searches
    paired = sorted((set(sketches.instance) & set(photos.instance)) - {None})
    ids = {instance: i for i, instance in enumerate(paired)}
    of_sketch, of_photo = (torch.tensor([ids.get(i, -1) for i in m.instance]) for m in (sketches, photos))
    has_photo, has_sketch = (of_sketch >= 0).numpy(), (of_photo >= 0).numpy()
    forms = {"-fg": (asked, unseen & has_sketch), "-fg-class": (asked, unseen)}
    if "drawn" in distractors:
        assert everyone is not None
        everywhere = np.isin(photos.id, everyone.id[drawn(everyone)])
        forms["-fg-all"] = (asked, unseen & has_sketch | everywhere)
    if config.evaluation.seen_classes:
        forms["-fg-seen"] = (~asked, held_back(photos, split))
    names = {category: i for i, category in enumerate(sorted({*sketches.category, *photos.category}))}
    named = [torch.tensor([names[c] for c in m.category]) for m in (sketches, photos)]
    for form, (chosen, gallery) in forms.items():
        queries = np.flatnonzero(chosen & has_photo)
        if len(of_sketch[queries].unique()) < 2:
            continue
        how = {"metrics": INSTANCE_METRICS, "protocols": ("plain",)}
        own = task(form, of_sketch[queries], of_photo[gallery], **how)
        within = (named[0], named[1][gallery]) if form in ("-fg-class", "-fg-seen") else None
        searches.append(Search(own, queries, np.flatnonzero(gallery), within))
    return searches


def without_repeated(searches: Sequence[Search], images: Images, photos: Members) -> list[Search]:
    """The searches with galleries as their protocols want them: one that leaves repeated photos out becomes a search of
    its own where there are any. By instance only photos of the same one are repeated: each is somebody's right answer.
    """
    if all(PROTOCOLS[name].repeated for search in searches for name in search.task.protocols):
        return list(searches)
    looks = images.looks(photos)
    found = []
    for search in searches:
        by_class = search.task.metrics == CATEGORY_METRICS
        groups = photos.category if by_class else photos.instance
        left_out = repeated(looks[search.gallery], groups[search.gallery])
        for kept in (True, False) if left_out.any() else (None,):
            protocols = tuple(n for n in search.task.protocols if kept in (None, PROTOCOLS[n].repeated))
            if protocols:
                found.append(_of_gallery(search, protocols, ~left_out if kept is False else slice(None)))
    return found


def _of_gallery(search: Search, protocols: tuple[str, ...], kept: np.ndarray | slice) -> Search:
    """The search by some of its protocols, in some of its gallery."""
    labels = search.task.gallery_labels[kept]
    within = search.within and (search.within[0], search.within[1][kept])
    task = dataclasses.replace(search.task, protocols=protocols, gallery_labels=labels)
    return dataclasses.replace(search, task=task, gallery=search.gallery[kept], within=within)
