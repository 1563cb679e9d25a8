"""Builds and runs a fuzz target: ``tests/fuzz/run.py TARGET SECONDS [libFuzzer options]``.

TARGET is the NAME of tests/fuzz/fuzz_NAME.c; the words ``sources: base/arena.c ...`` in its head
comment name the files of csrc that it needs. tests/fuzz/corpus/NAME is read, never written: new
inputs stay in build/fuzz/NAME, a crash in build/fuzz/NAME-*. SECONDS 0 only replays the corpus.
"""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "fuzz"
COMPILE = (
    "clang-14 -std=gnu11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
    " -Wall -Wextra -Werror -Icsrc -Ibpf"
).split()


def targets() -> list[str]:
    return sorted(p.stem.removeprefix("fuzz_") for p in HERE.glob("fuzz_*.c"))


def sources_of(source: Path) -> list[str]:
    """The words behind ``sources:`` up to the first that is no C file."""
    words = re.sub(r"\n \*", " ", source.read_text().partition("*/")[0]).partition("sources:")[2].split()
    names = []
    for word in words:
        if not word.endswith(".c"):
            break
        names.append(word)
    return names


def build(target: str) -> Path:
    """The program of a target, up to date with every source and header of csrc.

    Errors: CalledProcessError with the compiler's words on stderr.
    """
    source = HERE / f"fuzz_{target}.c"
    program = BUILD / f"fuzz_{target}"
    BUILD.mkdir(parents=True, exist_ok=True)
    newest = max(p.stat().st_mtime for p in [source, *(ROOT / "csrc").rglob("*.[ch]")])
    with (BUILD / f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists() or program.stat().st_mtime < newest:
            files = [str(source), *(str(ROOT / "csrc" / name) for name in sources_of(source))]
            subprocess.run([*COMPILE, *files, "-o", str(program)], cwd=ROOT, check=True)
    return program


def run(target: str, seconds: int, options: list[str]) -> int:
    """Fuzz for some seconds, or replay the corpus when they are 0; libFuzzer's exit status."""
    program = build(target)
    corpus = HERE / "corpus" / target
    if seconds == 0:
        command = [str(program), "-runs=0", str(corpus)]
    else:
        fresh = BUILD / target
        fresh.mkdir(exist_ok=True)
        limit = [f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/{target}-"]
        dictionary = HERE / f"{target}.dict"
        words = [f"-dict={dictionary}"] if dictionary.exists() else []
        command = [str(program), *limit, *words, *options, str(fresh), str(corpus)]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in targets():
        sys.exit(f"usage: run.py TARGET SECONDS [options]; targets: {' '.join(targets())}")
    sys.exit(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
