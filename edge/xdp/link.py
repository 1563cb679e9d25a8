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


def _create(program: int, index: int, mode: str, pin: Path) -> None:
    link = syscalls.link_create(program, index, MODES[mode])
    try:
        pin.parent.mkdir(parents=True, exist_ok=True)
        syscalls.pin(link, str(pin))
    finally:
        os.close(link)


def _update(pin: Path, program: int, index: int, interface: str, keep: bool) -> bool:
    """True when the pinned link now runs ``program``; otherwise it is gone."""
    link = syscalls.open_pin(str(pin))
    try:
        old_id, old_index = syscalls.link_info(link)
        if not keep or old_index != index:
            pin.unlink()
            if old_index:
                syscalls.link_detach(link)
            return False
        old: int | None
        try:
            old = syscalls.program_by_id(old_id)
        except PermissionError:
            old = None  # takes CAP_SYS_ADMIN, which the controller drops; the instance's lock guards
        try:
            syscalls.link_update(link, program, old)
        except PermissionError as error:
            raise XdpError(
                f"interface {interface}: another process replaced the program meanwhile"
            ) from error
        finally:
            if old is not None:
                os.close(old)
        return True
    finally:
        os.close(link)


def detach(pin: Path) -> None:
    """Detach the pinned link and remove the pin."""
    link = syscalls.open_pin(str(pin))
    try:
        if syscalls.link_info(link)[1]:
            syscalls.link_detach(link)
    finally:
        os.close(link)
    pin.unlink()


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
