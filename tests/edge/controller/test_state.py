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


def test_a_left_over_gives_a_secret_no_wider_mode(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / ".key.new").write_text("half")
    state.write("key", "secret", 0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_is_said_and_tried_again(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "slots.json").mkdir()
    for _ in range(2):
        with pytest.raises(SourceError, match="cannot write"):
            state.write("slots.json", "text")
    (tmp_path / "slots.json").rmdir()
    state.write("slots.json", "text")
    assert state.read("slots.json") == "text"
