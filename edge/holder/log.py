"""The holder's own lines on stderr, and the access log's descriptor.

Called by holder/main.py. The access log is opened here because the data plane may open nothing; its
lines are written there. Never writes an access log line.
"""

from __future__ import annotations

import os

from edge import stderr
from edge.errors import HolderError


def say(text: str) -> None:
    """Write one line for an operator who must act."""
    stderr.say("edge-holder", text)


def open_access_log(where: str) -> int:
    """Open a path for appending, '-' for stdout, 'off' for none: -1.

    Errors: HolderError that names the path.
    """
    if where == "off":
        return -1
    try:
        if where == "-":
            pipe = stderr.reopen_pipe(1)
            return pipe if pipe >= 0 else os.dup(1)
        # Not blocking: a FIFO without a reader is an error now, not a holder that hangs.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(where, flags, 0o640)
    except OSError as error:
        raise HolderError(f"--access-log: cannot open {where}: {error.strerror}") from error
