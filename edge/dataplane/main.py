"""The data plane's process: reads `setup`, then hands the process to C for good.

Started by the holder as ``python -m edge.dataplane`` with one descriptor (EDGE_CONTROL_FD).
Python runs nothing after the call but the exit; it never sees a request.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from edge import messages
from edge.errors import EdgeError

LOOPS = {"auto": 0, "uring": 1, "epoll": 2}


def name_process(name: str) -> None:
    """Set the process's name as ps and top show it."""
    Path("/proc/self/comm").write_text(name)


def read_setup(control: socket.socket) -> messages.Message:
    """Wait for the first message. Errors: EdgeError when it is not `setup` or lacks descriptors."""
    message = messages.receive(control)
    if message is None:
        raise EdgeError("the holder closed the control socket before saying setup")
    expected = 3 if message.number("log") else 2
    if message.verb != "setup" or len(message.descriptors) != expected:
        raise EdgeError(f"expected setup with {expected} descriptors, got {message.verb!r}")
    return message


def serve(control: socket.socket) -> None:
    """Run the data plane until it has drained. Errors: EdgeError with the reason in C's words."""
    from edge.dataplane.limits import memory_limit
    from edge.dataplane.stats import ensure_formatted
    from edge.native import _edge

    message = read_setup(control)
    # Two data planes can live at once, so there are lanes for two.
    ensure_formatted(message.descriptors[0], 2 * message.number("workers", 1))
    ffi, lib = _edge.ffi, _edge.lib
    config = ffi.new("struct edge_data_config *")
    config.control_fd = control.fileno()
    config.stats_fd, config.commit_fd = message.descriptors[:2]
    config.log_fd = message.descriptors[2] if message.number("log") else -1
    config.log_format = message.number("log_format")
    config.loop = LOOPS.get(message.fields.get("loop", "auto"), 0)
    config.workers = message.number("workers", 1)
    config.lane_first = message.number("lane_first")
    config.uid = message.number("uid")
    config.gid = message.number("gid")
    config.grace_ms = message.number("grace_ms", 30_000)
    config.memory_mb = memory_limit() >> 20
    error = ffi.new("struct edge_error *")
    result = lib.edge_data_run(config, error)
    if result < 0:
        reason = ffi.string(error.reason).decode("utf-8", "replace")
        raise EdgeError(f"data plane: {reason or ffi.string(lib.edge_strerror(result)).decode()}")


def main() -> int:
    """Exit status: 0 after a drain, 1 with one line on standard error."""
    name_process("edge-data")
    control = socket.socket(fileno=int(os.environ.pop("EDGE_CONTROL_FD")))
    try:
        serve(control)
    except EdgeError as error:
        print(f"edge-data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
