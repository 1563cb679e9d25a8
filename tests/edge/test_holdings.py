"""Holdings told in messages are the same holdings, with descriptors of their own."""

from __future__ import annotations

import os
import socket

from edge.holdings import COUNTS, IMAGE_FULL, IMAGE_PATCH, Event, HeldChild, Holdings, Listener, Stored
from edge.messages import DESCRIPTORS_MAX, Message, decode, receive, send
from tests.edge.holder.fakes import more_than, open_descriptors

MEMBERS = 300  # more than one message takes


def memory(name: str) -> int:
    return os.memfd_create(name)


def full() -> Holdings:
    holdings = Holdings(workers=2, statistics=memory("s"), admin=memory("a"), commit_page=memory("c"))
    holdings.heartbeat, holdings.webhook = memory("h"), memory("w")
    holdings.listeners[3] = Listener(3, "::1", 443, [memory(f"m{number}") for number in range(MEMBERS)])
    store = holdings.store
    for version, kind, fresh in ((5, IMAGE_FULL, True), (6, IMAGE_PATCH, True), (7, IMAGE_PATCH, False)):
        store.stage(Stored(version, kind, tuple(memory("i") for _ in range(3 - kind)), deaths=version - 5))
        if fresh:
            store.commit(version)
    store.keep_slots(memory("slots"))
    holdings.counts["handovers"] = 9
    holdings.events.append(Event(77, "adoption", "one = two"))
    holdings.options = {"EDGE_CONFIG": "a b", "EDGE_HTTP": "127.0.0.1:80,[::1]:80"}
    return holdings


def pass_on(holdings: Holdings, children: list[HeldChild]) -> Holdings:
    """Tell it over a socket pair, one message after the other."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    result = Holdings()

    def tell(verb: str, descriptors: tuple[int, ...], **fields: object) -> None:
        send(one, verb, descriptors, **fields)
        message = receive(other)
        assert message is not None and result.take(message)

    with one, other:
        holdings.tell(tell, children)
    return result


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def test_told_and_taken_they_are_the_same() -> None:
    before = open_descriptors()
    holdings = full()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    child = HeldChild(
        "data", 17, ours.detach(), os.dup(holdings.admin), 2, "epoll", True, 6, False, "/py", (7,)
    )
    holdings.children = [child]
    copy = pass_on(holdings, holdings.children)
    assert (copy.workers, copy.log, copy.counts, copy.options) == (2, -1, holdings.counts, holdings.options)
    assert list(copy.events) == list(holdings.events)
    for name in ("statistics", "admin", "webhook", "commit_page", "heartbeat"):
        assert inode(getattr(copy, name)) == inode(getattr(holdings, name))
    assert [(one.version, one.kind, one.deaths) for one in copy.store.all()] == [
        (5, 1, 0),
        (6, 2, 1),
        (7, 2, 2),
    ]
    assert copy.store.committed == 6 and copy.store.staged and copy.store.staged.version == 7
    assert copy.store.slots is not None and holdings.store.slots is not None
    assert inode(copy.store.slots) == inode(holdings.store.slots)
    listener = copy.listeners[3]
    assert (listener.address, listener.port) == ("::1", 443)
    assert MEMBERS > DESCRIPTORS_MAX
    assert list(map(inode, listener.members)) == list(map(inode, holdings.listeners[3].members))
    (taken,) = copy.children
    assert (taken.part, taken.pid, taken.lane_first, taken.loop) == ("data", 17, 2, "epoll")
    assert (taken.ready, taken.serving, taken.leaving) == (True, 6, False)
    assert (taken.executable, taken.replay) == ("/py", (7,))
    copy.close()
    holdings.close()
    assert not more_than(before)


def test_what_makes_no_sense_is_not_taken() -> None:
    holdings = Holdings()
    for text in (
        "",
        "what=base",
        "what=descriptor name=workers",
        "what=descriptor name=admin",
        "what=nothing",
    ):
        number = memory("x")
        descriptors = (number,) if text != "what=descriptor name=admin" else (number, number)
        message = Message("holding", decode(f"holding {text}".encode()).fields, descriptors)
        assert not holdings.take(message), text
        os.close(number)
    assert holdings == Holdings()


def test_a_child_is_named_once_and_forgotten() -> None:
    before = open_descriptors()
    holdings = Holdings()
    for leaving in (0, 1):
        words = {"what": "child", "part": "data", "pid": "5", "leaving": str(leaving)}
        assert holdings.take(Message("holding", words, (memory("c"), memory("p"))))
    assert [child.leaving for child in holdings.children] == [True]
    holdings.drop_child(4)
    holdings.drop_child(5)
    assert not holdings.children and not more_than(before)
    assert set(holdings.counts) == set(COUNTS)
