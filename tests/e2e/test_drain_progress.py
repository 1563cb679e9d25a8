"""What an operator sees of a drain: a line that moves on a terminal, plain lines in a log.

The instance drains with a slow exchange and a tunnel open; both stories need no root.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import ROOT, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import Client

pytestmark = pytest.mark.slow

HOST = "a.example"
GRACE_S = 3


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "config"
    folder.mkdir()
    with pod("web") as port:
        objects = service("web"), endpoints("web", port), ingress("a", [(HOST, "/", "web")])
        write(folder, "objects.yaml", *objects)
        yield folder


@contextlib.contextmanager
def busy(edge: Running) -> Iterator[Client]:
    """Open an exchange that takes 2 s and a tunnel that never ends."""
    tunnel = {"Connection": "upgrade", "Upgrade": "echo"}
    with Client(edge.address, edge.port) as slow, Client(edge.address, edge.port) as open_end:
        assert open_end.ask(HOST, "/tunnel", headers=tunnel).status == 101
        slow.send_request(HOST, "/slow?s=2")
        wait_for("both are open", lambda: edge.metrics()["edge_requests_in_flight"] == 2)
        yield slow


def test_plain_lines_in_a_log(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, grace_period=GRACE_S) as edge, busy(edge) as slow:
        edge.process.send_signal(signal.SIGTERM)
        assert slow.read_response().status == 200
        assert edge.process.wait(15) == 0
        lines = [text for text in edge.lines().splitlines() if "draining" in text]
    assert len(lines) == 1, lines  # every five seconds
    assert "1 exchange and 1 tunnel left" in lines[0] and "\x1b" not in lines[0]


class OnTerminal(Running):
    """An instance whose standard error is a terminal, as when an operator started it."""

    def start(self) -> None:
        self.folder.chmod(0o755)
        self.terminal, theirs = os.openpty()
        environment = {**os.environ, "TERM": "xterm"}
        with os.fdopen(theirs, "wb") as end, self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                self.command(), stdout=sink, stderr=end, cwd=ROOT, env=environment
            )

    def drawn(self) -> str:
        """Return what the terminal got."""
        text = b""
        with contextlib.suppress(OSError):  # its other end is closed
            while select.select([self.terminal], [], [], 0)[0]:
                text += os.read(self.terminal, 1 << 16)
        return text.decode()

    def close(self) -> None:
        super().close()
        os.close(self.terminal)


def test_a_line_that_moves_on_a_terminal(tmp_path: Path, config: Path) -> None:
    with OnTerminal(tmp_path, config, grace_period=GRACE_S) as edge, busy(edge) as slow:
        edge.process.send_signal(signal.SIGTERM)
        assert slow.read_response().status == 200
        assert edge.process.wait(15) == 0
        drawn = edge.drawn()
    assert "1 exchange and 1 tunnel left" in drawn and "0 exchanges and 1 tunnel left" in drawn, drawn
    seconds = [int(text) for text in re.findall(r"(\d+) s of the grace", drawn)]
    assert len(set(seconds)) >= 3 and seconds == sorted(seconds, reverse=True), seconds
    assert "\x1b[2K" in drawn, "the line before was not cleared"
