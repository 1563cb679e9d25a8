"""Holds one thread of a process by ptrace until the process is killed or standard input closes.

`python -m tests.e2e.survival.hold PID THREAD-NAME` waits for a line, holds the thread and prints `held`. Used
by faults_inside.py: no signal can stop one thread alone. It waits for the thread's end, as a tracer must,
or the killed process would never be gone.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def order(request: int, thread: int) -> None:
    """Do one ptrace request. Errors: OSError."""
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def main() -> int:
    """Hold it."""
    pid, name = int(sys.argv[1]), sys.argv[2]
    tasks = Path(f"/proc/{pid}/task").iterdir()
    thread = next(int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)
    sys.stdin.buffer.raw.read(1)  # type: ignore[attr-defined]
    order(SEIZE, thread)
    order(INTERRUPT, thread)
    os.waitpid(thread, WALL)
    print("held", flush=True)
    while not select.select([0], [], [], 0.02)[0]:
        try:
            done, status = os.waitpid(thread, WALL | os.WNOHANG)
        except ChildProcessError:
            return 0
        if done and not os.WIFSTOPPED(status):
            return 0
    order(DETACH, thread)
    return 0


if __name__ == "__main__":
    sys.exit(main())
