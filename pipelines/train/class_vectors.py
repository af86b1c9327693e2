"""Vectors of class names from the files that people have: word2vec and GloVe as text, word2vec binary, fastText .vec,
and .npz of names and vectors. Read through fsspec, once, a line at a time: such files hold millions of words.

Only the classes that are asked for leave this file, and training asks for its own: nothing of an unseen class reaches a
network, not even the name of a checkpoint, which is made from the vectors that were taken.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from typing import IO

import numpy as np
import torch
from torch import Tensor

from pipelines.datasets.texts import named, some
from pipelines.runtime.errors import StorageError
from pipelines.store import storage
from zse_model.errors import ZseError
from zse_model.split import normalise_name

Entry = tuple[int, str, np.ndarray]
"""Row (of text and of a binary file; of .npz the place in `names`) from 1, word, vector."""
BROKEN = (ValueError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
BINARY_CHUNK, LONGEST_WORD = 2**24, 2**12  # bytes


class UnknownNamesError(ZseError):
    """Some class names have no vector; the message lists all of them."""


def read_class_vectors(url: str, names: Sequence[str]) -> Tensor:
    """float32 [len(names), v]. A name that the file has as a whole (`hot_air_balloon`, also with hyphens or in one) is
    taken so, another is the mean of its words.

    url: .npz holds `names` and one array of vectors, or several: file.npz#glove says which. .bin is word2vec's binary
    format, whatever else is text, a word and its numbers on each line, with or without a header; .gz, .bz2 and .xz are
    unpacked.
    Raises UnknownNamesError with every name that was not found, ZseError for a file of another kind and for a vector
    that is not finite.
    """
    file, array = _file_and_array(url)
    if not storage.exists(file):
        raise ZseError(f"class_vectors: {file!r} does not exist. Give a file or URL of word vectors, or random")
    wanted = {form for name in names for form in (*_wholes(name), *_words(name))}
    found: dict[str, np.ndarray] = {}
    for row, word, vector in _entries(file, array, wanted):
        key = _form(word)
        # The first spelling of a word is the most frequent one; its lower-case form is what a class name means.
        if key in wanted and (key not in found or word == key):
            if not np.isfinite(vector).all():
                raise ZseError(
                    f"{file} row {row}: the vector of {named(word)} is not finite (NaN or infinite). Mend it"
                )
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
            f"{url} has no vector of {len(missing)} of {len(names)} classes: {some(missing, 1000)}. Add them to the "
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


def _file_and_array(url: str) -> tuple[str, str]:
    """file.npz#array, but a `#` that is part of a path."""
    file, _, array = url.rpartition("#")
    return (url, "") if not file or "/" in array or storage.exists(url) else (file, array)


def _form(word: str) -> str:
    """A word as `_wholes` and `_words` have it: words of several parts are joined by _ or stand in one."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _entries(file: str, array: str, wanted: Container[str]) -> Iterator[Entry]:
    """Words of which the form is wanted, and their vectors; may give more."""
    try:
        if file.endswith(".npz"):
            yield from _npz(file, array)
            return
        with storage.open_read(file) as stream:
            read = _binary if re.search(r"\.bin(\.(gz|bz2|xz))?$", file) else _text
            yield from read(stream, wanted)
    except StorageError:
        raise
    except BROKEN as error:
        why = f": {error}" if isinstance(error, ZseError) else ""  # of others the message may quote what is in it
        raise ZseError(
            f"{file} is no file of word vectors{why}. Known: .npz, word2vec .bin, and text with a word and its numbers "
            "on each line"
        ) from None


def _npz(file: str, array: str) -> Iterator[Entry]:
    with np.load(io.BytesIO(storage.read_bytes(file)), allow_pickle=False) as content:
        arrays = [name for name in content.files if name != "names"]
        if "names" not in content.files or not arrays or (array and array not in arrays):
            raise ZseError(f"it must hold `names` and vectors {array or ''}, got {content.files}")
        if not array and len(arrays) > 1:
            raise ZseError(f"it holds several arrays of vectors; say which: {file}#{'|'.join(arrays)}")
        names, vectors = content["names"], content[array or arrays[0]]
        if vectors.ndim != 2 or len(vectors) != len(names) or vectors.dtype.kind not in "fiu":
            raise ZseError(
                f"`names` {names.shape} wants vectors [{len(names)}, v], got {vectors.dtype} {vectors.shape}"
            )
        for i, (name, vector) in enumerate(zip(names, vectors, strict=True), 1):
            yield i, "_".join(_words(str(name))), vector


def _text(stream: IO[bytes], wanted: Container[str]) -> Iterator[Entry]:
    size = 0
    for row, line in enumerate(stream, 1):
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip() if row == 1 else line.rstrip()
        if row == 1:
            parts = line.split(b" ")
            if len(parts) == 2 and all(
                part.isdigit() for part in parts
            ):  # a header: how many words, of how many numbers
                size = int(parts[1])
                continue
            size = _trailing_numbers(parts)
        if not line:
            continue
        spaces = line.count(b" ")
        if spaces < size or not size:
            raise ZseError(f"row {row} has not the {size} numbers of the others behind a word")
        # A word may hold spaces, as `. . .` of GloVe does: the numbers are counted from the end.
        word, rest = line.split(b" ", 1) if spaces == size else _from_the_end(line, size)
        name = word.decode("utf-8", errors="replace")
        if _form(name.replace(" ", "_")) in wanted:  # most words are not, and parsing numbers is what takes time
            try:
                yield row, name.replace(" ", "_"), np.array(rest.split(b" "), dtype=np.float32)
            except ValueError:
                raise ZseError(
                    f"row {row} has something else than {size} numbers behind the word {named(name)}"
                ) from None


def _from_the_end(line: bytes, size: int) -> tuple[bytes, bytes]:
    word, *numbers = line.rsplit(b" ", size)
    return word, b" ".join(numbers)


def _trailing_numbers(parts: list[bytes]) -> int:
    """How many numbers a line ends with, its word not counted, which may be one itself."""
    count = 0
    for part in reversed(parts[1:]):
        try:
            float(part)
        except ValueError:
            break
        count += 1
    return count


def _binary(stream: IO[bytes], wanted: Container[str]) -> Iterator[Entry]:
    header = stream.readline(LONGEST_WORD).split()
    if len(header) != 2 or not all(number.isdigit() for number in header):
        raise ZseError("its first line is not the number of words and of dimensions")
    count, size = (int(number) for number in header)
    data, at = b"", 0
    for row in range(1, count + 1):
        if len(data) - at < LONGEST_WORD + 4 * size:
            data, at = data[at:] + stream.read(BINARY_CHUNK), 0
        end = data.find(b" ", at)
        vector = data[end + 1 : end + 1 + 4 * size]
        if end < 0 or len(vector) < 4 * size:
            raise ZseError(f"it ends before the {count} words that it announces")
        word = data[at:end].decode("utf-8", errors="replace").strip()
        if _form(word) in wanted:
            yield row, word, np.frombuffer(vector, dtype="<f4")
        at = end + 1 + 4 * size
