"""VIPs: which addresses and ports the listeners serve, followed as the node's addresses change.

Owned by the controller's loop. A listener on any address serves every address of the node, on whichever
interface it stands: packets for it may come in through any. An interface that comes back gets its program
again. Publishes nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable

from edge.controller.log import say
from edge.controller.publish import Vip
from edge.errors import XdpError
from edge.model.types import Address, Listener
from edge.xdp.addresses import AddressWatch, local_addresses

TCP = 6
SETTLE_S = 0.05  # an address comes with several announcements, and rarely alone
RETRY_S = 1.0
LOOK_S = 10.0  # a link that somebody detached is not announced
LOCAL_MAX = 1024  # a node with more (IPVS gives it every Service's) serves those of the interfaces alone


class VipFollower:
    """Reads the node's addresses when the kernel has announced a change, and else not."""

    def __init__(
        self, listeners: Iterable[Listener], interfaces: Iterable[str], look: Callable[[], list[str]]
    ) -> None:
        """``look`` attaches to interfaces that came, and says so; it blocks.

        Errors: OSError without netlink.
        """
        self._listeners = tuple(listeners)
        self._interfaces = tuple(interfaces)
        self._look = look
        self._watch = AddressWatch()
        self._announced = asyncio.Event()
        self._changes = 1
        self._read = 0  # how many of the changes are in `_local`
        self._local: frozenset[Address] = frozenset()
        self._used: frozenset[Address] | None = None
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._heard)

    def _heard(self) -> None:
        self._changes += self._watch.drain()
        self._announced.set()

    async def current(self) -> tuple[tuple[Vip, ...], frozenset[Address]]:
        """What a publish must serve, and the node's addresses, which scope: node goes by.

        Errors: XdpError when netlink refuses.
        """
        self._used = await self._addresses()
        return vips_of(self._listeners, self._used), self._used

    async def follow(self, publish: Callable[[], Awaitable[None]]) -> None:
        """Call ``publish`` when the addresses are not those of the last one; never returns."""
        while True:
            self._announced.clear()
            try:
                for line in await asyncio.to_thread(self._look):
                    say(line)
                await asyncio.sleep(SETTLE_S)
                if await self._addresses() != self._used:
                    await publish()
            except (XdpError, OSError):
                await asyncio.sleep(RETRY_S)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._announced.wait(), LOOK_S)

    async def _addresses(self) -> frozenset[Address]:
        changes = self._changes
        if self._read != changes:
            local = await asyncio.to_thread(local_addresses)
            if len(local) > LOCAL_MAX:
                local = await asyncio.to_thread(local_addresses, self._interfaces)
            self._local, self._read = local, changes
        return self._local

    def close(self) -> None:
        """Stop listening."""
        asyncio.get_running_loop().remove_reader(self._watch.fileno())
        self._watch.close()


def vips_of(listeners: Iterable[Listener], local: Iterable[Address]) -> tuple[Vip, ...]:
    """Shape: sorted; a listener on any address of a family takes the node's own of that family."""
    vips: set[Vip] = set()
    for listener in listeners:
        own = local if listener.address.is_unspecified else (listener.address,)
        vips.update(
            (address, listener.port, TCP) for address in own if address.version == listener.address.version
        )
    return tuple(sorted(vips, key=lambda vip: (vip[0].version, int(vip[0]), vip[1])))
