"""Evaluate the reference row `raw_pixels`. `run.py` calls this module; no checkpoint is needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipelines.config.experiment import ExperimentConfig, experiment_of
from pipelines.evaluate.matrices import EMBEDDING_TILE
from pipelines.evaluate.rankings import evaluate_searches
from pipelines.evaluate.report import place_of, provenance_of, report_key, write_report
from pipelines.evaluate.searches import plan_searches, without_repeated
from pipelines.store import storage
from pipelines.workspace.encodings import Encoded
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, tested_members
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.reports import Report
from zse_model.methods import Encoding
from zse_model.modes import RET
from zse_model.split import ZeroShotSplit


def raw_pixels(config: ExperimentConfig, workspace: str, images: Images, split: ZeroShotSplit) -> Report:
    """The report of 32x32 grey pixels, centred and compared by cosine: a method that is no better has learned
    nothing."""
    place = place_of(config, workspace, "raw_pixels", {"images": images.url, "split": split.digest})
    if (done := Report.find(*place)) is not None:
        return done
    everyone = images.members()
    asked = config.evaluation
    tested = tested_members(everyone, split, asked.distractors, seen_classes=asked.seen_classes).by_content()
    encodings = []
    for modality in ("sketch", "photo"):
        members = tested.where(tested.modality == modality)
        encodings.append(Encoded(members, _pixels(images, members)))
    sketches, photos = encodings
    queries, gallery = (encoded.values["embedding"] for encoded in encodings)
    scores = (block @ gallery.T for block in queries.split(EMBEDDING_TILE))
    searches = plan_searches(config, split, images.fingerprint, sketches.members, photos.members, everyone)
    searches = without_repeated(searches, images, photos.members)
    evaluations = {RET.name: evaluate_searches(scores, searches, RET.name)}
    provenance = provenance_of(config, split, images.fingerprint, "none")
    key = report_key(config, split, images.fingerprint, "none")
    extra = {"report_key": key, "images": images.url, "experiment": experiment_of(config)}
    members = sketches.members, photos.members
    return write_report(place, extra, images, searches, evaluations, *members, "raw_pixels", provenance)


def _pixels(images: Images, members: Members) -> Encoding:
    """embedding: float32 [n, 1024], of length 1. A few parts are in memory at once."""
    of_part = [own for _, own in members.by_part()]
    found = torch.empty(len(members), 32 * 32)
    for own, rows in zip(
        of_part, storage.side_by_side(lambda own: _shrunk(images.data(members.where(own))), of_part), strict=True
    ):
        found[torch.from_numpy(own)] = rows
    return {"embedding": found}


def _shrunk(pictures: list[bytes]) -> Tensor:
    """float32 [n, 1024]"""
    rows = []
    for picture in pictures:
        pixels = torch.from_numpy(decode_pixels(picture).astype(np.float32))
        grey = pixels.mean(-1) if pixels.dim() == 3 else pixels
        small = torch.nn.functional.adaptive_avg_pool2d(grey[None, None], 32).flatten()
        rows.append(torch.nn.functional.normalize(small - small.mean(), dim=0))
    return torch.stack(rows)
