"""Attaching to an interface: bpf_links, made once, pinned, and from then on updated in place.

Called by plane and pins in a thread (an attachment waits up to 230 ms for the kernel). A pinned link
survives us; it is never detached to be attached again, which loses packets. A program that somebody
else attached is left alone and named.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from edge.errors import XdpError
from edge.xdp import syscalls

MODES = {"native": syscalls.MODE_NATIVE, "generic": syscalls.MODE_GENERIC}


def pin_name(text: str) -> str:
    """A name as bpffs takes it: it reserves dots, and eth0.100 has one."""
    return text.replace("%", "%25").replace(".", "%2e").replace("/", "%2f")


@dataclass(frozen=True, slots=True)
class Attached:
    """A pinned link that lives. ``place``: where its program is pinned, None if it is not ours."""

    pin: Path
    index: int
    program: int
    place: Path | None
    maps: tuple[int, ...]  # ids of its program's

    @property
    def mode(self) -> str:
        """The mode it was attached in."""
        return self.pin.parent.name


def survey(pins: Path) -> list[Attached]:
    """Look at every link; forget those whose interface is gone, name those anew that was renamed.

    What is no link of ours is left alone. Errors: OSError.
    """
    found = []
    for pin in sorted(pins.glob("*/*")):
        try:
            fd = syscalls.open_pin(str(pin), "link")
        except OSError:
            continue
        try:
            program, index = syscalls.link_info(fd)
        finally:
            os.close(fd)
        if not index:
            _forget(pin)
            continue
        pin = _follow_name(pin, program, index)
        place: Path | None = None
        maps: tuple[int, ...] = ()
        for candidate in _programs(pin):
            with contextlib.suppress(OSError):
                held = syscalls.open_pin(str(candidate), "prog")
                try:
                    info = syscalls.program_info(held)
                finally:
                    os.close(held)
                if info.id == program:
                    place, maps = candidate, info.maps
        found.append(Attached(pin, index, program, place, maps))
    return found


def _follow_name(pin: Path, program: int, index: int) -> Path:
    try:
        name = pin_name(socket.if_indextoname(index))
    except OSError:
        return pin  # an interface of another network namespace
    if name == pin.name or (pin.parent / name).exists() or program not in _programs_on(index):
        return pin
    renamed = pin.parent / name
    for old, new in zip(_programs(pin), _programs(renamed), strict=True):
        if old.exists():
            old.rename(new)
    return pin.rename(renamed)


def attach(program: int, interface: str, mode: str, pins: Path) -> str:
    """Attach, or update what is attached.

    Shape: the mode that is in force, "native" or "generic".
    Errors: XdpError that names the interface and why.
    """
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise XdpError(f"interface {interface} does not exist") from error
    wanted = list(MODES) if mode == "auto" else [mode]
    try:
        for candidate in MODES:
            pin = pins / candidate / pin_name(interface)
            if pin.exists() and _update(pin, program, index, interface, candidate in wanted):
                return candidate
    except OSError as error:
        raise XdpError(f"interface {interface}: {pin} cannot be used: {error.strerror}") from error
    refusal: OSError | None = None
    for candidate in wanted:
        try:
            _create(program, index, candidate, pins / candidate / pin_name(interface))
            return candidate
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise XdpError(f"interface {interface} already has {_whose(index, pins)}") from error
            refusal = error
    assert refusal is not None
    raise XdpError(f"cannot attach to {interface} in mode {mode}: {refusal.strerror}") from refusal


def _programs_on(index: int) -> set[int]:
    """Ids of the XDP programs on an interface of this network namespace; a link does not tell its own."""
    from pyroute2 import IPRoute, NetlinkError

    with contextlib.suppress(OSError, NetlinkError), IPRoute() as netlink:
        shown = netlink.link("get", index=index)[0].get_attr("IFLA_XDP")
        if shown:
            return {value for name, value in shown["attrs"] if name.endswith("PROG_ID")}
    return set()


def _whose(index: int, pins: Path) -> str:
    """What is attached there, in words; a program is opened through pins alone: by id takes CAP_SYS_ADMIN."""
    number = min(_programs_on(index), default=0)
    folder = pins.parent
    for path in sorted(folder.parent.parent.rglob("*")):
        if folder in path.parents or path.is_dir():
            continue
        if number and _program_of(path) == number:
            if path.is_relative_to(folder.parent):
                return f"XDP program {number} of edge instance {path.relative_to(folder.parent).parts[0]}"
            return f"XDP program {number} of somebody else, pinned as {path}"
    return f"XDP program {number or '(unknown)'} of somebody else, who has not pinned it"


def _program_of(pin: Path) -> int:
    """Id of a pinned program, or of a pinned link's; 0 for anything else."""
    for kind in ("prog", "link"):
        with contextlib.suppress(OSError):
            fd = syscalls.open_pin(str(pin), kind)
            try:
                return syscalls.program_info(fd).id if kind == "prog" else syscalls.link_info(fd)[0]
            finally:
                os.close(fd)
    return 0


