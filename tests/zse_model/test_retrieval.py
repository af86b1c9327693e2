"""Pictures in, rankings and explanations out: each form of a picture is the same picture."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zse_model
from tests.helpers.kept import SAMPLES
from zse_model import Checkpoint, encode, explain, load_checkpoint, prepare_photo, prepare_sketch, rank, search
from zse_model.errors import ZseError
from zse_model.explanation.pair import explain_pair
from zse_model.synthetic import draw_photo, draw_sketch
from zse_model.transforms import BadPicture

SKETCHES = [draw_sketch(name, 0) for name in ("cat", "truck")]
PHOTOS = [draw_photo(name, i) for name in ("cat", "truck", "cup") for i in range(2)]


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(next((SAMPLES / "workspace" / "checkpoints").glob("kept-maps-zse_sbir-*")))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_public_names_are_those_that_dir_shows() -> None:
    assert dir(zse_model) == sorted(zse_model.__all__)
    assert {"load_checkpoint", "encode", "search", "evaluate_scores", "explain"} < set(dir(zse_model))
    modules = {path.stem for path in Path(zse_model.__path__[0]).iterdir()}
    assert not modules & set(dir(zse_model)), "an imported module would hide the name"
    assert all(getattr(zse_model, name) is not None for name in dir(zse_model))
    loads = "import sys, zse_model; dir(zse_model); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loads], capture_output=True, text=True).stdout.strip() == "False"


def test_every_form_of_a_picture_is_encoded_alike(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "sketch.png").write_bytes(png(SKETCHES[0]))
    rgb = Image.fromarray(SKETCHES[0]).convert("RGB")
    forms = [SKETCHES[0], png(SKETCHES[0]), tmp_path / "sketch.png", str(tmp_path / "sketch.png"), rgb]
    tensor = torch.from_numpy(prepare_sketch(png(SKETCHES[0]), checkpoint.transforms))[None, None]
    expected = checkpoint.method.encode(tensor, "sketch")
    for form in (*([one] for one in forms), tensor, [tensor[0]]):
        found = encode(checkpoint, form, "sketch")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    photo = torch.from_numpy(prepare_photo(png(PHOTOS[0]), checkpoint.transforms)).permute(2, 0, 1)[None]
    found, expected = encode(checkpoint, PHOTOS[:1], "photo"), checkpoint.method.encode(photo, "photo")
    assert torch.equal(found["embedding"], expected["embedding"])


def test_a_photo_on_its_side_is_turned_as_its_file_is(checkpoint: Checkpoint) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTOS[0]).save(buffer, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    turned, plain = encode(checkpoint, [opened, buffer.getvalue()], "photo")["embedding"]
    upright = encode(checkpoint, [PHOTOS[0]], "photo")["embedding"][0]
    assert torch.equal(turned, plain) and not torch.allclose(turned, upright, atol=1e-3)


def open_picture(kind: str) -> tuple[Image.Image, bytes]:
    """A photo as Pillow opens it or makes it, and a file of the same pixels."""
    grey = np.asarray(Image.fromarray(PHOTOS[0]).convert("L"))
    rgba = np.dstack([PHOTOS[0], np.where(grey > 128, 255, 0).astype(np.uint8)])
    deep = {"I": grey.astype(np.int32) * 257, "I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32) / 255}
    if kind in deep:
        return Image.fromarray(deep[kind]), png(grey)
    if kind in ("RGBa", "La"):
        whole = np.dstack([PHOTOS[0], np.full_like(grey, 255)])
        return Image.fromarray(whole).convert({"RGBa": "RGBA", "La": "LA"}[kind]).convert(kind), png(
            whole if kind == "RGBa" else grey
        )
    if kind == "PA":
        return Image.fromarray(grey).convert("P").convert("PA"), png(grey)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0128], exif[0x0112] = "of no known type", 6  # ResolutionUnit is a number
    Image.fromarray(rgba).save(buffer, "PNG")
    turned = Image.open(io.BytesIO(buffer.getvalue()))
    turned._exif = exif  # type: ignore[attr-defined]
    upright = Image.fromarray(rgba).transpose(Image.Transpose.ROTATE_270)
    return turned, png(np.asarray(upright))


@pytest.mark.parametrize("kind", ["I", "I;16", "F", "RGBa", "La", "PA", "foreign EXIF"])
def test_an_open_picture_of_any_mode_is_its_pixels(kind: str, checkpoint: Checkpoint) -> None:
    opened, file = open_picture(kind)
    found, expected = encode(checkpoint, [opened, file], "photo")["embedding"]
    torch.testing.assert_close(found, expected, atol=2e-3 if kind == "foreign EXIF" else 0.0, rtol=0)


def test_prepared_pictures_and_others_mix(checkpoint: Checkpoint) -> None:
    grey = torch.from_numpy(prepare_photo(png(PHOTOS[0]), checkpoint.transforms)).permute(2, 0, 1)[:1]
    mixed = encode(checkpoint, (one for one in [grey, PHOTOS[1]]), "photo")["embedding"]
    torch.testing.assert_close(mixed[0], encode(checkpoint, grey[None], "photo")["embedding"][0], atol=1e-5, rtol=1e-4)
    assert explain(checkpoint, SKETCHES[0], grey).grid == explain(checkpoint, SKETCHES[0], PHOTOS[1]).grid


def test_batches_are_joined_in_order(checkpoint: Checkpoint) -> None:
    whole, parts = encode(checkpoint, PHOTOS, "photo"), encode(checkpoint, PHOTOS, "photo", batch_size=4)
    for name, values in whole.items():
        assert len(values) == 6
        torch.testing.assert_close(parts[name], values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", [None, "ret", "rn", "rerank-4"])
def test_a_search_ranks_the_scores_of_all_pairs(checkpoint: Checkpoint, mode: str | None) -> None:
    sketches, photos = encode(checkpoint, SKETCHES, "sketch"), encode(checkpoint, PHOTOS, "photo")
    found = search(checkpoint, SKETCHES, photos, mode, k=4)
    assert torch.equal(search(checkpoint, sketches, PHOTOS, mode, k=4).indices, found.indices)
    with torch.no_grad():
        scores = checkpoint.method.score(sketches, photos, checkpoint.method.ranked_by(mode or "ret"))
    if mode == "rerank-4":
        shortlist = rank(checkpoint.method.score(sketches, photos, "ret"), 4).indices
        scores = torch.full_like(scores, -torch.inf).scatter(1, shortlist, scores.gather(1, shortlist))
    assert torch.equal(found.indices, rank(scores, 4).indices)
    torch.testing.assert_close(found.scores, rank(scores, 4).scores, atol=1e-5, rtol=1e-4)
    if mode is None:
        assert search(checkpoint, SKETCHES, PHOTOS).indices.shape == (2, 6)


def test_an_explanation_is_of_the_prepared_pair(checkpoint: Checkpoint) -> None:
    found = explain(checkpoint, SKETCHES[0], PHOTOS[0])
    sketch = torch.from_numpy(prepare_sketch(png(SKETCHES[0]), checkpoint.transforms))[None]
    photo = torch.from_numpy(prepare_photo(png(PHOTOS[0]), checkpoint.transforms)).permute(2, 0, 1)
    assert found.mode == "rn" and found.scores == explain_pair(checkpoint.method, sketch, photo).scores


def test_what_cannot_be_used_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    blank = np.full((64, 64), 255, np.uint8)
    with pytest.raises(BadPicture, match="sketch 1: blank"):
        encode(checkpoint, [SKETCHES[0], blank], "sketch", batch_size=1)
    with pytest.raises(BadPicture, match=r"missing\.png: cannot be read"):
        encode(checkpoint, [tmp_path / "missing.png"], "photo")
    for pictures, modality, message in (
        ([], "photo", "the list of photo pictures is empty"),
        ("cat.png", "photo", "Give a list of pictures, got one str"),
        (None, "photo", "Give a list of pictures, got one NoneType"),
        (set(SKETCHES and ["a.png"]), "photo", "Give a list of pictures, got one set"),
        (PHOTOS[0], "photo", r"\[array\] for one picture, list\(array\) for several"),
        ([np.zeros((0, 4), np.uint8)], "photo", r"photo 0: .*must be uint8 .*got uint8 \[0, 4\]"),
        ([PHOTOS[0], torch.zeros(3, 8, 8, dtype=torch.uint8)], "photo", r"photo 1: Prepared pictures must be"),
        (["a\0.png"], "photo", "cannot be read .*null"),
        (PHOTOS, "drawing", "Unknown modality 'drawing'"),
        ([PHOTOS[0].astype(float)], "photo", r"must be uint8 \[h, w\].*float64"),
        ([7], "photo", "got int"),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            "photo",
            r"must be uint8 \[n, 1 or 3, .*got torch.uint8 \[1, 3, 8",
        ),
    ):
        with pytest.raises(ZseError, match=message):
            encode(checkpoint, pictures, modality)  # type: ignore[arg-type]
    with pytest.raises(ZseError, match="Unknown retrieval mode 'nearest'"):
        search(checkpoint, SKETCHES, [], "nearest")
    for k in (0, 1.5, "3"):
        with pytest.raises(ZseError, match=f"at least 1, got {k!r}"):
            search(checkpoint, SKETCHES, ["missing.png"], k=k)  # type: ignore[arg-type]
    with pytest.raises(ZseError, match="batch_size must be 1 or more, got 0"):
        encode(checkpoint, PHOTOS, "photo", batch_size=0)
    photos = encode(checkpoint, PHOTOS, "photo")
    with pytest.raises(ZseError, match="The photo encodings have no tokens, which mode rerank-4 reads"):
        search(checkpoint, SKETCHES, {"embedding": photos["embedding"]}, "rerank-4", k=4)
    with pytest.raises(ZseError, match="different numbers of pictures"):
        search(checkpoint, SKETCHES, photos | {"tokens": photos["tokens"][:2]}, "rerank-4", k=4)
    with pytest.raises(ZseError, match="Unknown retrieval mode 'nearest'"):
        explain(checkpoint, "missing.png", "missing.png", "nearest")
    checkpoint.method.train()
    with pytest.raises(ZseError, match="training mode"):
        encode(checkpoint, PHOTOS, "photo")
    checkpoint.method.eval()
