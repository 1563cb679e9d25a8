"""House rules that can be checked by reading the tree: sizes, first lines, one truth for each list."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES_MAX = 600


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [ROOT / name for name in listing if (ROOT / name).is_file()]


CODE = tracked("*.py", "*.c", "*.h")


def test_the_tree_was_found() -> None:
    assert len(CODE) > 20


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_and_introduces_itself(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX, f"{path.name} has over {LINES_MAX} lines: split it by its reasons"
    if not text.strip():
        assert path.name == "__init__.py"
        return
    start = text.removeprefix("#!/usr/bin/env python3\n").lstrip()
    assert start.startswith(('"""', "/*", "//", "#")), f"{path.name} does not say what lives there"


def test_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|farm|root)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("*")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_types_are_read_by_decoders_made_at_import() -> None:
    """Two threads that are the first to decode one type at the same moment crash msgspec 0.22."""
    pattern = re.compile(r"\.(decode|convert)\([^()]*(\([^()]*\)[^()]*)*\btype=")
    found = [path for path in tracked("edge/*.py", "edge/**/*.py") if pattern.search(path.read_text())]
    assert not found


@pytest.mark.parametrize(
    ("package", "place"), [("bcc", "edge/xdp/loader.py"), ("kubernetes", "edge/sources/api.py")]
)
def test_what_is_imported_in_one_place(package: str, place: str) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in tracked("edge/*.py", "edge/**/*.py")
        if re.search(rf"^\s*(from|import) {package}\b", path.read_text(), re.MULTILINE)
    }
    assert importers == {place}


def test_no_file_is_named_utils() -> None:
    banned = {"utils", "util", "helper", "helpers", "misc", "common"}
    assert not [path for path in CODE if path.stem in banned]


def test_changelog_begins_with_what_is_not_released() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[2] == "## Unreleased"
