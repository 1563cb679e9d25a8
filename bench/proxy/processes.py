"""Starting, placing and ending the processes of a proxy benchmark.

Called by bench/proxy/http1.py and by the end-to-end stories that need the C load generator. It ends
only what it started, by pid, and never leaves a process behind: every start is bound to this one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "bench"


def compile_tool(name: str, folder: Path = HERE) -> Path:
    """Build FOLDER/NAME.c unless its program is newer (also than headers). Errors: CalledProcessError."""
    source, program = folder / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in (source, *folder.glob("*.h")))
    if not program.exists() or program.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(f".{os.getpid()}")
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, str(source), "-o", str(fresh), "-l:liburing.a"], check=True)
        fresh.rename(program)
    return program


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """Return pid and every living process below it."""
    found = [pid]
    for parent in found:
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except FileNotFoundError:
            continue
        for task in tasks:
            try:
                children = Path(f"/proc/{parent}/task/{task}/children").read_text().split()
            except OSError:
                continue
            found += [int(child) for child in children if int(child) not in found]
    return found


def command_name(pid: int) -> str:
    """Return the comm of a process, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def place(pid: int, cpus: set[int]) -> None:
    """Bind every thread of a process to CPUs."""
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), cpus)
        except ProcessLookupError:
            continue


def wait_port(port: int, process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Wait until 127.0.0.1:port accepts. Errors: RuntimeError when the process ends or time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} does not listen on port {port}") from None
            time.sleep(0.01)


def wait_answer(port: int, process: subprocess.Popen[bytes], host: str, seconds: float = 20.0) -> None:
    """Wait until a request is answered: who listens may not have its workers yet. Errors: RuntimeError."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if load(port, connections=1, seconds=0.1, rate=10, host=host)["requests"]:
            return
    raise RuntimeError(f"{process.args!r} answers nothing on port {port}")


def stop(process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    """End a process that we started, and its group when it does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            for pid in reversed(descendants(process.pid)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()


def load(
    port: int,
    *,
    connections: int,
    seconds: float,
    rate: float,
    host: str,
    path: str = "/",
    pids: Sequence[int] = (),
    cpus: set[int] | None = None,
) -> dict[str, Any]:
    """Run the C load generator. Shape: its JSON line. Errors: RuntimeError with its words."""
    arguments = ["127.0.0.1", port, connections, seconds, rate, host, path, *pids]
    result = subprocess.run(
        [str(compile_tool("load")), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
    )
    if result.returncode:
        raise RuntimeError(f"load: {result.stderr or result.returncode}")
    return dict(json.loads(result.stdout))
