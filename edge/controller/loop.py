"""The controller's one loop: a batch of events, a model, a snapshot, a publish; then the next batch.

Run by edge/controller/__main__.py. The only writer of the store, the slots and the View. Everything
that can be wrong with an object becomes a Diagnostic; what stops the start raises Hopeless.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import sys
from collections.abc import Iterable
from typing import Any

from edge.controller.default_certificate import make_default_certificate, split_default_certificate
from edge.controller.publish import Publisher, fragment_object
from edge.controller.state import DEFAULT_CERTIFICATE, SLOTS, StateDirectory
from edge.controller.view import View
from edge.controller.vips import VipFollower
from edge.dataplane.link import HolderLink
from edge.dataplane.stats import Statistics
from edge.dataplane.tables import Tables, sealed_memfd
from edge.errors import EdgeError, NativeError, PublishError, SourceError, XdpError
from edge.model.build import ModelSettings, build_model, listeners_of
from edge.model.certificates import given_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.types import Certificate, Model, Transport
from edge.options import Options
from edge.resources.store import Key, ResourceStore
from edge.snapshot.compile import compile_snapshot
from edge.snapshot.diff import ChangeKind, compare
from edge.snapshot.slots import SlotTables
from edge.snapshot.types import Snapshot
from edge.sources.files import FileSource

REFUSED_MAX = 64  # objects left out, one try each, before a batch is given up
RETRY_S = 1.0
RETRY_MAX_S = 30.0
LARGE = 500  # objects; more are compiled in a thread, so that probes are answered meanwhile


class Hopeless(EdgeError):
    """Starting again would not help: an option that cannot be met."""


def say(text: str) -> None:
    """Write one line for an operator."""
    print(f"edge-controller: {text}", file=sys.stderr, flush=True)


class Controller:
    """Everything between the source and the publisher."""

    def __init__(self, options: Options, link: HolderLink) -> None:
        self._options = options
        self._link = link
        self._store = ResourceStore()
        self._source = FileSource(options.config)
        self._state = StateDirectory(options.instance_state_dir)
        self._slots = SlotTables()
        self._slots_kept = 0  # their `changes` when they were last written down
        self._state_error = ""
        self._served = 0  # every worker has passed this version
        self._tables = Tables()
        self._statistics = Statistics(link.statistics)
        listeners = listeners_of(options)
        self._settings = ModelSettings(
            listeners=listeners,
            ingress_class=options.ingress_class,
            watch_ingress_without_class=options.watch_ingress_without_class,
        )
        self._publisher = Publisher(link, self._tables)
        self._vips: VipFollower | None = None  # where XDP is on
        self._busy = asyncio.Lock()
        self.view = View(link.state, self._statistics, listeners_wanted=len(listeners))
        self._version = max(link.state.committed, link.state.staged)
        self._refused: dict[ObjectRef, Diagnostic] = {}
        link.on_reread = self._source.reread
        link.on_serving = self._slots_free

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
        self._load_slots()
        if any(listener.transport is Transport.TLS for listener in self._settings.listeners):
            self._settings = ModelSettings(
                self._settings.listeners,
                self._settings.ingress_class,
                self._settings.watch_ingress_without_class,
                self._default_certificate(),
            )
        self._store.apply(self._source.load())
        await self._open_xdp()
        await self._publish()

    def _load_slots(self) -> None:
        """What the holder keeps is of the running version, and wins over a file that may be older."""
        file = str(self._state.path / SLOTS)
        for name, text in (("the holder's slot table", self._link.slots), (file, self._state.read(SLOTS))):
            if not text:
                continue
            try:
                self._slots = SlotTables.from_json(text)
                break
            except ValueError as error:
                say(f"{name} is of no use ({error})")
        self._version = max(self._version, self._slots.versions_below - 1)
        # Where nothing runs, no slot has a reader.
        self._served = self._link.state.serving if self._link.state.committed else self._version

    def _default_certificate(self) -> Certificate:
        kept = self._state.read(DEFAULT_CERTIFICATE) if self._options.state_secrets else None
        pair = split_default_certificate(kept) if kept else None
        if pair is None:
            if kept:
                say(f"{self._state.path / DEFAULT_CERTIFICATE} is of no use; another one is made")
            pair = make_default_certificate(datetime.datetime.now(datetime.UTC))
            if self._options.state_secrets:
                self._write_state(
                    DEFAULT_CERTIFICATE, b"".join(pair).decode(), "it lasts until the next start", 0o600
                )
        made = given_certificate(*pair)
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
            try:
                await self._attach(wanted)
                return
            except XdpError as error:
                reason = str(error)
                if wanted != "auto" and error.log:
                    say(error.log)
        if wanted in ("native", "generic"):
            raise Hopeless(f"--xdp {wanted}: {reason}")
        self.view.xdp_reason = reason
        if wanted != "off":
            say(f"serving without XDP: {reason}")

    async def _attach(self, mode: str) -> None:
        from edge.xdp.plane import XdpPlane

        plane: Any = await asyncio.to_thread(
            XdpPlane.open,
            self._options.instance,
            self._options.interface,
            mode,
            cache=self._options.instance_state_dir,
        )
        say(plane.summary())
        self._publisher.plane = self.view.plane = plane
        # Pins outlive a stop, and what we publish must lie above what packets see.
        self._version = max(self._version, plane.committed)
        heartbeat = plane.heartbeat_descriptor()
        if heartbeat is not None:
            self._link.heartbeat(heartbeat)
        self._vips = VipFollower(self._settings.listeners, self._options.interface)

    async def _open_listeners(self) -> None:
        """Open what is not open yet: the last thing before the first commit."""
        for slot, listener in enumerate(self._settings.listeners):
            if slot in self._link.state.listeners:
                continue
            transport = listener.transport.name.lower()
            reason = await self._link.listen(slot, str(listener.address), listener.port, transport)
            if reason:
                raise Hopeless(reason)

    # ---- run -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the source until the holder goes away or says drain."""
        tasks = {asyncio.create_task(self._retry()), asyncio.create_task(self._watch())}
        if self._vips is not None:
            tasks.add(asyncio.create_task(self._vips.follow(self._publish_again)))
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
            if self._vips is not None:
                self._vips.close()
            self._source.close()

    async def _publish_again(self) -> None:
        """Publish for a reason that is in no object."""
        async with self._busy:
            if not self._link.state.draining:
                await self._publish()

    async def _watch(self) -> None:
        async for batch in self._source.watch():
            async with self._busy:
                self._forgive(self._store.apply(batch))
                if not self._link.state.draining:
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

    def _forgive(self, changed: Iterable[Key]) -> None:
        """Give an object that was refused another try once it has changed."""
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
        try:
            for _ in range(REFUSED_MAX):
                if await self._try():
                    self.view.publish_error = ""
                    return
            raise PublishError(f"more than {REFUSED_MAX} objects were refused")
        except Hopeless:
            raise
        except EdgeError as error:
            if self.view.publish_error != str(error):
                say(str(error))
            self.view.publish_error = str(error)

    async def _try(self) -> bool:
        """Shape: False when an object was refused, and is left out from now on."""
        self._version += 1
        version = self._version
        self._slots.release(self._served)  # here and not when it is heard: a thread may be compiling then
        if len(self._store) > LARGE:
            model, snapshot = await asyncio.to_thread(self._compile, version)
        else:
            model, snapshot = self._compile(version)
        if self._vips is not None:
            self._publisher.vips, self._publisher.local = await self._vips.current()
        change = compare(self._publisher.running, snapshot)
        self.view.diagnostics = snapshot.diagnostics or model.diagnostics
        if change.kind is ChangeKind.NOTHING:
            if not await self._publisher.police(snapshot):
                self._version -= 1
            return True
        self._keep_slots(version)
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
        self.view.snapshot = snapshot
        return True

    def _keep_slots(self, version: int) -> None:
        """Leave the slots where the next controller finds them, before anyone can count in them.

        With the holder for a start while this version runs, in the state folder for one after a stop: a full
        disk costs the second alone, and publishing goes on.
        """
        self._slots.reserve(version)
        changes = self._slots.changes
        if changes == self._slots_kept:
            return
        text = self._slots.to_json()
        descriptor = sealed_memfd("edge-slots", text.encode())
        try:
            self._link.keep_slots(descriptor)
        finally:
            os.close(descriptor)
        self._slots_kept = changes
        self._write_state(SLOTS, text, "slots are kept by the holder alone")

    def _write_state(self, name: str, text: str, otherwise: str, mode: int = 0o644) -> None:
        """Write a state file; what cannot be written is said once, and stops nothing."""
        try:
            self._state.write(name, text, mode)
            self._state_error = ""
        except SourceError as error:
            if str(error) != self._state_error:
                say(f"{error}; {otherwise}")
            self._state_error = str(error)

    def _leave_out(self, found: Diagnostic) -> bool:
        self.view.publishes["refused"] += 1
        if found.object in self._refused:
            raise PublishError(f"{found.object} is refused, and cannot be left out: {found.message}")
        self._refused[found.object] = found
        say(f"{found.object}: {found.message}")
        return False

    def _compile(self, version: int) -> tuple[Model, Snapshot]:
        model = build_model(
            self._store, self._settings, self._source.diagnostics, tuple(self._refused.values())
        )
        return model, compile_snapshot(model, self._slots, version)

    # ---- what the holder says ------------------------------------------------------------

    def _slots_free(self, version: int) -> None:
        self._served = max(self._served, version)
