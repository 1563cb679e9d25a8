"""The record of a holder has its room on the disk from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.holder import record as records
from edge.holder.record import Record, read, remove, write


def test_the_newest_is_read_and_both_files_keep_their_room(tmp_path: Path) -> None:
    for holder in range(1, 6):
        write(tmp_path, Record(1, holder, 2, [3, 4], [], [], {"upgrades": holder}))
        found = read(tmp_path)
        assert found is not None and found.holder == holder and found.counts == {"upgrades": holder}
        sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        assert sizes == {records.NAME: records.ROOM_BYTES, records.SPARE: records.ROOM_BYTES}
        assert all(path.stat().st_blocks * 512 >= records.ROOM_BYTES for path in tmp_path.iterdir())
    remove(tmp_path)
    assert not list(tmp_path.iterdir()) and read(tmp_path) is None


def test_one_that_outgrows_its_room_is_whole(tmp_path: Path) -> None:
    many = {f"count-{number}": number for number in range(2000)}
    for counts in ({}, many, {}):
        write(tmp_path, Record(1, 2, 2, [3, 4], [], [], dict(counts)))
        found = read(tmp_path)
        assert found is not None and found.counts == counts


def test_what_cannot_be_written_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "missing", Record())
    assert "--run-dir: cannot write" in capfd.readouterr().err
