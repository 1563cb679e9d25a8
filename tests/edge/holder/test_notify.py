"""What a service manager hears, on a socket by path and on an abstract one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.holder.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Yield NOTIFY_SOCKET and the manager's end."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as end:
        end.bind("\0" + name[1:] if name.startswith("@") else name)
        yield name, end


def heard(end: socket.socket) -> list[str]:
    lines: list[str] = []
    while True:
        try:
            lines += end.recv(4096).decode().split("\n")
        except BlockingIOError:
            return lines


def test_ready_is_said_once_and_only_when_the_data_plane_serves(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.beat(False, "waiting")
    assert heard(end) == ["STATUS=waiting"]
    notifier.beat(True, "serving version 1")
    notifier.beat(True, "serving version 1")
    assert heard(end) == ["READY=1", "STATUS=serving version 1"]
    notifier.reloading()
    first, second = heard(end)
    assert first == "RELOADING=1" and second.startswith("MONOTONIC_USEC=")
    notifier.beat(True, "serving version 1")
    assert heard(end) == ["READY=1"]
    notifier.stopping()
    notifier.hand_over(77)
    assert heard(end) == ["STOPPING=1", "MAINPID=77"]
    notifier.close()


def test_the_watchdog_is_fed_four_times_as_often_as_it_bites(
    manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, end = manager
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier(environment)
    assert environment == {}, "children would speak for us"
    assert notifier.environment() == {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "8000000"}
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    beats = 0
    for _ in range(16):
        notifier.beat(False, "")
        beats += heard(end).count("WATCHDOG=1")
        now[0] += 0.5
    assert beats == 4
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:9999"},
        {"NOTIFY_SOCKET": "/nowhere/notify"},
        {"NOTIFY_SOCKET": "/" + "x" * 200},
        {"NOTIFY_SOCKET": "@edge-nobody-listens", "WATCHDOG_USEC": "soon"},
    ],
)
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    notifier = Notifier(environment)
    notifier.beat(True, "serving")
    notifier.reloading()
    notifier.stopping()
    notifier.close()
    assert notifier.watchdog_s == 0


def test_a_watchdog_of_another_process_is_not_ours(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0], "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    assert notifier.watchdog_s == 0 and "WATCHDOG_USEC" not in notifier.environment()
    notifier.close()


def test_a_manager_that_does_not_read_never_blocks_us(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    for number in range(2000):
        notifier.beat(True, f"serving version {number}")
    notifier.close()
