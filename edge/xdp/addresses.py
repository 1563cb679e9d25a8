"""The node's own addresses, and its interfaces, read and followed through netlink (pyroute2).

Called by edge/controller/vips.py (reads in a thread) to turn a listener on 0.0.0.0 or :: into VIPs, and by
plane for scope: node. Reads only; in the network namespace of the calling thread.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Iterable
from ipaddress import ip_address

from edge.errors import XdpError
from edge.model.types import Address

_ADDRESS_KINDS = (20, 21)  # RTM_NEWADDR, RTM_DELADDR of rtnetlink(7)


def local_addresses(interfaces: Iterable[str] = ()) -> frozenset[Address]:
    """Addresses of the named interfaces, of all when none is named; loopback's own are left out.

    Errors: XdpError when netlink refuses.
    """
    from pyroute2 import IPRoute

    names = set(interfaces)
    found: set[Address] = set()
    try:
        with IPRoute() as netlink:
            labels = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
            for entry in netlink.get_addr():
                if names and labels.get(entry["index"]) not in names:
                    continue
                text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
                if text:
                    found.add(ip_address(text))
    except OSError as error:
        raise XdpError(f"cannot read the node's addresses: {error}") from error
    return frozenset(address for address in found if not address.is_loopback)


DEFAULT = "default"  # as a name: the interfaces of the default routes, IPv4 and IPv6


def chosen_interfaces(names: Iterable[str]) -> tuple[str, ...]:
    """Put the interfaces of the default routes in the place of the word `default`.

    Errors: XdpError where it is asked for and no such route leaves through an interface.
    """
    wanted = tuple(names)
    if DEFAULT not in wanted:
        return wanted
    from pyroute2 import IPRoute

    try:
        with IPRoute() as netlink:
            labels = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
            found = set()
            for route in netlink.get_default_routes():
                paths = [path["oif"] for path in route.get_attr("RTA_MULTIPATH") or ()]
                found |= {labels.get(index) for index in [*paths, route.get_attr("RTA_OIF")]}
    except OSError as error:
        raise XdpError(f"cannot read the node's routes: {error}") from error
    names_found = sorted(name for name in found if name and name != "lo")
    if not names_found:
        raise XdpError(f"--interface {DEFAULT}: no default route leaves through an interface")
    return tuple(dict.fromkeys([*names_found, *(name for name in wanted if name != DEFAULT)]))


class AddressWatch:
    """Says when addresses or interfaces change. ``fileno`` becomes readable; ``drain`` empties it."""

    def __init__(self) -> None:
        import socket

        # Groups RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of rtnetlink(7).
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, 0x1 | 0x10 | 0x100))

    def fileno(self) -> int:
        """For an event loop."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Forget what was announced; True if addresses changed. A lost announcement counts as one."""
        addresses = False
        while select.select([self._socket], [], [], 0)[0]:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                addresses = True
                continue
            at = 0
            while at + 6 <= len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                addresses = addresses or kind in _ADDRESS_KINDS
                at += max(length + 3 & ~3, 16)
        return addresses

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
