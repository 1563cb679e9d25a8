"""Calls in threads of their own: what hangs holds only its own thread, what is cancelled is waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest

from edge.controller.calls import NOT_LEADING, Calls
from edge.errors import ApiError


class Api:
    """Hangs at the path /hang until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
        timeout: float = 0.0,
    ) -> bytes:
        self.asked.append(path)
        if path == "/hang":
            self.go_on.wait(20)
        if path == "/fail":
            raise ApiError(500, "InternalError", "as the test wishes")
        if path == "/fault":
            raise ValueError("a fault of ours")
        return path.encode()


def test_answers_and_errors_come_back() -> None:
    async def story() -> None:
        calls = Calls(Api(), 1)
        assert await calls.request("GET", "/a") == b"/a"
        with pytest.raises(ApiError, match="as the test wishes"):
            await calls.request("GET", "/fail")
        with pytest.raises(ValueError, match="a fault of ours"):
            await calls.request("GET", "/fault")
        assert await calls.request("GET", "/b") == b"/b", "the thread lives on"
        calls.close()

    asyncio.run(story())


def test_one_that_hangs_delays_no_other_thread() -> None:
    async def story() -> None:
        api = Api()
        calls = Calls(api, 2)
        hung = asyncio.create_task(calls.request("GET", "/hang"))
        assert await calls.request("GET", "/a") == b"/a"
        assert not hung.done()
        api.go_on.set()
        assert await hung == b"/hang"
        calls.close()

    asyncio.run(story())


def test_a_request_of_a_cancelled_task_is_under_way_until_it_ends() -> None:
    async def story() -> None:
        api = Api()
        calls = Calls(api, 1)
        task = asyncio.create_task(calls.request("PATCH", "/hang"))
        behind = asyncio.create_task(calls.request("PATCH", "/never"))
        while "/hang" not in api.asked:
            await asyncio.sleep(0.005)
        task.cancel()
        behind.cancel()
        await asyncio.wait({task, behind})
        await calls.quiet(0.02)
        api.go_on.set()
        await calls.quiet(20)
        assert api.asked == ["/hang"], "what was not begun is not begun any more"
        calls.close()

    asyncio.run(story())


def test_who_may_not_write_does_not() -> None:
    async def story() -> None:
        api = Api()
        calls = Calls(api, 1)
        with pytest.raises(ApiError) as error:
            await calls.request("PATCH", "/a", allowed=lambda: False)
        assert error.value.reason == NOT_LEADING and api.asked == []
        assert await calls.request("PATCH", "/a", allowed=lambda: True) == b"/a"
        calls.close()

    asyncio.run(story())
