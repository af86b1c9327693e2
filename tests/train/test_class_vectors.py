"""Vectors of class names from every file format, for the requested classes only."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.train.class_vectors import UnknownNamesError, read_class_vectors
from zse_model.errors import ZseError

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
    monkeypatch.setattr("pipelines.train.class_vectors.LONGEST_WORD", 16)
    monkeypatch.setattr("pipelines.train.class_vectors.BINARY_CHUNK", 40)
    (tmp_path / "w.bin").write_bytes(binary(b"\n"))
    torch.testing.assert_close(read_class_vectors(f"{tmp_path}/w.bin", NAMES), EXPECTED)


def test_npz_by_array_and_an_object_store(s3: str, tmp_path: Path) -> None:
    from pipelines.store import storage

    np.savez(tmp_path / "v.npz", names=["fish", "Tea pot"], a=np.eye(2, 3), b=np.ones((2, 4)))
    storage.write_bytes(f"{s3}/v.npz", (tmp_path / "v.npz").read_bytes())
    assert read_class_vectors(f"{s3}/v.npz#a", ["tea_pot", "fish"]).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert read_class_vectors(f"{tmp_path}/v.npz#b", ["fish"]).shape == (1, 4)
    with pytest.raises(ValueError, match=r"several arrays of vectors. Name one: .*v.npz#a\|b"):
        read_class_vectors(f"{tmp_path}/v.npz", ["fish"])


def test_one_error_lists_all_unknown_names(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(lines(header=False))
    with pytest.raises(UnknownNamesError, match=r"no vector of 2 of 3 classes: 'hot_dog', 'tv'\. Add them"):
        read_class_vectors(f"{tmp_path}/w.txt", ["fish", "hot_dog", "tv"])
    (tmp_path / "page.txt").write_bytes(b"<!doctype html> <p>not found</p>\n")
    with pytest.raises(ValueError, match=r"page.txt is not a file of word vectors: .*Give .npz, word2vec .bin"):
        read_class_vectors(f"{tmp_path}/page.txt", ["fish"])
    (tmp_path / "cut.bin").write_bytes(binary(b"")[:-5])
    with pytest.raises(ValueError, match="ends before the 10 words that its first line promises"):
        read_class_vectors(f"{tmp_path}/cut.bin", NAMES)


def test_a_word_may_hold_spaces_signs_and_accents_in_either_composition(tmp_path: Path) -> None:
    rows = ["the 1 2", ". . . 3 4", "new york 5 6", "c++ 7 8", "cafe\u0301 9 10", "मेला 11 12", "माला 13 14", "1 15 16"]
    for header in ([], [f"{len(rows)} 2"]):
        (tmp_path / "w.txt").write_bytes(("\ufeff" + "\r\n".join([*header, *rows])).encode())
        found = read_class_vectors(f"{tmp_path}/w.txt", ["New York", "C++", "café", "मेला", "माला", "1"])
        assert found.tolist() == [[5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.txt", b"fish 1 2\ncat nan 2\n", "row 2: the vector of 'cat' is not finite"),
        ("w.txt", b"2 2\nfish 1 2\ncat inf 2\n", "row 3: the vector of 'cat' is not finite"),
        ("w.bin", b"2 1\nfish \x00\x00\x80\x3fcat \x00\x00\xc0\x7f", "row 2: the vector of 'cat' is not finite"),
        ("w.txt", b"fish 1 2\ndog 1\ncat 1 2\n", "row 2 must be a word and 2 numbers"),
        ("w.txt", b"fish 1 2\ncat 1 hunter2\n", "row 2 must have 2 numbers after the word"),
        ("w.txt.gz", gzip.compress(b"fish 1 2\ncat 1 2\n", mtime=0)[:-9], "not a file of word vectors"),
        ("w.npz", b"version https://git-lfs.github.com/spec/v1\n", "not a file of word vectors"),
    ],
)
def test_a_bad_vector_is_refused_with_its_row_and_not_quoted(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ZseError, match=message) as refused:
        read_class_vectors(f"{tmp_path}/{name}", ["fish", "cat"])
    assert name in str(refused.value) and "hunter2" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_number_sign_in_a_path_does_not_name_an_array(tmp_path: Path) -> None:
    (tmp_path / "v#2").mkdir()
    for name, array in (("w.txt", ""), ("a#b.txt", ""), ("v.npz", "#a")):
        path = tmp_path / "v#2" / name
        path.write_bytes(b"fish 1 2\n")
        if array:
            np.savez(path, names=["fish"], a=[[1, 2]], b=[[0, 0]])
        assert read_class_vectors(f"{path}{array}", ["fish"]).tolist() == [[1, 2]]
    np.savez(tmp_path / "w.npz", names=["fish", "cat"], a=[[1.0, 2], [np.nan, 1]])
    assert read_class_vectors(f"{tmp_path}/w.npz", ["fish"]).tolist() == [[1, 2]]
    with pytest.raises(ZseError, match="row 2: the vector of 'cat' is not finite"):
        read_class_vectors(f"{tmp_path}/w.npz", ["cat"])
