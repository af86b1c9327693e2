"""Drift: how far a data set lies from what a model was trained on, and from what it was last evaluated on.

ink        Of the sketches: the mean share of dark pixels, in standard deviations of the training sketches. Beyond 1:
           other pens, scans, empty or filled drawings.
sketches,  Of each modality: how often an encoded picture lies further from the training's nearest one than a picture
photos     of the pseudo-unseen classes does, which are new to the model and of the training's data: 0.5 if it is as
           they are. Beyond 0.6 they are further away than new classes alone would be. (Nearest neighbours tell what is
           out of distribution: Sun et al., ICML 2022; the comparison is our design. A ratio of medians was tried:
           cosines to the nearest of many saturate, and photos of pure noise had 1.2.)
           Of fewer than ten classes, of the data or pseudo-unseen, ink and distances are numbers without a verdict.
classes    The share of the photos that would have to change their class to have the last evaluation's mix, 0..1.
           Beyond 0.2: a mean over queries is of other classes.
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

SAMPLE = 256  # pictures of a modality that stand for the training, and for a data set
DARK = 128  # a pixel below it is ink
LIMITS = {"ink": 1.0, "sketches": 0.6, "photos": 0.6, "classes": 0.2}
MODALITIES: tuple[tuple[Modality, str], ...] = (("sketch", "sketches"), ("photo", "photos"))

Reference = Mapping[str, np.ndarray]
"""Of a training: `ink` float32 [n]; by modality `<modality>` float32 [n, d], unit vectors, and `<modality>_new` float32
[m], the distances of pseudo-unseen pictures from them; `new_classes` int64 [1], of how many classes those are."""


def reference(workspace: str, training: Training) -> Reference:
    """What stands for the training of a checkpoint, made once a workspace from the images that it was trained on.

    Raises StorageError where they are gone, or not known.
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
    """Some of them, the same ones always: in the order of their content, which knows no class."""
    ordered = members.by_content()
    return ordered.where(np.arange(len(ordered)) < SAMPLE)


def _encoded(checkpoint: Checkpoint, pictures: list[bytes], modality: Modality) -> Tensor:
    if not pictures:
        return torch.zeros(0, 1)

    def encode(pictures: Tensor) -> dict[str, Tensor]:
        return {"embedding": checkpoint.method.encode(pictures, modality)["embedding"]}

    return torch.nn.functional.normalize(encode_pictures(encode, pictures, 64)["embedding"].float(), dim=1)


def ink_shares(sketches: list[bytes]) -> np.ndarray:
    """float32 [n], the share of dark pixels of stored sketches, 0..1."""
    return np.array([(decode_pixels(data) < DARK).mean() for data in sketches], dtype=np.float32)


def distances(pictures: Tensor, training: Tensor) -> Tensor:
    """float32 [n]: 1 - cosine to the nearest of the training's; unit vectors [n, d] and [m, d]."""
    if not len(pictures) or not len(training):
        return torch.zeros(0)
    return 1 - (pictures @ training.T).max(1).values


def further(own: np.ndarray, new: np.ndarray) -> float:
    """In which share of the pairs own [n] is the larger one, 0..1; of equal ones half."""
    ordered = np.sort(new)
    ranks = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return float(ranks.mean() / (2 * len(new)))


def measure(
    trained: Reference | None, images: Images, encodings: Encodings, last: Mapping[str, Mapping[str, int]] | None
) -> dict[str, float]:
    """What of ink, sketches, photos and classes can be said of a data set's encoded pictures.

    trained: of the model's training, None where it is not known; last: the counts of the last evaluated version, class
    -> modality -> pictures, None = there is none.
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
    """The total variation distance of two mixes of photos, 0..1."""
    shares = []
    for counts in (now, before):
        photos = {name: of.get("photo", 0) for name, of in counts.items()}
        total = max(sum(photos.values()), 1)
        shares.append({name: n / total for name, n in photos.items()})
    names = shares[0].keys() | shares[1].keys()
    return sum(abs(shares[0].get(name, 0) - shares[1].get(name, 0)) for name in names) / 2


def classes_behind(own: int, trained: Reference | None) -> dict[str, int]:
    """Of how many classes a measure is: those of the data, and for distances also the pseudo-unseen ones."""
    if trained is None or "new_classes" not in trained:
        return {"ink": own}
    both = min(own, int(trained["new_classes"][0]))
    return {"ink": own, "sketches": both, "photos": both}


def beyond(found: Mapping[str, float], classes: Mapping[str, int] | None = None) -> list[str]:
    """What has drifted, in words; nothing that too few classes say. classes: of `classes_behind`."""
    said = {
        "ink": "sketches with {:+.1f} standard deviations of ink",
        "sketches": "sketches further from the training than its own new classes in {:.0%} of pairs",
        "photos": "photos further from the training than its own new classes in {:.0%} of pairs",
        "classes": "another mix of classes ({:.0%} of the photos)",
    }
    return [
        said[name].format(value)
        for name, value in found.items()
        if abs(value) > LIMITS[name] and (classes or {}).get(name, FEWEST) >= FEWEST
    ]
