"""Members of an address, and addresses that cannot be had."""

import socket

import pytest

from edge.errors import HolderError
from edge.holder import sockets
from edge.holder.sockets import open_members, open_own, show, show_name


def test_members_share_one_port() -> None:
    members = open_members("127.0.0.1", 0, 3)
    ports = {member.getsockname()[1] for member in members}
    assert len(ports) == 1
    for member in members:
        member.close()


def test_who_waits_in_the_queue_is_answered_without_delay() -> None:
    (member,) = open_members("127.0.0.1", 0, 1)
    with member, socket.create_connection(member.getsockname()[:2]):
        waiting, _ = member.accept()  # before any data plane has seen the socket
        with waiting:
            assert waiting.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_of_another_process_is_refused_even_with_reuse() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(HolderError, match="in use"):
            open_members("127.0.0.1", port, 2)


def test_only_what_stays_open_ever_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects while sockets are opened must meet one that will serve it."""
    listened: list[socket.socket] = []

    class Watched(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            listened.append(self)
            super().listen(backlog)

    def make(_address: str) -> Watched:
        fresh = Watched()
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return fresh

    monkeypatch.setattr(sockets, "_tcp", make)
    members = open_members("127.0.0.1", 0, 2)
    assert listened == members
    for member in members:
        member.close()


def test_an_admin_address_that_is_taken_is_left_for_later(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = other.getsockname()
        with open_own(*place, "the admin API") as unbound:
            assert show_name(unbound.fileno()) == "" and unbound.getsockname()[1] == 0
    told = capfd.readouterr().err
    assert show(*place) in told and "without the admin API" in told
    with open_own(*place, "the admin API") as bound:
        assert show_name(bound.fileno()) == show(*place)
    with pytest.raises(HolderError, match="does not have"):
        open_own("198.51.100.7", 80, "the admin API")
