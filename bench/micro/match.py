"""The matcher on tables of 10 to 100,000 routes: ``python -m bench.micro.match [--quick]``.

Prints JSON lines, the last with ``"summary": true``: nanoseconds a match (median of batches of 128,
each request waiting for the one before it), bytes a route of the whole image without upstreams, and
instructions a match counted by callgrind, which repeat exactly. Shapes: hosts x paths, each host with
paths of its own but for ``same``. Texts of requests are in the first cache, as the head parser leaves
them; tables are not, when they are large. Leaves out: parsing, conditions, expressions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("base/error", "base/hash", "base/huge", "base/pattern", "match/*", "snapshot/*")
SHAPES = ((100_000, 1, "own"), (1_000, 100, "own"), (10, 10_000, "own"), (1_000, 100, "same"))
SMALL = ((1_000, 1, "own"), (100, 10, "own"), (1, 1_000, "own"))
# Hosts and paths of each large shape, and of the ten routes beside it.
TINY = {(100_000, 1): (10, 1), (1_000, 100): (1, 10), (10, 10_000): (1, 10)}
GOALS = {"zipf_ns": 200, "uniform_ns": 450, "small_ns": 60, "growth": 1.15, "bytes_a_route": 200}


def build(folder: Path) -> Path:
    program = folder / "match"
    sources = [str(path) for name in NAMES for path in sorted((ROOT / "csrc").glob(name + ".c"))]
    flags = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Icsrc", "-Ibpf"]
    command = ["gcc", *flags, "bench/micro/match.c", *sources, "-o", str(program), "-lpcre2-8", "-pthread"]
    subprocess.run(command, cwd=ROOT, check=True)
    return program


def run(program: Path, shape: tuple[int, int, str], kind: str, count: int) -> dict[str, Any]:
    words = [str(program), *map(str, shape), kind, str(count)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def instructions(program: Path, shape: tuple[int, int, str], folder: Path) -> float:
    """Instructions of one match, uniform; only what runs inside ``match_route`` is counted."""
    out, count = folder / "callgrind", 12_800
    tool = ["valgrind", "--tool=callgrind", "--toggle-collect=match_route", f"--callgrind-out-file={out}"]
    words = [*tool, str(program), *map(str, shape), "uniform", str(count)]
    subprocess.run(words, check=True, capture_output=True)
    lines = out.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("totals: ")).split()[1]) / count


def measure(program: Path, quick: bool, folder: Path) -> list[dict[str, Any]]:
    count, repetitions = (128_000, 3) if quick else (1_280_000, 7)
    counting = not quick and shutil.which("valgrind") is not None
    shapes = (*SHAPES, *SMALL, *sorted({(*tiny, "own") for tiny in TINY.values()}))
    cases = [(shape, kind) for shape in shapes for kind in ("zipf", "uniform")]
    # In turns: where a neighbour has the other half of the core for a while, no case has it alone.
    rounds = [[run(program, *case, count) for case in cases] for _ in range(repetitions)]
    lines = []
    for (shape, kind), *samples in zip(cases, *rounds, strict=True):
        hosts, paths, which = shape
        times = [sample["ns_median"] for sample in samples]
        line: dict[str, Any] = {
            "case": f"{hosts}x{paths}" + (" same" if which == "same" else ""),
            "requests": kind,
            "n": repetitions,
            "ns_median": statistics.median(times),
            "ns_min": min(times),
            "ns_max": max(times),
            "bytes_a_route": samples[0]["bytes_a_route"],
            "image_bytes": samples[0]["image_bytes"],
            "build_ms": statistics.median(sample["build_ms"] for sample in samples),
        }
        if counting and kind == "uniform":
            line["instructions"] = round(instructions(program, shape, folder), 1)
        lines.append(line)
        print(json.dumps(line), flush=True)
    return lines


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    by_case = {(line["case"], line["requests"]): line for line in lines}
    large = [f"{hosts}x{paths}" for hosts, paths, which in SHAPES if which == "own"]
    small = [f"{hosts}x{paths}" for hosts, paths, _ in SMALL]
    found: dict[str, Any] = {
        "zipf_ns": max(by_case[case, "zipf"]["ns_median"] for case in large),
        "uniform_ns": max(by_case[case, "uniform"]["ns_median"] for case in large),
        "small_ns": max(by_case[case, kind]["ns_median"] for case in small for kind in ("zipf", "uniform")),
        "bytes_a_route": max(by_case[case, "zipf"]["bytes_a_route"] for case in large),
    }
    if "instructions" in by_case[large[0], "uniform"]:
        found["growth"] = max(
            by_case[f"{hosts}x{paths}", "uniform"]["instructions"]
            / by_case[f"{tiny[0]}x{tiny[1]}", "uniform"]["instructions"]
            for (hosts, paths), tiny in TINY.items()
        )
    found = {name: round(value, 3) for name, value in found.items()}
    return {**found, "goals": GOALS, "missed": [name for name in found if found[name] > GOALS[name]]}


def facts() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.split(": ")[1] for x in lines if x.startswith("model name")), platform.machine())
    return {
        "commit": commit,
        "cpu": cpu,
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro.match", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no callgrind")
    arguments = parser.parse_args()
    if not arguments.quick and shutil.which("valgrind") is None:
        print(json.dumps({"note": "valgrind is missing: no instructions are counted"}))
    with tempfile.TemporaryDirectory() as name:
        lines = measure(build(Path(name)), arguments.quick, Path(name))
    last = {"summary": True, **summary(lines), **facts()}
    print(json.dumps(last))
    results = ROOT / "bench" / "results" / "match.jsonl"
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as sink:
        sink.writelines(json.dumps(line) + "\n" for line in [*lines, last])


if __name__ == "__main__":
    main()
