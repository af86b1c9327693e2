"""The registered model: from sketches to ranked photos. MLflow runs this file as a model from code.

    model = mlflow.pyfunc.load_model("models:/zse@champion", model_config={"index": "s3://bucket/zse/encodings/..."})
    model.predict([Path("cat.png").read_bytes()], params={"top": 10})

`zse embed --gallery FOLDER --checkpoint models:/zse@champion` prints the index at its end. Without `model_config` the
environment variable ZSE_INDEX names it.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from pipelines.encode.device import assigned_device
from pipelines.encode.gallery import Gallery, open_gallery
from pipelines.search.search import ranked
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError
from zse_model.retrieval import checked_pixels
from zse_model.transforms import BadPicture, prepare_sketch

MEMORY = 4 * 2**30  # bytes of the index to keep in memory: two million photos with vectors of 512 numbers


class Ranker(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self._checkpoint = load_checkpoint(context.artifacts["checkpoint"], assigned_device())
        self._index: str = (context.model_config or {}).get("index") or os.environ.get("ZSE_INDEX", "")
        self._photos: Gallery | None = None

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The best photos of each sketch: columns query (position of the sketch), rank (from 1), id, score (float32).

        model_input: one sketch, a list of sketches, or a data frame with the column `sketch`. A sketch is the bytes of
            a picture file, the same bytes as base64 text, or an array uint8 [h, w], [h, w, 3] or [h, w, 4].
        params: `top`, photos per sketch (default 10); `mode`, a retrieval mode (default: the method's first).
        Raises ZseError for a missing index, the index of another checkpoint, other input, or an unknown mode;
            BadPicture for an unusable sketch.
        """
        params = params or {}
        method = self._checkpoint.method
        photos = self._gallery()
        mode, top = params.get("mode") or method.modes[0], int(10 if params.get("top") is None else params["top"])
        method.mode(mode)
        if top < 1:
            raise ZseError(f"params: top must be at least 1, got {top}")
        drawn = [self._prepared(i, data) for i, data in enumerate(_files(model_input))]
        ranking = ranked(method, drawn, photos, mode, top)
        queries, depth = ranking.indices.shape
        return pd.DataFrame(
            {
                "query": np.repeat(np.arange(queries), depth),
                "rank": np.tile(np.arange(1, depth + 1), queries),
                "id": [photos.ids[i] for i in ranking.indices.flatten().tolist()],
                "score": ranking.scores.flatten().numpy(),
            }
        )

    def _prepared(self, position: int, sketch: bytes) -> np.ndarray:
        try:
            return prepare_sketch(sketch, self._checkpoint.transforms)
        except BadPicture as error:
            raise BadPicture(f"Sketch {position} cannot be used: {error}") from error

    def _gallery(self) -> Gallery:
        if self._photos is None:
            if not self._index:
                raise ZseError(
                    "There is no index to search in. Give load_model model_config={'index': URL}, or set ZSE_INDEX. "
                    "`zse embed --gallery FOLDER --checkpoint CHECKPOINT` makes an index and prints its URL"
                )
            photos = open_gallery(self._index, MEMORY)
            encoded_by, digest = photos.encodings.checkpoint_hash, self._checkpoint.digest
            if encoded_by != digest:
                raise ZseError(
                    f"The index {self._index} was encoded by checkpoint {encoded_by[:16]}, this model is "
                    f"{digest[:16]}. Encode the photos with this model: zse embed --gallery FOLDER --checkpoint ..."
                )
            self._photos = photos
        return self._photos


def _files(given: Any) -> list[bytes]:
    """The sketches of `predict`'s input as bytes of picture files."""
    if isinstance(given, pd.DataFrame):
        if "sketch" not in given:
            raise ZseError(f"A data frame needs the column `sketch`, got {list(given.columns)}")
        given = given["sketch"].tolist()
    if isinstance(given, bytes | str) or (isinstance(given, np.ndarray) and given.dtype != object):
        given = [given]
    if not isinstance(given, Sequence | np.ndarray) or len(given) == 0:
        kind = f"an empty {type(given).__name__}" if isinstance(given, Sequence) else type(given).__name__
        raise ZseError(f"Give sketches as bytes, base64 text or uint8 arrays, or a list of such sketches; got {kind}")
    return [_file(one) for one in given]


def _file(sketch: Any) -> bytes:
    if isinstance(sketch, bytes):
        return sketch
    if isinstance(sketch, str):
        try:
            return base64.b64decode(sketch, validate=True)
        except binascii.Error as error:
            raise ZseError(f"A sketch given as text must be base64 of a picture file: {error}") from error
    array = checked_pixels(np.asarray(sketch))
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


set_model(Ranker())
