"""The election: who leads, when nobody may, and that two never do, whatever becomes of requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from edge.controller import leader
from edge.controller.leader import Election
from tests.fakes.lease import LeaseCalls
from tests.fakes.virtual_time import run

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/lead"


def now() -> float:
    return asyncio.get_running_loop().time()


def candidate(calls: LeaseCalls, name: str, chance: Callable[[], float] = lambda: 0.5) -> Election:
    return Election(calls, "ns", "lead", name, clock=now, chance=chance)  # type: ignore[arg-type]


async def forever() -> None:
    await asyncio.Event().wait()


async def until(true: Callable[[], bool], seconds: float) -> float:
    """Shape: how long it took."""
    begun = now()
    while not true():
        assert now() < begun + seconds
        await asyncio.sleep(0.05)
    return now() - begun


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_one_of_two_leads_and_the_other_follows_a_release_at_once() -> None:
    async def story() -> None:
        calls = LeaseCalls()
        first, second = candidate(calls, "a"), candidate(calls, "b")
        one = asyncio.create_task(first.run(forever))
        await until(first.acting, 1)
        two = asyncio.create_task(second.run(forever))
        await asyncio.sleep(60)
        assert first.acting() and not second.acting() and second.holder == "a"
        assert calls.objects[PATH]["spec"]["leaseTransitions"] == 0
        await end(one)
        assert not first.acting()
        spec = calls.objects[PATH]["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("", 1)
        assert await until(second.acting, 20) < 4.5, "a lease given back is not waited for"
        assert calls.objects[PATH]["spec"]["leaseTransitions"] == 1 and second.changes == 1
        assert second.others_until is not None
        await end(two)

    run(story())


def test_a_dead_leader_is_followed_after_its_lease_whatever_its_clock_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        calls = LeaseCalls()
        dead = candidate(calls, "dead")
        with monkeypatch.context() as patch:
            patch.setattr(leader.time, "time", lambda: 9e9)  # its clock is 250 years ahead
            assert await dead.attempt()
        heir = candidate(calls, "heir")
        task = asyncio.create_task(heir.run(forever))
        assert 15 <= await until(heir.acting, 60) <= 15 + 4.5
        await end(task)

    run(story())


def test_a_leader_that_cannot_renew_stops_acting_and_then_leading() -> None:
    async def story() -> None:
        calls = LeaseCalls()
        ended: list[float] = []

        async def lead() -> None:
            try:
                await forever()
            finally:
                ended.append(now())

        one = candidate(calls, "a")
        task = asyncio.create_task(one.run(lead))
        await until(one.acting, 1)
        await asyncio.sleep(7)
        calls.down = True
        cut = now()
        await until(lambda: not one.acting(), 20)
        assert now() - cut <= 10.1
        await until(lambda: bool(ended), 20)
        assert ended[0] - cut <= 10 + 2 + 2.5
        calls.down = False
        await until(one.acting, 30)
        await end(task)

    run(story())


def test_what_the_lead_raises_ends_the_run_and_gives_the_lease_back() -> None:
    async def story() -> None:
        calls = LeaseCalls()

        async def lead() -> None:
            raise ValueError("a fault of ours")

        with pytest.raises(ValueError, match="a fault of ours"):
            await candidate(calls, "a").run(lead)
        assert calls.objects[PATH]["spec"]["holderIdentity"] == ""

    run(story())


def test_a_lease_that_was_deleted_taken_or_is_strange() -> None:
    async def story() -> None:
        calls = LeaseCalls()
        one = candidate(calls, "a")
        assert await one.attempt()
        del calls.objects[PATH]
        assert not await one.attempt(), "it finds out"
        assert await one.attempt(), "and makes another"
        calls.objects[PATH]["spec"] = {"holderIdentity": "thief", "leaseDurationSeconds": 15}
        calls.objects[PATH]["metadata"]["resourceVersion"] = "77"
        assert not await one.attempt() and one.acting()
        assert not await one.attempt() and not one.acting() and one.holder == "thief"
        calls.objects[PATH]["spec"] = {"holderIdentity": 5}
        await asyncio.sleep(60)
        assert not await one.attempt(), "what cannot be read is nobody's to take"
        calls.objects[PATH]["spec"] = {}
        assert await one.attempt()

    run(story())


def test_annotations_travel_with_the_renewal() -> None:
    async def story() -> None:
        calls = LeaseCalls()
        one = candidate(calls, "a")
        assert await one.attempt()
        await one.annotate({"xdp-edge.dev/addresses": "198.18.0.1"})
        assert calls.objects[PATH]["metadata"]["annotations"] == {"xdp-edge.dev/addresses": "198.18.0.1"}
        await one.release()
        heir = candidate(calls, "b")
        assert await heir.attempt() and heir.remembered("xdp-edge.dev/addresses") == "198.18.0.1"

    run(story())


def test_who_leads_again_does_not_bring_old_annotations_back() -> None:
    async def story() -> None:
        calls = LeaseCalls()
        one = candidate(calls, "a")
        leads: list[float] = []

        async def lead() -> None:
            leads.append(now())
            if len(leads) == 1:
                await one.annotate({"note": "old"})
            await forever()

        task = asyncio.create_task(one.run(lead))
        await until(lambda: bool(one.annotations), 1)
        calls.down = True
        await until(lambda: not one.acting(), 60)
        await asyncio.sleep(5)
        calls.down = False
        spec = {"holderIdentity": "b", "leaseDurationSeconds": 1}  # another led meanwhile
        metadata = {"annotations": {"note": "new"}, "resourceVersion": "77"}
        calls.objects[PATH] = {"metadata": metadata, "spec": spec}
        await until(lambda: len(leads) == 2, 60)
        await asyncio.sleep(10)
        assert calls.objects[PATH]["metadata"]["annotations"] == {"note": "new"}
        assert one.remembered("note") == "new"
        await end(task)

    run(story())


def test_who_is_hurried_keeps_the_lease_while_it_writes() -> None:
    class Writing:
        """A write that takes long."""

        async def quiet(self, patience_s: float = 5.0) -> bool:
            await asyncio.sleep(patience_s)
            return False

    async def story() -> None:
        calls = LeaseCalls()
        one = Election(calls, "ns", "lead", "a", clock=now, writes=Writing())  # type: ignore[arg-type]
        task = asyncio.create_task(one.run(forever))
        await until(one.acting, 1)
        task.cancel()
        await asyncio.sleep(1)
        await end(task)
        assert calls.objects[PATH]["spec"]["holderIdentity"] == "a" and not one.acting()

    run(story())


@pytest.mark.parametrize("seed", [0, 1])
def test_two_never_act_together(seed: int) -> None:
    assert candidates_who_led(seed, 300) >= 1


@pytest.mark.slow
def test_two_never_act_together_for_hours() -> None:
    assert all(candidates_who_led(seed, 1800) >= 3 for seed in range(2, 8))


def candidates_who_led(seed: int, seconds: float) -> int:
    """Requests and answers that are late or lost, machines that stand still, an API server that is away."""
    dice = random.Random(seed)

    async def story() -> int:
        def fate() -> tuple[float, float, bool, bool]:
            slow = dice.random() < 0.2
            there, back = (dice.uniform(0, 4 if slow else 0.1) for _ in range(2))
            return there, back, dice.random() < 0.1, dice.random() < 0.15

        calls = LeaseCalls(fate)
        all_of_them = [candidate(calls, f"c{number}", dice.random) for number in range(4)]
        tasks = [asyncio.create_task(one.run(forever)) for one in all_of_them]
        led = set()
        ends = now() + seconds
        while now() < ends:
            await asyncio.sleep(0.1)
            acting = [one.identity for one in all_of_them if one.acting()]
            assert len(acting) < 2, acting
            led |= set(acting)
            if dice.random() < 0.004:
                calls.down = not calls.down
            if dice.random() < 0.002:  # one dies without a word, and another life begins
                number = dice.randrange(4)
                calls_down, calls.down = calls.down, True
                await end(tasks[number])
                calls.down = calls_down
                all_of_them[number] = candidate(calls, f"c{number}-{now()}", dice.random)
                tasks[number] = asyncio.create_task(all_of_them[number].run(forever))
        for task in tasks:
            await end(task)
        return len(led)

    return run(story())
