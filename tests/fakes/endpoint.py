"""A real HTTP/1.1 upstream ("pod") for tests and the demo, which misbehaves on order.

`python -m tests.fakes.endpoint --name web-1 --listen ADDR:PORT` (repeatable, port 0: any; prints
`listening ADDR:PORT` for each, then serves until SIGTERM). asyncio, one process. It is lenient in
what it reads, since what reaches it was judged by the proxy; it never closes a kept connection itself.

| path | answer |
|---|---|
| /who or anything else | the name |
| /headers | the request's head as JSON: name, method, target, headers |
| /echo | the request's body |
| /slow?s=1.5 | the name, after so long |
| /bytes?n=1048576 | n bytes |
| /chunked?n=3 | n chunks of 1 KiB |
| /status?code=503 | that status |
| /misbehave?how=close,reset,garbage,half,headless,extra,toolong,switch | see MISBEHAVIOUR |
| any with `Upgrade:` | 101, then every byte back |
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import struct
import sys
from urllib.parse import parse_qs, urlsplit

HEAD_BYTES_MAX = 256 * 1024
BLOCK = b"0123456789abcdef" * 4096

# What is sent instead of an answer; afterwards the connection is closed.
MISBEHAVIOUR = {
    "close": b"",
    "reset": b"",
    "garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
    "headless": b"HTTP/1.1 200 OK\r\nContent-Le",
    "extra": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra",
    "toolong": b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 300_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
}


class Endpoint:
    """All connections of one pod share its name and its count of requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection until the peer leaves."""
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await self.exchange(reader, writer):
                pass
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, _version = first.split(" ", 2)
        fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        by_name = {name.lower(): value for name, value in fields}
        self.requests += 1
        if "upgrade" in by_name:
            await self.tunnel(by_name["upgrade"], reader, writer)
            return False
        body = await read_body(by_name, reader)
        url = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        status, kind, answer = 200, "text/plain", f"{self.name}\n".encode()
        if url.path == "/misbehave":
            await misbehave(query.get("how", "close"), writer)
            return False
        if url.path == "/chunked":
            await self.chunks(int(query.get("n", "3")), method, writer)
            return True
        if url.path == "/slow":
            await asyncio.sleep(float(query.get("s", "1")))
        elif url.path == "/bytes":
            count = int(query.get("n", str(1 << 20)))
            answer = (BLOCK * (count // len(BLOCK) + 1))[:count]
        elif url.path == "/echo":
            answer = body
        elif url.path == "/status":
            status = int(query.get("code", "200"))
        elif url.path == "/headers":
            kind = "application/json"
            seen = {"name": self.name, "method": method, "target": target, "headers": fields}
            answer = json.dumps(seen).encode()
        writer.write(
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Ordered'}\r\nContent-Type: {kind}\r\n"
            f"X-Endpoint: {self.name}\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(answer)
        await writer.drain()
        return by_name.get("connection", "").lower() != "close"

    async def chunks(self, count: int, method: str, writer: asyncio.StreamWriter) -> None:
        """Send a chunked answer with one trailer."""
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Count\r\n\r\n")
        if method != "HEAD":
            for _ in range(count):
                writer.write(b"400\r\n" + BLOCK[:1024] + b"\r\n")
                await writer.drain()
            writer.write(f"0\r\nX-Count: {count}\r\n\r\n".encode())
        await writer.drain()

    async def tunnel(self, protocol: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Switch protocols and send every byte back."""
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"
            f"Upgrade: {protocol}\r\nX-Endpoint: {self.name}\r\n\r\n".encode()
        )
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def read_body(fields: dict[str, str], reader: asyncio.StreamReader) -> bytes:
    """Read a whole request body by its framing."""
    if "chunked" not in fields.get("transfer-encoding", "").lower():
        return await reader.readexactly(int(fields.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


async def misbehave(how: str, writer: asyncio.StreamWriter) -> None:
    """Send what was ordered; `reset` ends with RST instead of FIN."""
    if how == "reset":
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return
    writer.write(MISBEHAVIOUR[how])
    await writer.drain()


async def run(name: str, addresses: list[str]) -> None:
    """Serve until SIGTERM or SIGINT."""
    endpoint = Endpoint(name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    for address in addresses:
        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(
            endpoint.serve, host.strip("[]"), int(port), backlog=1024, limit=HEAD_BYTES_MAX
        )
        print(f"listening {host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.endpoint")
    parser.add_argument("--name", required=True)
    parser.add_argument("--listen", required=True, action="append", metavar="ADDR:PORT")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.name, arguments.listen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
