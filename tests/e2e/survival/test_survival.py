"""The survival program in short: every action of its table two times, on both loops.

The long form is `make chaos`. What a line must be stands in chaos.py; here it only has to hold.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.survival.actions import ACTIONS
from tests.e2e.survival.chaos import LOOPS, on_stage
from tests.e2e.survival.table import render

pytestmark = [pytest.mark.root, pytest.mark.slow]

TIMES = 2


@pytest.mark.parametrize("loop", LOOPS)
def test_what_dies_or_is_replaced_costs_no_request(tmp_path: Path, loop: str) -> None:
    lines = on_stage(loop, list(ACTIONS), TIMES, tmp_path)
    assert not any(line.wrong for line in lines), "\n" + render(lines)
