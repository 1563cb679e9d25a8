"""A folder at a start that knows what stood in it before: away, empty, partly broken, or as it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.resources.store import ResourceEvent
from edge.sources import files
from edge.sources.files import FileSource, Known
from tests.edge.sources.test_files import DEADLINE_S, brief, reasons, service


def raw(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}


def known(**names: str) -> Known:
    return {f"{file}.yaml": ((("Service", "default", name), raw(name)),) for file, name in names.items()}


KNOWN = known(a="a", b="b")
GARBAGE = "a: [\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path / "config"


def loaded(source: FileSource) -> list[str]:
    return sorted(brief(source.load()))


def scanned(source: FileSource) -> list[str]:
    events: list[ResourceEvent] = source._scan()
    return sorted(brief(events))


def test_an_empty_folder_is_taken_for_a_lost_one(folder: Path) -> None:
    source = FileSource(folder, KNOWN, trust_empty=False)
    assert loaded(source) == ["+a", "+b"]
    assert reasons(source) == ["File SourceEmpty"] and source.lost_since is not None
    since = source.lost_since
    (folder / "notes.txt").write_text("no object")
    (folder / "b.yaml").write_text("# nor here\n")
    assert scanned(source) == [] and source.lost_since == since
    (folder / "c.yaml").write_text(service("c"))
    assert scanned(source) == ["+c", "-a", "-b"]
    assert source.lost_since is None and source.diagnostics == ()
    (folder / "c.yaml").unlink()
    assert scanned(source) == ["-c"], "from now on deleting is deleting"
    source.close()


def test_an_empty_folder_is_believed_where_that_is_wanted(folder: Path) -> None:
    source = FileSource(folder, KNOWN, trust_empty=True)
    assert loaded(source) == [] and source.lost_since is None
    source.close()


def test_nothing_is_missed_where_nothing_was(folder: Path) -> None:
    source = FileSource(folder, {}, trust_empty=False)
    assert loaded(source) == [] and source.lost_since is None and source.diagnostics == ()
    source.close()


def test_a_folder_that_is_not_there(folder: Path) -> None:
    folder.rmdir()
    source = FileSource(folder, KNOWN, trust_empty=False)
    assert loaded(source) == ["+a", "+b"]
    assert reasons(source) == ["File Unreadable"] and "since 2" in source.diagnostics[0].message
    folder.mkdir()
    assert scanned(source) == [] and reasons(source) == ["File SourceEmpty"]
    (folder / "a.yaml").write_text(service("a", port=81))
    assert scanned(source) == ["+a", "-b"]
    assert source.diagnostics == ()
    source.close()


def test_since_when_is_carried_on(folder: Path) -> None:
    source = FileSource(folder, KNOWN, trust_empty=False, lost_since=1000.0)
    source.load()
    assert source.lost_since == 1000.0 and "1970-01-01T00:16:40Z" in source.diagnostics[0].message
    source.close()


@pytest.mark.parametrize("trust_empty", [False, True])
def test_a_broken_file_keeps_what_it_had_and_the_others_are_read(folder: Path, trust_empty: bool) -> None:
    (folder / "a.yaml").write_text(GARBAGE)
    (folder / "c.yaml").write_text(service("c"))
    source = FileSource(folder, KNOWN, trust_empty)
    assert loaded(source) == ["+a", "+c"], "b.yaml was deleted while nobody looked"
    assert reasons(source) == ["File/a.yaml Unreadable"]
    assert "last good objects stay" in source.diagnostics[0].message and source.lost_since is None
    (folder / "a.yaml").write_text(service("new"))
    assert scanned(source) == ["+new", "-a"]
    source.close()


def test_a_file_with_one_broken_document_is_joined_from_both(folder: Path) -> None:
    kept: Known = {"a.yaml": tuple((("Service", "default", name), raw(name)) for name in "abc")}
    (folder / "a.yaml").write_text(service("a") + "---\nkind: {\n---\n" + service("d"))
    source = FileSource(folder, kept, trust_empty=False)
    assert loaded(source) == ["+a", "+b", "+c", "+d"], "what is new, and what the broken part may have held"
    (folder / "a.yaml").write_text(service("a") + "---\n" + service("d"))
    assert scanned(source) == ["-b", "-c"] and source.diagnostics == ()
    source.close()


def test_only_broken_files_are_a_lost_folder(folder: Path) -> None:
    (folder / "a.yaml").write_text(GARBAGE)
    source = FileSource(folder, KNOWN, trust_empty=False)
    assert loaded(source) == ["+a", "+b"]
    assert reasons(source) == ["File SourceEmpty", "File/a.yaml Unreadable"]
    (folder / "c.yaml").write_text(service("c"))
    assert scanned(source) == ["+c", "-b"], "what the broken file had stays"
    source.close()


def test_what_is_the_same_is_no_change(folder: Path) -> None:
    (folder / "a.yaml").write_text(service("a"))
    (folder / "b.yaml").write_text(service("b"))
    source = FileSource(folder, KNOWN, trust_empty=False)
    assert loaded(source) == ["+a", "+b"]
    assert source.origins == {("Service", "default", name): f"{name}.yaml" for name in "ab"}
    source.close()


async def first_batch(source: FileSource, act: Callable[[], object]) -> list[str]:
    stream = source.watch()
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    act()
    try:
        return sorted(brief(await asyncio.wait_for(waiting, DEADLINE_S)))
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


def test_a_folder_whose_parent_is_away_too_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "POLL_S", 0.01)
    folder = tmp_path / "mount" / "deep" / "config"
    source = FileSource(folder, KNOWN, trust_empty=False)
    assert loaded(source) == ["+a", "+b"]

    def come() -> None:
        other = tmp_path / "other" / "deep" / "config"
        other.mkdir(parents=True)
        (other / "c.yaml").write_text(service("c"))
        os.rename(tmp_path / "other", tmp_path / "mount")

    assert asyncio.run(first_batch(source, come)) == ["+c", "-a", "-b"]
    source.close()


def test_aliases_cannot_make_a_state_larger_than_its_file(folder: Path) -> None:
    text = "x: &x " + "a" * 100_000 + "\nlist: [" + ", ".join(["*x"] * 1000) + "]\n"
    (folder / "a.yaml").write_text("apiVersion: v1\nkind: Service\nmetadata: {name: big}\n" + text)
    source = FileSource(folder)
    assert source.load() == []
    assert reasons(source) == ["File/a.yaml Unreadable"] and "aliases" in source.diagnostics[0].message
    source.close()
