"""The API server as tests speak to it: JSON over one connection a thread, made inside a namespace.

A test's own client, so that the product's (edge/sources/api.py) is not judged by itself.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.e2e.lab import inside

Object = dict[str, Any]
OWNER = "edge-tests"


class KubeError(Exception):
    """The API server refused, in its own words. `status` 0: it was not reached."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Kube:
    """Requests as the user of a kubeconfig in JSON. An empty namespace is the machine's own."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        config = json.loads(kubeconfig.read_text())
        place, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.address = urlsplit(place["server"])
        self.token = user.get("token")
        if data := place.get("certificate-authority-data"):
            self.tls = ssl.create_default_context(cadata=base64.b64decode(data).decode())
        else:
            self.tls = ssl.create_default_context(cafile=place["certificate-authority"])
        if data := user.get("client-certificate-data"):
            own = kubeconfig.with_suffix(".pem")
            own.write_bytes(base64.b64decode(user["client-key-data"]) + b"\n" + base64.b64decode(data))
            self.tls.load_cert_chain(own)
        self.namespace = namespace
        self.own = threading.local()
        self.resources: dict[str, dict[str, tuple[str, bool]]] = {}

    # ---- Requests ----------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> Object:
        """Send one request, return the answered object. Errors: KubeError."""
        text = self.raw(method, path, body, query=query, content_type=content_type, timeout=timeout)
        return json.loads(text) if text[:1] == b"{" else {"text": text.decode()}

    def raw(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout: float = 10.0,
    ) -> bytes:
        """Send one request, return the bytes of its answer. Errors: KubeError."""
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = content_type
        target = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        content = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            used = getattr(self.own, "connection", None) is not None
            try:
                connection = self.connection(timeout)
                connection.request(method, target, content, headers)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if attempt == 2 or not used:  # only a connection that had been idle may have ended
                    raise KubeError(0, type(error).__name__, str(error)) from error
        if answer.status >= 300:
            said = json.loads(text) if text[:1] == b"{" else {}
            message = said.get("message", text[:300].decode(errors="replace"))
            raise KubeError(answer.status, said.get("reason", answer.reason), message)
        return text

    def connection(self, timeout: float) -> http.client.HTTPSConnection:
        """Return this thread's connection, made inside the namespace when there is none."""
        connection = getattr(self.own, "connection", None)
        if connection is None:
            assert self.address.hostname and self.address.port
            connection = http.client.HTTPSConnection(
                self.address.hostname, self.address.port, context=self.tls, timeout=timeout
            )
            with inside(self.namespace) if self.namespace else contextlib.nullcontext():
                connection.connect()
            self.own.connection = connection
        connection.sock.settimeout(timeout)
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self.own, "connection", None)
        self.own.connection = None
        if connection is not None:
            connection.close()

    def ready(self) -> bool:
        """Say whether the API server calls itself ready."""
        try:
            return self.raw("GET", "/readyz", timeout=2.0) == b"ok"
        except KubeError:
            return False

    # ---- Objects -----------------------------------------------------------------------------

    def path(self, api: str, kind: str, namespace: str = "", name: str = "") -> str:
        """Return the path of an object, or of a list: api is `v1` or `GROUP/VERSION`."""
        root = f"/api/{api}" if "/" not in api else f"/apis/{api}"
        if kind not in self.resources.get(api, {}):
            listing = self.request("GET", root)["resources"]
            self.resources[api] = {
                entry["kind"]: (entry["name"], entry["namespaced"])
                for entry in listing
                if "/" not in entry["name"]
            }
        plural, namespaced = self.resources[api][kind]
        middle = f"/namespaces/{namespace or 'default'}" if namespaced and (namespace or name) else ""
        return f"{root}{middle}/{plural}" + (f"/{name}" if name else "")

    def path_of(self, thing: Object) -> str:
        """Return the path of an object as it is written."""
        meta = thing["metadata"]
        return self.path(thing["apiVersion"], thing["kind"], meta.get("namespace", ""), meta["name"])

    def apply(self, things: Iterable[Object]) -> list[Object]:
        """Apply objects, as `kubectl apply --server-side --force-conflicts` does."""
        query = {"fieldManager": OWNER, "force": "true"}
        patch = "application/apply-patch+yaml"
        return [self.request("PATCH", self.path_of(t), t, query=query, content_type=patch) for t in things]

    def create(self, thing: Object) -> Object:
        """Create one object."""
        path = self.path_of(thing).rsplit("/", 1)[0]
        return self.request("POST", path, thing)

    def patch(self, thing: Object, change: Object) -> Object:
        """Merge a change into an object."""
        merge = "application/merge-patch+json"
        return self.request("PATCH", self.path_of(thing), change, content_type=merge)

    def delete(self, things: Iterable[Object]) -> None:
        """Delete objects; those that are gone already count as deleted."""
        for thing in things:
            try:
                self.request("DELETE", self.path_of(thing))
            except KubeError as error:
                if error.status != 404:
                    raise

    def get(self, api: str, kind: str, name: str, namespace: str = "") -> Object:
        """Return one object. Errors: KubeError with status 404."""
        return self.request("GET", self.path(api, kind, namespace, name))

    def list(self, api: str, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """Return the objects of a kind, of all namespaces or one."""
        query = {"labelSelector": selector} if selector else None
        items: list[Object] = self.request("GET", self.path(api, kind, namespace), query=query)["items"]
        return items
