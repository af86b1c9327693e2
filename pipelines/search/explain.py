"""Explain the scores of a sketch with a photo, or with the first photos of a gallery; `zse explain` calls `explain`.

<out>/explain.html    <out>/1-correspondences.png  1-similarity.png  1-attention-*.png  1-synthesis.png  2-...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.drawing.explanations import Explained, explained, png
from pipelines.encode.gallery import read_photos
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import printable
from pipelines.search.cleaning import Clean
from pipelines.search.explanation_page import page
from pipelines.search.query import prepare_query, prepared_photo
from pipelines.search.search import Match, find, told
from pipelines.store import storage
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError
from zse_model.explanation.pair import explained_mode, explainer
from zse_model.modes import undiffused

PAGE = "explain.html"
SHORTLIST = 100  # photos that a pair network ranks if no mode is given


def explain(
    sketch: str,
    checkpoint_url: str,
    workspace: str,
    out: Path,
    *,
    photo: str | None,
    gallery: str | None,
    top: int,
    mode: str | None,
    patches: Sequence[tuple[int, int]],
    clean: Clean = "auto",
) -> list[Match]:
    """Explain one photo, or the `top` photos of a gallery. Returns them with their scores, best first.

    mode: None = the mode that the pictures explain (`explained_mode`); in a gallery it then re-ranks the SHORTLIST of
    the first mode. patches: (row, column) of sketch patches to follow, from 0. clean: as in `prepare_query`.
    Raises ZseError unless exactly one of photo and gallery is given, UnexplainableError for a method that
    cannot be explained, BadPicture with the name of an unusable picture.
    """
    if (photo is None) == (gallery is None):
        raise ZseError("Give either --photo FILE or --gallery FOLDER, to explain the sketch with")
    with storage.local_copy(checkpoint_url) as copy:
        checkpoint = load_checkpoint(copy)
    method, transforms = checkpoint.method, checkpoint.transforms
    explainer(method)  # raises before a gallery is encoded
    shown = mode or explained_mode(method)
    method.mode(shown)
    drawn = told(sketch, prepare_query(sketch, transforms, clean=clean))
    if photo is not None:
        names, files = [photo], [storage.read_bytes(photo)]
    else:
        assert gallery is not None
        finds = shown
        if mode is None and shown != method.modes[0]:  # a pair network over a whole gallery takes long
            finds = f"rerank-{max(SHORTLIST, top)}"
            shown = method.ranked_by(finds)  # a zse_sbir with late ranks by late: what is shown is what ranked
        matches = find(drawn, gallery, checkpoint, checkpoint_url, workspace, top=top, mode=finds)
        base, depth = undiffused(finds)
        if depth:
            say(f"{finds} ranks photos by each other. The scores below are of each photo alone, by {base}")
        names = [match.path for match in matches]
        files = read_photos(gallery, names)
    found: list[Explained] = []
    for name, data in zip(names, files, strict=True):
        if isinstance(data, Exception):
            raise data
        pixels = prepared_photo(data, transforms, name)
        found.append(explained(method, drawn, pixels, printable(name), shown, patches))
    for one in found[1:]:
        one.pictures.pop("attention-sketch", None)  # equal for every photo, because the sketch is encoded alone
    out.mkdir(parents=True, exist_ok=True)
    for i, one in enumerate(found):
        for key, picture in one.pictures.items():
            (out / f"{i + 1}-{key}.png").write_bytes(png(picture))
    (out / PAGE).write_text(page(printable(sketch.rsplit("/", 1)[-1]), checkpoint_url, found), encoding="utf-8")
    return [Match(one.name, one.explanation.score) for one in found]
