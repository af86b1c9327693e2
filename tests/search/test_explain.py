"""`zse explain`: its page and pictures, and its errors for unusable input."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.drawing import explanations
from pipelines.drawing.explanations import explanation_sheets
from pipelines.search.search import search
from tests.helpers.pictures import picture
from tests.zse_model.test_crossatnet import with_codes
from zse_model.backbones import BackboneConfig
from zse_model.checkpoint import Checkpoint, save_checkpoint, seen_keys
from zse_model.explanation.base import UnexplainableError
from zse_model.explanation.patches import PatchExplanation
from zse_model.methods import (
    METHODS,
    CrossATNet,
    CrossATNetConfig,
    GlobalConfig,
    LateInteractionConfig,
    RetrievalMethod,
    ZseSbirConfig,
    create_method,
)
from zse_model.split import ZeroShotSplit
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import BadPicture, TransformConfig

SIZE = 64
NAME = 'a <b>bold & "odd" name.png'


def method(name: str) -> RetrievalMethod:
    configs = {
        "global": GlobalConfig(dim=16),
        "crossatnet": CrossATNetConfig(dim=16, bits=32, graph=0),
        "zse_sbir": ZseSbirConfig(dim=32, heads=4, ffn=32),
        "late_interaction": LateInteractionConfig(dim=16),
    }
    made = create_method(name, configs[name], BackboneConfig(name="test_resnet"), size=SIZE, classes=2).eval()
    return with_codes(made) if isinstance(made, CrossATNet) else made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four checkpoints, a gallery, a sketch with an awkward name."""
    root = tmp_path_factory.mktemp("explain")
    split = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))
    for name in ("zse_sbir", "global", "crossatnet", "late_interaction"):
        save_checkpoint(
            Checkpoint(name, method(name), TransformConfig(size=SIZE), split, seen_keys([]), {}), root / name
        )
    (root / "gallery").mkdir()
    for i in range(4):
        (root / "gallery" / f"{i} <i>.png").write_bytes(picture(draw_photo("car", i, size=80)))
    (root / NAME).write_bytes(picture(draw_sketch("car", 0, size=80)))
    (root / "empty.png").write_bytes(picture(np.full((40, 40), 255, np.uint8)))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return root


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def zse_explain(world: Path, out: Path, *options: str, sketch: str = NAME, checkpoint: str = "zse_sbir") -> str:
    """What it prints; its errors are raised."""
    shared = ["--sketch", str(world / sketch), "-c", str(world / checkpoint), "-o", str(out), "-w", str(out / "w")]
    return CliRunner().invoke(app, ["explain", *shared, *options], catch_exceptions=False).stdout


