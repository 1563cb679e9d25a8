"""The head parser and the head writer on a request of ten fields: ``python -m bench.micro.h1_parse``.

Prints JSON lines, the last with ``"summary": true``: nanoseconds (median, min and max of the
repetitions) and instructions counted by callgrind, which repeat exactly. Built as the extension
is (gcc -O2). Leaves out: cold caches, other requests, the bytes' way from the socket.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [f"csrc/http/{name}.c" for name in ("h1_parse", "h1_write", "field", "target", "framing")]
CASES = ("parse", "write", "dribble")


def build(folder: Path) -> Path:
    program = folder / "h1_parse"
    command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Icsrc"]
    subprocess.run([*command, "bench/micro/h1_parse.c", *SOURCES, "-o", str(program)], cwd=ROOT, check=True)
    return program


def nanoseconds(program: Path, case: str, count: int) -> tuple[float, int]:
    out = subprocess.run([program, case, str(count)], check=True, capture_output=True, text=True).stdout
    ns, size = out.split()
    return float(ns), int(size)


def instructions(program: Path, case: str, folder: Path) -> float:
    """Instructions of one run: the difference between 1,100 and 100 runs, divided."""
    totals = []
    for count in (100, 1100):
        out = folder / f"callgrind.{case}.{count}"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
        subprocess.run([*command, program, case, str(count)], check=True, capture_output=True)
        lines = out.read_text().splitlines()
        totals.append(int(next(line for line in lines if line.startswith("totals: ")).split()[1]))
    return (totals[1] - totals[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no callgrind")
    quick = parser.parse_args().quick
    count, repetitions = (20_000, 3) if quick else (400_000, 9)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    summary: dict[str, object] = {}
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        program = build(Path(name))
        for case in CASES:
            runs = count if case != "dribble" else count // 50
            samples = [nanoseconds(program, case, runs) for _ in range(repetitions)]
            times = [ns for ns, _ in samples]
            line: dict[str, object] = {
                "case": case,
                "bytes": samples[0][1],
                "n": repetitions,
                "ns_median": round(statistics.median(times), 1),
                "ns_min": min(times),
                "ns_max": max(times),
            }
            if not quick:
                line["instructions"] = round(instructions(program, case, Path(name)))
            lines.append(line)
            summary |= {f"{case}_ns": line["ns_median"]}
            summary |= {f"{case}_instructions": line["instructions"]} if not quick else {}
    cpu = next(
        (x.split(": ")[1] for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x),
        platform.machine(),
    )
    lines.append(
        {"summary": True, **summary, "commit": commit, "cpu": cpu, "kernel": platform.release()}
        | {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    print(text, end="")
    with (ROOT / "bench" / "results" / "h1_parse.jsonl").open("a") as results:
        results.write(text)


if __name__ == "__main__":
    main()
