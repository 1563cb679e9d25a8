"""A controller without holder: what goes on, what is refused, and how another holder gets everything."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge.channel import Channel
from edge.dataplane.link import FULL, HolderLink
from edge.errors import PublishError
from edge.holdings import Holdings, Stored
from edge.messages import Message, receive, send
from tests.edge.holder.fakes import more_than, open_descriptors


def tell(folder: Path, story: Callable[[HolderLink, socket.socket, socket.socket], Awaitable[None]]) -> None:
    """Run a story with an open link, its holder's end, and where the next holder would listen."""
    before = open_descriptors()

    async def run() -> None:
        holder, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.bind(str(folder / "control.sock"))
        link = HolderLink(Channel(ours), folder / "control.sock")
        holdings = Holdings(workers=2, statistics=os.memfd_create("s"), admin=os.memfd_create("a"))
        holdings.commit_page = os.memfd_create("c")
        holdings.store.stage(Stored(4, 1, (os.memfd_create("i"), os.memfd_create("k"))))
        holdings.store.commit(4)
        send(holder, "setup", data="up", pid=9, loop="epoll", committed=4, serving=4, workers=2)
        holdings.tell(lambda verb, given, **words: send(holder, verb, given, **words), [])
        send(holder, "begin")
        holdings.close()
        try:
            await link.open()
            await asyncio.wait_for(story(link, holder, control), 20)
        finally:
            link.close()
            holder.close()
            control.close()

    asyncio.run(run())
    assert not more_than(before)


async def heard(end: socket.socket) -> Message:
    message = await asyncio.to_thread(receive, end)
    assert message is not None
    return message


async def offer(control: socket.socket) -> tuple[socket.socket, Holdings]:
    """Be the next holder: accept, and take what is offered."""
    end, _ = await asyncio.to_thread(control.accept)
    message = await heard(end)
    assert (message.verb, message.number("pid")) == ("adopt", os.getpid())
    holdings = Holdings()
    while (message := await heard(end)).verb == "holding":
        assert holdings.take(message)
    assert message.verb == "handed"
    return end, holdings


def test_another_holder_gets_all_of_it(tmp_path: Path) -> None:
    async def story(link: HolderLink, holder: socket.socket, control: socket.socket) -> None:
        image = os.memfd_create("x")
        asking = asyncio.create_task(link.prepare(5, FULL, (image,), 30))
        message = await heard(holder)
        message.close()
        os.close(image)
        holder.close()
        with pytest.raises(PublishError, match="the holder is gone"):
            await asking
        for attempt in (lambda: link.commit(5), lambda: link.keep_slots(0)):
            with pytest.raises(PublishError, match="the holder is gone"):
                attempt()
        assert not link.gone.done() and link.state.up
        control.listen()
        end, holdings = await offer(control)  # dies before it says anything
        holdings.close()
        end.close()
        end, holdings = await offer(control)
        assert (holdings.workers, holdings.store.committed, holdings.store.staged) == (2, 4, None)
        send(end, "adopted")
        send(end, "counts", adoptions=3)
        async with asyncio.timeout(5):
            while link.state.counts["adoptions"] != 3:
                await asyncio.sleep(0)
        assert not link.orphaned
        assert [event.kind for event in link.state.events] == ["orphaned", "adopted"]
        link.commit(6)
        assert (await heard(end)).number("version") == 6
        holdings.close()
        end.close()

    tell(tmp_path, story)


def test_one_that_is_not_needed_ends(tmp_path: Path) -> None:
    async def story(link: HolderLink, holder: socket.socket, control: socket.socket) -> None:
        control.listen()
        holder.close()
        end, holdings = await offer(control)
        send(end, "refused", reason="the instance has a controller")
        await link.gone
        holdings.close()
        end.close()

    tell(tmp_path, story)


def test_after_drain_nobody_is_waited_for(tmp_path: Path) -> None:
    async def story(link: HolderLink, holder: socket.socket, _control: socket.socket) -> None:
        send(holder, "drain")
        holder.close()
        await link.gone
        assert not link.orphaned

    tell(tmp_path, story)


def test_a_data_plane_that_ends_meanwhile_is_noticed(tmp_path: Path) -> None:
    async def story(link: HolderLink, holder: socket.socket, _control: socket.socket) -> None:
        one, other = socket.socketpair()
        ending, life = os.pipe()
        with one, other:
            send(holder, "holding", (one.fileno(), ending), what="child", part="data", pid=9, serving=4)
        os.close(ending)
        async with asyncio.timeout(5):
            while not link.holdings.children:
                await asyncio.sleep(0)
        holder.close()
        deaths: asyncio.Queue[int] = asyncio.Queue()
        link.on_data = deaths.put_nowait
        while not link.orphaned:
            await asyncio.sleep(0)
        os.close(life)
        assert await deaths.get() == 9
        assert not link.state.up and not link.holdings.children

    tell(tmp_path, story)


def test_what_is_said_of_the_data_plane_is_kept_for_the_next_holder(tmp_path: Path) -> None:
    async def story(link: HolderLink, holder: socket.socket, _control: socket.socket) -> None:
        for pid in (9, 10):
            pair = [os.memfd_create("channel"), os.memfd_create("pidfd")]
            send(holder, "holding", pair, what="child", part="data", pid=pid)
            for number in pair:
                os.close(number)
        send(holder, "data", state="up", pid=9, loop="epoll")
        send(holder, "serving", version=4)
        send(holder, "data", state="left", pid=10)
        async with asyncio.timeout(5):
            while len(link.holdings.children) != 1:
                await asyncio.sleep(0)
        (child,) = link.holdings.children
        assert (child.pid, child.ready, child.loop, child.serving) == (9, True, "epoll", 4)
        assert link.state.up and link.state.restarts == 0
        send(holder, "data", state="down", pid=9)
        async with asyncio.timeout(5):
            while link.holdings.children:
                await asyncio.sleep(0)
        assert not link.state.up and link.state.restarts == 1

    tell(tmp_path, story)
