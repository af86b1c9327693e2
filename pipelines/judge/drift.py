"""Measure drift: how far a data set is from a model's training, and from its last version. `reevaluate` calls it.

ink        Mean share of dark pixels of the sketches, in standard deviations of the training sketches. Beyond 1: other
           pens, scans, empty or filled drawings.
sketches,  Share of pairs in which a picture is further from its nearest training picture than a pseudo-unseen picture
photos     is. Pseudo-unseen classes are new to the model but from the data of its training: 0.5 = as new classes.
           Beyond 0.6 the pictures are further away than new classes explain. (Nearest neighbours detect
           out-of-distribution data: Sun et al., ICML 2022; the comparison is our design. A ratio of medians failed:
           cosines to the nearest of many saturate, and photos of pure noise had 1.2.)
           With fewer than ten classes, of the data or pseudo-unseen, ink and distances have no verdict.
classes    Share of the photos that would have to change class to have the mix of the last evaluation, 0..1. Beyond 0.2
           a mean over queries is over other classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from pipelines.store import storage
from pipelines.workspace.encodings import Encodings
from pipelines.workspace.images import Images
from pipelines.workspace.members import Members, training_members
from pipelines.workspace.pictures import decode_pixels
from pipelines.workspace.tensors import encode_pictures
from pipelines.workspace.training import Training
from zse_model.checkpoint import Checkpoint, load_checkpoint
from zse_model.split import FEWEST
from zse_model.transforms import Modality

SAMPLE = 256  # pictures of a modality that represent the training, and a data set
DARK = 128  # a pixel below it is ink
LIMITS = {"ink": 1.0, "sketches": 0.6, "photos": 0.6, "classes": 0.2}
MODALITIES: tuple[tuple[Modality, str], ...] = (("sketch", "sketches"), ("photo", "photos"))

Reference = Mapping[str, np.ndarray]
"""The sample of a training: `ink` float32 [n]; for each modality `<modality>` float32 [n, d], unit vectors, and
`<modality>_new` float32 [m], distances of pseudo-unseen pictures to them; `new_classes` int64 [1], the number of
pseudo-unseen classes."""


def reference(workspace: str, training: Training) -> Reference:
    """The reference of a checkpoint's training, made from its training images and stored once a workspace.

    Raises StorageError if the images are missing or not known.
    """
    url = storage.join(workspace, "drift", f"{training.digest[:16]}.safetensors")
    if storage.exists(url):
        return load(storage.read_bytes(url))
    images = Images.open(training.images())
    with storage.local_copy(training.url) as copy:
        checkpoint = load_checkpoint(copy)
    everyone = images.members()
    trained = training_members(everyone, checkpoint.split)
    new = everyone.of(categories=checkpoint.split.pseudo_unseen)
    found: dict[str, np.ndarray] = {}
    for modality, _ in MODALITIES:
        vectors, ink = [], np.zeros(0, dtype=np.float32)
        for members in (trained, new):
            some = _sample(members.where(members.modality == modality))
            pictures = images.data(some)
            vectors.append(_encoded(checkpoint, pictures, modality))
            if modality == "sketch" and members is trained:
                ink = ink_shares(pictures)
        if modality == "sketch":
            found["ink"] = ink
        found[modality] = vectors[0].numpy()
        found[f"{modality}_new"] = distances(vectors[1], vectors[0]).numpy()
    found["new_classes"] = np.array([len(np.unique(new.category))])
    storage.write_bytes(url, save(found))
    return found


def _sample(members: Members) -> Members:
    """SAMPLE members, always the same: the first in the order of content, which does not depend on class."""
    ordered = members.by_content()
    return ordered.where(np.arange(len(ordered)) < SAMPLE)


def _encoded(checkpoint: Checkpoint, pictures: list[bytes], modality: Modality) -> Tensor:
    if not pictures:
        return torch.zeros(0, 1)

    def encode(pictures: Tensor) -> dict[str, Tensor]:
        return {"embedding": checkpoint.method.encode(pictures, modality)["embedding"]}

    return torch.nn.functional.normalize(encode_pictures(encode, pictures, 64)["embedding"].float(), dim=1)


def ink_shares(sketches: list[bytes]) -> np.ndarray:
    """float32 [n]: the share of dark pixels of each stored sketch, 0..1."""
    return np.array([(decode_pixels(data) < DARK).mean() for data in sketches], dtype=np.float32)


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """float32 [n]: 1 - cosine to the nearest training picture, from unit vectors [n, d] and [m, d]."""
    if not len(pictures) or not len(training):
        return torch.zeros(0)
    return 1 - (pictures @ training.T).max(1).values


def further(own: np.ndarray, new: np.ndarray) -> float:
    """The share of pairs in which `own` [n] is larger than `new` [m], 0..1; ties count half."""
    ordered = np.sort(new)
    ranks = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return float(ranks.mean() / (2 * len(new)))


def measure(
    trained: Reference | None, images: Images, encodings: Encodings, last: Mapping[str, Mapping[str, int]] | None
) -> dict[str, float]:
    """Measure ink, sketches, photos and classes of a data set's encoded pictures, as far as they are known.

    trained: reference of the model's training; None = not known. last: counts of the last evaluated version, class ->
    modality -> pictures; None = no such version.
    """
    found: dict[str, float] = {}
    if trained is not None:
        for modality, name in MODALITIES:
            encoded = encodings.read(modality, images)
            some = _sample(encoded.members)
            if modality == "sketch":
                ink = ink_shares(images.data(some))
                found["ink"] = float((ink.mean() - trained["ink"].mean()) / max(float(trained["ink"].std()), 1e-6))
            at = {id: i for i, id in enumerate(encoded.members.id)}
            rows = torch.tensor([at[id] for id in some.id])
            vectors = torch.nn.functional.normalize(encoded.values["embedding"][rows].float(), dim=1)
            new = trained[f"{modality}_new"]
            if len(new):
                found[name] = further(distances(vectors, torch.from_numpy(trained[modality])).numpy(), new)
    if last is not None:
        found["classes"] = class_difference(images.counts, last)
    return found


def class_difference(now: Mapping[str, Mapping[str, int]], before: Mapping[str, Mapping[str, int]]) -> float:
    """Total variation distance between the class mixes of the photos, 0..1."""
    shares = []
    for counts in (now, before):
        photos = {name: of.get("photo", 0) for name, of in counts.items()}
        total = max(sum(photos.values()), 1)
        shares.append({name: n / total for name, n in photos.items()})
    names = shares[0].keys() | shares[1].keys()
    return sum(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) for name in names) / 2


def classes_behind(own: int, trained: Reference | None) -> dict[str, int]:
    """Measure -> number of classes behind it: those of the data, for distances at most the pseudo-unseen ones."""
    if trained is None or "new_classes" not in trained:
        return {"ink": own}
    both = min(own, int(trained["new_classes"][0]))
    return {"ink": own, "sketches": both, "photos": both}


def beyond(found: Mapping[str, float], classes: Mapping[str, int] | None = None) -> list[str]:
    """The measures beyond their limits, in words; without those of too few classes. classes: see `classes_behind`."""
    said = {
        "ink": "sketches with {:+.1f} standard deviations of ink",
        "sketches": "sketches further from the training than pseudo-unseen ones in {:.0%} of pairs",
        "photos": "photos further from the training than pseudo-unseen ones in {:.0%} of pairs",
        "classes": "another mix of classes ({:.0%} of the photos)",
    }
    return [
        said[name].format(value)
        for name, value in found.items()
        if abs(value) > LIMITS[name] and (classes or {}).get(name, FEWEST) >= FEWEST
    ]
