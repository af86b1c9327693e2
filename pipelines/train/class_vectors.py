"""Read vectors of class names: word2vec and GloVe text, word2vec binary, fastText .vec, and .npz of names and vectors.

`train`, the check before a run and the estimate call this module. Text and binary files hold millions of words and are
read once, as a stream. The stages request the vectors of the training classes alone: no vector of an unseen class
reaches a network or the hash in a checkpoint's name.
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
"""(row, word, vector). Rows count from 1; in .npz the row is the position in `names`."""
BROKEN = (ValueError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile)
BINARY_CHUNK, LONGEST_WORD = 2**24, 2**12  # bytes


class UnknownNamesError(ZseError):
    """Some class names have no vector. The message lists all such names."""


def read_class_vectors(url: str, names: Sequence[str]) -> Tensor:
    """float32 [len(names), v]: the vector of the whole name (`hot_air_balloon`, also with hyphens or as one word) if
    the file has one, else the mean of the vectors of its words.

    url: .npz has `names` and one or more arrays of vectors; file.npz#glove selects one. .bin is word2vec's binary
    format. All other files are text: lines of a word and its numbers, with or without a header. .gz, .bz2 and .xz are
    decompressed.
    Raises UnknownNamesError with every name that has no vector, ZseError for a missing file, another format, or a
    requested vector that is not finite.
    """
    file, array = _file_and_array(url)
    if not storage.exists(file):
        raise ZseError(f"class_vectors: {file!r} does not exist. Give a file or URL of word vectors, or random")
    wanted = {form for name in names for form in (*_wholes(name), *_words(name))}
    found: dict[str, np.ndarray] = {}
    for row, word, vector in _entries(file, array, wanted):
        key = _form(word)
        # Files list frequent spellings first. A lower-case spelling still replaces it: class names are common nouns.
        if key in wanted and (key not in found or word == key):
            if not np.isfinite(vector).all():
                raise ZseError(
                    f"{file} row {row}: the vector of {named(word)} is not finite (NaN or infinite). Correct the row"
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
            "file (the name with _ for spaces, then its numbers), or set class_vectors to another file"
        )
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def class_vectors_of(settings: object, names: Sequence[str]) -> Tensor | None:
    """float32 [len(names), v]: `read_class_vectors` of the configuration's `class_vectors`. None if that is `random`,
    or if `graph` is 0: only the graph reads the vectors."""
    url = getattr(settings, "class_vectors", "random")
    return read_class_vectors(url, names) if url != "random" and getattr(settings, "graph", 0) else None


def _wholes(name: str) -> list[str]:
    words = normalise_name(name).split()
    return [joint.join(words) for joint in ("_", "-", "")]


def _words(name: str) -> list[str]:
    return normalise_name(name).split()


def _file_and_array(url: str) -> tuple[str, str]:
    """(file, array) of file.npz#array. A `#` inside a path does not separate."""
    file, _, array = url.rpartition("#")
    return (url, "") if not file or "/" in array or storage.exists(url) else (file, array)


def _form(word: str) -> str:
    """A word in the lower case of `_wholes` and `_words`."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _entries(file: str, array: str, wanted: Container[str]) -> Iterator[Entry]:
    """Entries of the words whose form is wanted. Other entries may be among them."""
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
        why = f": {error}" if isinstance(error, ZseError) else ""  # other messages may quote the file's content
        raise ZseError(
            f"{file} is not a file of word vectors{why}. Give .npz, word2vec .bin, or text with a word and its numbers "
            "on each line"
        ) from None


def _npz(file: str, array: str) -> Iterator[Entry]:
    with np.load(io.BytesIO(storage.read_bytes(file)), allow_pickle=False) as content:
        arrays = [name for name in content.files if name != "names"]
        if "names" not in content.files or not arrays or (array and array not in arrays):
            raise ZseError(f"it must have the arrays `names` and {array or 'one of vectors'}, got {content.files}")
        if not array and len(arrays) > 1:
            raise ZseError(f"it has several arrays of vectors. Name one: {file}#{'|'.join(arrays)}")
        names, vectors = content["names"], content[array or arrays[0]]
        if vectors.ndim != 2 or len(vectors) != len(names) or vectors.dtype.kind not in "fiu":
            raise ZseError(
                f"vectors must be numbers [{len(names)}, v] for its {len(names)} names, got {vectors.dtype} "
                f"{list(vectors.shape)}"
            )
        for i, (name, vector) in enumerate(zip(names, vectors, strict=True), 1):
            yield i, "_".join(_words(str(name))), vector


def _text(stream: IO[bytes], wanted: Container[str]) -> Iterator[Entry]:
    size = 0
    for row, line in enumerate(stream, 1):
        line = line.removeprefix(b"\xef\xbb\xbf").rstrip() if row == 1 else line.rstrip()
        if row == 1:
            parts = line.split(b" ")
            if len(parts) == 2 and all(part.isdigit() for part in parts):  # a header: words, numbers per word
                size = int(parts[1])
                continue
            size = _trailing_numbers(parts)
        if not line:
            continue
        spaces = line.count(b" ")
        if spaces < size or not size:
            raise ZseError(f"row {row} must be a word and {size or 'its'} numbers")
        # A word may contain spaces, such as `. . .` in GloVe: numbers are counted from the end.
        word, rest = line.split(b" ", 1) if spaces == size else _from_the_end(line, size)
        name = word.decode("utf-8", errors="replace")
        if _form(name.replace(" ", "_")) in wanted:  # checked first: parsing the numbers takes most of the time
            try:
                yield row, name.replace(" ", "_"), np.array(rest.split(b" "), dtype=np.float32)
            except ValueError:
                raise ZseError(f"row {row} must have {size} numbers after the word {named(name)}") from None


def _from_the_end(line: bytes, size: int) -> tuple[bytes, bytes]:
    word, *numbers = line.rsplit(b" ", size)
    return word, b" ".join(numbers)


def _trailing_numbers(parts: list[bytes]) -> int:
    """How many numbers a line ends with. The first part is the word, even if it is a number."""
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
        raise ZseError("its first line must be the number of words and the number of dimensions")
    count, size = (int(number) for number in header)
    data, at = b"", 0
    for row in range(1, count + 1):
        if len(data) - at < LONGEST_WORD + 4 * size:
            data, at = data[at:] + stream.read(BINARY_CHUNK), 0
        end = data.find(b" ", at)
        vector = data[end + 1 : end + 1 + 4 * size]
        if end < 0 or len(vector) < 4 * size:
            raise ZseError(f"it ends before the {count} words that its first line promises")
        word = data[at:end].decode("utf-8", errors="replace").strip()
        if _form(word) in wanted:
            yield row, word, np.frombuffer(vector, dtype="<f4")
        at = end + 1 + 4 * size
