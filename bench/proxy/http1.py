"""Processor time of one proxied HTTP/1.1 request: ours on both loops, nginx, HAProxy, the copy loops.

`python -m bench.proxy.http1 [--quick]`: 64 kept connections, 13-byte answers, loopback, one worker
each; saturated (proxy on CPU 0, origin and load on CPU 1) and at 2,000 requests a second (nobody
pinned); access log on for all and off for all. Prints JSON lines, also to bench/results/http1.jsonl;
the last one is the summary. It has no switch that makes a proxy do less than in production.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.proxy import processes

ROOT = Path(__file__).parent.parent.parent
HOST = "bench.example"
CONNECTIONS = 64
BODY_BYTES = 13
RATE = 2000
BOUND_SECONDS = 1800

MANIFEST = """\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: bench, namespace: default}}
spec:
  ingressClassName: edge
  rules:
  - host: {host}
    http:
      paths:
      - {{path: /, pathType: Prefix, backend: {{service: {{name: pod, port: {{number: 80}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: pod, namespace: default}}
spec:
  ports: [{{name: http, port: 80}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: pod-1, namespace: default, labels: {{kubernetes.io/service-name: pod}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"""


@dataclass
class Proxy:
    """A running proxy: which process serves, and what else belongs to it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    serving: list[int]
    others: list[int]


def launch(command: Sequence[object], out: Path, environment: dict[str, str] | None = None) -> Any:
    with out.open("wb") as sink:
        return subprocess.Popen(
            [str(word) for word in command],
            stdout=sink,
            stderr=subprocess.STDOUT if "haproxy" not in str(command[0]) else subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env=environment,
        )


def fill(template: str, words: dict[str, object]) -> str:
    text = (processes.HERE / "peers" / template).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")) + "\n"
    for word, value in words.items():
        body = body.replace(f"@{word}@", str(value))
    assert not re.search(r"@[A-Z]+@", body), body
    return body


def start_peer(name: str, folder: Path, origin: int, log: bool) -> Proxy:
    port = processes.free_port()
    words: dict[str, object] = {"PORT": port, "ORIGIN": origin, "FOLDER": folder}
    if name == "nginx":
        words["ACCESS_LOG"] = f"{folder}/nginx.log fields buffer=64k flush=1s" if log else "off"
        configuration = folder / "nginx.conf"
        configuration.write_text(fill("nginx.conf", words))
        command: list[object] = ["nginx", "-p", folder, "-c", configuration]
    elif name == "haproxy":
        words["LOG"] = "log stdout format raw local0" if log else ""
        words["DONTLOG"] = "log global" if log else "no log"
        configuration = folder / "haproxy.cfg"
        configuration.write_text(fill("haproxy.cfg", words))
        command = ["haproxy", "-db", "-f", configuration]
    else:
        kind = name.removeprefix("copy-")
        tool = processes.compile_tool("copyloop")
        command = [tool, kind, "127.0.0.1", port, "127.0.0.1", origin, BOUND_SECONDS]
    process = launch(command, folder / f"{name}.out")
    processes.wait_port(port, process)
    processes.wait_answer(port, process, HOST)
    return Proxy(name, process, port, processes.descendants(process.pid), [])


def start_ours(loop: str, folder: Path, origin: int, log: bool) -> Proxy:
    port, admin = processes.free_port(), processes.free_port()
    config = folder / f"config-{loop}"
    config.mkdir()
    (config / "bench.yaml").write_text(MANIFEST.format(host=HOST, port=origin))
    edge = Path(sys.executable).parent / "edge"
    options: dict[str, object] = {
        "--config": config,
        "--http": f"127.0.0.1:{port}",
        "--admin": f"127.0.0.1:{admin}",
        "--workers": 1,
        "--xdp": "off",
        "--loop": loop,
        "--access-log": folder / f"edge-{loop}.log" if log else "off",
        "--instance": f"bench-{os.getpid()}-{loop}",
        "--run-dir": folder / "run",
        "--state-dir": folder / "state",
    }
    command: list[object] = [edge, "run"]
    for option, value in options.items():
        command += [option, value]
    process = launch(command, folder / f"edge-{loop}.out")
    try:
        processes.wait_port(port, process)
        processes.wait_answer(port, process, HOST)
    except Exception:
        processes.stop(process)
        raise
    everyone = processes.descendants(process.pid)
    serving = [pid for pid in everyone if processes.command_name(pid) == "edge-data"]
    if len(serving) != 1:
        processes.stop(process)
        raise RuntimeError(f"edge: {len(serving)} processes named edge-data")
    return Proxy(f"edge-{loop}", process, port, serving, [p for p in everyone if p not in serving])


def measure(proxy: Proxy, seconds: float, rate: float, pinned: bool) -> dict[str, Any]:
    cpus = set(range(os.cpu_count() or 1))
    for pid in proxy.serving:
        processes.place(pid, {0} if pinned else cpus)
    try:
        result = processes.load(
            proxy.port,
            connections=CONNECTIONS,
            seconds=seconds,
            rate=rate,
            host=HOST,
            pids=proxy.serving + proxy.others,
            cpus={1} if pinned else None,
        )
    except RuntimeError as error:
        raise RuntimeError(f"{proxy.name}: {error}") from error
    if result["errors"] or result["closed"] or result["unanswered"] or not result["requests"]:
        raise RuntimeError(f"{proxy.name}: {result}")
    spent = result["cpu_us"]
    result["us"] = sum(spent[: len(proxy.serving)]) / result["requests"]
    result["others_us"] = sum(spent[len(proxy.serving) :]) / result["requests"]
    return result


def versions() -> dict[str, str]:
    def first_line(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout + done.stderr).splitlines()[0].strip()

    return {
        "nginx": first_line("nginx", "-v").removeprefix("nginx version: nginx/"),
        "haproxy": first_line("haproxy", "-v").split()[2],
        "kernel": os.uname().release,
        "commit": first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Shape: our loops to the better peer and to the copy loop of the same kind, where both ran."""
    best = min((medians[peer] for peer in ("nginx", "haproxy") if peer in medians), default=0.0)
    result = {}
    for loop in ("uring", "epoll"):
        ours, floor = medians.get(f"edge-{loop}"), medians.get(f"copy-{loop}")
        if ours and best:
            result[f"{loop}/best_peer"] = round(ours / best, 3)
        if ours and floor:
            result[f"{loop}/copy_{loop}"] = round(ours / floor, 3)
        if floor and best:
            result[f"copy_{loop}/best_peer"] = round(floor / best, 3)
    return result


def run(arguments: argparse.Namespace, sink: Any) -> None:
    def emit(line: dict[str, Any]) -> None:
        text = json.dumps(line)
        print(text, flush=True)
        print(text, file=sink, flush=True)

    rounds, seconds = (5, 0.7) if arguments.quick else (arguments.rounds, arguments.seconds)
    facts = versions()
    common = {
        **facts,
        "cpu": cpu_model(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": "python -m bench.proxy.http1 " + " ".join(sys.argv[1:]),
    }
    names = arguments.only.split(",")
    summary: dict[str, Any] = {"summary": True, **common, "rounds": rounds, "seconds": seconds}
    for log in (True, False):
        with tempfile.TemporaryDirectory(prefix="edge-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)
            started: list[subprocess.Popen[bytes]] = []
            try:
                origin = processes.free_port()
                source = launch(
                    [processes.compile_tool("origin"), "127.0.0.1", origin, BODY_BYTES, BOUND_SECONDS],
                    folder / "origin.out",
                )
                started.append(source)
                processes.wait_port(origin, source)
                proxies = []
                for proxy_name in names:
                    if proxy_name.startswith("edge-"):
                        proxy = start_ours(proxy_name.removeprefix("edge-"), folder, origin, log)
                    else:
                        proxy = start_peer(proxy_name, folder, origin, log)
                    started.append(proxy.process)
                    proxies.append(proxy)
                for case, rate, pinned in (("saturated", 0, True), (f"rate-{RATE}", RATE, False)):
                    processes.place(source.pid, {1} if pinned else set(range(os.cpu_count() or 1)))
                    results: dict[str, list[dict[str, Any]]] = {p.name: [] for p in proxies}
                    for number in range(rounds):
                        for proxy in proxies if number % 2 == 0 else reversed(proxies):
                            results[proxy.name].append(measure(proxy, seconds, rate, pinned))
                    medians = {}
                    for proxy in proxies:
                        lines = results[proxy.name]
                        spent = [line["us"] for line in lines]
                        medians[proxy.name] = statistics.median(spent)
                        emit(
                            {
                                **common,
                                "case": case,
                                "access_log": log,
                                "proxy": proxy.name,
                                "n": len(lines),
                                "us_min": round(min(spent), 2),
                                "us_median": round(medians[proxy.name], 2),
                                "us_max": round(max(spent), 2),
                                "other_processes_us": round(
                                    statistics.median(line["others_us"] for line in lines), 2
                                ),
                                "requests_per_second": round(
                                    statistics.median(line["requests"] / line["seconds"] for line in lines)
                                ),
                                "p50_us": statistics.median(line["p50_us"] for line in lines),
                                "p99_us": statistics.median(line["p99_us"] for line in lines),
                            }
                        )
                    key = f"{case},log={'on' if log else 'off'}"
                    summary[key] = {
                        "us": {name: round(value, 2) for name, value in medians.items()},
                        "ratios": ratios(medians),
                    }
            finally:
                for process in reversed(started):
                    processes.stop(process)
    emit(summary)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.proxy.http1", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five short alternations")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument(
        "--only",
        default="nginx,haproxy,edge-uring,edge-epoll,copy-uring,copy-epoll",
        help="proxies to run, by comma",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that every proxy is ended
    results = ROOT / "bench" / "results"
    results.mkdir(exist_ok=True)
    with (results / "http1.jsonl").open("a") as sink:
        run(arguments, sink)
    return 0


if __name__ == "__main__":
    sys.exit(main())
