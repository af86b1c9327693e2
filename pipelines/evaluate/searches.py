"""Plan the settings of an evaluation: the queries, the gallery and the relevant photos of each. `evaluate` and
`raw_pixels` call this module."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig
from pipelines.runtime.progress import say
from pipelines.workspace.images import Images
from pipelines.workspace.looks import repeated
from pipelines.workspace.members import (
    Members,
    drawn,
    held_back,
)
from zse_model.evaluation.evaluate import Task
from zse_model.evaluation.protocol import CATEGORY_METRICS, INSTANCE_METRICS, PROTOCOLS, SEEN
from zse_model.split import ZeroShotSplit


@dataclass(frozen=True)
class Search:
    """A task with the rows of its pictures among the encoded sketches and photos."""

    task: Task
    queries: np.ndarray
    """int64 [q], rows of the encoded sketches"""
    gallery: np.ndarray
    """int64 [g], rows of the encoded photos"""
    within: tuple[Tensor, Tensor] | None = None
    """int64 [sketches] and [g]: the class of every encoded sketch and gallery photo, if a sketch is searched among the
    photos of its class; None = in the whole gallery"""


def setting_name(split: ZeroShotSplit, fingerprint: str, form: str = "") -> str:
    """`<split><form>.<fingerprint>`. The fingerprint keeps results on other pictures from sharing a name."""
    return f"{split.name}{form}.{fingerprint[:8]}"


def plan_searches(
    config: ExperimentConfig,
    split: ZeroShotSplit,
    fingerprint: str,
    sketches: Members,
    photos: Members,
    everyone: Members | None,
) -> list[Search]:
    """The searches of an evaluation, the one by class among unseen photos first. `plain` is the first protocol of each,
    if it is asked for. With `seen_classes` held-back sketches of trained classes are searched by class, too, among the
    held-back photos of these classes (SEEN). That is no zero-shot setting.

    With known pairs a sketch's own photo is also searched: among the unseen photos that have a sketch (`-fg`), among
    the unseen photos of the sketch's class (`-fg-class`), and with `seen_classes` a held-back sketch of a seen class
    among the held-back photos of its class (`-fg-seen`). Distractors add settings: held-back photos `-generalised`,
    photos of seen classes that have a sketch `-fg-all`. A setting with fewer than two instances is left out.

    sketches, photos: the encoded pictures; Search holds their rows. everyone: all pictures of the data set, which
    `-fg-all` needs to find the photos that have a sketch.
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

    protocols = tuple(name for name in PROTOCOLS if name in config.evaluation.protocols)
    by_class = {"metrics": CATEGORY_METRICS, "protocols": protocols}
    searches = []
    for form, gallery in galleries.items():
        own = task(form, classes[asked], others[gallery], **by_class)
        searches.append(Search(own, np.flatnonzero(asked), np.flatnonzero(gallery)))
    names = {category: i for i, category in enumerate(sorted({*sketches.category, *photos.category}))}
    named = [torch.tensor([names[c] for c in m.category]) for m in (sketches, photos)]
    if config.evaluation.seen_classes:
        of_trained = [held_back(m, split) & np.isin(m.category, list(split.training)) for m in (sketches, photos)]
        queries, gallery = map(np.flatnonzero, of_trained)
        if np.isin(named[0][queries], named[1][gallery]).any():
            own = task(SEEN, named[0][queries], named[1][gallery], **by_class)
            searches.append(Search(own, queries, gallery))
        else:
            say("No held-back sketch of a trained class has a held-back photo: there is no setting of seen classes")
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
    """The searches, split by protocols that drop and that keep repeated photos of the gallery, if it has any: `plain`,
    which drops them, stays first. Photos of different classes are never repeated; nor, at instance level, are photos of
    different instances, because each is relevant to another query.
    """
    if all(PROTOCOLS[name].repeated for search in searches for name in search.task.protocols):
        return list(searches)
    looks = images.looks(photos)
    found = []
    for search in searches:
        by_class = search.task.metrics == CATEGORY_METRICS
        groups = photos.category if by_class else photos.instance
        left_out = repeated(looks[search.gallery], groups[search.gallery])
        for kept in (False, True) if left_out.any() else (None,):
            protocols = tuple(n for n in search.task.protocols if kept in (None, PROTOCOLS[n].repeated))
            if protocols:
                found.append(_of_gallery(search, protocols, ~left_out if kept is False else slice(None)))
    return found


def _of_gallery(search: Search, protocols: tuple[str, ...], kept: np.ndarray | slice) -> Search:
    """The search with some of its protocols and some photos of its gallery."""
    labels = search.task.gallery_labels[kept]
    within = search.within and (search.within[0], search.within[1][kept])
    task = dataclasses.replace(search.task, protocols=protocols, gallery_labels=labels)
    return dataclasses.replace(search, task=task, gallery=search.gallery[kept], within=within)