def _programs(pin: Path) -> tuple[Path, Path]:
    """Two places for the program of a pinned link: the one that runs, and the one that is to run.

    The program is pinned because to replace it "if it is still ours" takes a descriptor of it, and
    opening it by id takes CAP_SYS_ADMIN. Two places, so that a crash at any point leaves the right one.
    """
    folder = pin.parent.parent.parent / "programs" / pin.parent.name
    return folder / f"{pin.name}%a", folder / f"{pin.name}%b"


def _pin_program(program: int, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.unlink(missing_ok=True)
    syscalls.pin(program, str(place))


def _forget(pin: Path) -> None:
    """Remove the pins of a link and of its programs."""
    pin.unlink()
    for place in _programs(pin):
        place.unlink(missing_ok=True)


def _create(program: int, index: int, mode: str, pin: Path) -> None:
    link = syscalls.link_create(program, index, MODES[mode])
    try:
        pin.parent.mkdir(parents=True, exist_ok=True)
        _pin_program(program, _programs(pin)[0])
        syscalls.pin(link, str(pin))
    finally:
        os.close(link)


def _update(pin: Path, program: int, index: int, interface: str, keep: bool) -> bool:
    """True when the pinned link now runs ``program``; otherwise it is gone."""
    link = syscalls.open_pin(str(pin), "link")
    try:
        old_id, old_index = syscalls.link_info(link)
        if old_index and old_id not in _programs_on(old_index):
            raise XdpError(
                f"interface {interface}: this instance is attached in another network namespace; "
                "--instance names another, `edge detach` lets go there"
            )
        if not keep or old_index != index:
            if old_index:
                syscalls.link_detach(link)
            _forget(pin)
            return False
        place, old = _running(pin, old_id, interface)
        try:
            first, second = _programs(pin)
            _pin_program(program, second if place == first else first)
            syscalls.link_update(link, program, old)
        except PermissionError as error:
            raise _replaced(interface) from error
        finally:
            os.close(old)
        place.unlink()
        return True
    finally:
        os.close(link)


def follow(one: Attached, leader: Attached) -> None:
    """Let a link run the program of another. Errors: OSError, XdpError."""
    assert leader.place is not None
    program = syscalls.open_pin(str(leader.place), "prog")
    try:
        _update(one.pin, program, one.index, one.pin.name, True)
    finally:
        os.close(program)


def _running(pin: Path, number: int, interface: str) -> tuple[Path, int]:
    """Shape: where the program that runs is pinned, and a descriptor of it."""
    for place in _programs(pin):
        if not place.exists():
            continue
        fd = syscalls.open_pin(str(place), "prog")
        if syscalls.program_info(fd).id == number:
            return place, fd
        os.close(fd)
    raise _replaced(interface)


def _replaced(interface: str) -> XdpError:
    return XdpError(
        f"interface {interface}: somebody else replaced the program of our link; `edge detach` removes both"
    )


def detach(pin: Path) -> bool:
    """Detach the pinned link and remove the pin, and that of its program. False if it holds no link."""
    try:
        link = syscalls.open_pin(str(pin), "link")
    except OSError:
        return False
    try:
        if syscalls.link_info(link)[1]:
            syscalls.link_detach(link)
    finally:
        os.close(link)
    _forget(pin)
    return True


def attached(pins: Path, interface: str) -> tuple[str, int] | None:
    """Shape: mode and program id of our link on an interface, None without one."""
    for mode in MODES:
        with contextlib.suppress(OSError):
            link = syscalls.open_pin(str(pins / mode / pin_name(interface)), "link")
            try:
                program, index = syscalls.link_info(link)
            finally:
                os.close(link)
            if index:
                return mode, program
    return None
