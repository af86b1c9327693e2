"""What the tables of a report are of, and what its key depends on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.evaluate.report import report_key
from pipelines.evaluate.searches import plan_searches, without_repeated
from pipelines.workspace.members import Members
from tests.conftest import tiny
from zse_model.split import ZeroShotSplit

SPLIT = ZeroShotSplit(name="a", citation="", seen=("car",), unseen=("fish", "teapot"))


def members(modality: str, categories: list[str]) -> Members:
    of = np.arange(len(categories))
    names = np.array([f"{modality}/{i}" for i in of], dtype=object)
    unknown = np.full(len(of), None)
    columns = (names, np.full(len(of), modality), np.array(categories, dtype=object), unknown, names, of * 0, of)
    return Members(*columns)


@pytest.mark.parametrize("asked", [["plain", "zse_paper"], ["zse_paper", "plain"], ["plain"], ["zse_paper"]])
@pytest.mark.parametrize("again", [False, True], ids=["no photo twice", "a photo twice"])
def test_the_tables_are_of_plain_whatever_repeats(asked: list[str], again: bool) -> None:
    """Tables, charts and sheets are of the first protocol of the first search."""
    config = tiny(evaluation={"protocols": asked, "instance_level": False})
    sketches, photos = members("sketch", ["fish", "teapot"]), members("photo", ["fish", "teapot", "fish", "teapot"])
    levels = [0, 80, 0 if again else 160, 240]
    images: Any = SimpleNamespace(looks=lambda _: np.repeat(np.array(levels, np.uint8)[:, None], 192, axis=1))
    planned = plan_searches(config, SPLIT, "f" * 64, sketches, photos, None)
    searches = without_repeated(planned, images, photos)
    first = "plain" if "plain" in asked else "zse_paper"
    assert searches[0].task.protocols[0] == first
    assert [name for search in searches for name in search.task.protocols] == sorted(asked)
    sizes = {name: len(search.gallery) for search in searches for name in search.task.protocols}
    assert sizes == {name: 3 if again and name == "plain" else 4 for name in asked}


def test_the_key_of_raw_pixels_has_what_their_pixels_depend_on() -> None:
    configs = [tiny(transforms=t) for t in ({}, {"size": 64}, {"sketch_margin": 0.2}, {"recipe": "published"})]

    def keys(checkpoint: str) -> list[str]:
        return [report_key(config, SPLIT, "f" * 64, checkpoint) for config in configs]

    assert len(set(keys("none"))) == len(configs)
    assert len(set(keys("1" * 64))) == 1, "a checkpoint holds its transforms"
    assert keys("1" * 64)[0] == "d39f49434afa7a84", "a report that was registered is found again"
