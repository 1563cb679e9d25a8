"""The state directory: whole files or none, and no file of a stranger."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.controller.state import StateDirectory
from edge.errors import SourceError


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    assert state.read("a") is None
    state.write("a", b"one")
    state.write("a", b"two")
    assert state.read("a") == b"two"
    assert [path.name for path in state.path.iterdir()] == ["a"]


def test_the_file_before_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    for text in (b"one", b"two", b"three"):
        state.write("a", text, previous="b")
    assert (state.read("a"), state.read("b")) == (b"three", b"two")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_a_directory_that_cannot_be_made_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="--state-dir"):
        StateDirectory(tmp_path / "file" / "state").prepare()


def test_a_left_over_gives_a_secret_no_wider_mode(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / ".key.new").write_text("half")
    state.write("key", b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_leaves_nothing_half(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "a").mkdir()
    for _ in range(2):
        with pytest.raises(SourceError, match="cannot write"):
            state.write("a", b"text")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "a").rmdir()
    state.write("a", b"text")
    assert state.read("a") == b"text"


def test_a_directory_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "a" / "b")
    state.write("c", b"text", previous="d")
    assert state.read("c") == b"text"


def test_remove(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    state.write("a", b"")
    assert [state.remove("a"), state.remove("a")] == [True, False]
    (tmp_path / "a").mkdir()
    with pytest.raises(SourceError, match="cannot be removed"):
        state.remove("a")


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(11)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (Path.mkdir, "no regular file"),
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("/etc/passwd"), "cannot be read"),
        (lambda path: (path.touch(), path.chmod(0o666)), "by everybody"),
        (large, "larger than"),
    ],
)
def test_what_is_not_trusted(tmp_path: Path, make: Callable[[Path], object], word: str) -> None:
    make(tmp_path / "a")
    with pytest.raises(SourceError, match=word):
        StateDirectory(tmp_path).read("a", 10)


@pytest.mark.root
def test_a_file_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("planted")
    os.chown(tmp_path / "a", 65534, 65534)
    with pytest.raises(SourceError, match="belongs to user 65534"):
        StateDirectory(tmp_path).read("a")
