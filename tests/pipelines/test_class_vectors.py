"""Vectors of class names from every kind of file, for the classes asked for and no others."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.class_vectors import UnknownNamesError, read_class_vectors

WORDS = {
    "fish": [1.0, 0.0, 0.5],
    "Fish": [9.0, 9.0, 9.0],
    "hot-air": [0.0, 0.0, 9.0],
    "hot": [2.0, 0.0, 0.0],
    "air": [0.0, 2.0, 0.0],
    "balloon": [1.0, 1.0, 3.0],
    "tea_pot": [0.25, -1.0, 4.0],
    "tea": [7.0, 7.0, 7.0],
    "pot": [7.0, 7.0, 7.0],
    "naïve": [0.5, 0.5, 0.5],
}
NAMES = ["fish", "hot-air_balloon", "tea_pot", "Naïve"]
EXPECTED = torch.tensor([[1, 0, 0.5], [1, 1, 1], [0.25, -1, 4], [0.5, 0.5, 0.5]])


def lines(*, header: bool) -> bytes:
    rows = [f"{len(WORDS)} 3"] * header + [f"{word} {' '.join(map(str, v))}" for word, v in WORDS.items()]
    return "\n".join(rows).encode() + b"\n"


def binary(newline: bytes) -> bytes:
    rows = [word.encode() + b" " + np.array(v, dtype="<f4").tobytes() + newline for word, v in WORDS.items()]
    return f"{len(WORDS)} 3\n".encode() + b"".join(rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("glove.txt", lines(header=False)),
        ("words.vec", lines(header=True)),
        ("words.vec.gz", gzip.compress(lines(header=True))),
        ("word2vec.bin", binary(b"")),
        ("word2vec.bin.gz", gzip.compress(binary(b"\n"))),
        ("word2vec.bin.bz2", bz2.compress(binary(b"\n"))),
        ("word2vec.bin.xz", lzma.compress(binary(b"\n"))),
    ],
)
def test_every_format_gives_the_same_vectors(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    torch.testing.assert_close(read_class_vectors(f"{tmp_path}/{name}", NAMES), EXPECTED)


def test_a_long_binary_file_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.class_vectors.LONGEST_WORD", 16)
    monkeypatch.setattr("pipelines.class_vectors.BINARY_CHUNK", 40)
    (tmp_path / "w.bin").write_bytes(binary(b"\n"))
    torch.testing.assert_close(read_class_vectors(f"{tmp_path}/w.bin", NAMES), EXPECTED)


def test_npz_by_array_and_an_object_store(s3: str, tmp_path: Path) -> None:
    from pipelines import storage

    np.savez(tmp_path / "v.npz", names=["fish", "Tea pot"], a=np.eye(2, 3), b=np.ones((2, 4)))
    storage.write_bytes(f"{s3}/v.npz", (tmp_path / "v.npz").read_bytes())
    assert read_class_vectors(f"{s3}/v.npz#a", ["tea_pot", "fish"]).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert read_class_vectors(f"{tmp_path}/v.npz#b", ["fish"]).shape == (1, 4)
    with pytest.raises(ValueError, match=r"several arrays of vectors; say which: .*v.npz#a\|b"):
        read_class_vectors(f"{tmp_path}/v.npz", ["fish"])


def test_all_unknown_names_stand_in_one_error(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(lines(header=False))
    with pytest.raises(UnknownNamesError, match=r"no vector of 2 of 3 classes: hot_dog, tv\. Add them"):
        read_class_vectors(f"{tmp_path}/w.txt", ["fish", "hot_dog", "tv"])
    (tmp_path / "page.txt").write_bytes(b"<!doctype html> <p>not found</p>\n")
    with pytest.raises(ValueError, match=r"page.txt is no file of word vectors: .*Known: .npz, word2vec .bin"):
        read_class_vectors(f"{tmp_path}/page.txt", ["fish"])
    (tmp_path / "cut.bin").write_bytes(binary(b"")[:-5])
    with pytest.raises(ValueError, match="ends before the 10 words that it announces"):
        read_class_vectors(f"{tmp_path}/cut.bin", NAMES)
