"""Draw it, find the emoji: train on drawings, index every emoji, and measure the search. `zse demo` calls `demo`.

    <workspace>/emoji/pictures/<name> (<code>).png    every emoji
                     /about.csv                       its name, its class if it is drawn, whether it is untrained
                     /index                           of the trained model

40 classes are unseen: no drawing or picture of theirs is trained on. Emoji of no class are trained on by nobody.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.config.experiment import ExperimentConfig
from pipelines.datasets import emoji
from pipelines.encode.index import index
from pipelines.run import Outputs, run
from pipelines.runtime.progress import track
from pipelines.search.query import prepared
from pipelines.search.searcher import Searcher
from pipelines.store import storage
from zse_model.errors import ZseError

EXPERIMENT, METHOD, MODE = "emoji", "late_interaction", "fused"
SIDE = 256  # px of the pictures, as long as a thumbnail
TOGETHER = 64  # drawings that are searched at once
ABOUT = ("path", "name", "drawn_as", "zero_shot")


@dataclass(frozen=True)
class AmongAll:
    """How well the unseen classes are found among every emoji."""

    pictures: int
    drawings: int
    mode: str
    acc_1: float
    """Share of the drawings whose first picture is of their class."""
    acc_10: float
    """Share of the drawings with a picture of their class among the first ten."""

    def text(self) -> str:
        return (
            f"Among all {self.pictures:,} emoji, those of trained classes and of none as distractors, "
            f"{self.mode} finds {self.drawings} drawings of unseen classes with acc_1 {self.acc_1:.3f} and acc_10 "
            f"{self.acc_10:.3f}"
        )


@dataclass(frozen=True)
class Demo:
    """What the demo has made."""

    outputs: Outputs
    index: str
    checkpoint: str
    found: AmongAll


def demo(config: ExperimentConfig, workspace: str) -> Demo:
    """Run the experiment, index every emoji, and search them by the drawings of the unseen classes. What is complete is
    not made again. Raises ZseError for a workspace in a bucket."""
    if not storage.is_local(workspace):
        raise ZseError(f"--workspace {workspace}: the demo writes pictures. Give a folder of this machine")
    folder = Path(storage.absolute(workspace)) / "emoji"
    outputs = run(config, workspace)
    assert outputs.pairs is not None
    training = outputs.checkpoints[METHOD]
    unseen = outputs.pairs.split.unseen
    write_pictures(folder, unseen)
    url = str(folder / "index")
    index(
        str(folder / "pictures"),
        url,
        training.url,
        called=training.url,
        metadata=str(folder / "about.csv"),
        tokens=True,
    )
    return Demo(outputs, url, training.url, search_all(Searcher.open(url, training.url), unseen))


def write_pictures(folder: Path, unseen: Sequence[str]) -> None:
    """Write `about.csv`, and the picture of every emoji, once: their folder appears whole."""
    drawn_as = {code: category for category, codes in emoji.pictures().items() for code in codes}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "about.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ABOUT)
        for one in emoji.every_emoji():
            category = drawn_as.get(one.code, "")
            untrained = category == "" or category in unseen
            writer.writerow([_file(one), one.name, category, str(untrained).lower()])
    if (folder / "pictures").exists():
        return
    shutil.rmtree(folder / "partial", ignore_errors=True)
    (folder / "partial").mkdir()
    for one in track(emoji.every_emoji(), "Pictures", len(emoji.every_emoji()), "emoji"):
        (folder / "partial" / _file(one)).write_bytes(emoji.drawn(one.code, SIDE))
    os.rename(folder / "partial", folder / "pictures")


def _file(one: emoji.Emoji) -> str:
    return f"{one.name} ({one.code}).png".replace("/", "-")


def search_all(searcher: Searcher, unseen: Sequence[str]) -> AmongAll:
    """Search every emoji by each drawing of the unseen classes."""
    transforms = searcher.checkpoint.transforms
    drawings = [(category, strokes) for category in unseen for strokes in emoji.drawings()[category]]
    first, ten = 0, 0
    for i in range(0, len(drawings), TOGETHER):
        some = drawings[i : i + TOGETHER]
        answers = searcher.answers(
            [prepared(strokes, transforms) for _, strokes in some], top=10, mode=MODE, group=False
        )
        for (category, _), found in zip(some, answers, strict=True):
            right = [one.metadata["drawn_as"] == category for one in found]
            first, ten = first + right[0], ten + any(right)
    count = len(drawings)
    return AmongAll(len(searcher), count, MODE, first / count, ten / count)
