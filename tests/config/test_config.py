"""Configuration: what is shipped loads, what is wrong is named with its path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.config.load import experiment_names, load_experiment
from pipelines.datasets.adapters.folder import FolderConfig
from pipelines.datasets.adapters.synthetic import SyntheticConfig
from pipelines.datasets.built_in import split_names
from pipelines.datasets.splits import load_split
from pipelines.datasets.union import UnionConfig
from pipelines.runtime.errors import ConfigError
from tests.conftest import tiny
from zse_model.errors import ZseError
from zse_model.split import ZeroShotSplit


@pytest.mark.parametrize("name", experiment_names())
def test_every_shipped_experiment_loads(name: str) -> None:
    assert load_experiment(name).name == name


def test_overrides_reach_any_field_and_are_checked() -> None:
    config = load_experiment(
        "folder+global", ["dataset.source=/data/my pictures", "train.steps=7", "methods.global.dim=64"]
    )
    assert isinstance(config.dataset, FolderConfig) and config.dataset.source == "/data/my pictures"
    assert config.train.steps == 7 and config.train.minutes is None  # one budget replaces the other
    assert config.methods["global"].dim == 64


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=fast", r"train\.lr: .*number.*'fast'"),
        ("train.learning_rate=1", r"train\.learning_rate"),
        ("methods.best.dim=3", r"^methods\.best: unknown\. Known methods: \["),
        ("ingest.part_size=0", r"^ingest\.part_size must be 1 or more, got 0$"),
        ("ingest.row_group=0", r"^ingest\.row_group must be 1 or more, got 0$"),
        ("shard.items=-5", r"^shard\.items must be 1 or more, got -5$"),
        ("shard.part_size=0", r"^shard\.part_size must be 1 or more, got 0$"),
        ("shard.row_group=0", r"^shard\.row_group must be 1 or more, got 0$"),
        ("train.steps=-1", "^train.steps must be above 0, got -1$"),
        ("cluster.min_workers=5", r"^cluster.min_workers must be 1 to cluster.workers \(2\), got 5$"),
        ("backbone.weights=nowhere.safetensors", "'nowhere.safetensors' is not a file that exists"),
        ("dataset.name=My Data", "Use lower case"),
        ("evaluation.protocols=[best]", r"\['best'\] are unknown"),
        ("train.lr", "Give a.b=c"),
        ("=3", "Give a.b=c"),
        ("dataset..split=3", "Give a.b=c"),
        ("dataset.=3", "Give a.b=c"),
        ("name.x=1", "'name' is a value"),
        ("dataset.source=", r"^dataset\.source is empty"),
        ("dataset.adapter=foldr", r"^dataset\.adapter: 'foldr' is unknown\. Did you mean folder\? Known: domains,"),
        ("train.lr=nan", r"^train\.lr: must be a finite number, got 'nan'$"),
        ("train.steps=1:30", r"^train\.steps: .*integer.*'1:30'$"),
        ("backbone.args={a: b", r"^backbone\.args: '\{a: b' is not YAML: line 1"),
        ("backbone.mean=[1, 2]", r"^backbone\.mean\.2: Field required$"),
        ("train=3", r"^train: "),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("folder+global", [override])


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("dataset.splitt", "dataset.split"),
        ("datset.split", "dataset.split"),
        ("datset.splitt", "dataset.split"),
        ("methods.global.dimm", "methods.global.dim"),
        ("methods.zse_sbirr.dim", "methods.zse_sbir"),
        ("trian.steps", "train.steps"),
        ("steps", "train.steps"),
        ("train.batch_sise", "train.batch_size"),
        ("backbone.wieghts", "backbone.weights"),
        ("shard.augment.flipp", "shard.augment.flip"),
        ("evaluation.protocol", "evaluation.protocols"),
    ],
)
def test_a_path_that_is_not_known_is_named_as_typed_and_the_nearest_one_too(path: str, meant: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_experiment("folder+global", [f"{path}=3"])
    typed = path.removesuffix(".dim") if path.startswith("methods.zse") else path
    assert str(raised.value).startswith(f"{typed}: unknown. Did you mean {meant}?"), raised.value
    assert "\n" not in str(raised.value) and "dataset.folder" not in str(raised.value)


def test_a_path_that_is_like_none_lists_the_fields_of_its_section() -> None:
    with pytest.raises(ConfigError, match=r"^train\.learning_rate: unknown\. train has steps, .*, lr, "):
        load_experiment("folder+global", ["train.learning_rate=1"])
    with pytest.raises(ConfigError, match=r"^xyz\.abc: unknown\. An experiment has name, dataset, "):
        load_experiment("folder+global", ["xyz.abc=1"])


TEXTS = [
    "/data/pics #2",
    "a: b",
    "[old] x",
    "[a] and [b]",
    "*x",
    "&x",
    "!x",
    "%x",
    "@x",
    "`x",
    "- x",
    "{a: b}",
    "|",
    "2024",
    "2024-05-01",
    "0x10",
    "010",
    "1e3",
    "1_000",
    "12:30:00",
    "true",
    "No",
    "on",
    "null",
    '"x"',
    "it's",
    "x=y",
    "$HOME",
    "a\\tb",
    " x ",
    "日本 #1",
    "https://host/a?b=c#d",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_string_after_set_is_the_text_as_it_is(text: str) -> None:
    config = load_experiment(
        "folder+global", [f"dataset.{f}={text}" for f in ("source", "split")] + [f"backbone.name={text}"]
    )
    assert isinstance(config.dataset, FolderConfig)
    assert (config.dataset.source, config.dataset.split, config.backbone.name) == (text,) * 3
    if "/" in text:  # the name is part of the names of folders
        with pytest.raises(ConfigError, match="printable characters without /"):
            load_experiment("folder+global", [f"name={text}"])
    else:
        assert load_experiment("folder+global", [f"name={text}"]).name == text


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".", "", "a\nb"])
def test_a_name_that_would_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        tiny(name=name)
    with pytest.raises(ConfigError, match="dataset.name"):
        tiny(dataset={"name": name})


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("[no, yes]", ("no", "yes")),
        ("[2024, 01, 1e3, 2024-05-01]", ("2024", "01", "1e3", "2024-05-01")),
        ("[/data/pics #2, a: b, [old] x]", ("/data/pics #2", "a: b", "[old] x")),
        (r"""["a, b", 'it''s', "s\"t", "]", null]""", ("a, b", "it's", 's"t', "]", "null")),
        ("[on]", ("on",)),
        ("[a, b, ]", ("a", "b")),
        ("[]", ()),
        (" [a] ", ("a",)),
    ],
)
def test_a_list_after_set_holds_its_items_as_they_are(text: str, items: tuple[str, ...]) -> None:
    config = load_experiment("folder+global", [f"dataset.source={text}", f"dataset.split={text}"])
    assert isinstance(config.dataset, FolderConfig)
    assert config.dataset.source == config.dataset.split == items


def test_a_folder_whose_name_is_a_list_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "[old]").mkdir()
    config = load_experiment("folder+global", ["dataset.source=[old]"])
    assert isinstance(config.dataset, FolderConfig) and config.dataset.source == "[old]"


def test_values_that_are_no_strings_are_read_by_their_type() -> None:
    config = load_experiment(
        "folder+global",
        [
            "train.steps=010",
            "train.lr=1e-3",
            "train.overfit=yes",
            "train.gather=no",
            "cluster.min_workers=null",
            "backbone.mean=[0.5, .25, 1e-1]",
            "backbone.args={pad_type: same, x: no, y: 3}",
            "backbone.args.z=2",
            "tracking.uri=",
            "start=~",
            "evaluation.modes=[ret, rerank-5]",
            "dataset={adapter: folder, name: x, source: 2024, split: [no, 1e3]}",
            "dataset.lists=[{classes: no, sketches: null, photos: 2024}]",
            "shard.weights={2024: 1, no: 2}",
        ],
    )
    assert (config.train.steps, config.train.lr, config.train.overfit, config.train.gather) == (10, 1e-3, True, False)
    assert config.backbone.mean == (0.5, 0.25, 0.1) and config.tracking.uri is None and config.start is None
    assert config.backbone.args == {"pad_type": "same", "x": False, "y": 3, "z": 2}
    assert config.evaluation.modes == ("ret", "rerank-5") and config.shard.weights == {"2024": 1.0, "no": 2.0}
    assert isinstance(config.dataset, FolderConfig)
    assert (config.dataset.source, config.dataset.split) == ("2024", ("no", "1e3"))
    assert [(one.classes, one.sketches, one.photos) for one in config.dataset.lists] == [("no", None, "2024")]


EXPERIMENT = """
name: 2024
dataset:
  adapter: union
  name: on
  split: [no, 1e3, 2024-05-01, null, 010, "a, b"]
  parts:
    on: {adapter: folder, source: 2024}
    2: {adapter: folder, source: [no, 1.10]}
