"""What the API server is told: status, conditions, Events and this node's report, beside the publishes.

Started by loop.py with --kubernetes, in the controller's process: it is told what changed (`seen`,
`published`: a few set operations) and does the rest in tasks and threads of its own; nothing here can delay
or fail a publish. Every instance reports its node and keeps track; only the leader writes what is about
objects.

At a stop the leader gives its Lease back and removes nothing: addresses stay until another leader knows
better.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from edge.controller import status
from edge.controller.addresses import Addresses
from edge.controller.calls import NOT_LEADING, Calls
from edge.controller.events import EventRecorder, Notice, Regarding, notices
from edge.controller.fleet import Fleet, siblings
from edge.controller.leader import Election, boot_time, identity_of
from edge.controller.log import say
from edge.controller.node_report import SELECTOR, NodeReport, Report, lease_name
from edge.controller.programmed import Versions
from edge.controller.status import Condition, Subject
from edge.controller.status_writer import StatusWriter, Wanted
from edge.controller.view import View
from edge.controller.work_queue import WorkQueue
from edge.errors import ApiError
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Policy
from edge.options import Options
from edge.resources.kinds import KINDS, Raw
from edge.resources.store import Key, ResourceEvent, ResourceStore
from edge.sources.api import Api
from edge.sources.follow import Follower
from edge.sources.objects import LEASES, NODES, PODS

TURN_S = 0.25  # changes are looked at so often at most
CHUNK = 50  # objects looked at before others have their turn
SETTLE_S = 1.0  # a Service may follow its Ingress: an Event waits for it
EVENTS_PER_SECOND, EVENTS_BURST = 10.0, 50
TEND_S = 10.0
AGAIN_S = 600.0  # every object is looked at again, without asking anybody
RESTART_S = 5.0
FLEET_S = 10.0
FLEET = (PODS.kind, NODES.kind, LEASES.kind)
ACCEPTED_KINDS = ("Ingress", "EdgePolicy")


@dataclass(slots=True)
class _Known:
    """One object: its edition, since when (0: since our start), whether Accepted was said of it."""

    uid: str
    edition: int
    since: float
    said: bool = False


class Reporter:
    """``election``: who leads; ``status``: the writer of it."""

    def __init__(self, options: Options, api: Api, store: ResourceStore, view: View) -> None:
        namespace = options.pod_namespace or api.namespace or "default"
        self._options = options
        self._api = api
        self._store = store
        self._view = view
        self._namespace = namespace
        self._calls = Calls(api)
        self.election = Election(
            Calls(api, 1, "edge-lease"),
            namespace,
            options.election_lease,
            identity_of(options.pod_name),
            writes=self._calls,
        )
        wanted = Wanted(self._serves, self._conditions)
        self._wanted = wanted
        manager = status.field_manager(namespace, options.election_lease)
        self.status = StatusWriter(self._calls, store, wanted, self.election.acting, manager)
        self._events: WorkQueue[Key] = WorkQueue(EVENTS_PER_SECOND, EVENTS_BURST)
        self._recorder = EventRecorder(
            self._calls, options.pod_name or self.election.identity, self.election.acting
        )
        self._fleet = Fleet()
        self._versions = Versions()
        self._touched: set[Key] = set()
        self._unpublished: set[Key] = set()
        self._wake = asyncio.Event()
        self._fleet_moved = asyncio.Event()
        self._fleet_listed: set[str] = set()
        self._fleet_problems: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._known: dict[Key, _Known] = {}
        self._found: dict[ObjectRef, tuple[Diagnostic, ...]] = {}
        self._diagnostics: tuple[Diagnostic, ...] = ()
        self._leading = False
        self._started = asyncio.Event()  # all objects of the start were looked at
        self._served: list[Report] = []  # of the last published versions, the newest last
        self._xdp_mode, self._xdp_due = "off", 0.0
        self._addresses = Addresses(options, store, self._calls, self.election, wanted)

    # ---- told by the loop, in no time ------------------------------------------------------

    def seen(self, keys: Iterable[Key]) -> None:
        """Take note of objects that came, changed or went; a publish follows."""
        fresh = set(keys)
        self._touched |= fresh
        self._unpublished |= fresh
        self._wake.set()

    def seen_quietly(self, keys: Iterable[Key]) -> None:
        """Take note of objects that changed in their status alone; no publish follows."""
        self._touched.update(keys)
        self._wake.set()

    def published(self) -> None:
        """Take note of a publish that went well: what was seen before it is in force."""
        snapshot = self._view.snapshot
        if snapshot is None:
            return
        digest = snapshot.routes_digest.hex()
        self._versions.published(digest)
        report = Report(digest, snapshot.endpoints_digest.hex(), snapshot.version)
        if not self._served or self._served[-1] != report:
            self._served = [*self._served[-63:], report]
        self._touched |= self._unpublished
        for kind, namespace, name in self._unpublished:
            if kind == "EdgePolicy":
                self._note_policy(namespace, name)
        self._unpublished = set()
        self._wake.set()

    def acting(self) -> bool:
        """Say whether this instance may write what only the leader writes."""
        return self.election.acting()

    def _note_policy(self, namespace: str, name: str) -> None:
        raw = self._store.get("EdgePolicy", namespace, name)
        found = status.subject(raw)
        if found is None:
            self._versions.gone(name)
        else:
            self._versions.holds(name, found.metadata.uid, found.metadata.generation)

    # ---- run -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on until cancelled; then give the Lease back. Never fails."""
        parts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("status", self._follow),
            ("election", lambda: self.election.run(self._lead)),
        ]
        if self._options.node_name:
            holder = self._options.pod_name or self.election.identity
            node = self._options.node_name
            name = lease_name(self._options.election_lease, node)
            report = NodeReport(self._calls, self._namespace, node, name, holder, self._current_report)
            parts.append(("node report", report.run))
        tasks = [asyncio.create_task(self._always(name, part)) for name, part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError, Exception):
                    await task
            self._calls.close()

    async def _always(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Begin a part again when it fails: a fault here must not end the controller."""
        while True:
            try:
                await part()
            except ApiError as error:
                self._say_once(name, error)
            except Exception as error:
                say(f"{name}: {type(error).__name__}: {error}")
            await asyncio.sleep(RESTART_S)

    def _current_report(self) -> Report | None:
        """Shape: what every worker has taken over; nothing is served while no data plane is up."""
        state = self._view.state
        if state.draining or not self._served:
            return None
        if not state.up:
            return Report("", "", 0)
        passed = [one for one in self._served if one.version <= state.serving]
        return replace(passed[-1], xdp=self._xdp()) if passed else None

    def _xdp(self) -> str:
        """Shape: how packets are judged here; asked of the kernel now and then."""
        now = time.monotonic()
        if now >= self._xdp_due:
            self._xdp_due = now + TEND_S
            self._xdp_mode = xdp_mode(self._view.xdp_describe())
        return self._xdp_mode

    # ---- what changed ----------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._turn()
            await asyncio.sleep(TURN_S)

    async def _turn(self) -> None:
        touched, self._touched = self._touched, set()
        touched |= self._turn_diagnostics()
        if any(kind == "IngressClass" for kind, _, _ in touched):
            touched |= {key for key in self._known if key[0] == "Ingress"}
        for number, key in enumerate(touched):
            self._look(key)
            if number % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)
        if self._served:
            self._started.set()

    def _turn_diagnostics(self) -> set[Key]:
        """Shape: the objects about which something else is said than before."""
        if self._view.diagnostics is self._diagnostics:
            return set()
        self._diagnostics = self._view.diagnostics
        lists: dict[ObjectRef, list[Diagnostic]] = {}
        for one in self._diagnostics:
            lists.setdefault(one.object, []).append(one)
        found = {ref: tuple(ones) for ref, ones in lists.items()}
        differing = [
            ref for ref in found.keys() | self._found.keys() if found.get(ref) != self._found.get(ref)
        ]
        self._found = found
        return {(ref.kind, ref.namespace, ref.name) for ref in differing if ref.kind in KINDS}

    def _look(self, key: Key) -> None:
        """Look at one object: note its generation; as leader, have written what is to be written."""
        raw = self._store.get(*key)
        if raw is None:
            self._known.pop(key, None)
            self._recorder.forget(key)
            self._events.forget(key)
            self.status.forget(key)
            return
        found = status.subject(raw) if key[0] in ACCEPTED_KINDS or ObjectRef(*key) in self._found else None
        if found is not None and key[0] in ACCEPTED_KINDS:
            known = self._known.get(key)
            if known is None or (known.uid, known.edition) != (found.metadata.uid, found.edition):
                since = boot_time() if self._started.is_set() else 0.0
                self._known[key] = _Known(found.metadata.uid, found.edition, since)
        if not self._leading:
            return
        if found is not None:
            if key[0] in ACCEPTED_KINDS:
                self._consider(key)
            if self._recorder.news(*self._to_say(key, found)):
                self._events.add(key, SETTLE_S)
        if self._addresses.is_published(key):
            self._fleet_moved.set()

    def _consider(self, key: Key) -> None:
        if key[0] == "EdgePolicy" or self._options.update_status:
            self.status.consider(key)

    def _serves(self, namespace: str, name: str) -> bool | None:
        serves = self._view.serves
        return serves(namespace, name) if serves is not None else None

    # ---- as leader -------------------------------------------------------------------------

    async def _lead(self) -> None:
        """Write until cancelled: begin with a look at everything."""
        self._fleet, self._fleet_listed = Fleet(), set()
        self._addresses.begin()
        tasks = [
            asyncio.create_task(self._always(name, part))
            for name, part in (
                ("nodes", self._watch_fleet),
                ("addresses", self._tend),
                ("status", self.status.run),
                ("events", self._write_events),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            self._leading = False
            self._wanted.addresses = None
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            self.status.clear()
            self._events.clear()
            self._recorder.clear()

    async def _tend(self) -> None:
        """Keep the addresses as they must be, and have every object looked at from time to time."""
        await self._started.wait()
        await self._first_fleet()
        self._fleet.remember(self._addresses.remembered, time.monotonic())
        again = 0.0
        while True:
            moved = False
            try:
                known = len(self._fleet_listed) == len(FLEET)
                moved = await self._addresses.turn(self._fleet if known else None, time.monotonic())
                if not moved and time.monotonic() >= again > 0.0 and not self.status.queue:
                    await self._addresses.forget([key for key in self._known if key[0] == "Ingress"])
            except ApiError as error:  # Events and conditions do not need them
                self._say_once("addresses", error)
            if not self._leading:
                self._judge_known()
                self._leading = True
            if moved or time.monotonic() >= again:
                again = time.monotonic() + AGAIN_S
                await self._look_at(list(self._store.all_keys()))
            else:
                await self._look_at([key for key in self._known if key[0] == "EdgePolicy"])
            leave = self._fleet.next_leave(time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(TEND_S if leave is None else min(TEND_S, leave + 0.1)):
                    await self._fleet_moved.wait()
            await asyncio.sleep(TURN_S)
            self._fleet_moved.clear()

    async def _first_fleet(self) -> None:
        """Wait for the nodes, for a while and while there is hope: Events do not need them."""
        until = time.monotonic() + FLEET_S
        while time.monotonic() < until and len(self._fleet_listed) < len(FLEET):
            if any(self._fleet_problems.values()):
                return
            self._fleet_moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLEET_S):
                    await self._fleet_moved.wait()

    async def _watch_fleet(self) -> None:
        """Follow our Pods, the Nodes, and what they report."""
        loop = asyncio.get_running_loop()
        pod = self._options.pod_name
        labels = ""
        if pod:
            found = siblings(
                await self._calls.request("GET", f"/api/v1/namespaces/{self._namespace}/pods/{pod}")
            )
            labels = ",".join(f"{name}={text}" for name, text in sorted(found.items()))

        def tell(follower: Follower, events: list[ResourceEvent]) -> None:
            with suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(self._take_fleet, follower, events)

        followers = [
            Follower(self._api, PODS, tell, namespace=self._namespace, labels=labels),
            Follower(self._api, NODES, tell),
            Follower(self._api, LEASES, tell, namespace=self._namespace, labels=SELECTOR),
        ]
        try:
            for follower in followers if labels else followers[1:]:
                follower.start()
            if not labels:
                self._fleet.alone(self._options.node_name)
                self._fleet_listed.add(PODS.kind)
            await asyncio.Event().wait()
        finally:
            for follower in followers:
                follower.close()

    def _take_fleet(self, follower: Follower, events: list[ResourceEvent]) -> None:
        kind = follower.resource.kind
        problem = str(follower.problem or "")
        if problem and problem != self._fleet_problems.get(kind):
            say(f"{follower.resource}: {problem}; addresses and conditions stay as they are known")
        self._fleet_problems[kind] = problem
        now = time.monotonic()
        changes = [(event.name, as_bytes(event.raw)) for event in events]
        if kind == PODS.kind:
            self._fleet.take_pods(changes, now)
        elif kind == NODES.kind:
            self._fleet.take_nodes(changes)
        else:
            self._fleet.take_reports(changes, now)
        if follower.listed:
            self._fleet_listed.add(kind)
        self._fleet_moved.set()

    async def _look_at(self, keys: Sequence[Key]) -> None:
        for number, key in enumerate(keys):
            self._look(key)
            if number % CHUNK == CHUNK - 1:
                await asyncio.sleep(0)

    def _judge_known(self) -> None:
        """Find of which objects an earlier leader has said Accepted: it was at work, or status shows it."""
        others = self.election.others_until
        for key, known in self._known.items():
            if known.said:
                continue
            if others is not None and known.since <= others:
                known.said = True
            elif known.since == 0.0:
                known.said = self._shows_accepted(key)

    def _shows_accepted(self, key: Key) -> bool:
        raw = self._store.get(*key)
        found = status.subject(raw)
        if found is None:
            return False
        if key[0] == "EdgePolicy":
            return any(
                one.get("type") == "Accepted" and one.get("observedGeneration") == found.metadata.generation
                for one in found.conditions
            )
        if not self._options.update_status:
            return True
        return any(status.place_of(entry) in self._wanted.ours for entry in found.balancer)

    # ---- conditions ------------------------------------------------------------------------

    def _conditions(self, found: Subject) -> tuple[Condition, ...]:
        """Shape: what an EdgePolicy's status must say."""
        data = found.metadata
        policy = self._policy(data.name)
        said = self._found.get(ObjectRef("EdgePolicy", "", data.name), ())
        now = time.monotonic()
        waiting, without = [], []
        nodes = sorted(self._fleet.ready())
        for node in nodes:
            digest, xdp = self._fleet.report(lease_name(self._options.election_lease, node), now)
            if not self._versions.served(data.name, data.uid, data.generation, digest):
                waiting.append(node)
            if xdp not in ("native", "generic"):
                without.append(node)
        guards = policy is not None and bool(
            policy.deny or policy.allow or policy.per_source or policy.dead_man_s
        )
        return (
            status.accepted(policy is not None, said),
            status.programmed(policy is not None, waiting, without, len(nodes), guards),
        )

    def _policy(self, name: str) -> Policy | None:
        snapshot = self._view.snapshot
        policies = snapshot.policies if snapshot is not None else ()
        return next((one for one in policies if one.object.name == name), None)

    # ---- events ----------------------------------------------------------------------------

    async def _write_events(self) -> None:
        while True:
            key = await self._events.take()
            try:
                again = await self._write_event(key)
            except ApiError as error:
                if error.status in (0, 429) or error.status >= 500:
                    self._events.pause(max(error.retry_after, 1.0))
                self._events.failed(key, error.retry_after)
                self._say_once("events", error)
                continue
            self._events.done(key)
            if again is not None:
                self._events.add(key, again)

    async def _write_event(self, key: Key) -> float | None:
        raw = self._store.get(*key)
        found = status.subject(raw)
        if found is None:
            return None
        if self._view.publish_error or key in self._unpublished:
            return SETTLE_S  # what is known is not of this object
        known = self._known.get(key)
        about, said = self._to_say(key, found)
        again = await self._recorder.record(about, said)
        if known is not None and any(one.reason == "Accepted" for one in said):
            known.said = True
        return again

    def _to_say(self, key: Key, found: Subject) -> tuple[Regarding, tuple[Notice, ...]]:
        """Shape: what Events must say of an object now."""
        kind, namespace, name = key
        data = found.metadata
        about = Regarding(key, KINDS[kind].api_version, data.uid, data.resource_version, found.edition)
        known = self._known.get(key)
        due = ""
        if known is not None and not known.said:
            if kind == "Ingress":
                due = "served" if self._serves(namespace, name) else ""
            else:
                due = "in force" if self._policy(name) is not None else ""
        return about, notices(self._found.get(ObjectRef(*key), ()), due)

    def _say_once(self, what: str, error: ApiError) -> None:
        if str(error) != self._said.get(what) and error.reason != NOT_LEADING:
            say(f"{what}: {error}")
        self._said[what] = str(error)

    # ---- for others ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Shape: figures for /metrics."""
        return {
            "leading": self.acting(),
            "holder": self.election.holder,
            "changes": self.election.changes,
            "waiting": {"status": len(self.status.queue), "events": len(self._events)},
            "status": {
                "written": self.status.counts.written,
                "conflict": self.status.counts.conflict,
                "failed": self.status.counts.failed,
            },
            "events": dict(self._recorder.counts),
        }


def as_bytes(raw: Raw | None) -> bytes | None:
    """Shape: an object of the API as it came: it always comes as bytes."""
    return raw if isinstance(raw, bytes) else None


def xdp_mode(described: dict[str, Any]) -> str:
    """Shape: the weakest way in which an interface is policed: off, generic, native."""
    on = described.get("interfaces") or {}
    if not on or described.get("without"):
        return "off"
    return "generic" if "generic" in map(str, on.values()) else "native"
