"""Data that arrives is somebody else's: it sees its own folder, and what the operator allows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pipelines.datasets.arrivals import arrived
from pipelines.datasets.base import DatasetConfig
from pipelines.datasets.registry import DATASETS, create_dataset
from pipelines.datasets.splits import load_split
from pipelines.datasets.tree import FileLists
from pipelines.runtime.errors import ConfigError
from tests.helpers.pictures import write

SECRET = "hunter2-hunter2"


def described(catalog: Path, text: str, *allowed: str) -> DatasetConfig | ConfigError:
    (catalog / "shop").mkdir(parents=True, exist_ok=True)
    (catalog / "shop" / "dataset.yaml").write_text(text)
    return arrived(str(catalog), allowed)["shop"]


OUTSIDE = [
    "/proc/self/environ",
    "../other",
    "pictures/../../other",
    "s3://other/photos",
    "file:///etc",
    "file://../other",
    "http://169.254.169.254/latest",
    "s3://allowed/photos-private",
    "s3://allowed/photos/../private",
    "s3://allowed/photos/%2E%2e/private",
    "s3://allowed/photos/..%2Fprivate",
    "pictures::file:///etc/passwd",
    "local:///etc",
]
FIELDS = [
    "source: {}",
    "source: [., {}]",
    "split: {}",
    "lists: [{{classes: {}}}]",
    "lists: [{{classes: a.txt, sketches: {}}}]",
    "lists: [{{classes: a.txt, photos: {}}}]",
    "adapter: domains, source: {}",
    "adapter: sketchy, source: {}",
    "adapter: tuberlin, source: {}",
    "adapter: quickdraw_extended, source: {}",
    "adapter: quickdraw_strokes, source: {}",
    "adapter: quickdraw_strokes, photos: {}",
    "adapter: qmul, split: shoe-v2, source: {}",
    "adapter: union, parts: {{one: {{adapter: folder, source: {}}}}}",
    "adapter: union, parts: {{one: {{adapter: folder, source: ., lists: [{{classes: {}}}]}}}}",
    "adapter: union, parts: {{one: {{adapter: quickdraw_strokes, source: ., photos: {}}}}}",
]


@pytest.mark.parametrize("fields", FIELDS)
def test_a_description_names_nothing_outside_of_its_folder(fields: str, tmp_path: Path) -> None:
    for place in OUTSIDE:
        found = described(tmp_path, f"{{{fields.format(json.dumps(place))}}}", "s3://allowed/photos")
        assert isinstance(found, ConfigError), vars(found)
        assert any(why in str(found) for why in ("is outside", "not a plain path or URL", "contains `..`")), found
    for place, meant in {"a/b": f"{tmp_path}/shop/a/b", "s3://allowed/photos/x": "s3://allowed/photos/x"}.items():
        found = described(tmp_path, f"{{{fields.format(json.dumps(place))}}}", "s3://allowed/photos/")
        assert not isinstance(found, ConfigError) and meant in str(vars(found)), found


@pytest.mark.parametrize("adapter", ["[folder]", "{folder: 1}"])
def test_an_adapter_that_is_no_name_spoils_no_other_data_set(adapter: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    found = described(tmp_path, f"adapter: {adapter}")
    assert isinstance(found, ConfigError) and re.search("adapter: .* is unknown.*Known: domains", str(found))
    assert isinstance(arrived(str(tmp_path))["good"], DatasetConfig)


def test_a_description_that_is_a_pipe_or_a_folder_is_refused(tmp_path: Path) -> None:
    for name, make in {"pipe": os.mkfifo, "folder": os.mkdir}.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name / "dataset.yaml")
    for name, found in arrived(str(tmp_path)).items():
        assert isinstance(found, ConfigError) and f"{name}/dataset.yaml is not a file" in str(found)


NO_PLACES = {
    "": {"adapter", "name", "use"},
    "sketchy": {"sketches", "photos"},
    "domains": {"sketch", "photos"},  # folders of the source by name
    "qmul": {"category", "split"},  # no file
    "synthetic": {"categories"},
}


@pytest.mark.parametrize("config", DATASETS)
def test_every_field_of_text_is_confined_or_known_to_be_no_place(config: Any) -> None:
    hints = {field.name: str(get_type_hints(config)[field.name]) for field in dataclasses.fields(config)}
    adapter = config.adapter
    texts = {name for name, hint in hints.items() if "str" in hint or "FileLists" in hint}
    given = {
        "source": "x",
        "photos": "x" if adapter == "quickdraw_strokes" else None,
        "lists": (FileLists(classes="x"),),
        "parts": {"x": {"adapter": "folder", "source": "x"}},
    }
    chosen = {name: value for name, value in given.items() if name in texts and value is not None}
    asked: set[str] = set()
    config(name="x", split="shoe-v2" if adapter == "qmul" else "x", **chosen).placed(
        lambda field, _: asked.add(field.split(".")[0]) or "x"
    )
    assert texts - NO_PLACES[""] - NO_PLACES.get(adapter, set()) == asked, "checked in `placed`, or no place?"


def test_what_is_inside_is_found_relative_to_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "pictures", range(2))
    (tmp_path / "shop" / "unseen.txt").write_text("key\n")
    config = described(tmp_path, "{source: ./pictures, split: unseen.txt}")
    assert not isinstance(config, ConfigError), config
    records = create_dataset(config).records()
    assert len(records) == 12 and load_split(config, {r.category for r in records}).unseen == ("key",)


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    catalog, elsewhere = tmp_path / "catalog", tmp_path / "elsewhere"
    write(catalog / "shop", range(1))
    write(elsewhere, range(1))
    for name, target in (("photo/key/1.png", "photo/key/0.png"), ("pairs.tsv", ""), ("sketch/fox", "sketch")):
        link = catalog / "shop" / name
        link.symlink_to(elsewhere / target)
        found = arrived(str(catalog))["shop"]
        assert isinstance(found, ConfigError) and "is outside" in str(found) and link.name in str(found), name
        assert isinstance(arrived(str(catalog), [str(elsewhere)])["shop"], DatasetConfig)
        link.unlink()
    (catalog / "shop" / "photo" / "key" / "2.png").symlink_to(catalog / "shop" / "photo" / "key" / "0.png")
    assert isinstance(arrived(str(catalog))["shop"], DatasetConfig), "a link within"
    (catalog / "whole").symlink_to(elsewhere)
    assert isinstance(arrived(str(catalog))["whole"], ConfigError)
    assert isinstance(arrived(str(catalog), [str(elsewhere)])["whole"], DatasetConfig)


def test_a_link_named_like_the_description_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "secret").write_text(f"{SECRET}: [")
    (tmp_path / "shop" / "dataset.yaml").symlink_to(tmp_path / "secret")
    found = arrived(str(tmp_path))["shop"]
    assert isinstance(found, ConfigError) and "is outside" in str(found) and SECRET not in str(found)


@pytest.mark.parametrize("text", ["a: &a [1]\nb: *a", "#" * 2**20 + "\n", "!!python/object/apply:os.getcwd []"])
def test_a_description_is_small_and_plain(text: str, tmp_path: Path) -> None:
    found = described(tmp_path, text)
    assert isinstance(found, ConfigError) and "dataset.yaml" in str(found) and len(str(found)) < 400
