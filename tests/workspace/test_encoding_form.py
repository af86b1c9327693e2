"""Encodings as an index keeps them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.workspace.photo_index import UNIT, EncodingForm, Generation
from zse_model.errors import ZseError


def test_whole_numbers_keep_the_direction() -> None:
    """Within half a step of the largest number, and of length 1; zeros stay zeros."""
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(5, 7, 33)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors[2, 3] = 0
    form = EncodingForm(UNIT, (7, 33))
    assert form.bytes == 7 * 33
    column = form.column(vectors)
    assert column.type == pa.list_(pa.int8(), 7 * 33)
    largest = np.abs(np.array(column.to_pylist()).reshape(5, 7, 33)).max(axis=2)
    assert set(largest.ravel().tolist()) == {0, 127} and (largest == 0).sum() == 1
    found = form.values(pa.chunked_array([column[:2], column[2:]]))
    assert found.dtype == np.float32 and found.shape == vectors.shape
    lengths = np.linalg.norm(found, axis=2)
    assert lengths[2, 3] == 0 and np.allclose(np.delete(lengths.ravel(), 2 * 7 + 3), 1, atol=1e-6)
    step = np.abs(vectors).max(axis=2, keepdims=True) / 127
    assert (np.abs(found - vectors) <= 0.75 * step).all() and not np.array_equal(found, vectors)


def test_other_types_are_read_as_they_are_kept() -> None:
    halves, codes = EncodingForm("float16", (3,)), EncodingForm("uint8", (2,))
    values = np.array([[0.1, 2.0, -3.0]], dtype=np.float32)
    assert halves.bytes == 6 and np.array_equal(halves.values(halves.column(values)), values.astype(np.float16))
    bits = np.array([[255, 1], [0, 7]], dtype=np.uint8)
    assert np.array_equal(codes.values(codes.column(bits)), bits)


def test_what_is_not_finite_is_refused() -> None:
    values = np.full((1, 2, 3), 0.5, dtype=np.float32)
    values[0, 1, 2] = np.nan
    with pytest.raises(ZseError, match="not finite"):
        EncodingForm(UNIT, (2, 3)).column(values)


def test_older_code_does_not_know_the_type() -> None:
    """It would take int8 for numbers to cast, and store zeros."""
    with pytest.raises(TypeError, match="not understood"):
        np.dtype(UNIT)
    unit, halves = EncodingForm(UNIT, (2, 3)), EncodingForm("float16", (3,))
    assert Generation.version_of({"embedding": halves, "places": unit}) == 2
    assert Generation.version_of({"embedding": halves}) == 1
