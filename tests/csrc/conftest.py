"""Makes pytest items of C test programs: each test_X.c is compiled, run, and its TAP lines judged.

The head comment of a program may say ``links: base/arena.c net/plain.c`` (files of csrc to compile
in) and ``marks: slow root`` (pytest marks). Programs are kept in build/ctests, built again when a
source or header that they include is newer; several pytest processes may run at once.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "build" / "ctests"
COMPILE = (
    "gcc -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    " -Wall -Wextra -Werror -Icsrc -Ibpf -Itests/csrc"
).split()
LIBRARIES = ["-lssl", "-lcrypto", "-lpcre2-8", "-l:liburing.a"]
SECONDS_MAX = 300


def head_words(source: Path, label: str) -> list[str]:
    """The words after a label in the head comment.

    Shape: they may go on over lines that begin with `` *  `` (two spaces).
    """
    head = source.read_text().partition("*/")[0]
    match = re.search(rf"{label}: ([^\n]*(?:\n \*  [^\n]*)*)", head)
    return match[1].replace("\n *", " ").split() if match else []


def stale(program: Path, depends: Path) -> bool:
    if not program.exists() or not depends.exists():
        return True
    built = program.stat().st_mtime
    files = depends.read_text().replace("\\\n", " ").split()
    names = {ROOT / name for name in files if not name.endswith(":")}
    return any(not path.exists() or path.stat().st_mtime > built for path in names)


def compile_test(source: Path, extra: tuple[str, ...] = ()) -> Path:
    """The program of a C test file, up to date.

    Errors: pytest.fail with the compiler's words.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    program = CACHE / source.relative_to(ROOT).with_suffix("").as_posix().replace("/", "-")
    files = [source, *(ROOT / "csrc" / name for name in head_words(source, "links"))]
    folder = program.with_name(program.name + ".parts")
    with program.with_name(program.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        objects = []
        for file in files:
            part = folder / (file.relative_to(ROOT).as_posix().replace("/", "-") + ".o")
            depends = part.with_suffix(".d")
            if stale(part, depends):
                names = ["-c", str(file.relative_to(ROOT)), "-o", str(part)]
                compiler([*COMPILE, *extra, "-MMD", "-MF", str(depends), *names])
            objects.append(part)
        built = program.stat().st_mtime if program.exists() else 0.0
        if any(part.stat().st_mtime > built for part in objects):
            fresh = program.with_suffix(".new")
            compiler([*COMPILE, *map(str, objects), "-o", str(fresh), *LIBRARIES])
            fresh.replace(program)
    return program


def compiler(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stderr}", pytrace=False)


class ProgramFailed(Exception):
    """Its text is what the program printed."""


class ProgramItem(pytest.Item):
    """One C test program."""

    def runtest(self) -> None:
        program = compile_test(self.path)
        environment = os.environ | {
            "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        done = subprocess.run(
            [str(program)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS_MAX,
        )
        lines = done.stdout.splitlines()
        passed = sum(line.startswith("ok ") for line in lines)
        failed = [
            "\n".join([line, *notes_after(lines, i)])
            for i, line in enumerate(lines)
            if line.startswith("not ok")
        ]
        plan = [line for line in lines if line.startswith("1..")]
        whole = not plan or plan[-1] == f"1..{passed + len(failed)}"
        if done.returncode or failed or not passed or not whole:
            words = [f"exit {done.returncode}, {passed} passed", *failed, done.stderr[-6000:]]
            raise ProgramFailed("\n".join(words if failed else [*words, *lines[-5:]]))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> str:  # type: ignore[override]
        if isinstance(excinfo.value, ProgramFailed):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.path.name


def notes_after(lines: list[str], index: int) -> Iterator[str]:
    for line in lines[index + 1 :]:
        if not line.startswith("#"):
            return
        yield line


class ProgramFile(pytest.File):
    """A C test file."""

    def collect(self) -> Iterator[pytest.Item]:
        item = ProgramItem.from_parent(self, name=self.path.stem)
        for mark in head_words(self.path, "marks"):
            item.add_marker(mark)
        yield item


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".c" and file_path.name.startswith("test_"):
        return ProgramFile.from_parent(parent, path=file_path)
    return None