methods:
  global:
train: {steps: 10}
"""


def test_names_in_a_yaml_file_are_not_read_as_booleans_numbers_or_dates(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(EXPERIMENT)
    config = load_experiment(str(file))
    assert (config.name, config.dataset.name, config.train.steps) == ("2024", "on", 10)
    assert config.dataset.split == ("no", "1e3", "2024-05-01", "null", "010", "a, b")
    assert isinstance(config.dataset, UnionConfig)
    parts = config.dataset.configs()
    assert [(name, part.source) for name, part in parts.items() if isinstance(part, FolderConfig)] == [
        ("on", "2024"),
        ("2", ("no", "1.10")),
    ]
    with pytest.raises(
        ConfigError, match=r"^dataset\.parts\.on\.sorce: unknown\. Did you mean dataset\.parts\.on\.sour"
    ):
        load_experiment(str(file), ["dataset.parts.on.sorce=x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [x", r"is not YAML: line 1, column 9"),
        (b"name: x\nname: y\n", r"is not YAML: line 2, column 1, a key is there twice"),
        (b"name: \xff\xfe\n", r"is not YAML"),
        (b"name: secret\n\tx: *token\n", r"is not YAML: line 2, column 1$"),
        (b"- a\n", "must be a mapping of sections, got list"),
        (b"", "must be a mapping of sections, got NoneType"),
    ],
)
def test_a_file_that_is_no_experiment_is_named_and_not_quoted(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_experiment(str(file))
    assert str(raised.value).startswith(str(file)) and "\n" not in str(raised.value)
    assert not {"secret", "token"} & set(re.findall(r"\w+", str(raised.value)))


def test_unknown_experiments_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'quickstrt'\. Did you mean quickstart\?.*Shipped experiments"):
        load_experiment("quickstrt")
    with pytest.raises(ConfigError, match="is a folder"):
        load_experiment(str(tmp_path))


def test_a_split_comes_from_a_name_a_list_or_a_file(tmp_path: Path) -> None:
    listed = load_split(tiny().dataset, ["fish", "teapot", "church", "car", "rabbit"])
    assert set(listed.unseen) == {"fish", "teapot", "church"} and set(listed.seen) == {"car", "rabbit"}
    file = tmp_path / "unseen classes.txt"
    file.write_text("# held out\nfish\n\nteapot\n")
    config = SyntheticConfig(name="x", split=str(file), pseudo_unseen=0)
    assert set(load_split(config, ["fish", "teapot", "church"]).unseen) == {"fish", "teapot"}
    with pytest.raises(ValueError, match=r"no pictures of 1 of the 2 unseen classes .*teapot"):
        load_split(config, ["fish", "church", "car"])
    with pytest.raises(ValueError, match="Give a built-in split .*sketchy-25"):
        load_split(SyntheticConfig(name="x", split="sketchy-26"), ["fish"])
    with pytest.raises(ValueError, match="hot air balloon.*Merge them|hot-air_balloon.*Merge them"):
        load_split(config, ["fish", "teapot", "hot-air_balloon", "hot air balloon"])
    assert "sketchy-25" in split_names()


def test_a_split_is_drawn_by_its_seed_and_never_across_an_alias() -> None:
    classes = ["fish", "teapot", "car", "car_(sedan)", "church", "umbrella", "rabbit", "tiger"]

    def drawn(seed: int, of: list[str], count: int = 3) -> ZeroShotSplit:
        return load_split(SyntheticConfig(name="x", split=f"random-{count}", split_seed=seed, pseudo_unseen=0.2), of)

    split = drawn(1, classes)
    assert split.name == "x-random-3-1" and len(split.unseen) == 3 and len(split.pseudo_unseen) == 1
    assert drawn(1, classes[::-1]) == split and set(drawn(2, classes).unseen) != set(split.unseen)
    assert not any({"car", "car_(sedan)"} & set(drawn(seed, classes).unseen) for seed in range(20))
    aliases = "and 2 of these have an alias among the others, so that they cannot be unseen"
    for count, said in (
        (7, f"but the data has 8, {aliases}. Use a smaller number, from 1 to 6"),
        (0, f"but the data has 8, {aliases}. Use a larger number, from 1 to 6"),
    ):
        with pytest.raises(ZseError, match=f"^random-{count} asks for {count} unseen classes, {said}$"):
            drawn(0, classes, count)
    for count in (4, 40):
        with pytest.raises(ZseError, match="classes, but the data has 4. Use a smaller number, from 1 to 3"):
            drawn(0, ["fish", "teapot", "church", "tiger"], count)
    with pytest.raises(ZseError, match="random-1 asks for 1 unseen classes, but the data has 1. Add classes"):
        drawn(0, ["fish"], 1)