def test_a_gallery_is_explained_in_the_order_of_the_search(world: Path, tmp_path: Path) -> None:
    printed = zse_explain(world, tmp_path, "--gallery", str(world / "gallery"), "--top", "3", "--mode", "rn")
    found = search(
        str(world / NAME),
        str(world / "gallery"),
        str(world / "zse_sbir"),
        str(tmp_path / "w"),
        top=3,
        mode="rn",
        picture=tmp_path / "search.png",
    )
    lines = [line.split(maxsplit=2) for line in printed.splitlines()]
    assert [(place, path) for place, _, path in lines] == [(str(i + 1), m.path) for i, m in enumerate(found)]
    # An index keeps tokens of 16 bits. A pair is explained from its pictures.
    assert [float(score) for _, score, _ in lines] == pytest.approx([m.score for m in found], abs=1e-3)

    text = (tmp_path / "explain.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.links) == page.tags.count("img") == 5 + 4 + 4, "the sketch's own attention is shown once"
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "://" not in text and "url(" not in text and not {"script", "link", "iframe", "b", "i"} & set(page.tags)
    assert NAME in page.text and found[0].path in page.text
    assert len(list(tmp_path.glob("[123]-*.png"))) == 13


def test_a_gallery_is_explained_by_what_ranked_it(world: Path, tmp_path: Path) -> None:
    """A zse_sbir with late re-ranks by late, and its matches are drawn; a photo alone is explained by rn as ever."""
    config = ZseSbirConfig(dim=32, heads=4, ffn=32, place_dim=8, late=1)
    torch.manual_seed(1)
    both = create_method("zse_sbir", config, BackboneConfig(name="test_resnet"), size=SIZE, classes=2).eval()
    split = ZeroShotSplit(name="s", citation="c", seen=("a", "b"), unseen=("c",))
    save_checkpoint(
        Checkpoint("zse_sbir", both, TransformConfig(size=SIZE), split, seen_keys([]), {}), world / "with late"
    )
    options = ["--gallery", str(world / "gallery"), "--top", "3"]
    printed = zse_explain(world, tmp_path, *options, checkpoint="with late")
    late = zse_explain(world, tmp_path / "late", *options, "--mode", "late", checkpoint="with late")
    scores = [float(line.split()[1]) for line in printed.splitlines()]
    assert printed == late and scores == sorted(scores, reverse=True) and len(scores) == 3
    assert "Scored by <code>late</code>" in (tmp_path / "explain.html").read_text()
    assert len(list(tmp_path.glob("1-*.png"))) == 3, "matches, contributions, similarity"
    zse_explain(world, tmp_path / "one", "--photo", str(world / "gallery" / "0 <i>.png"), checkpoint="with late")
    assert "Scored by <code>rn</code>" in (tmp_path / "one" / "explain.html").read_text()


def test_a_photo_is_explained_for_the_patches_asked_for(world: Path, tmp_path: Path) -> None:
    photo = str(world / "gallery" / "0 <i>.png")
    zse_explain(world, tmp_path, "--photo", photo, "--patch", "1,2", "--patch", "3,0", "--mode", "ret")
    assert len(list(tmp_path.glob("1-*.png"))) == 5
    assert "made before cross-attention" in (tmp_path / "explain.html").read_text(), "ret is not what is drawn"
    of_ret = sorted(path.name for path in tmp_path.glob("*.png"))
    rn = zse_explain(world, tmp_path / "rn", "--photo", photo, "--mode", "rn")
    default = zse_explain(world, tmp_path / "default", "--photo", photo)
    assert default == rn and sorted(path.name for path in (tmp_path / "default").glob("*.png")) == of_ret
    assert "Scored by <code>rn</code>" in (tmp_path / "default" / "explain.html").read_text(), "what is drawn"
    gallery = str(world / "gallery")
    ranked = zse_explain(world, tmp_path / "all", "--gallery", gallery, "--top", "3", "--mode", "rn")
    assert zse_explain(world, tmp_path / "default", "--gallery", gallery, "--top", "3") == ranked
    with pytest.raises(ValueError, match="no patch 4,0: the grid is 4x4"):
        zse_explain(world, tmp_path, "--photo", photo, "--patch", "4,0")
    with pytest.raises(ValueError, match="is not row,column"):
        zse_explain(world, tmp_path, "--photo", photo, "--patch", "4x0")


def test_masks_are_explained(world: Path, tmp_path: Path) -> None:
    options = ["--gallery", str(world / "gallery"), "--top", "2", "--mode", "hash-32"]
    printed = zse_explain(world, tmp_path, *options, checkpoint="crossatnet")
    page = Page((tmp_path / "explain.html").read_text(encoding="utf-8"))
    assert len(printed.splitlines()) == page.tags.count("img") == len(list(tmp_path.glob("[12]-masks.png"))) == 2
    declared = next(mode for mode in METHODS["crossatnet"].MODES if mode.name == "hash-N")
    assert declared.explanation in page.text and "the cosine with the sketch-guided mask is" in page.text
    with pytest.raises(ValueError, match="--patch is for the patches of zse_sbir"):
        zse_explain(world, tmp_path, *options, "--patch", "1,2", checkpoint="crossatnet")


def test_matches_are_explained_and_add_up(world: Path, tmp_path: Path) -> None:
    options = ["--gallery", str(world / "gallery"), "--top", "2"]
    printed = zse_explain(world, tmp_path, *options, checkpoint="late_interaction")
    page = Page((tmp_path / "explain.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 6 and len(list(tmp_path.glob("[12]-*.png"))) == 6
    declared = next(mode for mode in METHODS["late_interaction"].MODES if mode.name == "late")
    assert declared.explanation in page.text
    said = re.findall(r"1 adds [^(]*?the other places -?[0-9.]+[0-9]", page.text)
    assert len(said) == 2
    for text, line in zip(said, printed.splitlines(), strict=False):
        assert adds(text, float(line.split()[1]))
    zse_explain(world, tmp_path / "one", "--photo", str(world / "gallery" / "0 <i>.png"), checkpoint="late_interaction")
    with pytest.raises(ValueError, match="no patch 4,0: the grid is 4x4"):
        zse_explain(world, tmp_path, *options, "--patch", "4,0", checkpoint="late_interaction")


def adds(text: str, score: float) -> bool:
    """Whether the numbers of a text, rounded to a thousandth each, sum to a score."""
    numbers = [float(number) for number in re.findall(r"(?:adds|places) (-?[0-9.]+[0-9])", text)]
    return abs(sum(numbers) - score) < 0.001 * len(numbers)


def test_unusable_input_is_named(world: Path, tmp_path: Path) -> None:
    photo = str(world / "gallery" / "0 <i>.png")
    with pytest.raises(BadPicture, match=r"empty\.png: blank: no ink. Give a drawing whose"):
        zse_explain(world, tmp_path, "--photo", photo, sketch="empty.png")
    with pytest.raises(BadPicture, match=r"broken\.jpg: "):
        zse_explain(world, tmp_path, "--photo", str(world / "broken.jpg"))
    with pytest.raises(FileNotFoundError, match="missing"):
        zse_explain(world, tmp_path, "--photo", str(world / "missing.jpg"))
    with pytest.raises(ValueError, match="either --photo FILE or --gallery FOLDER"):
        zse_explain(world, tmp_path)
    with pytest.raises(UnexplainableError, match="'global' cannot be explained"):
        zse_explain(world, tmp_path, "--gallery", str(world / "gallery"), checkpoint="global")
    assert list(tmp_path.iterdir()) == [], "not even encodings"


def test_sheets_for_a_report() -> None:
    sketches, photos = ([draw(c, 0, size=SIZE) for c in ("car", "fish")] for draw in (draw_sketch, draw_photo))
    sheets = explanation_sheets(
        method("zse_sbir"), sketches, photos, ["car, AP 0.9", "fish, AP 0.1"], ["best", "worst"]
    )
    assert list(sheets) == ["explained-best.png", "explained-worst.png"]
    assert all(data.startswith(b"\x89PNG") for data in sheets.values())
    with pytest.raises(UnexplainableError):
        explanation_sheets(method("global"), sketches, photos, ["", ""], ["best", "worst"])


def test_many_patches_that_match_one_patch_are_drawn() -> None:
    """On the finest grid a patch has no room for a box in a box in a box."""
    n = 14 * 14
    correspondence = torch.full((n, n), 0.1)
    correspondence[:, 5] = 0.9
    mosaic = torch.zeros(3, 224, 224, dtype=torch.uint8)
    found = PatchExplanation(
        mode="rn",
        about="",
        scores={"rn": 1.0},
        grid=(14, 14),
        correspondence=correspondence,
        sketch_attention=None,
        photo_attention=None,
        no_attention="none",
        synthesis=mosaic,
    )
    sketch, photo = np.full((224, 224), 255, np.uint8), np.zeros((224, 224, 3), np.uint8)
    drawn = explanations._draw_patches(found, "", sketch, photo, [(i, i) for i in range(0, 14, 2)])
    assert {"correspondences", "similarity", "synthesis"} == set(drawn.pictures)
