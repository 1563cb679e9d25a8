"""Adoption: a holder that starts where another died goes on with its processes (design note 0005).

Called by holder/main.py, with the instance's lock taken and before privileges are dropped. The controller has
copies of all and offers them on the control socket; where it is dead too, a data plane's listening sockets
are taken out of it, and only those that the last holder wrote down. Blocks, as nothing else runs yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import time
from pathlib import Path

from edge import privileges
from edge.channel import peer_of
from edge.errors import HolderError
from edge.holder import record as records
from edge.holder import sockets
from edge.holder.control import may_ask
from edge.holder.inheritance import Inheritance
from edge.holder.log import say
from edge.holdings import HeldChild, Holdings, Listener
from edge.messages import Message, receive, send

ADOPT_PATIENCE_S = 5.0  # a controller calls every 50 ms
FREE_PATIENCE_S = 5.0


Waiting = list[tuple[socket.socket, Message]]  # who has asked something else meanwhile


def find(directory: Path, control: socket.socket) -> Inheritance:
    """Adopt what the last holder left, if anything lives. The control socket listens already."""
    waiting: Waiting = []
    record = records.read(directory)
    found = None
    if record is not None and record.pidns == records.pid_namespace():
        found = _find(record, control, waiting)
    found = found or Inheritance("first", Holdings())
    found.waiting = waiting
    return found


def _find(record: records.Record, control: socket.socket, waiting: Waiting) -> Inheritance | None:
    living = {process: pidfd for process in record.processes if (pidfd := _open(process)) >= 0}
    try:
        if any(process.part == "controller" for process in living):
            found = _from_controller(control, living, waiting)
            if found is not None:
                return found
        data = {process: pidfd for process, pidfd in living.items() if process.part == "data"}
        return _from_orphans(record, data) if data else None
    finally:
        for pidfd in living.values():
            os.close(pidfd)


def _open(process: records.Process) -> int:
    """Open a process that is still the one that was written down; -1 for none."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return -1
    if records.start_of(process.pid) == process.start:  # after the pidfd was opened: no race
        return pidfd
    os.close(pidfd)
    return -1


# ---- from the controller ---------------------------------------------------------------------


def _from_controller(
    control: socket.socket, living: dict[records.Process, int], waiting: Waiting
) -> Inheritance | None:
    """Wait for the controller's `adopt`. Shape: None when it does not come, and was killed."""
    process, pidfd = next(item for item in living.items() if item[0].part == "controller")
    deadline = time.monotonic() + ADOPT_PATIENCE_S
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poll.poll(left * 1000))
        if pidfd in ready:
            return None
        if not ready:
            continue
        try:
            end, _ = control.accept()
        except OSError:
            continue
        found = _hear_offer(end, process.pid, deadline, waiting)
        if found is not None:
            found.holdings.children.append(
                HeldChild("controller", process.pid, end.detach(), os.dup(pidfd), executable=found.how)
            )
            found.how = "adopted"
            return found
    say(f"controller {process.pid} has not called in {ADOPT_PATIENCE_S:.0f} s: it is replaced")
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return None


def _hear_offer(end: socket.socket, pid: int, deadline: float, waiting: Waiting) -> Inheritance | None:
    """Take an offer whole, or nothing of it. Shape: `how` is the controller's executable for now."""
    peer = peer_of(end)
    holdings = Holdings()
    found = Inheritance("", holdings)
    end.settimeout(max(deadline - time.monotonic(), 0.1))
    try:
        message = receive(end) if may_ask(peer) else None
        if message is None or peer.pid != pid or message.verb != "adopt":
            if message is None:
                end.close()
            else:
                waiting.append((end, message))
            return None
        found.how = message.fields.get("executable", "")
        while (message := receive(end)) is not None and message.verb == "holding":
            _take(holdings, message)
        if message is not None and message.verb == "handed" and found.is_whole:
            found.buried = _bury(holdings)
            send(end, "adopted")
            return found
    except OSError:
        pass
    end.close()
    holdings.close()
    return None


