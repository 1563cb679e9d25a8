"""Lines for an operator that never wait for a reader.

Used by the holder and the controller, whose standard error is often a pipe of a container runtime: one that
nobody empties must cost lines, not a process. Lines that were lost are counted in the next that is not.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat

_lost = 0
_pipe = (
    -1
)  # our own description of the pipe, which does not block; the one that we inherited is not ours alone


def say(who: str, text: str) -> None:
    """Write one line, or lose it."""
    global _lost
    before = f"{who}: {_lost} lines were lost, nobody read them\n" if _lost else ""
    if _write(f"{before}{who}: {text}\n".encode("utf-8", "backslashreplace")):
        _lost = 0
    else:
        _lost += 1


def reopen_pipe(number: int) -> int:
    """Open the pipe behind a descriptor again, not blocking; -1 where there is no pipe, or it may not be."""
    with contextlib.suppress(OSError):
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return -1


def _write(data: bytes) -> bool:
    global _pipe
    try:
        mode = os.fstat(2).st_mode
        if stat.S_ISSOCK(mode):
            with socket.socket(fileno=os.dup(2)) as end:
                end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return True
        if stat.S_ISFIFO(mode):
            if _pipe < 0:
                _pipe = reopen_pipe(2)
            if _pipe >= 0:
                os.write(_pipe, data)
                return True
            ready = select.poll()
            ready.register(2, select.POLLOUT)
            if not ready.poll(0):
                return False
        os.write(2, data)
    except OSError:
        return False
    return True
