"""Replays the committed corpus of every fuzz target.

run.py builds the targets; a finding is kept as a file of the corpus and so is tried for ever.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def load(path: Path, name: str) -> object:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = load(HERE / "run.py", "fuzz_run")


@pytest.mark.slow
@pytest.mark.parametrize("target", RUN.targets())  # type: ignore[attr-defined]
def test_corpus_has_no_finding(target: str) -> None:
    corpus = sorted((HERE / "corpus" / target).iterdir())
    assert corpus, "a target without a corpus"
    program = RUN.build(target)  # type: ignore[attr-defined]
    done = subprocess.run([program, *corpus], capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
