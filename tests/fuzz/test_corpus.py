"""Replays the committed corpus of every fuzz target.

run.py builds the targets; a finding is kept as a file of the corpus and so is tried for ever.
"""

from __future__ import annotations

import pytest

from tests.fuzz import run


@pytest.mark.slow
@pytest.mark.parametrize("target", run.targets())
def test_corpus_has_no_finding(target: str) -> None:
    done = run.replay(target)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[1]) > 0, "a target without a corpus"
