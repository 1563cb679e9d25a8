"""A raw HTTP/1.1 client over one socket: what is sent is what the test wrote.

Used by end-to-end tests and the demo. A socket belongs to the network namespace it was made in, so
make the Client inside `Lab.inside()` and use it anywhere. It never retries and never reconnects.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Response:
    """One answer; header names in lower case, the last of several wins."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return the body as text without the final line end."""
        return self.body.decode("utf-8", "replace").rstrip("\n")


class Closed(Exception):
    """The peer closed before the answer was whole."""


class Client:
    """One connection, plain or TLS (certificates are not verified)."""

    def __init__(
        self, address: str, port: int, *, timeout: float = 10.0, tls_name: str | None = None
    ) -> None:
        self.socket = socket.create_connection((address, port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls_name is not None:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket, server_hostname=tls_name)
        self.buffer = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def ask(
        self,
        host: str,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """Send one request and read its answer."""
        self.send_request(host, path, method, headers, body)
        return self.read_response(method)

    def send_request(
        self,
        host: str,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send one request and do not wait."""
        fields = {"Host": host, **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)

    def read_response(self, method: str = "GET") -> Response:
        """Read one final answer. Errors: Closed, TimeoutError."""
        while True:
            head = self.read_until(b"\r\n\r\n").decode("latin-1")
            first, *lines = head[:-4].split("\r\n")
            status = int(first.split(" ", 2)[1])
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            if status == 101 or status >= 200:
                return Response(status, headers, self.read_body(status, headers, method))

    def read_body(self, status: int, headers: Mapping[str, str], method: str) -> bytes:
        """Read the body that a head announces."""
        if method == "HEAD" or status in (101, 204, 304):
            return b""
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
                body += self.read_exactly(size + 2)[:-2]
            while self.read_until(b"\r\n") != b"\r\n":
                pass
            return body
        if "content-length" in headers:
            return self.read_exactly(int(headers["content-length"]))
        body = self.buffer
        self.buffer = b""
        while data := self.socket.recv(65536):
            body += data
        return body

    def read_until(self, end: bytes) -> bytes:
        """Read up to and with `end`."""
        while end not in self.buffer:
            self.fill()
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    def read_exactly(self, count: int) -> bytes:
        """Read so many bytes."""
        parts = [self.buffer]
        have = len(self.buffer)
        self.buffer = b""
        while have < count:
            data = self.socket.recv(max(65536, count - have))
            if not data:
                raise Closed(f"{have} of {count} bytes")
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self.buffer = whole[count:]
        return whole[:count]

    def fill(self) -> None:
        """Read what there is."""
        data = self.socket.recv(65536)
        if not data:
            raise Closed(f"after {self.buffer!r}")
        self.buffer += data

    def is_closed(self) -> bool:
        """Tell, without waiting, whether the peer closed or reset."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(10)


def ask(address: str, port: int, host: str, path: str = "/", *, timeout: float = 10.0) -> Response:
    """Ask once over a fresh connection."""
    with Client(address, port, timeout=timeout) as client:
        return client.ask(host, path)


def ask_until(
    address: str, port: int, host: str, path: str, wanted: int, *, seconds: float = 20.0
) -> Response:
    """Ask until the status is `wanted`. Errors: AssertionError with the last outcome."""
    deadline = time.monotonic() + seconds
    while True:
        outcome: object
        try:
            outcome = answer = ask(address, port, host, path, timeout=2)
            if answer.status == wanted:
                return answer
        except (OSError, Closed) as error:
            outcome = error
        assert time.monotonic() < deadline, f"no {wanted} for {host}{path} in {seconds} s: {outcome!r}"
        time.sleep(0.01)
