"""An `edge run` on loopback with a folder of objects, for tests of the processes.

Started and stopped by pid; ready by condition; its lines are kept. Works with and without root. Never
touches an instance that it did not start.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edge.messages import receive, send

DEADLINE_S = 15.0
EDGE = Path(sys.executable).with_name("edge")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE_S) -> None:
    """Ask again and again, a few milliseconds apart, until it holds or the deadline has passed."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.005)


def get(port: int, path: str, host: str = "127.0.0.1", seconds: float = 5.0) -> tuple[int, bytes]:
    """Ask once on a fresh connection; status 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class Instance:
    """One `edge run`; a context manager that leaves nothing behind."""

    def __init__(self, *options: str, http_port: int = 0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="edge-instance-"))
        self.config = self.folder / "config"
        self.config.mkdir()
        self.http_port = http_port or free_port()
        self.admin_port = free_port()
        self.name = f"test-{os.getpid()}-{self.http_port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._options = options

    def command(self) -> list[str]:
        return [
            str(EDGE),
            "run",
            *("--config", str(self.config)),
            *("--http", f"127.0.0.1:{self.http_port}"),
            *("--admin", f"127.0.0.1:{self.admin_port}"),
            *("--run-dir", str(self.folder / "run"), "--state-dir", str(self.folder / "state")),
            *("--access-log", str(self.folder / "access.log")),
            *("--instance", self.name, "--workers", "2", "--xdp", "off", "--grace-period", "2"),
            *self._options,
        ]

    def start(self) -> Instance:
        with open(self.folder / "lines", "ab") as lines:
            self.process = subprocess.Popen(self.command(), stdout=lines, stderr=lines)
        return self

    def __enter__(self) -> Instance:
        self.start()
        try:
            wait_until(self.ready, f"ready; its lines:\n{self.lines()}")
        except AssertionError:
            lines = self.lines()
            self.__exit__()
            raise AssertionError(f"never ready:\n{lines}") from None
        return self

    def __exit__(self, *_reason: object) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def stop(self) -> int:
        """SIGTERM and its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def lines(self) -> str:
        return (self.folder / "lines").read_text(errors="replace")

    def ready(self) -> bool:
        return get(self.admin_port, "/readyz")[0] == 200

    def ask(self, host: str, path: str = "/") -> tuple[int, bytes]:
        return get(self.http_port, path, host)

    def status(self) -> dict[str, str]:
        """Ask the holder over its control socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(5)
            control.connect(str(self.folder / "run" / self.name / "control.sock"))
            send(control, "status")
            answer = receive(control)
        assert answer is not None
        return dict(answer.fields)

    def write(self, name: str, text: str) -> None:
        """Put a file into the folder at once: a reader sees the old or the new one."""
        fresh = self.folder / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(self.config / name)
