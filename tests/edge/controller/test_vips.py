"""VIPs of listeners, and when a change of the node's addresses is worth a publish; without netlink."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_address

import pytest

from edge.controller import vips
from edge.controller.vips import VipFollower, vips_of
from edge.model.types import Address, Listener, Transport

ONE, TWO, SIX = (ip_address(text) for text in ("198.18.0.1", "198.18.0.2", "fd00:198::1"))


def listener(address: str, port: int = 80) -> Listener:
    return Listener(ip_address(address), port, Transport.PLAIN)


def test_a_listener_on_any_address_takes_the_nodes_of_its_family() -> None:
    listeners = [listener("0.0.0.0"), listener("::", 443), listener("192.0.2.7", 8080)]
    assert vips_of(listeners, {TWO, SIX, ONE}) == (
        (ip_address("192.0.2.7"), 8080, 6),
        (ONE, 80, 6),
        (TWO, 80, 6),
        (SIX, 443, 6),
    )


class FakeWatch:
    """A pipe that speaks when told."""

    def __init__(self) -> None:
        self.end, self.other = os.pipe()

    def fileno(self) -> int:
        return self.end

    def drain(self) -> bool:
        return bool(os.read(self.end, 100))

    def close(self) -> None:
        os.close(self.end)
        os.close(self.other)


def test_only_a_change_that_makes_a_difference_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, local, reads = FakeWatch(), {ONE}, [0]

    def read(interfaces: object = ()) -> frozenset[Address]:
        reads[0] += 1
        return frozenset(local)

    monkeypatch.setattr(vips, "AddressWatch", lambda: watch)
    monkeypatch.setattr(vips, "local_addresses", read)
    monkeypatch.setattr(vips, "SETTLE_S", 0)

    async def story() -> None:
        looks: list[str] = []

        def look() -> list[str]:
            looks.append("at the interfaces")
            return []

        follower = VipFollower([listener("0.0.0.0")], ["eth0"], look)
        published: asyncio.Queue[frozenset[Address]] = asyncio.Queue()

        async def publish() -> None:
            published.put_nowait((await follower.current())[1])

        await publish()
        await publish()
        assert reads[0] == 1  # nothing was announced between them
        local.add(TWO)  # announced before anyone follows
        os.write(watch.other, b"x")
        following = asyncio.create_task(follower.follow(publish))
        assert [await asyncio.wait_for(published.get(), 5) for _ in range(3)][-1] == {ONE, TWO}
        seen = reads[0]
        os.write(watch.other, b"x")  # announced again, but the same: a router's advertisement
        async with asyncio.timeout(5):
            while reads[0] == seen:
                await asyncio.sleep(0)
        local.remove(ONE)
        os.write(watch.other, b"x")
        assert await asyncio.wait_for(published.get(), 5) == {TWO}
        assert len(looks) >= 3  # at each announcement
        following.cancel()
        follower.close()

    asyncio.run(story())


def test_a_node_with_more_addresses_than_fit_serves_those_of_its_interfaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = frozenset(ip_address(0x0A000000 + i) for i in range(vips.LOCAL_MAX + 1))
    monkeypatch.setattr(vips, "AddressWatch", FakeWatch)
    monkeypatch.setattr(vips, "local_addresses", lambda names=(): frozenset({ONE}) if names else many)

    async def story() -> None:
        follower = VipFollower([listener("0.0.0.0")], ["eth0"], list)
        assert (await follower.current())[1] == {ONE}
        follower.close()

    asyncio.run(story())
