"""The controller's one loop: a batch of events, a model, a snapshot, a publish; then the next batch.

Run by edge/controller/__main__.py. The only writer of the store, the slots and the View. Everything
that can be wrong with an object becomes a Diagnostic; what stops the start raises Hopeless.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.controller import resume
from edge.controller.default_certificate import kept_certificate
from edge.controller.keeper import Accepted, Keeper, Recovered
from edge.controller.lastgood import Contents
from edge.controller.log import moment, say
from edge.controller.names import FILE as NAMES
from edge.controller.names import FIRST_S, Dns, NameFollower
from edge.controller.origin import ABOUT_US, Source, open_reporter, open_source, settled
from edge.controller.publish import Publisher, fragment_object
from edge.controller.state import StateDirectory
from edge.controller.view import View
from edge.controller.vips import VipFollower
from edge.dataplane.link import HolderLink
from edge.dataplane.stats import Statistics
from edge.dataplane.tables import Tables, sealed_memfd
from edge.errors import EdgeError, NativeError, PublishError, SourceError, XdpError
from edge.model.build import ModelBuilder, listeners_of, settings_of
from edge.model.certificates import given_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.judge import Judge
from edge.model.types import Certificate, Model, Transport
from edge.options import Options
from edge.resources.kinds import RESOLVED_NAME
from edge.resources.store import Key, ResourceEvent, ResourceStore
from edge.snapshot.compile import SnapshotCompiler
from edge.snapshot.diff import ChangeKind, compare
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot
from edge.sources.files import FileSource
from edge.xdp.addresses import chosen_interfaces, local_addresses

if TYPE_CHECKING:
    from edge.controller.reporter import Reporter

REFUSED_MAX = 64  # objects left out, one try each, before a batch is given up
ALIVE_S = 5.0  # between two signs of life
RETRY_S = 1.0
RETRY_MAX_S = 30.0
REST_MAX_S = 0.2
LULL_S = 0.05  # without a publish, before what can wait is done
LEASE_BACK_S = 3.0  # for the leader's Lease to be given back; it ends by itself else
WAITING_S = 1.0  # between two looks at a source that is not there yet
LARGE = 100  # changed objects; more are compiled in a thread, so that probes are answered meanwhile


class Hopeless(EdgeError):
    """Starting again would not help: an option that cannot be met."""


def takes_long(builder: ModelBuilder | None, changed: AbstractSet[Key]) -> bool:
    """Say whether the next model does, so that a thread makes it: with a class all its Ingresses are read."""
    return builder is None or len(changed) > LARGE or builder.rereads(changed)


class Controller:
    """Everything between the source and the publisher."""

    def __init__(self, options: Options, link: HolderLink) -> None:
        self._options = options
        self._link = link
        self._store = ResourceStore()
        self._source: Source = FileSource(options.config)  # until the objects are loaded
        self._reporter: Reporter | None = None  # with --kubernetes
        self._reporting: asyncio.Task[None] | None = None
        self._state = StateDirectory(options.instance_state_dir)
        self._slots = SlotTables()
        self._slots_text = ""
        self._handed: tuple[int, float | None] | None = None  # what the holder has of slots and source
        self._keeper = Keeper(self._state, options.state_secrets, link.state.note)
        self._served = 0  # every worker has passed this version
        self._tables = Tables()
        self._statistics = Statistics(link.statistics)
        listeners = listeners_of(options)
        self._settings = settings_of(options, listeners)
        self._names = NameFollower(Dns(options.resolver), local_addresses)
        self._publisher = Publisher(link, self._tables)
        self._vips: VipFollower | None = None  # where XDP is on
        self._busy = asyncio.Lock()
        self._patched = asyncio.Event()  # a whole image is due; set with each patch from then on
        self.view = View(link.state, self._statistics, self._keeper, listeners_wanted=len(listeners))
        self.view.image = self._image
        self._version = max(link.state.committed, link.state.staged)
        self._refused: dict[ObjectRef, Diagnostic] = {}
        self._builder: ModelBuilder | None = None  # made with the first model
        self._compiler = SnapshotCompiler(self._slots)
        self._changed: set[Key] = set()  # since the last model
        self._running_keys: dict[bytes, bytes] = {}  # by chain
        self._accepted = Accepted()
        self._unkept: set[Key] = set()  # changed since the last version that was accepted
        self._behind = False  # what we know is older than what runs, and the source is away
        link.on_reread = lambda: self._source.reread()
        link.on_serving = self._slots_free
        link.on_drain = self._drain

    # ---- start ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Load state and objects, attach XDP, publish the first version, open the listeners.

        Errors: Hopeless; EdgeError for what may be better at the next try.
        """
        try:
            self._state.prepare()
        except SourceError as error:
            if not self._link.state.committed:
                raise
            say(str(error))  # what runs goes on being followed
        recovered = await asyncio.to_thread(self._keeper.recover)
        lost_since = self._load_slots(recovered)
        self._running_keys = resume.keys_that_run(self._link.holdings.store)
        if any(listener.transport is Transport.TLS for listener in self._settings.listeners):
            self._settings = replace(self._settings, default_certificate=self._default_certificate())
        await self._load_objects(recovered, lost_since)
        await self._first_wanted()
        await self._open_xdp()
        await self._publish()

    def _load_slots(self, recovered: Recovered) -> float | None:
        """What the holder keeps is of the running version, and wins over a file that may be older.

        Shape: since when the source is lost to what runs, None where it is not, or nothing runs.
        """
        handed, lost_since = resume.unpack(self._link.slots)
        self._slots = resume.slots(handed, recovered.slots)
        self._version = max(self._version, self._slots.versions_below - 1)
        # Where nothing runs, no slot has a reader.
        self._served = self._link.state.serving if self._link.state.committed else self._version
        return lost_since if self._link.state.committed else None

    async def _load_objects(self, recovered: Recovered, lost_since: float | None) -> None:
        """Read the source; what it does not hold at a start may be lost, and while we run it is deleted.

        Errors: SourceError; ConnectionError when the holder goes away meanwhile.
        """
        running = bool(self._link.state.committed) and lost_since is None
        files = resume.with_keys(recovered.files, self._running_keys)
        self._source = open_source(self._options, files, running, lost_since)
        self._unkept |= self._store.apply(await self._loaded())
        self._settings = settled(self._settings, self._options, self._store)
        self._reporter = self.view.reporter = open_reporter(
            self._options, self._source, self._store, self.view
        )
        if self._reporter is not None:
            self._reporter.seen(self._store.all_keys())
        if self._source.lost_since is not None:
            known = f"{len(self._store)} objects accepted until {moment(recovered.written)}"
            self._behind = self._keeper.version < self._link.state.committed
            text = f"{self._source.name} is away or empty: {known} are served"
            if self._behind:
                text = f"{self._source.name} is away: what runs is newer than {known}, and goes on as it is"
            say(text)
            self._link.state.note("source", text)

    async def _loaded(self) -> list[ResourceEvent]:
        """Wait for the source, which may be for long where an API server is away and nothing was kept."""
        load = asyncio.create_task(asyncio.to_thread(self._source.load))
        said: tuple[Diagnostic, ...] = ()
        while not load.done():
            either: set[asyncio.Future[Any]] = {load, self._link.gone}
            await asyncio.wait(either, timeout=WAITING_S, return_when=asyncio.FIRST_COMPLETED)
            gc.collect(0)  # it is off until we serve, and each request that fails leaves a cycle
            if not load.done() and self._source.diagnostics != said:
                said = self.view.diagnostics = self._source.diagnostics
                say(f"waiting for {self._source.name}: {'; '.join(one.message for one in said)}")
            if self._link.gone.done() and not load.done():
                self._source.close()
                with contextlib.suppress(SourceError):
                    await load
                raise ConnectionError("the holder is gone")
        return load.result()

    async def _first_wanted(self) -> None:
        """Get what the objects name before anything is published, but do not wait long."""
        with contextlib.suppress(SourceError):
            self._names.recall(self._state.read(NAMES))
        await asyncio.to_thread(self._compile_model)
        if self._builder is not None:
            self._source.want(self._builder.wanted)
        if self._names.any:
            self._take(self._store.apply(await self._names.first(FIRST_S)))
        events = await asyncio.to_thread(self._source.first, FIRST_S)
        self._take(self._store.apply(events))
        if self._reporter is not None:
            self._reporter.seen(event.key for event in events)

    def _default_certificate(self) -> Certificate:
        made = given_certificate(
            *kept_certificate(self._state if self._options.state_secrets else None, self._running_keys)
        )
        if not isinstance(made, Certificate):
            raise Hopeless(f"default certificate: {made.message}")
        return made

    async def _open_xdp(self) -> None:
        wanted = self._options.xdp
        reason = ""
        if wanted == "off":
            reason = "--xdp off"
        elif not self._options.interface:
            reason = "no --interface is given"
        elif os.geteuid() != 0:
            reason = "it needs root, or CAP_BPF and CAP_NET_ADMIN"
        if not reason:
            from edge.xdp.plane import refused_first

            try:
                await self._attach(wanted)
                return
            except XdpError as error:
                reason = str(error)
                if wanted != "auto" and error.log:
                    say(error.log)
                if wanted == "auto" and await asyncio.to_thread(
                    refused_first, self._options.instance, self._options.instance_state_dir
                ):
                    raise
        if wanted in ("native", "generic"):
            raise Hopeless(f"--xdp {wanted}: {reason}")
        self.view.xdp_reason = reason
        if wanted != "off":
            say(f"serving without XDP: {reason}")
        if os.geteuid() == 0:
            await self._mind_earlier()

    async def _mind_earlier(self) -> None:
        """Programs of an earlier start go on: an operator is told, and they are told that we live."""
        from edge.xdp.plane import earlier

        interfaces, page = await asyncio.to_thread(earlier, self._options.instance)
        if interfaces:
            say(f"an earlier start still filters on {', '.join(interfaces)}; `edge detach` removes that")
        if page is not None:
            self._link.heartbeat(page)
            os.close(page)

    async def _attach(self, mode: str) -> None:
        from edge.xdp.plane import XdpPlane

        interfaces = await asyncio.to_thread(chosen_interfaces, self._options.interface)
        plane: Any = await asyncio.to_thread(
            XdpPlane.open,
            self._options.instance,
            interfaces,
            mode,
            cache=self._options.instance_state_dir,
            strict=not self._link.state.committed,  # what serves goes on serving
        )
        say(plane.summary())
        self._publisher.plane = self.view.plane = plane
        # Pins outlive a stop, and what we publish must lie above what packets see.
        self._version = max(self._version, plane.committed)
        self._link.heartbeat(plane.heartbeat_descriptor())
        self._vips = VipFollower(self._settings.listeners, interfaces, plane.look)

    async def _open_listeners(self) -> None:
        """Open what is not open yet, and close what other options had: the last thing before a commit."""
        for slot, listener in enumerate(self._settings.listeners):
            there = self._link.state.listeners.get(slot)
            if there and (there.address, there.port) == (str(listener.address), listener.port):
                continue
            transport = listener.transport.name.lower()
            reason = await self._link.listen(slot, str(listener.address), listener.port, transport)
            if reason:
                raise Hopeless(reason)
        for slot in set(self._link.state.listeners) - set(range(len(self._settings.listeners))):
            self._link.unlisten(slot)

    # ---- run -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the source until the holder goes away or says drain."""
        follow_names = self._names.follow(self._take_names)
        parts = (self._live(), self._retry(), self._watch(), self._tidy(), self._keeper.run(), follow_names)
        tasks: set[asyncio.Task[None]] = {asyncio.create_task(part) for part in parts}
        if self._vips is not None:
            tasks.add(asyncio.create_task(self._vips.follow(self._publish_again)))
        if self._reporter is not None:
            self._reporting = asyncio.create_task(self._reporter.run())
        try:
            await asyncio.wait({*tasks, self._link.gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
            if self._reporting is not None:
                self._reporting.cancel()
                await asyncio.wait({self._reporting}, timeout=LEASE_BACK_S)
            if self._vips is not None:
                self._vips.close()
            self._source.close()

    def _drain(self) -> None:
        """Another may serve this node from now on: let go of what only one may do, and keep the state."""
        self._keeper.hurry()
        if self._reporting is not None:
            self._reporting.cancel()

    async def _live(self) -> None:
        """Say that we come round."""
        while True:
            self._link.alive()
            await asyncio.sleep(ALIVE_S)

    async def _publish_again(self) -> None:
        """Publish for a reason that is in no object."""
        async with self._busy:
            if not self._link.state.draining:
                await self._publish()

    async def _watch(self) -> None:
        said: tuple[tuple[Diagnostic, ...], float | None] | None = None  # by the source, of itself
        async for batch in self._source.watch():
            spent = time.thread_time()
            async with self._busy:
                self._take(self._store.apply(batch))
                if self._reporter is not None:
                    self._reporter.seen(event.key for event in batch if not event.quiet)
                    self._reporter.seen_quietly(event.key for event in batch if event.quiet)
                # Status that was written, by us most of all, is no reason to publish.
                before, said = said, (self._source.diagnostics, self._source.lost_since)
                quiet = all(event.quiet for event in batch) and before == said
                if not quiet and not self._link.state.draining:
                    await self._publish()
            # As long as it took: a stream of changes shares publishes, and half of a core stays free.
            await asyncio.sleep(min(time.thread_time() - spent, REST_MAX_S))

    async def _take_names(self, events: list[ResourceEvent]) -> None:
        async with self._busy:
            self._take(self._store.apply(events))
            if not self._link.state.draining:
                await self._publish()
        with contextlib.suppress(SourceError):  # the keeper says it when the disk is full
            await asyncio.to_thread(self._state.write, NAMES, self._names.to_json())

    async def _tidy(self) -> None:
        """Lay patches and image together when nobody waits for a publish."""
        while True:
            await self._patched.wait()
            self._patched.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LULL_S):
                    await self._patched.wait()
            if self._patched.is_set():
                continue
            async with self._busy:
                if self._publisher.whole_due and self._link.state.up and not self._link.state.draining:
                    self._publisher.begin_anew()
                    await self._publish()

    async def _retry(self) -> None:
        """Try again, less and less often, what could not be published for a reason outside of the objects."""
        wait = RETRY_S
        while True:
            await asyncio.sleep(wait)
            if not self.view.publish_error:
                wait = RETRY_S
            elif self._link.state.up:
                await self._publish_again()
                wait = min(wait * 2, RETRY_MAX_S)

    def _take(self, changed: frozenset[Key]) -> None:
        """Note what the next model must look at, and give an object that was refused another try."""
        self._changed |= changed
        self._unkept |= {key for key in changed if key[0] != RESOLVED_NAME}
        if any(key[0] in ABOUT_US for key in changed):
            settings = settled(self._settings, self._options, self._store)
            if settings != self._settings:
                self._settings, self._builder = settings, None
        for key in changed:
            self._refused.pop(ObjectRef(*key), None)
            if key[0] == "EndpointSlice":  # what was wrong with a Service's endpoints stands in its slices
                for ref in [one for one in self._refused if (one.kind, one.namespace) == ("Service", key[1])]:
                    del self._refused[ref]

    # ---- publish -------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Publish the store as it is; what is refused is left out and the rest tried again.

        Errors: Hopeless. Others are kept in the view, and tried again later.
        """
        if self._behind and self._source.lost_since is not None:
            # The state is written behind the publishes: it may not know what runs.
            self.view.diagnostics, self.view.lost_since = self._source.diagnostics, self._source.lost_since
            return
        self._behind = False
        try:
            for _ in range(REFUSED_MAX):
                if await self._try():
                    self.view.publish_error = ""
                    if self._reporter is not None:
                        self._reporter.published()
                    return
            raise PublishError(f"more than {REFUSED_MAX} objects were refused")
        except Hopeless:
            raise
        except EdgeError as error:
            self.view.publishes["failed"] += 1
            if self.view.publish_error != str(error):
                say(str(error))
            self.view.publish_error = str(error)

    async def _try(self) -> bool:
        """Shape: False when an object was refused, and is left out from now on."""
        self._version += 1
        version = self._version
        self._slots.release(self._served)  # here and not when it is heard: a thread may be compiling then
        if takes_long(self._builder, self._changed):
            self.view.model_rests.clear()
            try:
                model, snapshot = await asyncio.to_thread(self._compile, version)
            finally:
                self.view.model_rests.set()
        else:
            model, snapshot = self._compile(version)
        if self._builder is not None:
            self._source.want(self._builder.wanted)
        if self._vips is not None:
            self._publisher.vips, self._publisher.local = await self._vips.current()
        change = compare(self._publisher.running, snapshot)
        self.view.diagnostics = snapshot.diagnostics or model.diagnostics
        self.view.lost_since = self._source.lost_since
        self._hand_over(version)
        if change.kind is ChangeKind.NOTHING:
            if not await self._publisher.police(snapshot):
                self._version -= 1
            self._keep(snapshot)
            return True
        try:
            result = await self._publisher.publish(snapshot, change, self._open_listeners)
        except NativeError as error:
            found = fragment_object(snapshot, error.index)
            if found is None:
                raise
            return self._leave_out(Diagnostic(found, error.field, "Refused", f"left out: {error.reason}"))
        if result.refused:
            return self._leave_out(result.refused)
        self.view.publishes[result.kind] += 1
        if self._publisher.whole_due:
            self._patched.set()
        self.view.snapshot = snapshot
        self._keep(snapshot)
        return True

    def _hand_over(self, version: int) -> None:
        """Leave slots and the source's state with the holder for the next controller, before they count."""
        self._slots.reserve(version)
        now = (self._slots.changes, self._source.lost_since)
        if now == self._handed:
            return
        self._slots_text = self._slots.to_json()
        descriptor = sealed_memfd("edge-slots", resume.pack(self._slots_text, self._source.lost_since))
        try:
            self._link.keep_slots(descriptor)
        finally:
            os.close(descriptor)
        self._handed = now

    def _keep(self, snapshot: Snapshot) -> None:
        """Have what was accepted written down, for a start where nothing else is left."""
        self._accepted.follow(self._store, self._unkept, self._refused)
        self._unkept = set()
        running = self.view.snapshot or snapshot
        # All of it together when the keeper writes: a stream of versions is not copied for nothing.
        self._keeper.keep(
            lambda: Contents(
                running.version,
                snapshot.routes_digest,
                snapshot.endpoints_digest,
                self._slots_text,
                self._accepted.objects(),
                self._source.origins,
                0 if self._source.lost_since is None else self._keeper.written,
            )
        )

    def _leave_out(self, found: Diagnostic) -> bool:
        self.view.publishes["refused"] += 1
        if found.object in self._refused:
            raise PublishError(f"{found.object} is refused, and cannot be left out: {found.message}")
        self._refused[found.object] = found
        say(f"{found.object}: {found.message}")
        return False

    def _image(self) -> bytes | None:
        """The running version as an image, for a person who asks about it."""
        return self._tables.full(self.view.snapshot) if self.view.snapshot else None

    def _compile(self, version: int) -> tuple[Model, Snapshot]:
        model = self._compile_model()
        return model, self._compiler.compile(model, version)

    def _compile_model(self) -> Model:
        if self._builder is None:
            self._builder, self._compiler = ModelBuilder(self._settings), SnapshotCompiler(self._slots)
            self._changed = set(self._store.all_keys())
        model = self._builder.update(
            self._store, self._changed, self._source.diagnostics, tuple(self._refused.values())
        )
        self._changed = set()
        self.view.upstreams = self._builder.upstreams
        self.view.serves = self._builder.serves
        self.view.judge = Judge(self._builder, self._store)
        self._names.want(self._builder.upstreams.external_names())
        return model

    # ---- what the holder says ------------------------------------------------------------

    def _slots_free(self, version: int) -> None:
        self._served = max(self._served, version)
