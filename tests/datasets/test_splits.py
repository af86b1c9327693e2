"""Test classes of published splits are for reports, however a data set gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.datasets.adapters.synthetic import SyntheticConfig
from pipelines.datasets.built_in import built_in, split_names
from pipelines.datasets.splits import load_split
from zse_model.errors import ZseError
from zse_model.split import normalise_name
from zse_model.synthetic import UNSEEN


@pytest.mark.parametrize("name", split_names())
def test_models_are_not_chosen_by_published_test_classes(name: str, tmp_path: Path) -> None:
    published = UNSEEN if name == "synthetic" else built_in(name)["unseen"]
    unseen = [normalise_name(c).upper() for c in published]
    present = [*unseen, "a class of mine", "another"]
    file = tmp_path / "unseen.txt"
    file.write_text("\n".join(unseen))
    for split in (name, f"{name}+sketchy-25", tuple(unseen), str(file)):
        with pytest.raises(ZseError, match=rf"test classes of the published split .*'{name}'.* are for reports"):
            load_split(SyntheticConfig(name="x", split=split, use="selection"), present)
    own = (*unseen[1:], "a class of mine")
    assert load_split(SyntheticConfig(name="x", split=own, use="selection"), present).unseen == own
    assert load_split(SyntheticConfig(name="x", split=tuple(unseen)), present).unseen == tuple(unseen)
