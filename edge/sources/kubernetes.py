"""An API server as a source of objects: followers of every resource, put together.

Used by the controller's loop, with the same events as the folder's. What cannot be had (a permission, a CRD,
the server) is a finding, and everything else goes on; nothing is deleted because a list failed. What was
known before a start (`kept`) stands in for each resource until its first list. Never judges an object.

    source = KubernetesSource(Api.of(options), options, kept)
    store.apply(source.load())              # blocks: until all is listed, or what was kept must do
    async for batch in source.watch(): ...  # lists of ResourceEvent; may be empty: its findings changed
    source.want({("Secret", "shop", "tls")})  # Secrets and ConfigMaps that are named; from the loop's thread
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from types import MappingProxyType

from edge.errors import SourceError
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.options import Options
from edge.resources.kinds import Raw, plain
from edge.resources.store import Key, ResourceEvent
from edge.sources.api import Api
from edge.sources.follow import Follower, State
from edge.sources.objects import (
    CONFIG_MAPS,
    EDGE_POLICIES,
    ENDPOINT_SLICES,
    INGRESS_CLASSES,
    INGRESSES,
    NODES,
    SECRETS,
    SERVICES,
    Resource,
)

QUIET_S = 0.002  # a burst of events ends after so long without one
BURST_S = 0.05  # and is told after so long in any case
LOST_S = 3.0  # a watch that is begun again within so long is no finding
KEPT_S = 20.0  # what was kept serves after so long, where lists are not through
TLS_TYPE = "kubernetes.io/tls"
TLS = f"type={TLS_TYPE}"
NAMED = {"ConfigMap": CONFIG_MAPS, "Secret": SECRETS}  # of which some are followed by their names
NAMED_MAX = 64  # Secrets of other types and ConfigMaps, each of them a watch of its own
# Without these, and with nothing kept, there is nothing that could be served.
ESSENTIAL = ("Ingress", "Service", "EndpointSlice")

Known = Mapping[str, tuple[tuple[Key, Raw], ...]]


class KubernetesSource:
    """One API server. ``diagnostics``: what is not followed, and why; ``ignored``, ``origins``: empty.

    ``lost_since``: since when objects are served that the server could not be asked about; None: it answers.
    Units: seconds since 1970.
    """

    def __init__(
        self,
        api: Api,
        options: Options,
        kept: Known = MappingProxyType({}),
        trust_empty: bool = False,
        lost_since: float | None = None,
    ) -> None:
        self.api = api
        self.name = f"the API server ({api.describe})"
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.ignored: tuple[Diagnostic, ...] = ()
        self.origins: Mapping[Key, str] = MappingProxyType({})
        self.lost_since = lost_since
        self._options = options
        self._namespaces = options.watch_namespace or ("",)
        self._settings: Key = ("ConfigMap", *options.configmap.partition("/")[::2])  # it has a follower
        self._kept: dict[Key, Raw] = {}
        if not trust_empty:
            self._kept = {key: raw for objects in kept.values() for key, raw in objects}
        # Followers write these from their threads.
        self._news = threading.Condition()
        self._pending: dict[Key, ResourceEvent] = {}
        self._other: dict[Key, Raw] = {
            key: raw
            for key, raw in self._kept.items()
            if (key[0] == "ConfigMap" and key != self._settings)
            or (key[0] == "Secret" and plain(raw).get("type") != TLS_TYPE)
        }  # kept, and only a watch by name tells of it: until the first that is wanted is known
        self._unsettled = False  # what is wanted could not be compared with what is told
        self._owner: dict[Key, Follower] = {}  # of NAMED: two watches may know one
        self._states: dict[Follower, State] = {}  # as they said last
        self._listed: set[Follower] = set()  # whose first list is in _pending, or was
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._closed = False
        self._wanted: frozenset[Key] = frozenset()
        self._named: dict[Key, Follower] = {}
        self._left_out = 0  # wanted and beyond NAMED_MAX
        self._followers = self._all()

    def _all(self) -> list[Follower]:
        options, found = self._options, []
        for namespace in self._namespaces:
            found.append(self._follower(INGRESSES, namespace, labels=options.watch_selector))
            found.append(self._follower(SERVICES, namespace))
            found.append(self._follower(ENDPOINT_SLICES, namespace))
            found.append(self._follower(SECRETS, namespace, fields=TLS))
        found.append(self._follower(INGRESS_CLASSES))
        found.append(self._follower(EDGE_POLICIES))
        if options.node_name:
            found.append(self._follower(NODES, fields=f"metadata.name={options.node_name}"))
        if options.configmap:
            _, namespace, name = self._settings
            found.append(self._follower(CONFIG_MAPS, namespace, fields=f"metadata.name={name}"))
        return found

    def _follower(
        self, resource: Resource, namespace: str = "", *, fields: str = "", labels: str = ""
    ) -> Follower:
        kept = [
            (key, raw)
            for key, raw in self._kept.items()
            if key[0] == resource.kind and namespace in ("", key[1]) and key not in self._other
        ]
        return self._follow(resource, namespace, fields, labels, kept)

    def _follow(
        self, resource: Resource, namespace: str, fields: str, labels: str, kept: Iterable[tuple[Key, Raw]]
    ) -> Follower:
        return Follower(
            self.api, resource, self._hear, namespace=namespace, fields=fields, labels=labels, kept=kept
        )

    # ---- what the loop calls -----------------------------------------------------------------

    def load(self) -> list[ResourceEvent]:
        """Begin to follow; blocks until there is something to serve, however long that takes.

        Errors: SourceError when it is closed meanwhile.
        """
        for follower in self._followers:
            follower.start()
        began = time.monotonic()
        with self._news:
            while not self._closed and not self._enough(time.monotonic() - began):
                self._news.wait(1.0)
                self._assess()
            if self._closed:
                raise SourceError("stopped before the API server had answered")
            events = {key: ResourceEvent(*key, raw) for key, raw in self._kept.items() if self._is_ours(key)}
            self._kept = {}
            for key, event in self._pending.items():
                if event.raw is None:
                    events.pop(key, None)
                else:
                    events[key] = ResourceEvent(*key, event.raw)
            self._pending = {}
        self._assess()
        if self.lost_since is None and any(
            one.state is State.LOST and not one.listed for one in self._followers
        ):
            self.lost_since = time.time()
        return list(events.values())

    async def watch(self) -> AsyncIterator[list[ResourceEvent]]:
        """Give the changes after `load`, a burst as one batch; ends only when it is closed."""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._wake.set()
        while True:
            await self._wake.wait()
            await self._settle()
            before = (self.diagnostics, self.lost_since)
            with self._news:
                events, self._pending = list(self._pending.values()), {}
            self._assess()
            if self._unsettled or any(event.kind == "Secret" for event in events):
                self._follow_named()
            if events or before != (self.diagnostics, self.lost_since):
                yield events

    async def _settle(self) -> None:
        """Return when nothing more came for QUIET_S, but soon."""
        assert self._wake is not None
        end = time.monotonic() + BURST_S
        while True:
            self._wake.clear()
            try:
                async with asyncio.timeout(min(QUIET_S, max(0.0, end - time.monotonic()))):
                    await self._wake.wait()
            except TimeoutError:
                return

    def want(self, keys: Iterable[Key]) -> None:
        """Follow these Secrets, whatever their type, and ConfigMaps, and no others by name."""
        wanted = frozenset(keys)
        if wanted != self._wanted or self._other:
            self._wanted = wanted
            self._follow_named()

    def first(self, patience_s: float) -> list[ResourceEvent]:
        """Wait, but not long, until what is wanted is read. Shape: the changes since `load`."""
        with self._news:
            named = tuple(self._named.values())
            self._news.wait_for(
                lambda: self._closed or all(one in self._listed or one.problem is not None for one in named),
                patience_s,
            )
            events, self._pending = list(self._pending.values()), {}
        return events

    def reread(self) -> None:
        """Compare with whole lists again."""
        for follower in (*self._followers, *self._named.values()):
            follower.relist()

    def close(self) -> None:
        """Stop following; returns soon, a thread that waits for an answer may outlive it."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        followers = [*self._followers, *self._named.values()]
        for follower in followers:
            follower.close()
        end = time.monotonic() + 1.0
        for follower in followers:
            follower.join(max(0.0, end - time.monotonic()))
        self.api.close()

    # ---- what followers say --------------------------------------------------------------------

    def _hear(self, follower: Follower, events: list[ResourceEvent]) -> None:
        """Take in what a follower tells, in its thread."""
        with self._news:
            if self._closed or follower.closed:
                return
            for event in events:
                if event.kind in NAMED and not self._owns(follower, event):
                    continue
                before = self._pending.get(event.key)
                if before is not None and event.quiet and not before.quiet:
                    event = ResourceEvent(*event.key, event.raw)
                self._pending[event.key] = event
            if follower.listed:
                self._listed.add(follower)
            was, self._states[follower] = self._states.get(follower), follower.state
            self._news.notify_all()
        if was is not State.FOLLOWING and follower.state is State.FOLLOWING:  # the server was heard of
            for other in self._followers:
                if other.state is State.LOST:
                    other.hurry()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)

    def _owns(self, follower: Follower, event: ResourceEvent) -> bool:
        """Say whether what this watch tells counts: a watch of a type goes before one by name."""
        owner = self._owner.get(event.key, follower)
        if owner is not follower and (event.raw is None or owner in self._followers):
            return False
        if event.raw is None:
            self._owner.pop(event.key, None)
        else:
            self._owner[event.key] = follower
        return True

    def _is_ours(self, key: Key) -> bool:
        return not key[1] or key[0] == "ConfigMap" or self._namespaces == ("",) or key[1] in self._namespaces

    def _enough(self, waited: float) -> bool:
        """Say whether a start can go on."""
        if all(follower in self._listed for follower in self._followers):
            return True
        through = all(
            one in self._listed
            or one.state is State.MISSING
            or (one.state is State.FORBIDDEN and (self._kept or one.resource.kind not in ESSENTIAL))
            for one in self._followers
        )
        tried = all(one in self._listed or one.problem is not None for one in self._followers)
        return through or (bool(self._kept) and (tried or waited > KEPT_S))

    # ---- Secrets and ConfigMaps by name --------------------------------------------------------

    def _follow_named(self) -> None:
        """Follow by name what is wanted and no other watch tells."""
        by_type = [one for one in self._followers if one.resource is SECRETS]
        if any(one.state in (State.STARTING, State.LOST) and not one.listed for one in by_type):
            self._unsettled = True
            return
        self._unsettled = False
        with self._news:
            known = {key for key, owner in self._owner.items() if owner in by_type}
        missing = sorted(key for key in self._wanted - known - {self._settings} if self._is_ours(key))
        chosen = set(missing[:NAMED_MAX])
        self._left_out = len(missing) - len(chosen)
        for key in self._named.keys() - chosen:
            follower = self._named.pop(key)
            follower.close()
            self._let_go(follower, key)
        for key in sorted(chosen - self._named.keys()):
            kind, namespace, name = key
            kept = [(key, self._other[key])] if key in self._other else []
            follower = self._follow(NAMED[kind], namespace, f"metadata.name={name}", "", kept)
            self._named[key] = follower
            follower.start()
        with self._news:
            for key in self._other:
                if key not in chosen and key not in self._owner:
                    self._pending[key] = ResourceEvent(*key, None)
        self._other = {}

    def _let_go(self, follower: Follower, key: Key) -> None:
        """Forget an object that nobody names any more, unless another watch has it."""
        with self._news:
            self._states.pop(follower, None)
            self._listed.discard(follower)
            if self._owner.get(key) is not follower:
                return
            del self._owner[key]
            self._pending[key] = ResourceEvent(*key, None)
        if self._wake is not None:
            self._wake.set()

    # ---- findings ------------------------------------------------------------------------------

    def _assess(self) -> None:
        """Say what is not followed."""
        found: set[Diagnostic] = set()
        lost: list[Follower] = []
        moment = time.monotonic()
        for one in (*self._followers, *tuple(self._named.values())):
            problem = one.problem
            if problem is None:
                continue
            where = f" in namespace {one.namespace}" if one.namespace else ""
            if one.state is State.FORBIDDEN:
                text = f"list and watch are not allowed{where}: {problem.message}"
                found.add(_finding(str(one.resource), "Forbidden", text))
            elif one.state is State.MISSING:
                text = "the API server knows no such resource; what it would hold is not served"
                found.add(_finding(str(one.resource), "ResourceMissing", text, Severity.WARNING))
            elif one.state is State.LOST and moment - one.since > LOST_S:
                lost.append(one)
        if lost:
            if self.lost_since is None:
                self.lost_since = time.time() - (moment - min(one.since for one in lost))
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.lost_since))
            first = lost[0].problem
            denied = first is not None and first.status == 401
            said = first and (first.message or first.reason)
            names = ", ".join(sorted({one.resource.plural for one in lost}))
            text = f"{said}; the last good objects stay ({names}, since {since})"
            found.add(_finding("", "Unauthorized" if denied else "Unreachable", text))
        elif not any(one.state in (State.LOST, State.STARTING) for one in self._followers):
            self.lost_since = None
        if self._left_out:
            text = f"{self._left_out} Secrets of other types, ConfigMaps, or what is not there: not followed"
            found.add(_finding(str(SECRETS), "TooManyNamed", text, Severity.WARNING))
        self.diagnostics = tuple(sorted(found))


def _finding(name: str, reason: str, text: str, severity: Severity = Severity.ERROR) -> Diagnostic:
    return Diagnostic(ObjectRef("ApiServer", "", name), "", reason, text, severity)
