"""What stands around a data plane fails: the log's reader, the wall clock."""

from __future__ import annotations

import datetime
import email.utils
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.plane import Plane, Reader, Server, World, listener, named
from tests.e2e.test_dataplane import balanced, until
from tests.e2e.test_dataplane_ends import SWITCHED, UPGRADE

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
DAY_S = 86_400


@pytest.fixture(params=["epoll", "uring"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(named("a"))
    yield server
    server.close()


def one_route(server: Server, **options: int) -> World:
    world = World([listener(**options)])
    world.route("a.test", "/", world.upstream("a", [server.port]))
    return world


def test_blocked_log_drops_lines_and_delays_nobody(loop: str, server: Server) -> None:
    """The reader of the pipe sleeps: no request waits for it, and what it reads later is whole lines."""
    reader, writer = os.pipe()
    with Plane(one_route(server), loop=loop, log=Path(f"/dev/fd/{writer}")) as plane:
        os.close(writer)
        with plane.connect() as client:
            answers = Reader(client)
            request = GET.replace(b"\r\n\r\n", b"\r\nUser-Agent: %s\r\n\r\n" % (b"u" * 250))
            while plane.lane_sums()["log_dropped"] < 100:
                client.sendall(request * 50)
                for _ in range(50):
                    assert answers.message().body == b"a"
        text = bytearray()

        def drain() -> None:
            while part := os.read(reader, 1 << 16):
                text.extend(part)

        thread = threading.Thread(target=drain)
        thread.start()
        sums = plane.lane_sums()
        until(lambda: text.count(b"\n") >= sums["requests"] - sums["log_dropped"])
        assert plane.get("a.test").body == b"a"
        sums = plane.lane_sums()
        plane.process.terminate()
        plane.expect("drained")
        plane.process.wait()
        plane.log.close()  # type: ignore[union-attr]
        thread.join()
    os.close(reader)
    lines = text.decode().splitlines()
    assert len(lines) == sums["requests"] - sums["log_dropped"]
    assert all("GET / HTTP/1.1" in line and "u" * 250 in line for line in lines[:-1])


class Clock:
    """The wall clock of a data plane, moved at will."""

    def __init__(self, folder: Path) -> None:
        library = folder / "clock.so"
        source = Path(__file__).with_name("shifted_clock.c")
        subprocess.run(["gcc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        self.page = folder / "page"
        self.environment = {"LD_PRELOAD": str(library), "EDGE_CLOCK_PAGE": str(self.page)}
        self.page.write_bytes(bytes(4096))

    def shift(self, seconds: int) -> None:
        with self.page.open("r+b") as page:
            page.write(struct.pack("=q", seconds))


TELL = """\
import ctypes, os, sys, time
pair = (ctypes.c_int64 * 2)()
ctypes.CDLL(None).gettimeofday(pair, None)
ctypes.CDLL(None).time.restype = ctypes.c_int64
wall = [time.time(), time.clock_gettime(5), pair[0], ctypes.CDLL(None).time(None)]
others = [time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), os.stat(sys.argv[1]).st_mtime]
print(*wall, *others)
"""


def test_the_library_shifts_wall_clocks_and_no_other(tmp_path: Path) -> None:
    """A page that is none, or is too short, shifts nothing."""
    clock, stamped = Clock(tmp_path), tmp_path / "stamped"

    def told(environment: dict[str, str]) -> list[float]:
        stamped.touch()
        right = [time.time()] * 4 + [time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time()]
        command = [sys.executable, "-I", "-c", TELL, stamped]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return [round((float(one) - was) / 3600) for one, was in zip(done.stdout.split(), right, strict=True)]

    for hours in (36, -36):
        clock.shift(hours * 3600)
        assert told(clock.environment) == [hours] * 4 + [0] * 3
    short = tmp_path / "short"
    short.write_bytes(b"1234")
    for page in (str(short), "/nowhere", ""):
        assert told(clock.environment | {"EDGE_CLOCK_PAGE": page}) == [0] * 7
    assert told({"LD_PRELOAD": clock.environment["LD_PRELOAD"]}) == [0] * 7


def date(client: socket.socket) -> datetime.datetime:
    """When the answer to one request on a kept connection says that it was made."""
    client.sendall(GET)
    message = Reader(client).message()
    assert message.status == 200
    return email.utils.parsedate_to_datetime(message.get("date") or "")


def test_wall_clock_jumps_change_only_what_is_printed(loop: str, server: Server, tmp_path: Path) -> None:
    def echo(connection: socket.socket) -> None:
        Reader(connection).message()
        connection.sendall(SWITCHED)
        while data := connection.recv(1 << 16):
            connection.sendall(data)

    tunnels = Server(echo)
    clock, log = Clock(tmp_path), tmp_path / "access.log"
    world = one_route(server, idle_ms=30_000, head_ms=30_000)
    world.route("tunnel.test", "/", world.upstream("tunnel", [tunnels.port], read_ms=30_000))
    with (
        Plane(world, loop=loop, log=log, environment=clock.environment) as plane,
        plane.connect() as kept,
        plane.connect() as half,
        plane.connect() as tunnel,
    ):
        began = date(kept)
        half.sendall(GET[:20])
        tunnel.sendall(UPGRADE.replace(b"a.test", b"tunnel.test"))
        through = Reader(tunnel)
        assert through.message().status == 101
        for days in (1, -1, 400, 0):
            clock.shift(days * DAY_S)
            moved = datetime.timedelta(days=days)
            until(lambda moved=moved: abs(date(kept) - began - moved) < datetime.timedelta(minutes=5))
            tunnel.sendall(b"on")
            assert through.exactly(2) == b"on"
            assert plane.expect("alive").number("stalled") == 0
        half.sendall(GET[20:])
        assert Reader(half).message().body == b"a"
        tunnel.close()
        sums = balanced(plane)
        assert sums["ok"] + sums["tunnel"] == sums["requests"]
        until(lambda: len(log.read_text().splitlines()) == sums["requests"])
        stamps = {line.partition("[")[2][:11] or line[:10] for line in log.read_text().splitlines()}
        assert len(stamps) >= 4
    tunnels.close()


def test_idle_time_is_not_the_wall_clocks(loop: str, server: Server, tmp_path: Path) -> None:
    """A clock that was set back does not make a connection live for a day longer."""
    clock = Clock(tmp_path)
    world = one_route(server, idle_ms=1_500)
    with Plane(world, loop=loop, environment=clock.environment) as plane, plane.connect() as kept:
        date(kept)
        clock.shift(-DAY_S)
        assert kept.recv(1) == b""
