"""The inotify binding: what it reports and when it refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.sources.inotify import CLOSE_WRITE, CREATE, DELETE, MODIFY, MOVED, Inotify


def test_reports_what_happens_in_a_folder(tmp_path: Path) -> None:
    inotify = Inotify()
    try:
        inotify.watch(str(tmp_path))
        assert list(inotify.read()) == []
        (tmp_path / "a.yaml").write_text("a")
        os.rename(tmp_path / "a.yaml", tmp_path / "b.yaml")
        (tmp_path / "b.yaml").unlink()
        seen = [(change.name, change.mask) for change in inotify.read()]
    finally:
        inotify.close()
    assert ("a.yaml", CREATE) in seen
    assert ("a.yaml", MODIFY) in seen
    assert ("a.yaml", CLOSE_WRITE) in seen
    assert any(name == "b.yaml" and mask & MOVED for name, mask in seen)
    assert ("b.yaml", DELETE) in seen
    inotify.close()


def test_refuses_what_is_no_folder(tmp_path: Path) -> None:
    inotify = Inotify()
    try:
        with pytest.raises(FileNotFoundError):
            inotify.watch(str(tmp_path / "none"))
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError):
            inotify.watch(str(tmp_path / "file"))
    finally:
        inotify.close()
