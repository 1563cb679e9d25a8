"""The state directory: whole files or none."""

from pathlib import Path

import pytest

from edge.controller.state import StateDirectory
from edge.errors import SourceError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    assert state.read("slots.json") is None
    state.write("slots.json", "one")
    state.write("slots.json", "two", 0o600)
    assert state.read("slots.json") == "two"
    assert [path.name for path in state.path.iterdir()] == ["slots.json"]


def test_a_directory_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="--state-dir"):
        StateDirectory(tmp_path / "file" / "state").prepare()
