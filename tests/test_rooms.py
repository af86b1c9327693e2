"""Every room of `pipelines/` stands where a reader looks for it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "spelled"), [("README.md", "  {}/"), ("docs/architecture.md", "`{}`")])
def test_every_room_is_in_the_drawing(page: str, spelled: str) -> None:
    rooms = [folder.parent.name for folder in (ROOT / "pipelines").glob("*/__init__.py")]
    text = (ROOT / page).read_text()
    assert rooms and not [room for room in rooms if spelled.format(room) not in text]
