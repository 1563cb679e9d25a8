"""Adoption: what is believed of a dead holder's record, a controller's offer, a data plane that is alone."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.holder import adopt, record
from edge.holder.inheritance import Inheritance
from edge.holder.record import Process, Record, Served, cookie_of, pid_namespace, start_of
from edge.holder.sockets import open_control, open_members
from edge.holdings import HeldChild, Holdings, Stored
from edge.messages import Message, receive, send
from tests.edge.holder.fakes import more_than, open_descriptors


@pytest.fixture
def control(tmp_path: Path) -> Iterator[socket.socket]:
    made = open_control(tmp_path / "control.sock")
    yield made
    made.close()


@pytest.fixture
def children() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start processes of this Python that say a line when they are ready; they are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(text: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


SLEEPS = "import time; print('ready', flush=True); time.sleep(60)"
LISTENS = """
import os, socket, sys, time
members = []
for _ in range(3):
    member = socket.socket()
    member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    member.bind(("127.0.0.1", members[0].getsockname()[1] if members else 0))
    member.listen()
    members.append(member)
statistics, other = os.memfd_create("edge-stats"), os.memfd_create("edge-stats")
cookies = [int.from_bytes(one.getsockopt(socket.SOL_SOCKET, 57, 8), "little") for one in members]
found = os.fstat(statistics)
print(members[0].getsockname()[1], *cookies, found.st_dev, found.st_ino, flush=True)
time.sleep(60)
"""


def process_of(child: subprocess.Popen[bytes], part: str, lane_first: int = 0) -> Process:
    return Process(child.pid, start_of(child.pid), part, lane_first)


def leave(folder: Path, *processes: Process, **fields: object) -> None:
    """Write the record of a dead holder."""
    words = {"pidns": pid_namespace(), "holder": 1, "workers": 2, **fields}
    record.write(folder, Record(processes=list(processes), **words))  # type: ignore[arg-type]


def ended(pid: int) -> bool:
    watch = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    result = bool(poll.poll(5000))
    os.close(watch)
    return result


class Offer:
    """A controller that calls, as another thread; its pid is ours."""

    def __init__(self, folder: Path, talk: Callable[[socket.socket], None]) -> None:
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.settimeout(5)
        self._end.connect(str(folder / "control.sock"))
        self.answers: list[str] = []
        talk(self._end)  # all of it fits into the socket's buffer
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            answer = receive(self._end)
        except OSError:
            answer = None
        self.answers.append(answer.verb if answer else "")

    def finish(self) -> str:
        """Return the verb that answered it."""
        self._thread.join()
        self._end.close()
        return self.answers[0]


def holdings_with(*children: HeldChild) -> Holdings:
    holdings = Holdings(workers=2, statistics=os.memfd_create("s"), commit_page=os.memfd_create("c"))
    holdings.children = list(children)
    return holdings


def offering(holdings: Holdings) -> Callable[[socket.socket], None]:
    def talk(end: socket.socket) -> None:
        send(end, "adopt", protocol=1, pid=os.getpid(), executable="/py")
        holdings.tell(lambda verb, given, **words: send(end, verb, given, **words), holdings.children)
        send(end, "handed")

    return talk


def close(found: Inheritance) -> None:
    found.holdings.close()
    for orphan in found.orphans:
        orphan.close()
    for end, message in found.waiting:
        end.close()
        message.close()


def test_nothing_is_left_of_a_holder_that_ended_well(tmp_path: Path, control: socket.socket) -> None:
    assert adopt.find(tmp_path, control).how == "first"
    leave(tmp_path, Process(os.getpid(), start_of(os.getpid()) + 1, "controller"))  # another of that pid
    assert adopt.find(tmp_path, control).how == "first"
    leave(tmp_path, Process(os.getpid(), start_of(os.getpid()), "controller"), pidns=1)
    assert adopt.find(tmp_path, control).how == "first"
    for text in ("", "{}", "[]", '{"pidns": "x"}', json.dumps({"pidns": 1, "holder": 2, "workers": None})):
        (tmp_path / record.NAME).write_text(text)
        assert record.read(tmp_path) is None
        assert adopt.find(tmp_path, control).how == "first"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = Record(
        1, 2, 3, [4, 5], [Process(6, 7, "data", 8)], [Served(9, "::1", 10, [11, 12])], {"adoptions": 13}
    )
    record.write(tmp_path, made)
    assert record.read(tmp_path) == made
    assert (tmp_path / record.NAME).stat().st_mode & 0o777 == 0o600
    record.remove(tmp_path)
    assert record.read(tmp_path) is None
    record.remove(tmp_path)


def held(child: subprocess.Popen[bytes], **fields: object) -> HeldChild:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.close()
    return HeldChild("data", child.pid, one.detach(), os.pidfd_open(child.pid), **fields)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_offer_of_the_controller_is_taken(
    tmp_path: Path, control: socket.socket, children: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    before = open_descriptors()
    serves, starts, dead = (children(SLEEPS) for _ in range(3))
    pipes = 6
    dead.kill()
    assert ended(dead.pid)
    holdings = holdings_with(
        held(serves, ready=True, serving=4), held(starts, ready=True), held(dead, serving=4)
    )
    for version in (4, 5):
        holdings.store.stage(Stored(version, 1, (os.memfd_create("i"), os.memfd_create("k"))))
        holdings.store.commit(version)
    leave(tmp_path, Process(os.getpid(), start_of(os.getpid()), "controller"), process_of(serves, "data"))
    offer = Offer(tmp_path, offering(holdings))
    found = adopt.find(tmp_path, control)
    assert offer.finish() == "adopted"
    assert (found.how, found.holdings.workers) == ("adopted", 2)
    assert found.buried == [starts.pid, dead.pid] and ended(starts.pid)
    data, controller = found.holdings.children
    assert (data.pid, data.replay) == (serves.pid, (5,))  # it may not have been told of it
    assert (controller.part, controller.pid, controller.executable) == ("controller", os.getpid(), "/py")
    close(found)
    holdings.close()
    assert not more_than(before + pipes)


@pytest.mark.slow
def test_strangers_and_halves_are_not_adopted(
    tmp_path: Path,
    control: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    children: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    """Who is not the controller of the record is kept for later; a controller that never calls is killed."""
    monkeypatch.setattr(adopt, "ADOPT_PATIENCE_S", 0.2)
    silent = children(SLEEPS)
    leave(tmp_path, process_of(silent, "controller"))
    holdings = holdings_with()
    stranger = Offer(tmp_path, offering(holdings))
    began = time.monotonic()
    found = adopt.find(tmp_path, control)
    assert found.how == "first" and time.monotonic() - began >= 0.2
    assert ended(silent.pid) and silent.wait() == -signal.SIGKILL
    assert "has not called" in capfd.readouterr().err
    assert [message.verb for _end, message in found.waiting] == ["adopt"]
    close(found)
    assert stranger.finish() == ""
    leave(tmp_path, Process(os.getpid(), start_of(os.getpid()), "controller"))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_words: None)  # this one is ourselves
    half = Offer(tmp_path, lambda end: (send(end, "adopt"), send(end, "handed"))[0])
    found = adopt.find(tmp_path, control)
    assert found.how == "first" and half.finish() == ""
    holdings.close()


@pytest.mark.root
def test_sockets_of_a_data_plane_that_is_alone(
    tmp_path: Path, control: socket.socket, children: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    before = open_descriptors()
    alone = children("import sys; sys.stdout.write('.\\n')\n" + LISTENS)
    assert alone.stdout is not None
    port, *cookies, device, inode = map(int, alone.stdout.readline().split())
    served = [Served(0, "127.0.0.1", port, cookies[:2])]  # the third is not one that a holder had
    fields = {"statistics": [device, inode], "counts": {"adoptions": 4, "nonsense": 1}}
    leave(tmp_path, process_of(alone, "data", 2), listeners=served, **fields)
    found = adopt.find(tmp_path, control)
    assert found.how == "orphans"
    (listener,) = found.holdings.listeners.values()
    taken = [socket.socket(fileno=number) for number in listener.members]
    listener.members = []
    assert [cookie_of(one) for one in taken] == cookies[:2]
    for one in taken:
        one.close()
    assert os.fstat(found.holdings.statistics).st_ino == inode
    assert found.holdings.counts["adoptions"] == 4
    (orphan,) = found.orphans
    assert (orphan.pid, orphan.lane_first, orphan.serving) == (alone.pid, 2, 0)
    close(found)
    assert not more_than(before + 2)


@pytest.mark.root
def test_without_all_members_the_orphan_makes_room(
    tmp_path: Path, control: socket.socket, children: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    before = open_descriptors()
    alone = children("import sys; sys.stdout.write('.\\n')\n" + LISTENS)
    assert alone.stdout is not None
    port, *cookies, device, inode = map(int, alone.stdout.readline().split())
    served = [Served(0, "127.0.0.1", port, [cookies[0], 1])]
    leave(tmp_path, process_of(alone, "data"), listeners=served, statistics=[device, inode])
    found = adopt.find(tmp_path, control)
    assert found.how == "first" and alone.wait() == -signal.SIGTERM
    for member in open_members("127.0.0.1", port, 1):
        member.close()
    close(found)
    assert not more_than(before + 2)


def test_a_message_that_is_no_holding_is_closed(tmp_path: Path) -> None:
    number = os.memfd_create("x")
    adopt._take(Holdings(), Message("holding", {"what": "nothing"}, (number,)))
    with pytest.raises(OSError):
        os.fstat(number)
