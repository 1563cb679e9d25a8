"""Benchmarks of single functions are programs, too: they build from what csrc is made of now, and answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.micro import h1_parse, match

pytestmark = pytest.mark.slow


def test_match(tmp_path: Path) -> None:
    found = match.run(match.build(tmp_path), (10, 1, "own"), "zipf", 12_800)
    assert found["ns_median"] > 0 and found["bytes_a_route"] > 0


def test_h1_parse(tmp_path: Path) -> None:
    program = h1_parse.build(tmp_path)
    for case in h1_parse.CASES:
        assert h1_parse.nanoseconds(program, case, 100)[0] > 0
