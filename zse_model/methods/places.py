"""Late interaction beside a method's embedding: the head, the mode `late`, and what trains it (`zse_model/late.py`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from zse_model.errors import ZseError
from zse_model.gather import gathered
from zse_model.late import LateScorer, LocalHead, Moments, distance_costs, inked, late_scores
from zse_model.losses import infonce, item_means
from zse_model.methods.base import TrainBatch
from zse_model.methods.fusion import Fusing
from zse_model.modes import Mode
from zse_model.transforms import Modality

LATE = Mode(
    name="late",
    score="Weighted sum, over the inked places of the sketch, of the best match with a place of the photo: the cosine, "
    "less late_distance times the squared distance.",
    explanation="late is the sum of the matches below: of each place of the sketch, its weight times its best match "
    "with a place of the photo. A match is the cosine of two places, less what their distance in the picture costs.",
    pair_network=True,
    places=True,
    ready=lambda method: method.local is not None,
    lacking="late needs a network trained with late or late_distillation above 0.",
    scorer=lambda method, *_: LateScorer(
        method.device, method.backbone.grid, method.config.place_dim, method.config.late_distance
    ),
)


MEASURED_STEPS = 8
"""With one batch a step, of 32 pictures of 144 places: 25 times as many tokens as the 1,400 numbers of a token."""


class Placing(Fusing):
    """A method that compares places. Its configuration has `place_dim`, `late`, and what starts with `late_`."""

    local: LocalHead | None
    """None where no loss trains it."""

    def build_local(self) -> LocalHead:
        """The head of `place_dim`. Raises ZseError for a backbone that does not give a token for every place."""
        rows, columns = self.backbone.grid
        if self.backbone.tokens != rows * columns or self.backbone_config.args.get("patch_drop_rate"):
            raise ZseError(
                f"late needs a token for each of {rows}x{columns} places, and {self.backbone.name!r} drops some. "
                "Leave out backbone.args.patch_drop_rate and keep_rates, or use another backbone"
            )
        return LocalHead(self.backbone.token_dim, self.config.place_dim)

    def places(self, tokens: Tensor, images: Tensor, modality: Modality) -> Tensor:
        """The backbone's tokens [b, n, token_dim] of uint8 pictures [b, 1 or 3, s, s] -> float32 [b, n, place_dim]: of
        photos L2-normalised, of sketches as long as their weights, which sum to 1. Needs `local`."""
        assert self.local is not None
        if modality == "photo":
            return self.local.photo(tokens)
        return self.local.sketch(tokens, inked(images, self.backbone.grid))

    def measure_start(
        self, batches: Iterator[TrainBatch], total: Callable[[Tensor], Tensor], *, shares: int = 1
    ) -> None:
        """Also start the head from the tokens of the first steps, unless it came trained."""
        if self.local is None or self.local.started:
            super().measure_start(batches, total, shares=shares)
            return
        few = list(itertools.islice(batches, MEASURED_STEPS * shares))
        moments = [Moments(self.backbone.token_dim, self.device) for _ in ("sketch", "photo")]
        with torch.no_grad():
            for batch in few:
                images, _ = batch.pictures()
                half = len(images) // 2
                tokens = self.backbone(images, sketches=half).tokens
                moments[0].add(tokens[:half][inked(images[:half], self.backbone.grid)])
                moments[1].add(tokens[half:].flatten(0, 1))
        if few:
            self.local.start(*(one.summed(total) for one in moments))
        super().measure_start(itertools.chain(few, batches), total, shares=shares)

    def late_contrast(self, sketches: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """InfoNCE of classes on late scores, the mean of both directions: `places_of_batch`, and labels int64 [4b] in
        the order of `TrainBatch.pictures` -> float32 [b]. Candidates and anchors are those of `contrast`: with
        `gathering`, the pictures of all workers, whose places travel and whose scores take `late_scores`' memory."""
        two, t = len(sketches), self.config.late_temperature
        b, of, to = two // 2, labels[:two], labels[two:]
        others, their_sketches = gathered(photos), gathered(sketches)
        costs = self.distance_costs
        scores = late_scores(sketches, others, costs)
        of_photos = scores.T[:b] if others is photos else late_scores(their_sketches, photos[:b], costs).T
        from_sketch = infonce(scores, of, gathered(to), t)
        from_photo = infonce(of_photos, to[:b], gathered(of), t)
        return (item_means(from_sketch, b) + from_photo) / 2

    def places_of_batch(self, tokens: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Places of the sketches and of the photos of a batch, float32 [2b, n, place_dim] each: tokens
        [4b, n, token_dim] and images in the order of `TrainBatch.pictures`."""
        two = len(tokens) // 2
        return self.places(tokens[:two], images[:two], "sketch"), self.places(tokens[two:], images[two:], "photo")

    @property
    def distance_costs(self) -> Tensor | None:
        """What matches cost, float32 [n, n] (`late_distance`)."""
        return distance_costs(self.backbone.grid, self.config.late_distance, self.device)
