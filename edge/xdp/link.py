"""Attaching to an interface: bpf_links, made once, pinned, and from then on updated in place.

Called by edge/xdp/plane.py in a thread (an attachment waits up to 230 ms for the kernel). A pinned
link survives us; it is never detached to be attached again, which loses packets. A program that
somebody else attached is left alone and named.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from edge.errors import XdpError
from edge.xdp import syscalls

MODES = {"native": syscalls.MODE_NATIVE, "generic": syscalls.MODE_GENERIC}


def pin_name(text: str) -> str:
    """A name as bpffs takes it: it reserves dots, and eth0.100 has one."""
    return text.replace("%", "%25").replace(".", "%2e").replace("/", "%2f")


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
    for candidate in MODES:
        pin = pins / candidate / pin_name(interface)
        if pin.exists() and _update(pin, program, index, interface, candidate in wanted):
            return candidate
    refusal: OSError | None = None
    for candidate in wanted:
        try:
            _create(program, index, candidate, pins / candidate / pin_name(interface))
            return candidate
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EEXIST):
                raise XdpError(
                    f"interface {interface} already has an XDP program of somebody else"
                ) from error
            refusal = error
    assert refusal is not None
    raise XdpError(f"cannot attach to {interface} in mode {mode}: {refusal.strerror}") from refusal


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
    link = syscalls.open_pin(str(pin))
    try:
        old_id, old_index = syscalls.link_info(link)
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


def _running(pin: Path, number: int, interface: str) -> tuple[Path, int]:
    """Shape: where the program that runs is pinned, and a descriptor of it."""
    for place in _programs(pin):
        if not place.exists():
            continue
        fd = syscalls.open_pin(str(place))
        if syscalls.program_info(fd).id == number:
            return place, fd
        os.close(fd)
    raise _replaced(interface)


def _replaced(interface: str) -> XdpError:
    return XdpError(
        f"interface {interface}: somebody else replaced the program of our link; `edge detach` removes both"
    )


def detach(pin: Path) -> None:
    """Detach the pinned link and remove the pin, and that of its program."""
    link = syscalls.open_pin(str(pin))
    try:
        if syscalls.link_info(link)[1]:
            syscalls.link_detach(link)
    finally:
        os.close(link)
    _forget(pin)


def attached(pins: Path, interface: str) -> tuple[str, int] | None:
    """Shape: mode and program id of our link on an interface, None without one."""
    for mode in MODES:
        pin = pins / mode / pin_name(interface)
        if pin.exists():
            link = syscalls.open_pin(str(pin))
            try:
                return mode, syscalls.link_info(link)[0]
            finally:
                os.close(link)
    return None
