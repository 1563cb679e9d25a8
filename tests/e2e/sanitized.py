"""The data plane's process over the sanitized library, and what its sanitizers said.

Plane starts it as ``python -m tests.e2e.sanitized LIBRARY`` with the sanitizers' runtime preloaded.
The sandbox stays as it is: it lets no program start, so reports are given names here, afterwards.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

REPORT = re.compile(r"AddressSanitizer|runtime error:|UndefinedBehaviorSanitizer")
FRAME = re.compile(r"\((?P<file>/[^()]*_edge\.so)\+(?P<offset>0x[0-9a-f]+)\)")
OPTIONS = "detect_leaks=0:detect_stack_use_after_return=1:strict_string_checks=1"
"""Leaks are told by tests of memory: finding them takes ptrace, which the sandbox refuses."""


def environment() -> dict[str, str]:
    """What the process needs around it."""
    command = ["gcc", "-print-file-name=libasan.so"]
    runtime = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "LD_PRELOAD": str(Path(runtime).resolve()),
        "ASAN_OPTIONS": OPTIONS,
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def report(text: str) -> str:
    """The report in what a process wrote, with function names; empty when there is none."""
    if not REPORT.search(text):
        return ""

    def named(match: re.Match[str]) -> str:
        command = ["addr2line", "-fsie", match["file"], match["offset"]]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.replace("\n", " ")

    return FRAME.sub(named, text)


def main() -> int:
    """Put the sanitized library where the package looks, then be the data plane."""
    name = "edge.native._edge"
    spec = importlib.util.spec_from_file_location(name, sys.argv[1])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    from edge.dataplane.main import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
