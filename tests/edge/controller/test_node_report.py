"""The node's Lease: at once after a change, kept up while nothing changes, patient while nobody answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from edge.controller.node_report import RENEW_S, RETRY_MAX_S, NodeReport, Report, lease_name
from tests.fakes.lease import LeaseCalls
from tests.fakes.virtual_time import run

NAME = "xdp-edge-node-n1"
PATH = f"/apis/coordination.k8s.io/v1/namespaces/ns/leases/{NAME}"


class Story:
    """A report that runs in virtual time."""

    def __init__(self) -> None:
        self.calls = LeaseCalls()
        self.report: Report | None = Report("aa", "bb", 1, "native")
        clock = asyncio.get_running_loop().time
        made = NodeReport(self.calls, "ns", "n1", NAME, "pod-1", lambda: self.report, clock)  # type: ignore[arg-type]
        self.task = asyncio.create_task(made.run())

    def written(self) -> int:
        return sum(method in ("POST", "PATCH") for method, path in self.calls.asked if path == PATH)

    def notes(self) -> dict[str, str]:
        return dict(self.calls.objects[PATH]["metadata"]["annotations"])

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def test_a_change_at_once_and_a_renewal_every_ten_seconds() -> None:
    async def story() -> None:
        one = Story()
        await asyncio.sleep(0.1)
        assert one.notes()["xdp-edge.dev/routes-digest"] == "aa"
        assert one.calls.objects[PATH]["spec"]["holderIdentity"] == "pod-1"
        before = one.written()
        await asyncio.sleep(6 * RENEW_S)
        assert 5 <= one.written() - before <= 7
        before = one.written()
        for number in range(100):  # ten changes a second
            one.report = Report(f"{number}", "", number)
            await asyncio.sleep(0.1)
        assert 9 <= one.written() - before <= 11
        await asyncio.sleep(1)
        assert one.notes()["xdp-edge.dev/version"] == "99"
        await one.end()

    run(story())


def test_silence_where_another_speaks_for_the_node() -> None:
    async def story() -> None:
        one = Story()
        await asyncio.sleep(5)
        one.report = None
        before = len(one.calls.asked)
        await asyncio.sleep(60)
        assert len(one.calls.asked) == before
        await one.end()

    run(story())


def test_an_api_server_that_is_away_is_asked_ever_less() -> None:
    async def story() -> None:
        one = Story()
        await asyncio.sleep(5)
        one.calls.down = True
        await asyncio.sleep(600)
        one.calls.down = False
        one.report = Report("cc", "", 2)
        await asyncio.sleep(RETRY_MAX_S + 5)
        assert one.notes()["xdp-edge.dev/routes-digest"] == "cc"
        del one.calls.objects[PATH]
        await asyncio.sleep(2 * RENEW_S)
        assert one.notes()["xdp-edge.dev/routes-digest"] == "cc", "one that was deleted is made again"
        await one.end()

    run(story())


def test_the_name_of_a_node_may_be_long() -> None:
    assert lease_name("xdp-edge-leader", "n1") == NAME
    assert lease_name("inner-leader", "n1") == "inner-node-n1"
    names = {lease_name("xdp-edge-leader", "n" * 252 + letter) for letter in "ab"}
    assert len(names) == 2 and all(len(name) <= 253 for name in names)
    assert ".-" not in lease_name("xdp-edge-leader", "n." * 120)
