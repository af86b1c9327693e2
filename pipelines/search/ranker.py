"""The registered model: from sketches to ranked photos. MLflow runs this file as a model from code.

    model = mlflow.pyfunc.load_model("models:/zse@champion", model_config={"index": "s3://bucket/photos.index"})
    model.predict([Path("cat.png").read_bytes()], params={"top": 10})

`zse index FOLDER --index s3://bucket/photos.index --model models:/zse@champion` makes the index; the output of
`zse embed` is one, too. Without `model_config` the environment variable ZSE_INDEX names it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from pipelines.encode.device import usable_device
from pipelines.encode.gallery import Gallery, open_gallery
from pipelines.search.query import Query, prepared
from pipelines.search.search import ranked
from pipelines.search.searcher import Searcher
from pipelines.workspace.photo_index import PhotoIndex
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError

MEMORY = 4 * 2**30  # bytes of the index to keep in memory: two million photos with vectors of 512 numbers


class Ranker(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self._checkpoint = load_checkpoint(context.artifacts["checkpoint"], usable_device())
        self._index: str = (context.model_config or {}).get("index") or os.environ.get("ZSE_INDEX", "")
        self._photos: Gallery | Searcher | None = None

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The best photos of each sketch: columns query (position of the sketch), rank (from 1), id, score (float32),
        confidence (float32, NaN without one, and where nothing similar was found).

        model_input: one sketch, a list of sketches, or a data frame with the column `sketch`. A sketch is the bytes of
            a picture file or an SVG, the same bytes as base64 text, or an array uint8 [h, w], [h, w, 3] or [h, w, 4].
        params: `top`, photos per sketch (default 10); `mode`, a retrieval mode (default: the method's first); `clean`,
            auto, always or never (default auto): whether photos and scans of drawings are cleaned.
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
        transforms = self._checkpoint.transforms
        clean = params.get("clean") or "auto"
        drawn = [prepared(one, transforms, f"Sketch {i}", clean) for i, one in enumerate(_queries(model_input))]
        if isinstance(photos, Searcher):
            photos.follow()
            answers = photos.answers(drawn, top=top, mode=mode, group=False)
            found = [[(one.id, one.score, one.confidence) for one in each] for each in answers]
        else:
            ranking = ranked(method, drawn, photos, mode, top)
            ids = [[photos.ids[i] for i in row] for row in ranking.indices.tolist()]
            found = [
                [(id, score, None) for id, score in zip(*row, strict=True)]
                for row in zip(ids, ranking.scores.tolist(), strict=True)
            ]
        rows = [
            (query, rank, id, score, confidence)
            for query, answers in enumerate(found)
            for rank, (id, score, confidence) in enumerate(answers, start=1)
        ]
        table = pd.DataFrame(rows, columns=["query", "rank", "id", "score", "confidence"])
        return table.astype({"score": np.float32, "confidence": np.float32})

    def _gallery(self) -> Gallery | Searcher:
        if self._photos is None:
            if not self._index:
                raise ZseError(
                    "There is no index to search in. Give load_model model_config={'index': URL}, or set ZSE_INDEX. "
                    "`zse index FOLDER --index URL --model MODEL` makes an index"
                )
            if PhotoIndex(self._index).source is not None:
                self._photos = Searcher.of(self._index, self._checkpoint)
                return self._photos
            photos = open_gallery(self._index, MEMORY)
            encoded_by, digest = photos.encodings.checkpoint_hash, self._checkpoint.digest
            if encoded_by != digest:
                raise ZseError(
                    f"The index {self._index} was encoded by checkpoint {encoded_by[:16]}, this model is "
                    f"{digest[:16]}. Encode the photos with this model: zse embed --gallery FOLDER --checkpoint ..."
                )
            self._photos = photos
        return self._photos


def _queries(given: Any) -> list[Query]:
    """The sketches of `predict`'s input. No text among them, which would be read as a path: here it is base64."""
    if isinstance(given, pd.DataFrame):
        if "sketch" not in given:
            raise ZseError(f"A data frame needs the column `sketch`, got {list(given.columns)}")
        given = given["sketch"].tolist()
    if isinstance(given, bytes | str) or (isinstance(given, np.ndarray) and given.dtype != object):
        given = [given]
    if not isinstance(given, Sequence | np.ndarray) or len(given) == 0:
        kind = f"an empty {type(given).__name__}" if isinstance(given, Sequence) else type(given).__name__
        raise ZseError(f"Give sketches as bytes, base64 text or uint8 arrays, or a list of such sketches; got {kind}")
    return [_query(sketch, i) for i, sketch in enumerate(given)]


def _query(sketch: Any, position: int) -> Query:
    if isinstance(sketch, os.PathLike):
        raise ZseError(f"Sketch {position} is a path, and a model reads no files. Give the bytes of the file")
    if not isinstance(sketch, str):
        return sketch
    try:
        return base64.b64decode(sketch, validate=True)
    except ValueError as error:
        raise ZseError(f"A sketch given as text must be base64 of a picture file: {error}") from error


set_model(Ranker())
