"""The World of world.py as a fixture: at its end no descriptor is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.holder.fakes import more_than, open_descriptors
from tests.edge.holder.world import World


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[World]:
    """Both children run, and one version is served."""
    before = open_descriptors()
    made = World(tmp_path, monkeypatch)
    made.begin()
    yield made
    made.close()
    capfd.readouterr()
    assert not more_than(before)
