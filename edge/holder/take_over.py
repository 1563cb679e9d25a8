"""The successor's side of a take-over: asks the living holder for all that it holds (design note 0005).

Called by holder/main.py before there is a loop. Until `taken` nothing is lost: whoever goes away before that,
the old holder goes on. After it, `left` says that the old one has let go; without that word we have nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

from edge.channel import Channel, peer_of
from edge.errors import HolderError
from edge.holder import record as records
from edge.holder.control import may_ask
from edge.holder.inheritance import Inheritance
from edge.holdings import Holdings
from edge.messages import Message, receive, send

PROTOCOL = 1
DEATH_S = 0.2  # between the end of a dying holder's sockets and its own
PATIENCE_S = 15.0  # the old one gives a child 5 s to read, and a controller 2 s to end


def ask(path: Path, prepare: Callable[[Inheritance], None]) -> Inheritance | None:
    """Take over from the holder behind a control socket; None when it died before it let go of anything.

    ``prepare`` does what may fail, while the old one can still go on.
    Errors: HolderError when it refuses, or gave up, or we cannot: it goes on.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    end.settimeout(PATIENCE_S)
    try:
        end.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        end.close()
        return None
    except OSError as error:
        end.close()
        raise HolderError(f"--take-over: {path}: {error.strerror or error}") from error
    peer = peer_of(end)
    if not may_ask(peer):
        end.close()
        raise HolderError(f"--take-over: a process of user {peer.uid} listens on {path}")
    found = Inheritance("handed", Holdings())
    pidfd = -1
    try:
        if peer.pid:
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(peer.pid)
        send(end, "take-over", protocol=PROTOCOL, pidns=records.pid_namespace())
        _receive_all(end, found)
        prepare(found)
        send(end, "taken")
        if not _has_left(end, pidfd):
            raise HolderError("--take-over: the running holder gave up handing over, and goes on")
    except (HolderError, OSError) as error:
        discard(found)
        end.close()
        if _is_dead(pidfd, DEATH_S):
            return None
        if isinstance(error, OSError):
            raise HolderError(f"--take-over: the running holder does not answer: {error}") from error
        raise
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    found.predecessor = Channel(end)  # kept open: its end would tell the old one that we have died
    return found


def discard(found: Inheritance) -> None:
    """Let go of everything."""
    found.holdings.close()
    if found.lock >= 0:
        os.close(found.lock)
        found.lock = -1
    if found.control is not None:
        found.control.close()


def _receive_all(end: socket.socket, found: Inheritance) -> None:
    """Take everything up to `handed`. Errors: HolderError, OSError."""
    while True:
        message = receive(end)
        if message is None:
            raise HolderError("--take-over: the running holder broke off; it goes on, or has died")
        if message.verb == "handed":
            break
        if message.verb != "holding":
            message.close()
            reason = message.fields.get("reason", f"it said {message.verb[:32]}")
            raise HolderError(f"--take-over: the running holder refuses: {reason}")
        if not _take(found, message):
            message.close()
    if message.fields.get("children") == "stay":
        found.how = "apart"
    if not found.is_whole or found.lock < 0 or found.control is None:
        raise HolderError("--take-over: the running holder did not give all that is needed; it goes on")


def _take(found: Inheritance, message: Message) -> bool:
    if message.fields.get("what") == "instance" and len(message.descriptors) == 2:
        found.lock = message.descriptors[0]
        found.control = socket.socket(fileno=message.descriptors[1])
        return True
    return found.holdings.take(message)


def _has_left(end: socket.socket, pidfd: int) -> bool:
    """Wait for `left`; where the line is broken, see whether the old one lives."""
    with contextlib.suppress(OSError):
        message = receive(end)
        if message is not None:
            message.close()
            return message.verb == "left"
    return _is_dead(pidfd, DEATH_S)


def _is_dead(pidfd: int, seconds: float) -> bool:
    """Say whether the old holder is dead, or is so within some seconds; no where we cannot see it."""
    if pidfd < 0:
        return False
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(seconds * 1000))
