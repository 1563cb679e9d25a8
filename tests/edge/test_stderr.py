"""Lines for an operator: a pipe that nobody reads costs lines, not a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

CODE = """
import os, sys
from edge import stderr
for number in range(int(sys.argv[1])):
    stderr.say("edge-test", f"line {number} " + "x" * 1000)
sys.stdout.write("done")
sys.stdout.flush()
sys.stdin.read(1)
stderr.say("edge-test", "after")
"""


def run(end: int, count: int) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", CODE, str(count)], stdin=pipe, stdout=pipe, stderr=end)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_sleeps_costs_lines_and_is_told_so(kind: str) -> None:
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (one.detach() for one in socket.socketpair())
    with run(writer, 2000) as process:
        os.close(writer)
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.read(4) == b"done", "it waited for its reader"
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            while True:
                assert os.read(reader, 1 << 16)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(10) == 0
        os.set_blocking(reader, True)
        rest = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert rest.endswith("edge-test: after\n") and " lines were lost" in rest, rest


def test_a_reader_that_is_gone_costs_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with run(writer, 3) as process:
        os.close(writer)
        assert process.communicate(b"\n")[0] == b"done" and process.returncode == 0


def test_the_pipe_that_is_shared_stays_blocking() -> None:
    reader, writer = os.pipe()
    with run(writer, 1) as process:
        process.communicate(b"\n")
    assert os.get_blocking(writer)
    os.close(reader)
    os.close(writer)
