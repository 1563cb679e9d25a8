"""How long a change of the configuration takes until the first request is answered by it.

`python -m bench.config.publish [--quick] [--shape files|single] [--ingresses N] [--services M]`: N Ingresses
of two paths and M Services, one object a file and all in one; cold start, one Ingress changed, one endpoint
changed (five rounds; medians), 100 changes a second under load; nginx, HAProxy, Envoy and Caddy are told of
the same change. Each is measured by itself: from the rename to the first answer that differs. Prints JSON
lines, also to bench/results/publish.jsonl; the last one is the summary. Exit status 1 when a request failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.objects import Folder
from bench.config.peers import PEERS
from bench.proxy import processes
from bench.proxy.http1 import ROOT, launch, versions

PATIENCE_S = 120.0
ROUNDS = 5  # of endpoint changes: a stall of the machine, of which there are some a minute, is in one of them
APART_S = 0.1  # between two single changes, so that each is a burst of its own
LOAD_RATE = 1000
PEER_S = 60.0  # of changes made to one peer
GOALS = {  # of one object a file
    "beyond_reading_s": 3.0,
    "ingress_ms.p50": 30.0,
    "ingress_ms.p99": 100.0,
    "endpoint_ms.p99": 20.0,
    "stream.lag_ms.p99": 150.0,
    "stream.controller_core": 0.6,
    "controller_mb": 200.0,
}
EDGE = Path(sys.executable).parent / "edge"
_READ_ALONE = """
import sys, time
from edge.sources.files import FileSource
begin = time.perf_counter()
FileSource(sys.argv[1]).load()
print(time.perf_counter() - begin, round(time.process_time(), 2))
"""


@dataclass
class Instance:
    """A running `edge run`, and how it is asked."""

    process: subprocess.Popen[bytes]
    port: int
    admin: int
    started: float
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def ask(self, host: str, path: str) -> tuple[int, bytes]:
        """Answer of one request on the kept connection."""
        self.connection.request("GET", path, headers={"Host": host})
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def pid(self, name: str) -> int:
        """The process with that command name."""
        (found,) = (
            pid for pid in processes.descendants(self.process.pid) if processes.command_name(pid) == name
        )
        return found


def start(source: Mapping[str, object], last: str, work: Path) -> Instance:
    """Start an instance; shape: returned at its first good answer. ``last``: the host that is asked for."""
    port, admin = processes.free_port(), processes.free_port()
    options = {
        **source,
        "--http": f"127.0.0.1:{port}",
        "--admin": f"127.0.0.1:{admin}",
        "--workers": 1,
        "--xdp": "off",
        "--access-log": "off",
        "--instance": f"bench-{os.getpid()}",
        "--run-dir": work / "run",
        "--state-dir": work / "state",
    }
    out = work / "edge.out"
    started = time.monotonic()
    process = launch([EDGE, "run", *[word for pair in options.items() for word in pair]], out)
    instance = Instance(process, port, admin, started)
    while True:
        try:
            if instance.ask(last, "/a")[0] == 200:
                return instance
        except OSError:
            instance.connection.close()
        if process.poll() is not None or time.monotonic() - started > PATIENCE_S:
            processes.stop(process)
            raise RuntimeError(f"edge does not serve:\n{out.read_text()[-3000:]}")
        time.sleep(0.005)


def lag_ms(change: Callable[[], object], good: Callable[[], bool], made: bool = False) -> float:
    """Make a change and ask until the answer is the wanted one. ``made``: count from when it was made."""
    begin = time.monotonic()
    change()
    if made:
        begin = time.monotonic()
    while not good():
        if time.monotonic() > begin + 30:
            raise RuntimeError("a change was never served")
        time.sleep(0.0003)
    return 1000 * (time.monotonic() - begin)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Memory that only this process has, and its share of the rest."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def image_bytes(pid: int) -> int:
    """Size of the newest image that a process holds."""
    sizes = [0]
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            if "edge-image" in os.readlink(entry.path):
                sizes.append(os.stat(entry.path).st_size)
        except OSError:
            continue
    return max(sizes)


def spread(values: list[float]) -> dict[str, float]:
    """Milliseconds: median, 99th percentile, most."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max": round(ordered[-1], 2),
        "count": len(ordered),
    }


