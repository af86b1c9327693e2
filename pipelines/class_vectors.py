"""Vectors of class names from the files that people have: word2vec and GloVe as text, word2vec binary, fastText .vec,
and .npz of names and vectors. Read through fsspec, once, a line at a time: such files hold millions of words.

Only the classes that are asked for leave this file, and training asks for its own: nothing of an unseen class reaches a
network, not even the name of a checkpoint, which is made from the vectors that were taken.
"""

from __future__ import annotations

import io
import re
from collections.abc import Container, Iterator, Sequence
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pipelines import storage
from zse_model.errors import ZseError
from zse_model.split import normalise_name

Entry = tuple[str, np.ndarray]
BINARY_CHUNK, LONGEST_WORD = 2**24, 2**12  # bytes


class UnknownNamesError(ZseError):
    """Some class names have no vector; the message lists all of them."""


def read_class_vectors(url: str, names: Sequence[str]) -> Tensor:
    """float32 [len(names), v]. A name that the file has as a whole (`hot_air_balloon`, also with hyphens or in one) is
    taken so, another is the mean of its words.

    url: .npz holds `names` and one array of vectors, or several: file.npz#glove says which. .bin is word2vec's binary
    format, whatever else is text, a word and its numbers on each line, with or without a header; .gz, .bz2 and .xz are
    unpacked.
    Raises UnknownNamesError with every name that was not found, ValueError for a file of another kind.
    """
    file, _, array = url.partition("#")
    if not storage.exists(file):
        raise ZseError(f"class_vectors: {file!r} does not exist. Give a file or URL of word vectors, or random")
    wanted = {form for name in names for form in (*_wholes(name), *_words(name))}
    found: dict[str, np.ndarray] = {}
    for word, vector in _entries(file, array, wanted):
        key = word.casefold()
        # The first spelling of a word is the most frequent one; its lower-case form is what a class name means.
        if key in wanted and (key not in found or word == key):
            found[key] = vector
    rows, missing = [], []
    for name in names:
        whole = next((found[form] for form in _wholes(name) if form in found), None)
        parts = [found.get(word) for word in _words(name)]
        known = [part for part in parts if part is not None]
        if whole is not None:
            rows.append(whole)
        elif known and len(known) == len(parts):
            rows.append(np.mean(known, axis=0))
        else:
            missing.append(name)
    if missing:
        raise UnknownNamesError(
            f"{url} has no vector of {len(missing)} of {len(names)} classes: {', '.join(missing)}. Add them to the "
            "file (the name with _ for spaces, then its numbers), or give another one as class_vectors"
        )
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def class_vectors_of(settings: object, names: Sequence[str]) -> Tensor | None:
    """`read_class_vectors` of the file that a method's configuration names; None where it names none, or where its
    `graph`, which is all that reads them, is off."""
    url = getattr(settings, "class_vectors", "random")
    return read_class_vectors(url, names) if url != "random" and getattr(settings, "graph", 0) else None


def _wholes(name: str) -> list[str]:
    words = normalise_name(name).split()
    return [joint.join(words) for joint in ("_", "-", "")]


def _words(name: str) -> list[str]:
    return normalise_name(name).split()


def _entries(file: str, array: str, wanted: Container[str]) -> Iterator[Entry]:
    """Words that case-folded are wanted, and their vectors; may give more."""
    if file.endswith(".npz"):
        yield from _npz(file, array)
        return
    with storage.open_read(file) as stream:
        try:
            read = _binary if re.search(r"\.bin(\.(gz|bz2|xz))?$", file) else _text
            yield from read(stream, wanted)
        except ValueError as error:
            raise ZseError(
                f"{file} is no file of word vectors: {error}. Known: .npz, word2vec .bin, and text with a word and its "
                "numbers on each line"
            ) from error


def _npz(file: str, array: str) -> Iterator[Entry]:
    with np.load(io.BytesIO(storage.read_bytes(file)), allow_pickle=False) as content:
        arrays = [name for name in content.files if name != "names"]
        if "names" not in content.files or not arrays or (array and array not in arrays):
            raise ZseError(f"{file} must hold `names` and vectors {array or ''}, got {content.files}")
        if not array and len(arrays) > 1:
            raise ZseError(f"{file} holds several arrays of vectors; say which: {file}#{'|'.join(arrays)}")
        for name, vector in zip(content["names"], content[array or arrays[0]], strict=True):
            yield "_".join(_words(str(name))), vector


def _text(stream: IO[bytes], wanted: Container[str]) -> Iterator[Entry]:
    size = 0
    for i, line in enumerate(stream):
        first, _, rest = line.rstrip().partition(b" ")
        if i == 0:
            numbers = [float(x) for x in rest.split(b" ")]
            if len(numbers) == 1 and first.isdigit():  # a header: how many words, of how many numbers
                size = int(numbers[0])
                continue
            size = len(numbers)
        word = first.decode("utf-8", errors="replace")
        if word.casefold() in wanted:  # most words are not, and parsing numbers is what takes time
            vector = np.array(rest.split(b" "), dtype=np.float32)
            if len(vector) != size:
                raise ZseError(f"{word!r} has {len(vector)} numbers, others have {size}")
            yield word, vector


def _binary(stream: IO[bytes], wanted: Container[str]) -> Iterator[Entry]:
    header = stream.readline().split()
    if len(header) != 2 or not all(number.isdigit() for number in header):
        raise ZseError(f"its first line is {header[:3]}, not the number of words and of dimensions")
    count, size = (int(number) for number in header)
    data, at = b"", 0
    for _ in range(count):
        if len(data) - at < LONGEST_WORD + 4 * size:
            data, at = data[at:] + stream.read(BINARY_CHUNK), 0
        end = data.find(b" ", at)
        vector = data[end + 1 : end + 1 + 4 * size]
        if end < 0 or len(vector) < 4 * size:
            raise ZseError(f"it ends before the {count} words that it announces")
        word = data[at:end].decode("utf-8", errors="replace").strip()
        if word.casefold() in wanted:
            yield word, np.frombuffer(vector, dtype="<f4")
        at = end + 1 + 4 * size
