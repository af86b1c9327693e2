"""report: what MLflow has of all settings, as one HTML page."""

from __future__ import annotations

from pipelines.datasets.published import load_settings
from pipelines.judge.standings_page import page, sections
from pipelines.runtime.progress import say
from pipelines.runtime.redaction import shown
from pipelines.store import storage
from pipelines.tracking import Store, history
from zse_model.errors import ZseError


def report(workspace: str, out: str, *, setting: str | None = None, pictures: bool = True) -> tuple[int, int]:
    """Write the page; gives how many settings and evaluations it shows.

    setting: only those that begin like this. Raises TrackingError for an MLflow that does not answer, ValueError where
    no setting begins so.
    """
    store = Store.at(workspace)
    everything = history.standings(store)
    kept = [one for one in everything if one.setting.startswith(setting or "")]
    if everything and not kept:
        known = sorted({one.setting for one in everything})
        raise ZseError(f"No tracked setting begins with {setting!r}. Known: {', '.join(known)}")
    found = sections(kept, load_settings())
    for section in found:
        if pictures and section.lines():
            section.pictures = history.pictures(store, section.lines()[0][0].run)
    text = page(found, shown(store.uri))
    storage.write_bytes(out, text.encode())
    say(f"{len(kept)} evaluations in {len(found)} settings, {len(text) / 1e6:.1f} MB")
    return len(found), len(kept)
