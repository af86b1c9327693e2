"""Start the generation of a new champion in the indexes that it will serve; `zse reevaluate --promote --index` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.encode.index import index
from pipelines.runtime.progress import say
from pipelines.store import storage
from pipelines.tracking import Store, checkpoint_of
from pipelines.tracking.models import NAMES, REGISTERED
from pipelines.tracking.registry import CHAMPION, version_at
from pipelines.workspace.photo_index import PhotoIndex, about_of
from zse_model.checkpoint import load_checkpoint
from zse_model.errors import ZseError


def index_by_champion(model: str, urls: Sequence[str], workspace: str, tracking: str | None = None) -> list[str]:
    """Encode the photos of each index by the champion, where it has no complete generation of it; returns those
    indexes. A new generation has tokens if the newest one has them.

    model: NAME@ALIAS or models:/NAME/VERSION, whose name has the champion. What serves keeps its own generation until
    then. A URL that is no index is named and left out.
    Raises ZseError for another form of a name.
    """
    parts = NAMES.fullmatch(model if model.startswith(REGISTERED) else f"{REGISTERED}{model}")
    if parts is None or not parts["name"]:
        raise ZseError(f"--index needs a registered model as the first of --models, such as zse@champion; got {model}")
    champion = f"{REGISTERED}{parts['name']}@{CHAMPION}"
    if version_at(Store.at(workspace, tracking), parts["name"], CHAMPION) is None:
        say(f"{champion} does not exist yet: no photos are encoded")
        return []
    url = checkpoint_of(champion, workspace, tracking)
    with storage.local_copy(url) as copy:
        checkpoint = load_checkpoint(Path(copy))
    built = []
    for one in urls:
        there = PhotoIndex(one)
        if there.source is None:
            say(f"{there.url} is not an index yet. Run: zse index SOURCE --index {there.url} --model {champion}")
            continue
        generations = there.generations()
        if any(generation.key == checkpoint.digest for generation in generations):
            continue
        say(f"{there.url} has no complete generation of {champion}: its photos are encoded now")
        newest = max(generations, key=lambda one: about_of(one.photos().schema)["made"], default=None)
        # Without the tokens that were asked for once, modes that serve now would end.
        tokens = newest is not None and any(len(form.shape) > 1 for form in newest.forms.values())
        say(index(None, one, url, called=champion, tokens=tokens, checkpoint=checkpoint).text())
        built.append(there.url)
    return built
