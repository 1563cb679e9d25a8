"""Which addresses are ours: noted before they are wanted, known to the next leader, forgotten in the end."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge.controller.addresses import NOTE, REMEMBERED_MAX, Addresses
from edge.controller.fleet import Fleet
from edge.controller.leader import Election
from edge.controller.status_writer import Wanted
from edge.errors import ApiError
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore
from tests.edge.controller.test_fleet import node, pod
from tests.fakes.lease import LeaseCalls
from tests.fakes.virtual_time import run

KEY = ("Ingress", "shop", "web")
LEASE = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/lead"


class Stage:
    def __init__(self, calls: LeaseCalls | None = None) -> None:
        self.calls = calls or LeaseCalls()
        clock = asyncio.get_running_loop().time
        self.election = Election(self.calls, "ns", "lead", f"{id(self)}", clock=clock)  # type: ignore[arg-type]
        self.wanted = Wanted(lambda *_: True, lambda _: ())
        self.store = ResourceStore()
        options = Options(kubernetes=True)
        made = Addresses(options, self.store, self.calls, self.election, self.wanted)  # type: ignore[arg-type]
        self.addresses = made
        self.fleet = Fleet()

    async def lead(self) -> None:
        assert await self.election.attempt()
        self.addresses.begin()

    def serve(self, *names: str) -> None:
        """Nodes n1, n2, … have 198.18.0.1, 198.18.0.2, …; those named are there, and serve."""
        self.fleet = Fleet()
        self.fleet.take_nodes([(name, node(f"198.18.0.{name[1:]}")) for name in names])
        self.fleet.take_pods([(name, pod(name)) for name in names], 0.0)

    async def turn(self) -> bool:
        return await self.addresses.turn(self.fleet, 0.0)

    def show(self, *places: str) -> None:
        status = {"loadBalancer": {"ingress": [{"ip": place} for place in places]}}
        self.store.apply([ResourceEvent(*KEY, json.dumps({"metadata": {}, "status": status}).encode())])

    def noted(self) -> set[str]:
        notes = self.calls.objects[LEASE]["metadata"].get("annotations", {})
        return set(filter(None, notes.get(NOTE, "").split(",")))


def test_a_node_that_left_is_ours_until_no_ingress_has_it() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.lead()
        stage.serve("n1", "n2")
        assert await stage.turn() and not await stage.turn()
        assert stage.wanted.addresses == ("198.18.0.1", "198.18.0.2") and len(stage.noted()) == 2
        stage.show("198.18.0.1", "198.18.0.2")
        await stage.election.release()
        heir = Stage(stage.calls)  # n2 left while nobody led
        await heir.lead()
        heir.serve("n1")
        assert await heir.turn()
        assert heir.wanted.addresses == ("198.18.0.1",) and "198.18.0.2" in heir.wanted.ours
        heir.show("198.18.0.1", "198.18.0.2")
        await heir.addresses.forget([KEY])
        assert "198.18.0.2" in heir.noted(), "it is still there"
        heir.show("198.18.0.1")
        await heir.addresses.forget([KEY])
        assert heir.noted() == {"198.18.0.1"}
        assert await heir.turn() and "198.18.0.2" not in heir.wanted.ours

    run(story())


def test_what_cannot_be_noted_is_not_wanted() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.lead()
        stage.serve("n1")
        stage.calls.down = True
        with pytest.raises(ApiError):
            await stage.turn()
        assert stage.wanted.addresses is None
        stage.calls.down = False
        assert await stage.turn() and stage.wanted.addresses == ("198.18.0.1",)

    run(story())


def test_nothing_is_wanted_where_nobody_serves_or_nobody_knows() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.lead()
        assert not await stage.addresses.turn(None, 0.0)
        assert not await stage.turn()
        stage.serve("n1")
        await stage.turn()
        stage.serve()
        assert not await stage.turn() and stage.wanted.addresses == ("198.18.0.1",)

    run(story())


def test_years_of_nodes_fit_into_the_note() -> None:
    async def story() -> None:
        stage = Stage()
        await stage.lead()
        stage.addresses.remembered = frozenset(f"198.18.{n >> 8}.{n & 255}" for n in range(256, 9000))
        stage.serve("n1")
        await stage.turn()
        assert len(stage.noted()) == REMEMBERED_MAX and "198.18.0.1" in stage.noted()

    run(story())
