"""Rules of the C tree that reading the includes can check: layers, headers that stand alone."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)

# worker > proxy > (policy | upstream | match) > http > net > base; snapshot is below the middle.
BELOW = {
    "include": set(),
    "base": {"include"},
    "net": {"base", "include"},
    "http": {"net", "base", "include"},
    "snapshot": {"base", "include"},
    "match": {"http", "snapshot", "base", "include"},
    "upstream": {"http", "net", "snapshot", "base", "include"},
    "policy": {"http", "net", "snapshot", "base", "include"},
    "proxy": {"policy", "upstream", "match", "http", "net", "snapshot", "base", "include"},
    "worker": {"proxy", "policy", "upstream", "match", "http", "net", "snapshot", "base", "include"},
}
# The kernel's layouts may be read wherever a packet map is touched.
SHARED = {"edge_abi.h"}


def includes(path: Path) -> list[str]:
    return [name for name in INCLUDE.findall(path.read_text()) if name not in SHARED]


def test_a_file_includes_only_what_stands_below_it() -> None:
    wrong = []
    for path in sorted(CSRC.rglob("*.[ch]")):
        area = path.relative_to(CSRC).parts[0]
        for name in includes(path):
            target = name.split("/")[0]
            if target != area and target not in BELOW[area]:
                wrong.append(f"{path.relative_to(ROOT)} includes {name}")
    assert not wrong, "\n".join(wrong)


def test_an_include_names_its_folder() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in sorted(CSRC.rglob("*.[ch]"))
        for name in includes(path)
        if not (CSRC / name).is_file()
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_header_compiles_alone() -> None:
    def compiled(header: Path) -> str:
        command = "gcc -std=gnu11 -Wall -Wextra -Werror -Icsrc -Ibpf -fsyntax-only -x c".split()
        done = subprocess.run([*command, str(header)], cwd=ROOT, capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    headers = [*sorted(CSRC.rglob("*.h")), ROOT / "bpf" / "edge_abi.h"]
    with ThreadPoolExecutor(2) as pool:
        words = [text for text in pool.map(compiled, headers) if text]
    assert not words, "\n".join(words)
