"""The successor's side: what is no hand-over, and when it has everything."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.errors import HolderError
from edge.holder import take_over
from edge.holder.inheritance import Inheritance
from edge.holdings import Holdings
from edge.messages import receive, send
from tests.edge.holder.fakes import more_than, open_descriptors

Talk = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert not more_than(before)


@contextmanager
def holder(folder: Path, talk: Talk) -> Iterator[Path]:
    """Be the old holder in a thread; our pid is its pid, and it lives."""
    path = folder / "control.sock"
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(path))
    listening.listen()

    def run() -> None:
        end, _ = listening.accept()
        with end:
            message = receive(end)
            assert message is not None and message.verb == "take-over"
            talk(end)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield path
    finally:
        thread.join()
        listening.close()


def give_all(end: socket.socket, *, lock: bool = True) -> None:
    holdings = Holdings(workers=2, statistics=os.memfd_create("s"), commit_page=os.memfd_create("c"))
    holdings.tell(lambda verb, given, **words: send(end, verb, given, **words), [])
    if lock:
        with socket.socket() as control:
            send(end, "holding", (holdings.statistics, control.fileno()), what="instance")
    send(end, "handed", children="come")
    holdings.close()


def close(found: Inheritance) -> None:
    take_over.discard(found)
    if found.predecessor:
        found.predecessor.close()


def test_all_of_it_is_ours_after_left(tmp_path: Path) -> None:
    def talk(end: socket.socket) -> None:
        give_all(end)
        message = receive(end)
        assert message is not None and message.verb == "taken"
        send(end, "left")
        assert end.recv(1) == b""  # the line stays: its end would be our death

    with holder(tmp_path, talk) as path:
        found = take_over.ask(path, lambda _found: None)
        assert found is not None and found.how == "handed" and found.holdings.workers == 2
        close(found)


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (lambda end: send(end, "refused", reason="it drains"), "refuses: it drains"),
        (lambda end: None, "broke off"),
        (lambda end: send(end, "handed"), "did not give all"),
        (lambda end: give_all(end, lock=False), "did not give all"),
        (lambda end: (give_all(end), receive(end), send(end, "kept"))[0], "gave up handing over"),
        (lambda end: (give_all(end), receive(end))[0], "gave up handing over"),
    ],
)
def test_until_then_nothing_is(
    tmp_path: Path, talk: Talk, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_over, "DEATH_S", 0.01)
    with holder(tmp_path, talk) as path, pytest.raises(HolderError, match=reason):
        take_over.ask(path, lambda _found: None)


def test_what_we_cannot_do_is_found_before_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(take_over, "DEATH_S", 0.01)
    heard: list[object] = []

    def cannot(_found: Inheritance) -> None:
        raise HolderError("--access-log: cannot open it")

    def talk(end: socket.socket) -> None:
        give_all(end)
        heard.append(receive(end))

    with holder(tmp_path, talk) as path, pytest.raises(HolderError, match="--access-log"):
        take_over.ask(path, cannot)
    assert heard == [None]


def test_a_silent_holder_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_over, "PATIENCE_S", 0.05)
    monkeypatch.setattr(take_over, "DEATH_S", 0.01)
    over = threading.Event()
    with holder(tmp_path, lambda _end: over.wait(10) and None) as path:
        with pytest.raises(HolderError, match="does not answer"):
            take_over.ask(path, lambda _found: None)
        over.set()


DIES = """
import os, socket, sys
sys.path.insert(0, os.getcwd())
from tests.edge.holder.test_take_over import give_all
from edge.messages import receive
listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listening.bind(sys.argv[1])
listening.listen()
print("ready", flush=True)
end, _ = listening.accept()
receive(end)
if sys.argv[2] == "taken":
    give_all(end)
    receive(end)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["asked", "taken"])
def test_a_holder_that_dies_under_us(tmp_path: Path, after: str) -> None:
    """Before `taken` there is nothing to go on with; after it we have all, and nobody else has."""
    path = tmp_path / "control.sock"
    root = Path(__file__).parent.parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(path), after], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        found = take_over.ask(path, lambda _found: None)
        process.wait()
    if after == "asked":
        assert found is None
    else:
        assert found is not None and found.is_whole
        close(found)


def test_nobody_is_there(tmp_path: Path) -> None:
    assert take_over.ask(tmp_path / "control.sock", lambda _found: None) is None
