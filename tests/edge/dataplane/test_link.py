"""The controller's end of its channel: what it hears, and whom it answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from edge.channel import Channel
from edge.dataplane.link import FULL, HolderLink, Refusal
from edge.errors import PublishError
from edge.messages import Message, receive, send


def tell(story: Callable[[HolderLink, socket.socket], Awaitable[None]]) -> None:
    """Run a story with an open link and the holder's end of it."""

    async def run() -> None:
        holder, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link = HolderLink(Channel(ours))
        memory = [os.memfd_create(name) for name in ("admin", "stats", "commit")]
        send(holder, "setup", data="up", pid=9, loop="epoll", committed=4, staged=5, workers=2)
        for name, number in zip(("admin", "statistics", "commit_page"), memory, strict=True):
            send(holder, "holding", [number], what="descriptor", name=name)
        slots = os.memfd_create("slots")
        os.write(slots, b'{"a":1}')
        send(holder, "holding", [slots], what="slots")
        send(holder, "begin")
        for number in (*memory, slots):
            os.close(number)
        try:
            await link.open()
            await story(link, holder)
        finally:
            link.close()
            holder.close()

    asyncio.run(run())


async def heard(holder: socket.socket) -> Message:
    message = await asyncio.to_thread(receive, holder)
    assert message is not None
    message.close()
    return message


def test_setup_and_the_slot_table() -> None:
    async def story(link: HolderLink, _holder: socket.socket) -> None:
        state = link.state
        assert (state.up, state.pid, state.loop, state.committed, state.staged) == (True, 9, "epoll", 4, 5)
        assert link.slots == '{"a":1}'

    tell(story)


def test_prepared_refused_and_nobody() -> None:
    async def story(link: HolderLink, holder: socket.socket) -> None:
        for answer, wanted in (
            ({"verb": "prepared"}, None),
            ({"verb": "refused", "code": 3, "section": 2, "index": 1, "field": "host", "reason": "a b"},
             Refusal(6, 3, 2, 1, "host", "a b")),
        ):  # fmt: skip
            asking = asyncio.create_task(link.prepare(6, FULL, (), 5))
            assert (await heard(holder)).verb == "image"
            send(holder, "prepared", version=99)  # of no one's question
            words = dict(answer)
            send(holder, str(words.pop("verb")), version=6, **words)
            assert await asking == wanted
        with pytest.raises(PublishError, match="version 7"):
            await link.prepare(7, FULL, (), 0.01)

    tell(story)


def test_deaths_and_returns_of_the_data_plane() -> None:
    async def story(link: HolderLink, holder: socket.socket) -> None:
        served: list[int] = []
        link.on_serving = served.append
        deaths: asyncio.Queue[int] = asyncio.Queue()
        link.on_data = deaths.put_nowait
        send(holder, "serving", version=4)
        send(holder, "data", state="down", pid=9)
        assert await asyncio.wait_for(deaths.get(), 5) == 9
        assert served == [4]
        assert (link.state.up, link.state.pid, link.state.serving, link.state.restarts) == (False, 0, 0, 1)
        send(holder, "data", state="up", pid=10, loop="uring")
        assert await asyncio.wait_for(deaths.get(), 5) == 0
        assert (link.state.up, link.state.pid, link.state.loop) == (True, 10, "uring")

    tell(story)


def test_listening_or_why_not() -> None:
    async def story(link: HolderLink, holder: socket.socket) -> None:
        asking = asyncio.create_task(link.listen(0, "127.0.0.1", 80, "plain"))
        assert (await heard(holder)).fields["address"] == "127.0.0.1"
        send(holder, "listening", slot=0, address="127.0.0.1", port=80)
        assert await asking == ""
        assert link.state.listeners[0].port == 80
        asking = asyncio.create_task(link.listen(1, "127.0.0.1", 81, "plain"))
        await heard(holder)
        send(holder, "failed", slot=1, reason="in use")
        assert await asking == "in use"

    tell(story)


def test_the_holders_end_is_noticed() -> None:
    async def story(link: HolderLink, holder: socket.socket) -> None:
        send(holder, "drain")
        holder.close()
        await asyncio.wait_for(link.gone, 5)
        assert link.state.draining

    tell(story)


def test_counts_and_events_of_the_holder() -> None:
    async def story(link: HolderLink, holder: socket.socket) -> None:
        assert set(link.state.counts.values()) == {0}
        send(holder, "counts", data_restarts=2, adoptions="x", unknown=3)
        for number in range(70):
            send(holder, "event", kind="restart", text=f"number {number}", at=1000 + number)
        async with asyncio.timeout(5):
            while not link.state.events or link.state.events[-1].at != 1069:
                await asyncio.sleep(0)
        assert link.state.counts["data_restarts"] == 2 and link.state.counts["adoptions"] == 0
        assert "unknown" not in link.state.counts
        assert [event.text for event in link.state.events] == [f"number {n}" for n in range(6, 70)]

    tell(story)