def _take(holdings: Holdings, message: Message) -> None:
    if not holdings.take(message):
        message.close()


def _bury(holdings: Holdings) -> list[int]:
    """Let go of data planes that are dead, or of which nobody knows what they were told.

    Shape: their pids.
    """
    buried = []
    for child in list(holdings.children):
        ended = select.poll()
        ended.register(child.pidfd, select.POLLIN)
        dead = bool(ended.poll(0))
        if not dead and child.serving == 0 and not child.leaving:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            dead = True
        if dead:
            holdings.children.remove(child)
            buried.append(child.pid)
            child.close()
            continue
        # What it was not told for sure is told again: a version is served once, however often it is sent.
        missing = [one.version for one in holdings.store.all() if one.version > child.serving]
        child.replay = tuple(missing)
    return buried


# ---- from a data plane that is alone -----------------------------------------------------------


def _from_orphans(record: records.Record, living: dict[records.Process, int]) -> Inheritance | None:
    """Take listening sockets and statistics out of data planes that nobody holds any more."""
    wanted = {
        cookie: (one.slot, index) for one in record.listeners for index, cookie in enumerate(one.cookies)
    }
    members: dict[tuple[int, int], int] = {}
    holdings = Holdings(workers=record.workers)
    for process, pidfd in living.items():
        try:
            _rob(process.pid, pidfd, wanted, members, holdings, record.statistics)
        except OSError as error:
            say(f"the sockets of data plane {process.pid} cannot be taken: {error.strerror}")
    for one in record.listeners:
        found = [members.pop((one.slot, index), -1) for index in range(len(one.cookies))]
        listener = Listener(one.slot, one.address, one.port, [number for number in found if number >= 0])
        if len(listener.members) == len(one.cookies):
            holdings.listeners[one.slot] = listener
        else:
            listener.close()
    if not holdings.listeners or holdings.statistics < 0:
        holdings.close()
        _make_room(record, living)
        return None
    holdings.counts.update({name: record.counts.get(name, 0) for name in holdings.counts})
    orphans = [_orphan(process, pidfd) for process, pidfd in living.items()]
    return Inheritance("orphans", holdings, orphans=orphans)


def _rob(
    pid: int,
    pidfd: int,
    wanted: dict[int, tuple[int, int]],
    members: dict[tuple[int, int], int],
    holdings: Holdings,
    statistics: list[int],
) -> None:
    """Take what was written down, and nothing else. Errors: OSError when we may not."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if not link.startswith(("socket:", "/memfd:edge-stats")):
                continue
            number = privileges.pidfd_getfd(pidfd, int(name))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EBADF):
                continue  # a connection that has just ended
            raise
        if link.startswith("socket:"):
            place = wanted.get(_listening_cookie(number), (-1, -1))
            if place[0] >= 0 and place not in members:
                members[place] = number
                continue
        else:
            memory = os.fstat(number)
            if [memory.st_dev, memory.st_ino] == statistics and holdings.statistics < 0:
                holdings.statistics = number
                continue
        os.close(number)


def _listening_cookie(descriptor: int) -> int:
    """Return the cookie of a TCP socket that listens, 0 for any other."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        listens = copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return records.cookie_of(copy) if listens else 0


def _orphan(process: records.Process, pidfd: int) -> HeldChild:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    theirs.close()  # nobody will ever speak there
    lanes = process.lane_first
    return HeldChild("data", process.pid, ours.detach(), os.dup(pidfd), lanes, ready=True, orphan=True)


def _make_room(record: records.Record, living: dict[records.Process, int]) -> None:
    """Have orphans drain, and wait until their addresses are free."""
    for pidfd in living.values():
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    deadline = time.monotonic() + FREE_PATIENCE_S
    waiting = [(one.address, one.port) for one in record.listeners]
    while waiting and time.monotonic() < deadline:
        try:
            for member in sockets.open_members(*waiting[0], 1):
                member.close()
            waiting.pop(0)
        except HolderError:
            time.sleep(0.05)
