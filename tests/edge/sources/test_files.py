"""A folder as a source: first reading, changes of every kind, broken files, duplicates."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from edge.errors import SourceError
from edge.resources.store import ResourceEvent
from edge.sources import files
from edge.sources.files import FileSource

DEADLINE_S = 5.0


def service(*names: str, port: int = 80) -> str:
    return "---\n".join(
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
        for name in names
    )


def brief(events: list[ResourceEvent]) -> list[str]:
    return [("-" if event.raw is None else "+") + event.name for event in events]


class Watched:
    """A source whose next batch is waited for while something is done to the folder."""

    def __init__(self, source: FileSource) -> None:
        self.source = source
        self.stream: AsyncIterator[list[ResourceEvent]] = source.watch()

    async def after(self, act: Callable[[], object]) -> list[str]:
        waiting = asyncio.ensure_future(anext(self.stream))
        await asyncio.sleep(0)
        act()
        return brief(await asyncio.wait_for(waiting, DEADLINE_S))


def watching(folder: Path, story: Callable[[Watched], Coroutine[Any, Any, None]]) -> FileSource:
    source = FileSource(folder)
    source.load()

    async def run() -> None:
        watched = Watched(source)
        try:
            await story(watched)
        finally:
            await watched.stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(run())
    source.close()
    return source


def reasons(source: FileSource) -> list[str]:
    return [f"{one.object} {one.reason}" for one in source.diagnostics]


def test_first_reading(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(service("b", "c"))
    (tmp_path / "a.json").write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}')
    (tmp_path / "notes.txt").write_text("not: [read")
    (tmp_path / ".hidden.yaml").write_text(service("hidden"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "d.yaml").write_text(service("d"))
    source = FileSource(tmp_path)
    assert brief(source.load()) == ["+a", "+b", "+c"]
    assert source.load() == []
    source.close()
    assert source.diagnostics == ()
    assert [one.reason for one in source.ignored] == ["Folder"]


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file"):
        FileSource(tmp_path / "none").load()


def test_write_rename_delete(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        path = tmp_path / "a.yaml"
        assert await watched.after(lambda: path.write_text(service("a"))) == ["+a"]
        assert await watched.after(lambda: path.write_text(service("a", port=81))) == ["+a"]
        assert await watched.after(lambda: path.write_text(service("b"))) == ["-a", "+b"]
        (tmp_path / "c.tmp").write_text(service("c"))
        assert await watched.after(lambda: os.rename(tmp_path / "c.tmp", path)) == ["-b", "+c"]
        assert await watched.after(path.unlink) == ["-c"]

    watching(tmp_path, story)


def test_what_waits_to_be_read_does_not_make_the_loop_spin(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        assert await watched.after(lambda: (tmp_path / "a.yaml").write_text(service("a"))) == ["+a"]
        # The batch is being published, and the next change comes.
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select, woken = selector.select, []
        selector.select = lambda timeout: woken.append(select(timeout)) or woken[-1]
        (tmp_path / "b.yaml").write_text(service("b"))
        for _ in range(100):
            await asyncio.sleep(0)
        del selector.select
        assert len(woken) >= 100 and 1 <= len(list(filter(None, woken))) < 5
        assert await watched.after(lambda: None) == ["+b"]

    watching(tmp_path, story)


def test_a_burst_is_one_batch(tmp_path: Path) -> None:
    def act() -> None:
        for number in range(50):
            (tmp_path / f"{number:02}.yaml").write_text(service(f"s{number:02}"))

    async def story(watched: Watched) -> None:
        assert len(await watched.after(act)) == 50

    watching(tmp_path, story)


def test_a_file_that_is_being_written_keeps_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a", "b"))

    async def story(watched: Watched) -> None:
        file = path.open("w")  # truncated, and not closed yet
        file.write("")
        file.flush()
        assert await watched.after(lambda: (tmp_path / "z.yaml").write_text(service("z"))) == ["+z"]

        def finish() -> None:
            file.write(service("a"))
            file.close()

        assert await watched.after(finish) == ["-b"]

    watching(tmp_path, story)


def test_broken_file_keeps_its_last_good_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))

    async def story(watched: Watched) -> None:
        assert await watched.after(lambda: path.write_text("a: [")) == []
        assert reasons(watched.source) == ["File/a.yaml Unreadable"]
        assert "last good objects stay" in watched.source.diagnostics[0].message
        assert await watched.after(lambda: path.write_text(service("a", "b"))) == ["+b"]
        assert watched.source.diagnostics == ()

    watching(tmp_path, story)


def test_config_map_layout_swaps_at_once(tmp_path: Path) -> None:
    def version(name: str, *services: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(service(*services))
        os.symlink(name, tmp_path / "..tmp")
        os.rename(tmp_path / "..tmp", tmp_path / "..data")

    version("..one", "a")
    os.symlink("..data/a.yaml", tmp_path / "a.yaml")

    async def story(watched: Watched) -> None:
        assert await watched.after(lambda: version("..two", "a", "b")) == ["+b"]
        assert await watched.after(lambda: version("..three", "c")) == ["-a", "-b", "+c"]

    watching(tmp_path, story)


def test_the_folder_itself_is_a_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.yaml").write_text(service(name))
    os.symlink("one", tmp_path / "config")

    def swap() -> None:
        os.symlink("two", tmp_path / "next")
        os.rename(tmp_path / "next", tmp_path / "config")

    async def story(watched: Watched) -> None:
        assert await watched.after(swap) == ["-one", "+two"]
        assert await watched.after(lambda: (tmp_path / "two" / "b.yaml").write_text(service("b"))) == ["+b"]

    watching(tmp_path / "config", story)


def test_a_link_to_a_file_elsewhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "config").mkdir()
    real = tmp_path / "elsewhere" / "real.yaml"
    real.write_text(service("a"))
    os.symlink(real, tmp_path / "config" / "a.yaml")

    async def story(watched: Watched) -> None:
        assert await watched.after(lambda: real.write_text(service("b"))) == ["-a", "+b"]

    watching(tmp_path / "config", story)


def test_folder_taken_away_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "a.yaml").write_text(service("a"))

    async def story(watched: Watched) -> None:
        assert await watched.after(lambda: os.rename(folder, tmp_path / "away")) == []
        assert reasons(watched.source) == ["File Unreadable"]
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "b.yaml").write_text(service("b"))
        assert await watched.after(lambda: os.rename(tmp_path / "new", folder)) == ["-a", "+b"]

    watching(folder, story)


def test_duplicate_the_first_file_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("x", port=1))
    (tmp_path / "b.yaml").write_text(service("x", port=2))

    async def story(watched: Watched) -> None:
        assert reasons(watched.source) == ["Service/default/x Duplicate"]
        assert await watched.after((tmp_path / "a.yaml").unlink) == ["+x"]
        assert watched.source.diagnostics == ()

    watching(tmp_path, story)


def test_reread_looks_at_every_file_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))

    async def story(watched: Watched) -> None:
        (tmp_path / "b.yaml").write_text(service("b"))
        assert await watched.after(watched.source.reread) == ["+b"]

    watching(tmp_path, story)


def test_unknown_kinds_and_things_without_identity(tmp_path: Path) -> None:
    text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\njust text\n---\n" + service("a")
    (tmp_path / "a.yaml").write_text(text)
    source = FileSource(tmp_path)
    assert brief(source.load()) == ["+a"]
    source.close()
    assert reasons(source) == ["File/a.yaml NotAnObject"]
    assert [one.message for one in source.ignored] == ["document 1: nobody here reads apps/v1 Deployment"]


def test_one_broken_document_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a") + "---\n" + service("b"))

    async def story(watched: Watched) -> None:
        broken = service("a", port=81) + "---\nb: [\n---\n" + service("c")
        assert await watched.after(lambda: path.write_text(broken)) == ["+a", "+c"], "b stays as it was"
        assert reasons(watched.source) == ["File/a.yaml Unreadable"]
        assert "at line 7, column" in watched.source.diagnostics[0].message
        mended = service("a", port=81) + "---\n" + service("c")
        assert await watched.after(lambda: path.write_text(mended)) == ["-b"]
        assert watched.source.diagnostics == ()

    watching(tmp_path, story)


def test_documents_that_move_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    texts = [service(f"s{number}") for number in range(20)]
    path.write_text("---\n".join(texts))
    read: list[bytes] = []
    real = files.read_piece

    def counting(pieces: list[bytes], index: int, name: str) -> list[Any]:
        read.append(pieces[index])
        return real(pieces, index, name)

    async def story(watched: Watched) -> None:
        monkeypatch.setattr(files, "read_piece", counting)
        texts[3], texts[16] = service("new"), texts[3]
        assert await watched.after(lambda: path.write_text("---\n".join(texts))) == ["-s16", "+new"]
        assert len(read) == 1

    watching(tmp_path, story)


def test_only_the_file_that_changed_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.yaml"
        path.write_text(service(f"s{number}"))
        os.utime(path, (1, 1))
    monkeypatch.setattr(files, "RACY_NS", 0)
    looked: list[str] = []
    real = FileSource._read

    def counting(self: FileSource, path: str, name: str, *rest: Any) -> Any:
        looked.append(name)
        return real(self, path, name, *rest)

    async def story(watched: Watched) -> None:
        monkeypatch.setattr(FileSource, "_read", counting)
        assert await watched.after(lambda: (tmp_path / "7.yaml").write_text(service("s7", port=81))) == [
            "+s7"
        ]
        assert looked == ["7.yaml"]
        assert await watched.after((tmp_path / "7.yaml").unlink) == ["-s7"]
        assert looked == ["7.yaml"]

    watching(tmp_path, story)


def test_a_folder_made_among_the_files_is_told(tmp_path: Path) -> None:
    async def story(watched: Watched) -> None:
        def act() -> None:
            (tmp_path / "below").mkdir()
            (tmp_path / "a.yaml").write_text(service("a"))

        assert await watched.after(act) == ["+a"]
        assert [one.reason for one in watched.source.ignored] == ["Folder"]

    watching(tmp_path, story)


def test_an_object_twice_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("x", port=1) + "---\n" + service("x", port=2))

    async def story(watched: Watched) -> None:
        assert reasons(watched.source) == ["Service/default/x Duplicate"]
        assert await watched.after(lambda: path.write_text(service("x", port=2))) == ["+x"]
        assert watched.source.diagnostics == ()

    watching(tmp_path, story)
