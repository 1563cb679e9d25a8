"""The queue of writes: one entry an object, a rate, back-off with jitter, a pause for all."""

from __future__ import annotations

import asyncio
import tracemalloc

from edge.controller.work_queue import LAST_S, PAUSE_MAX_S, WorkQueue
from tests.fakes.virtual_time import run


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def queue(clock: Clock, per_second: float = 1000.0, burst: int = 1000) -> WorkQueue[str]:
    return WorkQueue(per_second, burst, clock, lambda: 0.5)


def test_one_entry_an_object_and_the_earlier_time_counts() -> None:
    clock = Clock()
    works = queue(clock)
    works.add("a", 5.0)
    works.add("a")
    works.add("a", 9.0)
    works.add("b", 1.0)
    assert len(works) == 2
    assert works.poll() == ("a", 0.0)
    assert works.poll() == (None, 1.0)
    clock.now += 1.0
    assert works.poll() == ("b", 0.0)
    assert works.poll() == (None, None) and len(works) == 0


def test_a_failure_comes_back_ever_later_and_success_forgets_it() -> None:
    clock = Clock()
    works = queue(clock)
    waits = [works.failed("a") for _ in range(12)]
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0] and waits[-1] == LAST_S
    works.done("a")
    assert works.failed("a") == 1.0
    assert works.failed("b", retry_after=30.0) == 30.0
    works.forget("b")
    works.add("a")
    assert works.poll() == ("a", 0.0), "a change does not wait for the back-off"
    assert works.poll() == (None, None)


def test_a_pause_is_for_all_and_has_an_end() -> None:
    clock = Clock()
    works = queue(clock)
    works.add("a")
    works.pause(10.0)
    assert works.poll() == (None, 10.0)
    works.pause(1e9)
    assert works.poll() == (None, PAUSE_MAX_S)
    clock.now += PAUSE_MAX_S
    assert works.poll() == ("a", 0.0)


def test_the_rate() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        works: WorkQueue[int] = WorkQueue(50.0, 100, loop.time)
        begun = loop.time()
        for number in range(600):
            works.add(number)
        assert [await works.take() for _ in range(600)] == list(range(600))
        assert 9.9 < loop.time() - begun < 10.2

    run(story())


def test_take_waits_for_what_is_added_later_and_for_its_time() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        works: WorkQueue[str] = WorkQueue(50.0, 100, loop.time)
        works.add("late", 20.0)
        begun = loop.time()
        loop.call_later(5.0, works.add, "soon")
        assert await works.take() == "soon" and 4.9 < loop.time() - begun < 5.1
        assert await works.take() == "late" and 19.9 < loop.time() - begun < 20.1

    run(story())


def test_a_storm_of_changes_does_not_grow_it() -> None:
    clock = Clock()
    works = queue(clock)
    tracemalloc.start()
    try:
        for number in range(20_000):
            works.add("a", 1e6 - number)
        assert tracemalloc.get_traced_memory()[0] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert len(works) == 1
