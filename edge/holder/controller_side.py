"""The holder's side of the controller: one process, what it is told, what it may order.

Called by holder/main.py. The controller is believed (it makes the images), yet what it orders is checked as
far as numbers go. Never looks into an image.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.errors import HolderError
from edge.holder import sockets
from edge.holder.children import Child, Program
from edge.holder.data_plane import DataPlanes, send_listener
from edge.holder.log import say
from edge.holder.loop import Loop
from edge.holder.store import CommitPage, Heartbeat
from edge.holdings import IMAGE_FULL, IMAGE_PATCH, Holdings, Listener, Stored
from edge.messages import Message
from edge.options import Options

EXIT_HOPELESS = 78  # a controller's "it makes no sense to start me again" (EX_CONFIG of sysexits.h)
LISTENERS_MAX = 64  # EDGE_LISTENER_SLOTS


class ControllerSide:
    """The controller of the instance, over all its lives."""

    def __init__(self, loop: Loop, holdings: Holdings, options: Options, page: CommitPage) -> None:
        self._loop, self._holdings, self._page = loop, holdings, page
        self.program = Program("controller", "edge.controller", options.to_environment())
        self.heartbeat = Heartbeat()
        self.data: DataPlanes  # set by the holder: the two know each other
        self.child: Child | None = None
        self.stopping = False
        self.on_hopeless: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        """Return its process id, 0 when none lives."""
        return self.child.pid if self.child else 0

    # ---- start and end -------------------------------------------------------------------

    def start(self) -> None:
        """Start one and tell it all that is held, unless we stop."""
        if self.stopping or self.child is not None:
            return
        try:
            self.child = self.program.start(self._loop)
        except OSError as error:
            wait = self.program.wait_after(0)
            say(f"a controller cannot be started ({error}), trying again in {wait:.1f} s")
            self._loop.after(wait, self.start)
            return
        self.child.watch(self._hear, self._ended)
        self._introduce(self.child)

    def _introduce(self, child: Child) -> None:
        holdings, store = self._holdings, self._holdings.store
        data = self.data.describe()
        child.send(
            "setup",
            (holdings.admin, holdings.statistics, holdings.commit_page),
            data=data["state"],
            pid=data["pid"],
            loop=data["loop"],
            committed=store.committed,
            staged=store.staged.version if store.staged else 0,
            serving=self.data.serving,
            workers=holdings.workers,
            restarts=holdings.counts["data_restarts"],
            starts=holdings.counts["controller_restarts"] + 1,
        )
        child.send("counts", (), **holdings.counts)
        for listener in holdings.listeners.values():
            send_listener(child.send, "listening", listener, address=listener.address, port=listener.port)
        for stored in store.all():
            child.send("image", stored.descriptors, version=stored.version, kind=stored.kind)
        if store.slots is not None:
            child.send("slots", (store.slots,))
        child.send("begin")

    def _ended(self) -> None:
        child, self.child = self.child, None
        if child is None or self.stopping:
            return
        wait = self.program.wait_after(child.age)
        if child.status == EXIT_HOPELESS and not self._holdings.store.committed:
            self.on_hopeless()  # it has said why
            return
        self._holdings.counts["controller_restarts"] += 1
        say(f"controller {child.pid} ended ({child.describe_end()}), starting another in {wait:.1f} s")
        if wait:
            self._loop.after(wait, self.start)
        else:
            self.start()

    def send(self, verb: str, descriptors: tuple[int, ...] = (), **fields: object) -> None:
        """Tell it something, if it lives."""
        if self.child:
            self.child.send(verb, descriptors, **fields)

    # ---- what it orders ------------------------------------------------------------------

    def _hear(self, message: Message) -> bool:
        """Act on one message. Shape: True when its descriptors were kept."""
        version = message.number("version")
        match message.verb:
            case "listen":
                self._listen(message)
            case "unlisten":
                self._unlisten(message.number("slot", -1))
            case "image":
                return self._store_image(version, message)
            case "commit":
                self._commit(version)
            case "slots" if len(message.descriptors) == 1:
                self._holdings.store.keep_slots(message.descriptors[0])
                return True
            case "heartbeat" if len(message.descriptors) == 1:
                self._take_heartbeat(message.descriptors[0])
                return True
            case _:
                say(f"the controller said {message.verb[:32]!r}, which is no verb of this version")
        return False

    def _listen(self, message: Message) -> None:
        slot, port = message.number("slot", -1), message.number("port", -1)
        address = message.fields.get("address", "")
        listener = self._holdings.listeners.get(slot)
        if listener is None:
            try:
                if not 0 <= slot < LISTENERS_MAX:
                    raise HolderError(f"listener slot {slot} is out of range")
                members = sockets.open_members(address, port, self._holdings.workers)
            except HolderError as error:
                self.send("failed", slot=slot, reason=error)
                return
            port = members[0].getsockname()[1]
            listener = Listener(slot, address, port, [member.detach() for member in members])
            self._holdings.listeners[slot] = listener
            self.data.listen(listener)
        send_listener(self.send, "listening", listener, address=listener.address, port=listener.port)

    def _unlisten(self, slot: int) -> None:
        listener = self._holdings.listeners.pop(slot, None)
        if listener:
            self.data.send("unlisten", slot=slot)
            listener.close()

    def _store_image(self, version: int, message: Message) -> bool:
        kind = message.number("kind")
        committed = self._holdings.store.committed
        wanted = {IMAGE_FULL: 2, IMAGE_PATCH: 1}.get(kind, -1)
        if len(message.descriptors) != wanted or version <= committed:
            reason = f"version {version} of kind {kind} cannot follow {committed}"
            self.send("refused", version=version, reason=reason)
            return False
        stored = Stored(version, kind, message.descriptors)
        self._holdings.store.stage(stored)
        self.data.stage(stored)
        return True

    def _commit(self, version: int) -> None:
        if not self._holdings.store.commit(version):
            say(f"the controller committed version {version}, which is not staged: ignored")
            return
        self._page.write(version)
        self.data.commit(version)

    def _take_heartbeat(self, descriptor: int) -> None:
        self._holdings.replace("heartbeat", descriptor)
        self.heartbeat.map(descriptor)
        self.stamp()
        self.data.send("heartbeat", (descriptor,))

    def stamp(self) -> None:
        """Say to XDP that we live; only with a data plane to hold for."""
        if self.data.current is not None:
            self.heartbeat.stamp()
