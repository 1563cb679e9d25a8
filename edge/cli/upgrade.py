"""`edge upgrade`: replaces holder, controller and data plane of a running instance, one after the other.

Called by edge/cli/main.py. Asks the holder over its control socket and prints each step; the holder does
it, and leaves everything as it was where the new one does not become ready. Exit status 1 for that.
"""

from __future__ import annotations

import socket
import sys
import time

from edge.errors import HolderError
from edge.messages import Message, receive, send
from edge.options import GRACE_MAX_S, Options

ORDER = ("holder", "controller", "data")
NAMES = {"holder": "holder", "controller": "controller", "data": "data plane"}
CONNECT_S = 5.0  # a holder that has just taken over answers within that


def upgrade_instance(options: Options, executable: str = "") -> int:
    """Upgrade all three to an executable, this one's by default. Shape: the exit status.

    Errors: HolderError when the instance does not run.
    """
    for what in ORDER:
        if not _upgrade(options, what, executable or sys.executable):
            return 1
    return 0


def _upgrade(options: Options, what: str, executable: str) -> bool:
    """Ask for one upgrade, and print what is said about it. Shape: False when it was rolled back."""
    with _connect(options) as control:
        send(control, "upgrade", what=what, executable=executable)
        while True:
            message = _next(control)
            if message is None:
                print(f"{NAMES[what]}: failed: the holder went away", file=sys.stderr)
                return False
            words = message.fields
            if message.verb == "step":
                _show(what, words.get("state", ""), words.get("text", ""))
            elif message.verb == "done":
                return True
            elif message.verb in ("failed", "refused"):
                reason = words.get("reason", "no reason given")
                print(f"{NAMES[what]}: not upgraded, the old one goes on: {reason}", file=sys.stderr)
                return False


def _show(what: str, state: str, text: str) -> None:
    if state != "failed":  # that is said once, with what follows from it
        print(f"{NAMES[what]}: {state}{': ' if text else ''}{text}", flush=True)


def _next(control: socket.socket) -> Message | None:
    try:
        message = receive(control)
    except OSError:
        return None
    if message:
        message.close()
    return message


def _connect(options: Options) -> socket.socket:
    """Connect to the holder, also to one that is just taking over. Errors: HolderError."""
    path = options.instance_run_dir / "control.sock"
    deadline = time.monotonic() + CONNECT_S
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.settimeout(GRACE_MAX_S)  # an old data plane may have that long
    while True:
        try:
            control.connect(str(path))
            return control
        except FileNotFoundError as error:
            control.close()
            raise HolderError(f"instance {options.instance!r} is not running ({path})") from error
        except OSError as error:
            if time.monotonic() > deadline:
                control.close()
                raise HolderError(f"{path}: {error.strerror or error}") from error
            time.sleep(0.05)
