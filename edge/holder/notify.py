"""What a service manager is told: ready, reloading, stopping, alive, and who the main process is.

Called by holder/main.py. The protocol of sd_notify(3): one datagram of lines to the socket that
NOTIFY_SOCKET names; without that variable all of this does nothing. A manager that does not read never
makes the holder wait or fail.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class Notifier:
    """Owns its socket. Takes the variables out of the environment: children must not speak for us."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._name = environment.pop("NOTIFY_SOCKET", "")
        watchdog = environment.pop("WATCHDOG_USEC", "")
        for_whom = environment.pop("WATCHDOG_PID", "")
        self._socket: socket.socket | None = None
        self._ready = False
        self._text = ""
        self._alive_at = 0.0
        if self._name.startswith(("/", "@")):
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)
        usable = self._socket is not None and watchdog.isdigit() and for_whom in ("", str(os.getpid()))
        self.watchdog_s = int(watchdog) / 1e6 if usable else 0.0  # 0: the manager does not watch us

    def environment(self) -> dict[str, str]:
        """Shape: the variables for a successor, which has another pid."""
        found = {"NOTIFY_SOCKET": self._name} if self._socket else {}
        if self.watchdog_s:
            found["WATCHDOG_USEC"] = str(int(self.watchdog_s * 1e6))
        return found

    def beat(self, serving: bool, text: str) -> None:
        """Tell what has changed, and that we live; to be called at least twice a second.

        Ready is said once, when the data plane serves.
        """
        if self._socket is None:
            return
        lines = []
        if serving and not self._ready:
            self._ready = True
            lines.append("READY=1")
        if text != self._text:
            self._text = text
            lines.append(f"STATUS={text}")
        now = time.monotonic()
        if self.watchdog_s and now >= self._alive_at + self.watchdog_s / 4:
            self._alive_at = now
            lines.append("WATCHDOG=1")
        self._send(lines)

    def reloading(self) -> None:
        """Say that everything is read again; the next beat says that we are ready."""
        if self._ready:
            self._ready = False
            self._send(["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"])

    def stopping(self) -> None:
        """Say that we end because we were told to."""
        self._send(["STOPPING=1"])

    def hand_over(self, pid: int) -> None:
        """Say that another process is the main one from now on; it speaks for itself after that.

        Only the main process may say so (NotifyAccess=main), so the one that leaves does.
        """
        self._send([f"MAINPID={pid}"])

    def _send(self, lines: list[str]) -> None:
        if self._socket is None or not lines:
            return
        where = "\0" + self._name[1:] if self._name.startswith("@") else self._name
        with contextlib.suppress(OSError):  # a manager that is gone or does not read must not stop us
            self._socket.sendto("\n".join(lines).encode(), where)

    def close(self) -> None:
        """Close the socket."""
        if self._socket:
            self._socket.close()
            self._socket = None
