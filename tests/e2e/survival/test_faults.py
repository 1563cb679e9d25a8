"""Each fault once, on the loop that it concerns: its line of the survival table must be as required."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.survival.faults import FAULTS
from tests.e2e.survival.table import render

pytestmark = [pytest.mark.root, pytest.mark.slow]

BOTH = ("descriptors_used_up", "memory_used_up", "worker_stalled")  # what the loops do themselves


@pytest.mark.parametrize(
    ("name", "loop"),
    [(name, loop) for name in FAULTS for loop in (("uring", "epoll") if name in BOTH else ("uring",))],
)
def test_fault(tmp_path: Path, name: str, loop: str) -> None:
    line = FAULTS[name](tmp_path, loop)
    assert not line.wrong, "\n" + render([line])
    assert line.clients and line.operator
    assert line.requests > 0
