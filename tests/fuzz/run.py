"""Builds and runs a fuzz target: ``tests/fuzz/run.py TARGET SECONDS [libFuzzer options]``.

TARGET is the NAME of tests/fuzz/fuzz_NAME.c; the words ``sources: base/arena.c ...`` in its head
comment name the files of csrc that it needs. tests/fuzz/corpus/NAME is read, never written: new
inputs stay in build/fuzz/NAME, a crash in build/fuzz/NAME-*. SECONDS 0 only replays the corpus, with
gcc and replay.c; the search needs clang 14 with its runtime (Debian: clang-14 libclang-rt-14-dev).
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
FLAGS = "-std=gnu11 -g -O1 -fno-sanitize-recover=all -Wall -Wextra -Werror -Icsrc -Ibpf".split()
SEARCH = ["clang-14", "-fsanitize=fuzzer,address,undefined"]
LIBRARIES = ["-lpcre2-8", "-pthread"]
REPLAY = ["gcc", "-fsanitize=address,undefined", str(HERE / "replay.c")]


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


def build(target: str, compiler: list[str]) -> Path:
    """The program of a target, up to date with every source and header of csrc.

    Errors: CalledProcessError with the compiler's words on stderr.
    """
    source = HERE / f"fuzz_{target}.c"
    program = BUILD / f"{'replay' if compiler is REPLAY else 'fuzz'}_{target}"
    BUILD.mkdir(parents=True, exist_ok=True)
    newest = max(p.stat().st_mtime for p in [source, *HERE.glob("*.c"), *(ROOT / "csrc").rglob("*.[ch]")])
    with (BUILD / f"{target}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists() or program.stat().st_mtime < newest:
            files = [str(source), *(str(ROOT / "csrc" / name) for name in sources_of(source))]
            command = [compiler[0], *FLAGS, *compiler[1:], *files, "-o", str(program), *LIBRARIES]
            subprocess.run(command, cwd=ROOT, check=True)
    return program


def replay(target: str) -> subprocess.CompletedProcess[str]:
    """Every input of the committed corpus once, under the sanitizers."""
    corpus = sorted((HERE / "corpus" / target).iterdir())
    command = [str(build(target, REPLAY)), *map(str, corpus)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)


def search(target: str, seconds: int, options: list[str]) -> int:
    """Fuzz for some seconds; libFuzzer's exit status."""
    fresh = BUILD / target
    program = build(target, SEARCH)
    fresh.mkdir(exist_ok=True)
    limit = [f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/{target}-"]
    dictionary = HERE / f"{target}.dict"
    words = [f"-dict={dictionary}"] if dictionary.exists() else []
    command = [str(program), *limit, *words, *options, str(fresh), str(HERE / "corpus" / target)]
    return subprocess.run(command, cwd=ROOT).returncode


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in targets():
        sys.exit(f"usage: run.py TARGET SECONDS [options]; targets: {' '.join(targets())}")
    target, seconds = arguments[0], int(arguments[1])
    if seconds:
        return search(target, seconds, arguments[2:])
    done = replay(target)
    print(done.stdout + done.stderr, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