def missed(line: Mapping[str, Any], goals: Mapping[str, float]) -> list[str]:
    """The goals that a line does not reach; their names are its keys, joined by dots."""

    def found(name: str) -> float:
        value: Any = line
        for key in name.split("."):
            value = value[key]
        return float(value)

    return [name for name, most in goals.items() if found(name) > most]


def single_changes(instance: Instance, folder: Folder, count: int) -> list[float]:
    """One Ingress changed, count times, each by itself."""

    def one(number: int, path: str) -> float:
        host = folder.host(number)
        assert instance.ask(host, path)[0] == 404
        change = folder.change_ingress(number, path)
        return lag_ms(lambda: os.rename(*change), lambda: instance.ask(host, path)[0] == 200)

    lags = []
    for turn in range(count):
        lags.append(one((turn * 7919) % folder.ingresses, f"/c{time.monotonic_ns()}"))
        time.sleep(APART_S)
    return lags


def middle(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Of several rounds the medians, the most of all, and each one's 99th percentile."""
    found: dict[str, Any] = {name: statistics.median(one[name] for one in rounds) for name in ("p50", "p99")}
    found |= {"max": max(one["max"] for one in rounds), "count": sum(one["count"] for one in rounds)}
    return {**found, "p99_each": [one["p99"] for one in rounds]} if len(rounds) > 1 else found


def endpoint_changes(instance: Instance, folder: Folder, count: int) -> list[float]:
    """One endpoint changed, count times, each by itself."""

    def one(number: int, address: str, name: bytes) -> float:
        host = folder.host(number)
        change = folder.change_slice(number, address)
        return lag_ms(lambda: os.rename(*change), lambda: name in instance.ask(host, "/a")[1])

    lags = []
    for turn in range(count):
        number = (turn // 2 * 31) % min(folder.services, folder.ingresses)
        lags.append(one(number, *(("127.0.0.2", b"pod-2"), ("127.0.0.1", b"pod-1"))[turn % 2]))
        time.sleep(APART_S)
    return lags


def stream(instance: Instance, folder: Folder, seconds: float, rate: float) -> dict[str, Any]:
    """So many changes a second under load, each one's own lag; changes may share a publish."""
    controller = instance.pid("edge-controller")
    load: dict[str, Any] = {}

    def traffic() -> None:
        load.update(
            processes.load(
                instance.port,
                connections=8,
                seconds=seconds + 1,
                rate=LOAD_RATE,
                host=folder.host(folder.ingresses - 1),
                path="/a",
            )
        )

    thread = threading.Thread(target=traffic)
    thread.start()
    open_changes: dict[int, tuple[float, str, str]] = {}
    lags: list[float] = []
    begin, spent = time.monotonic(), cpu_s(controller)
    turn = 0
    while True:
        now = time.monotonic()
        if now - begin < seconds:
            while turn < (now - begin) * rate:
                number = (turn * 7919) % (folder.ingresses - 1)
                path = f"/s{turn}"
                fresh, place = folder.change_ingress(number, path)
                open_changes[turn] = (time.monotonic(), folder.host(number), path)
                os.rename(fresh, place)
                turn += 1
        elif not open_changes:
            break
        elif now - begin > seconds + 30:
            raise RuntimeError(f"{len(open_changes)} changes were never served")
        # The oldest first: publishes are in order, so the first that is not served ends the look.
        for key in list(open_changes):
            written, host, path = open_changes[key]
            if instance.ask(host, path)[0] != 200:
                break
            lags.append(1000 * (time.monotonic() - written))
            del open_changes[key]
        time.sleep(0.001)
    elapsed = time.monotonic() - begin
    busy = (cpu_s(controller) - spent) / elapsed
    thread.join()
    return {
        "lag_ms": spread(lags),
        "changes": turn,
        "seconds": round(elapsed, 1),
        "controller_core": round(busy, 3),
        "requests": load["requests"],
        "failed": load["errors"] + load["unanswered"] + load["closed"],
    }


def peers(folder: Folder, work: Path, count: int, ours_ms: float) -> dict[str, Any]:
    """The same change made in each peer, one after the other beside our idle instance."""
    result: dict[str, Any] = {}
    for kind in PEERS:
        if kind.found() is None:
            result[kind.name] = "missing"
            continue
        with kind(folder, work) as peer:
            begin = time.monotonic()
            lags = []
            for turn in range(count):
                lags.append(peer.lag_ms((turn * 7919) % folder.ingresses, f"/p{turn}"))
                if time.monotonic() - begin > PEER_S:  # Caddy takes seconds for each
                    break
                time.sleep(APART_S)
        ratio = round(statistics.median(lags) / ours_ms, 1)
        result[kind.name] = {"version": kind.version(), **spread(lags), "times_ours": ratio}
    return result


def measure(shape: str, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All of one shape."""
    port = processes.free_port()
    pods = [
        launch(
            [sys.executable, "-m", "tests.fakes.endpoint", "--name", name, "--listen", f"{address}:{port}"],
            work / f"{name}.out",
        )
        for name, address in (("pod-1", "127.0.0.1"), ("pod-2", "127.0.0.2"))
    ]
    instance = None
    try:
        processes.wait_port(port, pods[0])
        folder = Folder(work / "config", shape == "single", arguments.ingresses, arguments.services, port)
        reading, reading_cpu = map(
            float,
            subprocess.run(
                [sys.executable, "-c", _READ_ALONE, str(folder.path)],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            ).stdout.split(),
        )
        instance = start({"--config": folder.path}, folder.host(folder.ingresses - 1), work)
        cold = time.monotonic() - instance.started
        cold_cpu = cpu_s(instance.pid("edge-controller"))
        line: dict[str, Any] = {
            "shape": shape,
            "ingresses": folder.ingresses,
            "services": folder.services,
            "yaml_bytes": folder.bytes,
            "cold_start_s": round(cold, 2),
            "reading_s": round(reading, 2),
            "reading_cpu_s": reading_cpu,
            "beyond_reading_s": round(cold - reading, 2),
            "controller_cpu_s": round(cold_cpu, 2),
        }
        count = 20 if arguments.quick else 200
        single_changes(instance, folder, 3)
        for name, change, rounds in (("ingress", single_changes, 1), ("endpoint", endpoint_changes, ROUNDS)):
            pids = {one: instance.pid(f"edge-{one}") for one in ("controller", "data")}
            spent = {one: cpu_s(pid) for one, pid in pids.items()}
            line[f"{name}_ms"] = middle([spread(change(instance, folder, count)) for _ in range(rounds)])
            # What it costs where the machine is not ours alone; the data plane answers our asking, too.
            line[f"{name}_cpu_ms"] = {
                one: round(1000 * (cpu_s(pid) - spent[one]) / (rounds * count), 2)
                for one, pid in pids.items()
            }
        if not folder.single:
            line["stream"] = stream(instance, folder, 5 if arguments.quick else 60, 100)
        if not folder.single:
            line["peers"] = peers(folder, work, 3 if arguments.quick else 30, line["ingress_ms"]["p50"])
        line["controller_mb"] = round(resident_mb(instance.pid("edge-controller")), 1)
        line["data_mb"] = round(resident_mb(instance.pid("edge-data")), 1)
        line["image_bytes"] = image_bytes(instance.process.pid)
        return line
    finally:
        for process in [*([instance.process] if instance else []), *pods]:
            processes.stop(process)


def main() -> int:
    """Run the benchmark; shape: the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shape", choices=("files", "single"), action="append")
    parser.add_argument("--ingresses", type=int, default=10_000)
    parser.add_argument("--services", type=int, default=2_000)
    arguments = parser.parse_args()
    processes.compile_tool("load")
    results = ROOT / "bench" / "results" / "publish.jsonl"
    stamp = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "versions": versions()}
    shapes = {}
    for shape in arguments.shape or ["files", "single"]:
        with tempfile.TemporaryDirectory(prefix="bench-publish-") as folder:
            shapes[shape] = measure(shape, arguments, Path(folder))
            print(json.dumps(shapes[shape]), flush=True)
    files = shapes.get("files")
    summary = {
        "bench": "config.publish",
        "summary": True,
        **stamp,
        "shapes": shapes,
        "goals": GOALS,
        "missed": missed(files, GOALS) if files else None,
    }
    print(json.dumps(summary), flush=True)
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as sink:
        sink.write(json.dumps(summary) + "\n")
    return 1 if files and files["stream"]["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
