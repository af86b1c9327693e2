"""Splits that a data set gives itself: no class is trained on that is tested under another name, none is chosen by
that is published for tests, and no name is taken for that of another setting."""

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


def test_a_class_that_is_tested_under_another_name_is_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    present, unseen = ["bicycle", "bike", "cat", "chicken", "dog", "rooster"], ("bike", "rooster")
    file = tmp_path / "unseen.txt"
    file.write_text("\n".join(unseen))
    for split in (unseen, str(file)):
        found = load_split(SyntheticConfig(name="x", split=split), present)
        assert (found.seen, found.unseen) == (("cat", "dog"), unseen)
    assert "same as an unseen class: 'bicycle' = 'bike', 'chicken' = 'rooster'" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["-seen", "-fg", "-fg-all", "-generalised", "-selection"])
def test_a_name_that_ends_like_a_form_of_settings_is_refused(form: str) -> None:
    of = {"name": f"never{form}", "split": ("cat",)}
    with pytest.raises(ZseError, match=f"dataset.name 'never{form}' ends in {form}"):
        load_split(SyntheticConfig(**of), ["cat", "dog"])
    assert load_split(SyntheticConfig(**{**of, "split": "random-1"}), ["cat", "dog"]).name.startswith(f"never{form}-")
    assert load_split(SyntheticConfig(**{**of, "name": "x-selection"}, use="selection"), ["cat", "dog"]).seen == (
        "dog",
    )
