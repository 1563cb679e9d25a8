"""Names that are resolved: time to live, last good addresses, what is told, and DNS itself on loopback."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from edge.controller.names import Answer, Dns, NameFollower, UnresolvedError
from edge.model.types import Address
from edge.resources.store import ResourceEvent

OWN: list[Address] = [ip_address("198.18.0.9")]


class Script:
    """Answers in turn; the last one again and again."""

    def __init__(self, *answers: Answer | str) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Answer:
        self.asked.append(name)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise UnresolvedError(answer)
        return answer


def brief(events: list[ResourceEvent]) -> list[tuple[str, object]]:
    return [(event.name, event.raw) for event in events]


def follower(script: Script) -> NameFollower:
    return NameFollower(script, lambda: OWN, ttl_min_s=0.0, retry_min_s=0.0)


def test_what_is_told() -> None:
    async def story() -> None:
        script = Script(
            Answer(("198.18.0.2", "198.18.0.1", "fd00:198::1"), 0),
            Answer(("198.18.0.1", "198.18.0.2", "fd00:198::1"), 0),
            "there is no such name",
            Answer(("198.18.0.9",), 0),
        )
        names = follower(script)
        assert await names.turn() == [] and not names.any
        names.want(["a.test"])
        all_three = ["198.18.0.1", "198.18.0.2", "fd00:198::1"]
        assert brief(await names.turn()) == [("a.test", {"addresses": all_three})]
        assert await names.turn() == [], "another order is no change"
        assert brief(await names.turn()) == [
            ("a.test", {"addresses": all_three, "error": "there is no such name"})
        ]
        assert brief(await names.turn()) == [("a.test", {"addresses": ["198.18.0.9"], "own": ["198.18.0.9"]})]
        names.want([])
        assert brief(await names.turn()) == [("a.test", None)]
        assert await names.turn() == [] and len(script.asked) == 4

    asyncio.run(story())


def test_time_to_live_is_kept() -> None:
    async def story() -> None:
        script = Script(Answer(("198.18.0.1",), 3600))
        names = follower(script)
        names.want(["a.test"])
        await names.turn()
        assert await names.turn() == [] and script.asked == ["a.test"]
        names.want(["a.test", "b.test"])
        assert [name for name, _ in brief(await names.turn())] == ["b.test"]
        assert script.asked == ["a.test", "b.test"]

    asyncio.run(story())


def test_a_literal_address_is_not_asked_for() -> None:
    async def story() -> None:
        script = Script("never")
        names = follower(script)
        names.want(["198.18.0.9"])
        assert brief(await names.turn()) == [
            ("198.18.0.9", {"addresses": ["198.18.0.9"], "own": ["198.18.0.9"]})
        ]
        assert script.asked == []

    asyncio.run(story())


def test_the_last_good_addresses_outlive_a_controller() -> None:
    async def story() -> None:
        first = follower(Script(Answer(("198.18.0.1",), 0)))
        first.want(["a.test"])
        await first.turn()
        second = follower(Script("no answer"))
        second.recall(first.to_json())
        second.want(["a.test"])
        assert brief(await second.turn()) == [("a.test", {"addresses": ["198.18.0.1"], "error": "no answer"})]
        for nonsense in (None, b"", b"[", b"[1]", b'{"a": ["x"]}', b'{"a": 1}'):
            third = follower(Script("no answer"))
            third.recall(nonsense)
            third.want(["a.test"])
            assert brief(await third.turn()) == [("a.test", {"addresses": [], "error": "no answer"})]

    asyncio.run(story())


def test_following_tells_until_it_is_ended() -> None:
    async def story() -> None:
        names = follower(Script(Answer(("198.18.0.1",), 0), Answer(("198.18.0.2",), 3600)))
        told: asyncio.Queue[list[ResourceEvent]] = asyncio.Queue()
        task = asyncio.create_task(names.follow(told.put))
        names.want(["a.test"])
        async with asyncio.timeout(5):
            assert (await told.get())[0].raw == {"addresses": ["198.18.0.1"]}
            assert (await told.get())[0].raw == {"addresses": ["198.18.0.2"]}
        task.cancel()

    asyncio.run(story())


# ---- DNS itself ----------------------------------------------------------------------------


@contextmanager
def dns_server(
    records: dict[tuple[str, int], list[bytes]], ttl: int = 7, at: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[str]:
    """A resolver that knows these records (name, type) and no other name; on loopback unless told."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(at)

    def serve() -> None:
        while True:
            data, peer = sock.recvfrom(4096)
            if data == b"end":
                return
            labels, place = [], 12
            while data[place]:
                labels.append(data[place + 1 : place + 1 + data[place]].decode())
                place += 1 + data[place]
            question = data[12 : place + 5]
            kind = struct.unpack_from("!H", data, place + 1)[0]
            name = ".".join(labels)
            found = records.get((name, kind), [])
            known = any(other == name for other, _ in records)
            head = data[:2] + struct.pack("!HHHHH", 0x8180 | (0 if known else 3), 1, len(found), 0, 0)
            body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, ttl, len(one)) + one for one in found)
            sock.sendto(head + question + body, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"{at[0]}:{sock.getsockname()[1]}"
    finally:
        sock.sendto(b"end", sock.getsockname())
        thread.join()
        sock.close()


def test_dns() -> None:
    four, six = ip_address("198.18.0.1").packed, ip_address("fd00:198::1").packed
    records = {("a.test", 1): [four], ("a.test", 28): [six], ("four.test", 1): [four], ("none.test", 99): []}

    async def story(server: str) -> None:
        lookup = Dns(server)
        assert await lookup("a.test") == Answer(("198.18.0.1", "fd00:198::1"), 7)
        assert await lookup("four.test") == Answer(("198.18.0.1",), 7)
        with pytest.raises(UnresolvedError, match="no such name"):
            await lookup("other.test")
        with pytest.raises(UnresolvedError, match="no address"):
            await lookup("none.test")

    with dns_server(records) as server:
        asyncio.run(story(server))
