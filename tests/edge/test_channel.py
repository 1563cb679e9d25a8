"""The end that never blocks: order, waiting, a peer that is gone."""

import os
import socket

import pytest

from edge.channel import WAITING_MAX, Channel
from edge.messages import receive, send


def pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(one), Channel(other)


def test_what_the_peer_does_not_read_waits_in_order_with_its_descriptors() -> None:
    one, other = pair()
    null = os.open("/dev/null", os.O_RDONLY)
    sent = 0
    while not one.waiting or sent < 20:
        one.send("image", (null,), version=sent)
        sent += 1
    os.close(null)  # those that wait are duplicates
    got = []
    while len(got) < sent:
        try:
            message = other.receive()
        except BlockingIOError:
            one.flush()
            continue
        assert message is not None and len(message.descriptors) == 1
        os.fstat(message.descriptors[0])
        message.close()
        got.append(message.number("version"))
    assert got == list(range(sent))
    one.close()
    other.close()


def test_a_peer_that_stopped_reading_is_given_up() -> None:
    one, other = pair()
    with pytest.raises(BrokenPipeError):
        for _ in range(WAITING_MAX * 4):
            one.send("commit", version=1)
    one.close()
    other.close()


def test_a_peer_that_is_gone_is_seen_by_reading() -> None:
    one, other = pair()
    other.close()
    one.send("commit", version=1)
    assert one.receive() is None
    one.close()
    one.close()


def test_what_is_received_is_not_inherited() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, open(os.devnull) as first, open(os.devnull) as second:
        send(ours, "image", [first.fileno(), second.fileno()])
        message = receive(theirs)
        assert message is not None and len(message.descriptors) == 2
        try:
            assert not any(os.get_inheritable(number) for number in message.descriptors)
        finally:
            message.close()
