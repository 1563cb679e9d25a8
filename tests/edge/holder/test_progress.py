"""A drain as an operator sees it: one line that moves on a terminal, few lines elsewhere."""

from __future__ import annotations

import io
import os
import select

import pytest

from edge.holder.progress import DrainProgress


def test_plain_lines_come_seldom(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    now = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = DrainProgress(30, io.StringIO())
    for number in range(11):
        progress.heard(7, 10 - number, 1)
        now[0] += 1
    progress.end()
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "edge-holder: draining: 10 exchanges and 1 tunnel left, 30 s of the grace period",
        "edge-holder: draining: 5 exchanges and 1 tunnel left, 25 s of the grace period",
        "edge-holder: draining: 0 exchanges and 1 tunnel left, 20 s of the grace period",
    ]


def test_two_data_planes_are_one_sum(capfd: pytest.CaptureFixture[str]) -> None:
    progress = DrainProgress(0, io.StringIO())
    progress.heard(1, 2, 3)
    progress.gone(1)
    assert "2 exchanges and 3 tunnels" in capfd.readouterr().err
    progress.end()


def test_a_terminal_gets_one_line_that_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        progress = DrainProgress(30, terminal)
        progress.heard(1, 5, 0)
        progress.heard(1, 1, 2)
        progress.end()
        progress.end()
        text = b""
        while select.select([ours], [], [], 0)[0]:
            text += os.read(ours, 65536)
    os.close(ours)
    drawn = text.decode()
    assert "5 exchanges and 0 tunnels left" in drawn and "1 exchange and 2 tunnels left" in drawn
    assert "\x1b[2K" in drawn, "the line before was not cleared"
