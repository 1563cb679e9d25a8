"""A running `edge run` for the stories: started, asked, watched from outside, ended.

Used by tests/e2e/test_*.py, on loopback or inside a namespace of lab.py. It knows edge by what an
operator knows: options, admin API, process names, /proc. It ends what it started and detaches XDP.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.proxy import processes
from edge.messages import receive, send
from tests.e2e.lab import ROOT, Lab, end, wait_for
from tests.fakes.client import Closed, Response, ask

EDGE = Path(sys.executable).parent / "edge"
_numbers = itertools.count(1)


class Running:
    """One instance with its own folders under `folder`; a context manager."""

    def __init__(
        self, folder: Path, config: Path, *, lab: Lab | None = None, http: str = "", **options: object
    ) -> None:
        self.folder = folder
        self.lab = lab
        self.name = f"test-{os.getpid()}-{next(_numbers)}"
        self.address, _, port = (http or f"127.0.0.1:{processes.free_port()}").rpartition(":")
        self.port = int(port)
        self.admin_port = processes.free_port()
        self.options: dict[str, object] = {
            "config": config,
            "http": f"{self.address}:{self.port}",
            "admin": f"127.0.0.1:{self.admin_port}",
            "instance": self.name,
            "run_dir": folder / "run",
            "state_dir": folder / "state",
            "access_log": folder / "access.log",
            "grace_period": 1,
            "xdp": "off",
            **options,
        }
        self.name = str(self.options["instance"])
        self.environment: dict[str, str] = {}
        self.log = folder / f"{self.name}.log"

    def __enter__(self) -> Running:
        self.start()
        try:
            wait_for(f"{self.name} is ready", self.ready, 30)
        except BaseException:
            self.close()
            raise AssertionError(f"not ready:\n{self.log.read_text(errors='replace')[-4000:]}") from None
        return self

    @property
    def state(self) -> Path:
        """Return the instance's own state folder."""
        return Path(str(self.options["state_dir"])) / self.name

    def command(self) -> list[str]:
        """Return the command line; an option whose value is True is a flag, None is left out."""
        words: list[str] = [str(EDGE), "run"]
        for option, value in self.options.items():
            for one in value if isinstance(value, list | tuple) else [value]:
                if one is not None:
                    words += [f"--{option.replace('_', '-')}", *([] if one is True else [str(one)])]
        return words

    def start(self) -> None:
        """Start it and do not wait: for starts that fail."""
        self.folder.chmod(0o755)
        with self.log.open("ab") as sink, self.inside():
            self.process = subprocess.Popen(
                self.command(), stdout=sink, stderr=sink, cwd=ROOT, env={**os.environ, **self.environment}
            )

    def refusal(self, seconds: float = 15) -> tuple[int, str]:
        """Start it where it must end by itself. Shape: exit status and its lines."""
        self.start()
        try:
            return self.process.wait(seconds), self.lines()
        finally:
            self.close()

    def stop(self, seconds: float = 15) -> int:
        """Send SIGTERM, and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever state its processes are in, and detach what it leaves in the kernel."""
        for pid in processes.descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        below = processes.descendants(self.process.pid)[1:]
        end(self.process)
        for pid in below:
            if processes.command_name(pid).startswith("edge-"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.options["xdp"] != "off":
            with self.inside():
                subprocess.run([EDGE, "detach", "--instance", self.name], check=True, capture_output=True)

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Enter the namespace that edge runs in."""
        return self.lab.inside("node") if self.lab else contextlib.nullcontext()

    def lines(self) -> str:
        """Return what it has said."""
        return self.log.read_text(errors="replace")

    # ---- Asking ------------------------------------------------------------------------------

    def ask(self, host: str, path: str = "/") -> Response:
        """Ask once over a fresh connection."""
        return ask(self.address, self.port, host, path)

    def admin(self, path: str) -> Response:
        """Ask the admin API."""
        with self.inside():
            return ask("127.0.0.1", self.admin_port, "localhost", path)

    def admin_json(self, path: str) -> Any:
        """Return the admin API's answer, decoded."""
        answer = self.admin(path)
        assert answer.status == 200, (path, answer)
        return json.loads(answer.body)

    def ready(self) -> bool:
        """Tell whether it says it is ready. Errors: AssertionError when it ended."""
        assert self.process.poll() is None, f"edge run ended with {self.process.returncode}"
        try:
            return self.admin("/readyz").status == 200
        except (OSError, Closed):
            return False

    def served(self, host: str, path: str = "/") -> int:
        """Return the status of one answer, 0 when there is none."""
        try:
            return self.ask(host, path).status
        except (OSError, Closed):
            return 0

    def holder(self) -> dict[str, str]:
        """Ask the holder over its control socket."""
        path = Path(str(self.options["run_dir"])) / self.name / "control.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(5)
            control.connect(str(path))
            send(control, "status")
            answer = receive(control)
        assert answer is not None
        return dict(answer.fields)

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by name and labels."""
        page = self.admin("/metrics").text
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    # ---- Watching ----------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        """Return the living process of a name: edge-data, edge-controller."""

        def find() -> int | None:
            pids = processes.descendants(self.process.pid)
            return next((pid for pid in pids if processes.command_name(pid) == name), None)

        return int(wait_for(f"a process named {name}", find, 10))

    def resident(self, name: str) -> int:
        """Return the resident memory of a process. Units: bytes."""
        pages = Path(f"/proc/{self.pid(name)}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def pod(name: str, port: int | None = None) -> Iterator[int]:
    """Run an endpoint on loopback; yield its port."""
    words = [sys.executable, "-m", "tests.fakes.endpoint", "--name", name]
    process = subprocess.Popen(
        [*words, "--listen", f"127.0.0.1:{port or 0}"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("listening"), f"pod {name}: {line!r}"
        yield int(line.rpartition(":")[2])
    finally:
        process.stdout.close()
        end(process)


def connect(address: str, port: int) -> socket.socket:
    """Open a connection that does not wait when it reads."""
    channel = socket.create_connection((address, port), 10)
    channel.setblocking(False)
    return channel
