"""What stands in bpffs for an instance: two places for maps, links, programs; and how a start finds them.

Used by edge/xdp/plane.py alone. One place (`maps/a` or `maps/b`) is in use; an object whose maps have
another shape gets the other one, beside, and the links move there at the first commit. Nothing says which
place is in use but the links themselves: the kernel knows the maps of the program that a link runs. So a
process may die between any two steps, and `recover` finishes or undoes what it finds.

    /sys/fs/bpf/edge/INSTANCE/maps/a/edge_vips …  maps, the digests of their layouts, counters taken over
                             /links/native/eth0    a link for each interface, by mode
                             /programs/native/…    the program that the link runs
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.xdp import counts, link, syscalls
from edge.xdp.object import KEPT, BpfObject, matches

BPFFS = Path("/sys/fs/bpf")
_OURS = "edge_"


def pins_of(instance: str) -> Path:
    """The folder of an instance."""
    return BPFFS / "edge" / link.pin_name(instance)


class Pins:
    """The folder of one instance."""

    def __init__(self, instance: str) -> None:
        self.folder = pins_of(instance)
        self.links = self.folder / "links"
        self.places = (self.folder / "maps" / "a", self.folder / "maps" / "b")

    def make(self) -> None:
        """Make the folders. Errors: OSError."""
        for folder in (self.links, self.folder / "maps"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def other(self, place: Path | None) -> Path:
        """The place that is not ``place``."""
        return self.places[1] if place == self.places[0] else self.places[0]

    def recover(self) -> Path | None:
        """Leave at most one place, and only pins of links that live.

        Shape: the place in use, None where there is none.
        Errors: OSError.
        """
        alive = link.survey(self.links)
        running = {place: [one for one in alive if self._runs(one, place)] for place in self.places}
        found = [place for place in self.places if place.is_dir()]
        if not found:
            return None
        # Versions only grow: of two that run, the higher is where the dead process was going.
        keep = max(found, key=lambda place: (bool(running[place]), committed(place)))
        both = [place for place in found if running[place]]
        if len(both) == 2:
            keep = max(both, key=committed)
            for one in running[self.other(keep)]:
                link.follow(one, running[keep][0])
        self.settle(keep)
        return keep

    def running(self) -> tuple[list[str], int | None]:
        """Shape: names of the links that live, and a descriptor of the heartbeat that their programs read."""
        alive = link.survey(self.links)
        for place in self.places:
            if any(self._runs(one, place) for one in alive):
                return [one.pin.name for one in alive], syscalls.open_pin(
                    str(place / "edge_heartbeat"), "map"
                )
        return [one.pin.name for one in alive], None

    def settle(self, place: Path) -> None:
        """Take over the other place's counters and remove it; nothing may run over it any more.

        Errors: OSError.
        """
        gone = self.other(place)
        if gone.is_dir():
            syscalls.wait_for_readers()
            counts.take_over(place, gone)
            clear(gone)

    def _runs(self, one: link.Attached, place: Path) -> bool:
        if not place.is_dir():
            return False
        for pin in place.iterdir():
            if pin.name in KEPT:
                continue  # both places may have these
            with contextlib.suppress(OSError), opened(pin, "map") as fd:
                if syscalls.map_info(fd).id in one.maps:
                    return True
        return False

    def other_map(self, place: Path, name: str) -> int | None:
        """Open a map of the other place, unless both have the same one or it cannot be opened."""
        with contextlib.suppress(OSError), opened(place / name, "map") as ours:
            fd = syscalls.open_pin(str(self.other(place) / name), "map")
            if syscalls.map_info(fd).id != syscalls.map_info(ours).id:
                return fd
            os.close(fd)
        return None

    def kept(self, found: BpfObject, place: Path | None) -> dict[str, Path]:
        """Maps whose content belongs to packets and not to a generation, where they may be shared."""
        if place is None:
            return {}
        same = matches(found, place)
        kept = {}
        for name in KEPT:
            with contextlib.suppress(OSError), opened(place / name, "map") as fd:
                if same.get(name) == "same" and syscalls.map_info(fd).shape == found.maps[name].shape:
                    kept[name] = place / name
        return kept

    def forget_links(self, wanted: Iterable[str]) -> list[str]:
        """Detach from every interface that is not wanted any more. Shape: their names."""
        names = {link.pin_name(name) for name in wanted}
        gone = [pin for pin in sorted(self.links.glob("*/*")) if pin.name not in names]
        return [pin.name for pin in gone if link.detach(pin)]

    def remove(self) -> tuple[list[str], list[str]]:
        """Detach and remove all that is ours.

        Shape: what was removed, and what was left because it is of no kind that we make.
        Errors: OSError.
        """
        removed: list[str] = []
        for pin in sorted(self.links.glob("*/*")):
            if link.detach(pin):
                removed.append(self._short(pin))
        # A crash between a program's pin and its link's leaves the former alone.
        for pin in sorted((self.folder / "programs").glob("*/*")):
            if _is(pin, "prog"):
                pin.unlink()
                removed.append(self._short(pin))
        for pin in sorted((self.folder / "maps").rglob(f"{_OURS}*")):
            pin.unlink()
            removed.append(self._short(pin))
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
        left = [self._short(path) for path in sorted(self.folder.rglob("*")) if not path.is_dir()]
        with contextlib.suppress(OSError):
            self.folder.rmdir()
            os.rmdir(self.folder.parent)
        return removed, left

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


@contextlib.contextmanager
def opened(pin: Path, kind: str) -> Iterator[int]:
    """Open a pin for a moment. Errors: OSError, also where it is of another kind."""
    fd = syscalls.open_pin(str(pin), kind)
    try:
        yield fd
    finally:
        os.close(fd)


def _is(pin: Path, kind: str) -> bool:
    try:
        with opened(pin, kind):
            return True
    except OSError:
        return False


def committed(place: Path) -> int:
    """Version that packets see in a place; 0 where none was committed, or it cannot be read."""
    try:
        with opened(place / "edge_control", "map") as fd:
            size = syscalls.map_info(fd).shape.value_bytes
            return int(struct.unpack_from("<Q", syscalls.map_lookup(fd, bytes(4), size))[0]) >> 1
    except (OSError, struct.error):
        return 0


def clear(place: Path) -> None:
    """Remove a place, the digests first: where they stand, all stands. Errors: OSError."""
    for pin in sorted(place.glob(f"{_OURS}*"), key=lambda pin: pin.name != "edge_layout"):
        pin.unlink()
    with contextlib.suppress(OSError):
        place.rmdir()  # unless something stands there that we did not make
