"""A paced packet generator on live frames: up to 7 million packets a second from one core.

Used by the demo, the e2e stories and bench/packet. A packet program of its own runs under
BPF_PROG_TEST_RUN, writes each frame anew (live frames are recycled as the receiver left them) with a
random source address and port, and redirects it out of a device. The receiving end of a veth needs GRO
or an XDP program. Leaves nothing behind: no pin, no link.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from types import TracebackType

from edge.xdp import syscalls
from edge.xdp.compiler import compile_program
from edge.xdp.object import Loaded, load

STRUCTS = """
struct flood_pace { u64 next, step, end, sent; };
struct flood_frame { u64 word[10]; };
struct flood_source { u32 base[4], random[4]; };
"""

DECLARATIONS = (
    STRUCTS
    + """
BPF_TABLE("array", u32, struct flood_pace, flood_pace, 1);
BPF_TABLE("array", u32, struct flood_frame, flood_frame, 1);
BPF_TABLE("array", u32, struct flood_source, flood_source, 1);
BPF_TABLE("devmap", u32, u32, flood_device, 1);
"""
)

# One body, two families: FLOOD_V6 chooses. IPv6 frames are 74 bytes (no checksum in the header).
PROGRAM = (
    STRUCTS
    + """
#define VALUE(name) ((struct name *)bpf_pseudo_fd(2, EDGE_FD_##name))
int flood(struct xdp_md *ctx)
{
    u8 *start = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct flood_pace *pace = VALUE(flood_pace);
    if (start + FLOOD_BYTES > end)
        return XDP_DROP;
    u64 now = bpf_ktime_get_ns();
    if (now < pace->next || now > pace->end)
        return XDP_DROP;
    if (now - pace->next > 2000000) /* catch up on 2 ms at most */
        pace->next = now;
    pace->next += pace->step;
    pace->sent++;
    u64 *template = VALUE(flood_frame)->word, *frame = (void *)start;
#pragma unroll
    for (int i = 0; i < FLOOD_BYTES / 8; i++)
        frame[i] = template[i];
    struct flood_source *source = VALUE(flood_source);
    u32 random = bpf_get_prandom_u32();
#if FLOOD_V6
    u32 *address = (void *)(start + 22);
    address[0] = source->base[0] | (random * 2654435761u & source->random[0]);
    address[1] = source->base[1] | (random * 2246822519u & source->random[1]);
    address[2] = source->base[2] | (random * 3266489917u & source->random[2]);
    address[3] = source->base[3] | (random & source->random[3]);
    *(u16 *)(start + 54) = random >> 7 | 1;
    *(u32 *)(start + 58) = random * 668265263u;
#else
    *(u32 *)(start + 26) = source->base[0] | (random & source->random[0]);
    *(u16 *)(start + 34) = random >> 7 | 1;
    *(u32 *)(start + 38) = random * 2654435761u;
    u32 sum = 0;
    u16 *header = (void *)(start + 14);
    header[5] = 0;
#pragma unroll
    for (int i = 0; i < 10; i++)
        sum += header[i];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    header[5] = ~sum;
#endif
    return bpf_redirect_map((void *)bpf_pseudo_fd(1, EDGE_FD_flood_device), 0, 0);
}
"""
)

CLONE_NEWNET = 0x40000000
CALIBRATION_RUNS = 200_000  # runs that are too early cost 85 ns on an idle core, more on a shared one
SHORTEST_CALL_S = 0.05  # a call has 25 ms of its own


def syn(
    target_mac: bytes, source_mac: bytes, address: IPv4Address | IPv6Address, port: int = 80, flags: int = 2
) -> bytes:
    """A bare TCP segment to ``address``; its TCP checksum is 0, a stack would drop it."""
    transport = struct.pack(">HHIIBBHHH", 1, port, 7, 0, 0x50, flags, 1000, 0, 0)
    if address.version == 4:
        network = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0x4000, 64, 6, 0, bytes(4), address.packed)
        kind = b"\x08\x00"
    else:
        network = struct.pack(">IHBB16s16s", 6 << 28, 20, 6, 64, bytes(16), address.packed)
        kind = b"\x86\xdd"
    return (target_mac + source_mac + kind + network + transport).ljust(60, b"\0")


class _Namespace:
    """This thread inside a named network namespace (setns: `ip netns exec` hides bpffs)."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> None:
        self._old = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        new = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
        try:
            self._set(new)
        finally:
            os.close(new)

    def __exit__(self, *_: object) -> None:
        self._set(self._old)
        os.close(self._old)

    def _set(self, fd: int) -> None:
        if self._libc.setns(fd, CLONE_NEWNET) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class Flood:
    """Frames from random sources of ``sources`` out of ``device``, which is in namespace ``ns``.

    Units: packets a second, seconds.
    """

    def __init__(
        self, ns: str, device: str, frame: bytes, sources: str | IPv4Network | IPv6Network = "198.18.0.0/16"
    ) -> None:
        network = ip_network(sources)
        if network.version != (4 if frame[12:14] == b"\x08\x00" else 6):
            raise ValueError("frame and sources are of different families")
        self._ns = ns
        self._frame = frame.ljust(80, b"\0")
        size = 56 if network.version == 4 else 72
        text = f"#define FLOOD_V6 {int(network.version == 6)}\n#define FLOOD_BYTES {size}\n"
        made = compile_program(text + PROGRAM, DECLARATIONS, capabilities=("BPF", "NET_ADMIN"))  # a devmap
        self._loaded: Loaded = load(made)
        maps = self._loaded.maps
        zero = bytes(4)
        syscalls.map_update(maps["flood_frame"], zero, self._frame)
        base = network.network_address.packed.ljust(16, b"\0")
        random = network.hostmask.packed.ljust(16, b"\0")
        syscalls.map_update(maps["flood_source"], zero, base + random)
        with _Namespace(ns):
            index = socket.if_nametoindex(device)
            syscalls.map_update(maps["flood_device"], zero, struct.pack("<I", index))

    def run(self, pps: int, seconds: float) -> int:
        """Send; blocks, and spins one core.

        Shape: packets that left, which is the truth where the core is shared.
        """
        pace = self._loaded.maps["flood_pace"]
        with _Namespace(self._ns):
            begin = time.monotonic_ns()
            self._set_pace(begin + 1_000_000_000_000, 1, begin)
            self._spin(CALIBRATION_RUNS)
            now = time.monotonic_ns()
            run_ns = (now - begin) / CALIBRATION_RUNS
            end = now + int(seconds * 1e9)
            self._set_pace(now, 1_000_000_000 // pps, end)
            while (left := end - time.monotonic_ns()) > SHORTEST_CALL_S * 1e9:
                self._spin(int(1.2 * left / run_ns))
        sent: int = struct.unpack("<4Q", syscalls.map_lookup(pace, bytes(4), 32))[3]
        return sent

    def _set_pace(self, start: int, step: int, end: int) -> None:
        pace = self._loaded.maps["flood_pace"]
        syscalls.map_update(pace, bytes(4), struct.pack("<4Q", start, step, end, 0))

    def _spin(self, runs: int) -> None:
        syscalls.test_run(self._loaded.program, self._frame, runs, live=True, batch=64)

    def close(self) -> None:
        """Give program and maps back."""
        self._loaded.close()

    def __enter__(self) -> Flood:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
