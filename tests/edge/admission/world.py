"""A webhook in this process, its objects, and reviews to ask it; the client is asyncio's, over real TLS."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edge.admission.scope import scope_of
from edge.admission.server import Serving, Webhook
from edge.controller.default_certificate import make_default_certificate
from edge.controller.keeper import Keeper
from edge.controller.state import StateDirectory
from edge.controller.view import View
from edge.dataplane.link import DataPlaneState
from edge.dataplane.stats import Statistics
from edge.model.build import ModelBuilder, ModelSettings
from edge.model.judge import Judge
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore

PAIR = make_default_certificate(datetime.datetime.now(datetime.UTC))
EVERYTHING = Options()
TOKEN = "0123456789abcdef"
GROUPS = {
    "Ingress": ("networking.k8s.io", "v1"),
    "IngressClass": ("networking.k8s.io", "v1"),
    "EdgePolicy": ("xdp-edge.dev", "v1alpha1"),
    "Secret": ("", "v1"),
    "Pod": ("", "v1"),
}


def make_view(directory: Path, events: Iterable[ResourceEvent] = ()) -> View:
    """A view whose objects were read; without XDP, without a data plane."""
    memory = os.memfd_create("stats")
    try:
        view = View(
            DataPlaneState(), Statistics(memory), Keeper(StateDirectory(directory), False, lambda *_: None)
        )
    finally:
        os.close(memory)
    store, builder = ResourceStore(), ModelBuilder(ModelSettings())
    builder.update(store, store.apply(events))
    view.judge = Judge(builder, store)
    return view


def ingress(name: str, path: Any = "/", host: Any = "a.test", age: int = 1, **spec: Any) -> dict[str, Any]:
    target = {"service": {"name": "s", "port": {"number": 80}}}
    rule = {"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": target}]}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": name,
            "namespace": "default",
            "creationTimestamp": f"2026-01-0{age}T00:00:00Z",
        },
        "spec": {"ingressClassName": "edge", "rules": [rule], **spec},
    }


SERVICE = ResourceEvent(
    "Service", "default", "s", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
)


def review(raw: Any, old: Any = None, operation: str = "", kind: str = "", **request: Any) -> dict[str, Any]:
    """As an API server writes it."""
    kind = kind or (raw or old)["kind"]
    group, version = GROUPS[kind]
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": group, "version": version, "kind": kind},
            "resource": {"group": group, "version": version, "resource": "any"},
            "name": metadata["name"] if isinstance(metadata.get("name"), str) else "",
            "namespace": metadata["namespace"] if isinstance(metadata.get("namespace"), str) else "",
            "operation": operation or ("UPDATE" if old else "CREATE"),
            "userInfo": {"username": "alice\n", "groups": ["x"]},
            "object": raw,
            "oldObject": old,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }


def call(body: Any, path: str = f"/validate/{TOKEN}", method: str = "POST", **headers: str) -> bytes:
    """Shape: the bytes of one HTTP request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(data))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode() + data


@asynccontextmanager
async def open_webhook(
    view: View, options: Options = EVERYTHING, client_ca: str = ""
) -> AsyncIterator[tuple[Webhook, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    webhook = Webhook(view, scope_of(options), client_ca)
    webhook.use(Serving(*PAIR, (TOKEN,)))
    webhook.start(listening)
    try:
        yield webhook, listening.getsockname()[1]
    finally:
        await webhook.close()


def trusting(chain: bytes = PAIR[0]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=chain.decode())
    context.check_hostname = False
    return context


class Client:
    """One connection, one call after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, context: ssl.SSLContext | None = None) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context or trusting()))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Shape: status and body; status 0 when the connection was closed instead."""
        try:
            self.writer.write(request)
            await self.writer.drain()
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            )
            return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, b""

    async def close(self) -> None:
        self.writer.transport.abort()


async def ask_all(view: View, *requests: bytes, options: Options = EVERYTHING) -> list[tuple[int, bytes]]:
    """Ask each on a connection of its own."""
    found = []
    async with open_webhook(view, options) as (_, port):
        for request in requests:
            client = await Client.to(port)
            found.append(await client.ask(request))
            await client.close()
    return found
