"""A small real API server for tests: HTTP or HTTPS, objects in memory, faults on demand.

Lists in pages, watches with bookmarks and resume, 410 when history is gone, create, PUT and merge PATCH with
resourceVersion conflicts, the status subresource, DELETE, field and label selectors, bearer tokens, refused
permissions. No admission, no defaults, no schema: what the kinds mean is the test's business.

    with ApiServer() as server:
        server.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}})
        api = Api.by_kubeconfig(server.kubeconfig(tmp_path))
        server.fail(503, path="/services", times=2); server.forbid("list", "secrets"); server.compact()
        server.requests  # (method, path with query) in order
"""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.api_http import Handler, Server, certificate

Object = dict[str, Any]
Place = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class Resource:
    """One kind that is served."""

    api_version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = True


RESOURCES = (
    Resource("v1", "services", "Service"),
    Resource("v1", "secrets", "Secret", status=False),
    Resource("v1", "configmaps", "ConfigMap", status=False),
    Resource("v1", "pods", "Pod"),
    Resource("v1", "nodes", "Node", namespaced=False),
    Resource("v1", "namespaces", "Namespace", namespaced=False),
    Resource("networking.k8s.io/v1", "ingresses", "Ingress"),
    Resource("networking.k8s.io/v1", "ingressclasses", "IngressClass", namespaced=False, status=False),
    Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", status=False),
    Resource("coordination.k8s.io/v1", "leases", "Lease", status=False),
    Resource("events.k8s.io/v1", "events", "Event", status=False),
    Resource(
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
        namespaced=False,
        status=False,
    ),
    Resource("xdp-edge.dev/v1alpha1", "edgepolicies", "EdgePolicy", namespaced=False),
)


@dataclass
class Fault:
    """An answer instead of the right one. ``cut``: none at all, the connection ends."""

    status: int
    method: str
    path: str
    times: int
    reason: str
    retry_after: int
    delay: float
    cut: bool

    def meets(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


@dataclass
class Change:
    """One line of the history."""

    version: int
    resource: Resource
    old: Object | None
    new: Object | None


@dataclass
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    subresource: str
    query: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An answer with a Status object."""

    def __init__(self, code: int, reason: str, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if retry_after:
            self.status["details"] = {"retryAfterSeconds": retry_after}


class ApiServer:
    """``requests``: what was asked; ``tokens``: which bearer tokens are good."""

    def __init__(self, tls: bool = False, token: str = "token-1") -> None:
        self.tokens = {token}
        self.requests: list[tuple[str, str]] = []
        self.bookmarks = True
        self.stamps = True  # objects get a creation time
        self.changed = threading.Condition()
        self.epoch = 0  # watches of an earlier one end
        self.stopped = True
        self.version = 100
        self.oldest = 0
        self.history: list[Change] = []
        self.beats: list[int] = []  # versions at which a bookmark is due
        self.resources = list(RESOURCES)
        self._objects: dict[Resource, dict[Place, Object]] = {one: {} for one in RESOURCES}
        self._lists: dict[str, list[Object]] = {}
        self._names = itertools.count()
        self._faults: list[Fault] = []
        self._forbidden: set[tuple[str, str]] = set()
        self._tls = tls
        self._authority = ""
        self._address: tuple[str, int] = ("127.0.0.1", 0)
        self._server: Server | None = None
        self.context: ssl.SSLContext | None = None

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, at the address of the last time if there was one."""
        if self._tls and self.context is None:
            self._authority, self.context = certificate()
        self.stopped = False
        self._server = Server(self._address, self)
        self._address = self._server.server_address[:2]  # type: ignore[assignment]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """End every connection and refuse new ones; objects stay."""
        server, self._server = self._server, None
        if server is None:
            return
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        server.shutdown()
        server.server_close()
        server.cut()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._address[1]}"

    def kubeconfig(self, folder: Path, token: str = "") -> str:
        """Shape: the path of a kubeconfig for this server."""
        place: Object = {"server": self.url}
        if self._tls:
            (folder / "ca.crt").write_text(self._authority)
            place["certificate-authority"] = str(folder / "ca.crt")
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": place}],
            "users": [{"name": "user", "user": {"token": token or min(self.tokens)}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "user"}}],
            "current-context": "fake",
        }
        path = folder / "kubeconfig"
        path.write_text(json.dumps(text))
        return str(path)

    def account(self, folder: Path, namespace: str = "xdp-edge") -> dict[str, str]:
        """Write what a Pod finds (TLS servers only). Shape: the environment that goes with it."""
        (folder / "token").write_text(min(self.tokens))
        (folder / "ca.crt").write_text(self._authority)
        (folder / "namespace").write_text(namespace)
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self._address[1])}

    # ---- objects, from the test ------------------------------------------------------------

    def put(self, obj: Object) -> Object:
        """Create or replace an object, as a test means it. Shape: what is stored."""
        resource = next(one for one in self.resources if one.kind == obj["kind"])
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else ""
        with self.changed:
            old = self._objects[resource].get((namespace, obj["metadata"]["name"]))
            return self._store(resource, namespace, copy.deepcopy(obj), old)

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Shape: a copy of an object as it is stored."""
        resource = next(one for one in self.resources if one.kind == kind)
        with self.changed:
            return copy.deepcopy(self._objects[resource].get((namespace, name)))

    def all(self, kind: str) -> list[Object]:
        """Shape: copies of all objects of a kind."""
        resource = next(one for one in self.resources if one.kind == kind)
        with self.changed:
            return copy.deepcopy(list(self._objects[resource].values()))

    def clear(self) -> None:
        """Delete everything, and the history of it."""
        with self.changed:
            for objects in self._objects.values():
                objects.clear()
        self.compact()

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object."""
        resource = next(one for one in self.resources if one.kind == kind)
        with self.changed:
            self._remove(resource, (namespace, name))

    def _store(self, resource: Resource, namespace: str, obj: Object, old: Object | None) -> Object:
        meta = obj["metadata"]
        self.version += 1
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if resource.namespaced:
            meta["namespace"] = namespace
        else:
            meta.pop("namespace", None)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        known = old["metadata"] if old else {}
        meta["uid"] = known.get("uid") or meta.get("uid") or str(uuid.uuid4())
        if self.stamps:
            meta["creationTimestamp"] = known.get("creationTimestamp") or meta.get("creationTimestamp") or now
        same = old is not None and old.get("spec") == obj.get("spec")
        meta["generation"] = known.get("generation", 0) + (0 if same else 1)
        meta["resourceVersion"] = str(self.version)
        manager = {"manager": "test", "operation": "Update", "fieldsV1": {"f:x": {}}}
        meta.setdefault("managedFields", [manager | ({"time": now} if self.stamps else {})])
        self._objects[resource][namespace, meta["name"]] = obj
        self._note(Change(self.version, resource, old, obj))
        return copy.deepcopy(obj)

    def _remove(self, resource: Resource, place: Place) -> Object:
        old = self._objects[resource].pop(place)
        self.version += 1
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        self._note(Change(self.version, resource, last, None))
        return last

    def _note(self, change: Change) -> None:
        self.history.append(change)
        self.changed.notify_all()

    # ---- faults ----------------------------------------------------------------------------

    def fail(
        self,
        status: int = 500,
        *,
        method: str = "",
        path: str = "",
        times: int = 1,
        reason: str = "InternalError",
        retry_after: int = 0,
        delay: float = 0.0,
        cut: bool = False,
    ) -> None:
        """Answer the next requests that match wrongly. ``delay``: seconds before."""
        self._faults.append(Fault(status, method, path, times, reason, retry_after, delay, cut))

    def heal(self) -> None:
        """Forget all faults and refused permissions."""
        self._faults.clear()
        self._forbidden.clear()

    def forbid(self, verb: str, plural: str) -> None:
        """Refuse a verb (get, list, watch, create, update, patch, delete) on a resource."""
        self._forbidden.add((verb, plural))

    def allow(self, verb: str, plural: str) -> None:
        """Take that back."""
        self._forbidden.discard((verb, plural))

    def unserve(self, plural: str) -> None:
        """Know nothing of a resource: its CRD is missing."""
        self.resources = [one for one in self.resources if one.plural != plural]
        self.cut_watches()

    def serve(self, plural: str) -> None:
        """Know it again."""
        self.resources += [one for one in RESOURCES if one.plural == plural and one not in self.resources]

    def cut_watches(self) -> None:
        """End the connections of all watches."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget the history and the lists that were begun: watches end, and older versions answer 410."""
        with self.changed:
            self.history.clear()
            self._lists.clear()
            self.version += 1
            self.oldest = self.version
            self.epoch += 1
            self.changed.notify_all()

    def bookmark(self) -> None:
        """Send a bookmark to every watch that asked for them."""
        with self.changed:
            self.version += 1
            self.beats.append(self.version)
            self.changed.notify_all()

    def watches(self, plural: str) -> int:
        """Count the watches of a resource that were begun."""
        return sum("watch=" in path and f"/{plural}?" in path for _, path in list(self.requests))

    # ---- requests --------------------------------------------------------------------------

    def answer(self, handler: Handler, method: str) -> None:
        self.requests.append((method, handler.path))
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length) if length else b""
        try:
            for fault in self._faults:
                if fault.meets(method, handler.path):
                    fault.times -= 1
                    time.sleep(fault.delay)
                    if fault.cut:
                        handler.close_connection = True
                        return
                    if fault.status:
                        raise Refusal(fault.status, fault.reason, "as the test wishes", fault.retry_after)
            token = (handler.headers.get("Authorization") or "").split(" ")[-1]
            if token not in self.tokens:
                raise Refusal(401, "Unauthorized", "Unauthorized")
            target = self._target(handler.path)
            self._permit(method, target)
            if method == "GET" and not target.name:
                if target.query.get("watch") in ("true", "1"):
                    self._watch(handler, target)
                else:
                    handler.reply(200, self._list(target))
                return
            with self.changed:
                handler.reply(*self._one(method, target, json.loads(body) if body else {}, handler))
        except Refusal as refusal:
            handler.reply(refusal.code, refusal.status, refusal.retry_after)

    def _target(self, path: str) -> Target:
        split = urlsplit(path)
        parts = split.path.strip("/").split("/")
        version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        for one in self.resources:
            if rest and (one.api_version, one.plural) == (version, rest[0]):
                query = {key: values[-1] for key, values in parse_qs(split.query).items()}
                name, subresource = (rest[1:] + ["", ""])[:2]
                return Target(one, namespace, name, subresource, query)
        raise Refusal(404, "NotFound", "the server could not find the requested resource")

    def _permit(self, method: str, target: Target) -> None:
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")
        if verb == "get" and not target.name:
            verb = "watch" if target.query.get("watch") in ("true", "1") else "list"
        plural = target.resource.plural + ("/" + target.subresource if target.subresource else "")
        if (verb, plural) in self._forbidden:
            group = target.resource.api_version.rpartition("/")[0]
            where = f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
            text = f'User "test" cannot {verb} resource "{plural}" in API group "{group}" {where}'
            raise Refusal(403, "Forbidden", f"{plural} is forbidden: {text}")

    def _list(self, target: Target) -> Object:
        limit = int(target.query.get("limit") or 0)
        with self.changed:
            token = target.query.get("continue", "")
            if token:
                if token not in self._lists:
                    raise Refusal(410, "Expired", "The provided continue parameter is too old")
                found = self._lists.pop(token)
                version = int(token.partition("-")[0])
            else:
                version = self.version
                objects = self._objects[target.resource]
                found = [objects[place] for place in sorted(objects) if _meets(objects[place], target)]
            meta: Object = {"resourceVersion": str(version)}
            if limit and len(found) > limit:
                meta["continue"] = f"{version}-{next(self._names)}"
                meta["remainingItemCount"] = len(found) - limit
                self._lists[meta["continue"]] = found[limit:]
                found = found[:limit]
            # As the real one: items of a list name neither their kind nor its version.
            items = [{key: one[key] for key in one if key not in ("kind", "apiVersion")} for one in found]
            return {
                "kind": target.resource.kind + "List",
                "apiVersion": target.resource.api_version,
                "metadata": meta,
                "items": copy.deepcopy(items),
            }

    def _watch(self, handler: Handler, target: Target) -> None:
        at = int(target.query.get("resourceVersion") or 0)
        end = time.monotonic() + float(target.query.get("timeoutSeconds") or 3600)
        wants_bookmarks = self.bookmarks and target.query.get("allowWatchBookmarks") in ("true", "1")
        with self.changed:
            epoch, seen = self.epoch, len(self.beats)
            too_old = bool(at) and at < self.oldest
        handler.begin_stream()
        if too_old:
            status = Refusal(410, "Expired", f"too old resource version: {at} ({self.oldest})").status
            handler.line({"type": "ERROR", "object": status})
            handler.end_stream()
            return
        while True:
            lines: list[Object] = []
            with self.changed:
                for change in self.history:
                    if change.version > at and change.resource == target.resource:
                        lines.extend(_event(change, target))
                if self.history:
                    at = max(at, self.history[-1].version)
                for beat in self.beats[seen:] if wants_bookmarks else ():
                    at = max(at, beat)
                    meta = {"resourceVersion": str(beat), "creationTimestamp": None}
                    about = {"kind": target.resource.kind, "apiVersion": target.resource.api_version}
                    lines.append({"type": "BOOKMARK", "object": {**about, "metadata": meta}})
                seen = len(self.beats)
                if not lines:
                    if self.stopped or self.epoch != epoch:
                        handler.close_connection = True
                        return
                    left = end - time.monotonic()
                    if left <= 0:
                        break
                    self.changed.wait(min(left, 0.2))
            for line in lines:
                handler.line(line)
            if not lines and handler.is_gone():
                handler.close_connection = True
                return
        handler.end_stream()

    def _one(self, method: str, target: Target, body: Object, handler: Handler) -> tuple[int, Object]:
        resource, objects = target.resource, self._objects[target.resource]
        dry = target.query.get("dryRun") == "All"
        if method == "POST":
            name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{next(self._names)}"
            body["metadata"]["name"] = name
            if (target.namespace, name) in objects:
                raise Refusal(409, "AlreadyExists", f'{resource.plural} "{name}" already exists')
            if resource.status:
                body.pop("status", None)
            return 201, body if dry else self._store(resource, target.namespace, body, None)
        place = (target.namespace, target.name)
        old = objects.get(place)
        if old is None:
            raise Refusal(404, "NotFound", f'{resource.plural} "{target.name}" not found')
        if method == "GET":
            return 200, copy.deepcopy(old)
        if method == "DELETE":
            return 200, copy.deepcopy(old) if dry else self._remove(resource, place)
        if method == "PATCH":
            kind = (handler.headers.get("Content-Type") or "").partition(";")[0]
            if kind != "application/merge-patch+json":
                raise Refusal(415, "UnsupportedMediaType", f"{kind} is not read here")
            wanted = body.get("metadata", {}).get("resourceVersion")
            new = merge(copy.deepcopy(old), body)
        else:
            wanted, new = body.get("metadata", {}).get("resourceVersion"), body
        if wanted and wanted != old["metadata"]["resourceVersion"]:
            text = "the object has been modified; please apply your changes to the latest version"
            raise Refusal(409, "Conflict", f'{resource.plural} "{target.name}": {text}')
        if target.subresource == "status":
            new = {**copy.deepcopy(old), "status": new.get("status", {})}
            if new != old and (manager := target.query.get("fieldManager")):
                written = {"manager": manager, "operation": "Update", "fieldsV1": _fields(body, "status")}
                others = new["metadata"]["managedFields"]
                others = [one for one in others if one["fieldsV1"] != written["fieldsV1"]]
                new["metadata"]["managedFields"] = [*others, written]
        elif resource.status:
            new = {key: value for key, value in new.items() if key != "status"}
            if "status" in old:
                new["status"] = copy.deepcopy(old["status"])
        if new == old:
            return 200, copy.deepcopy(old)
        return 200, new if dry else self._store(resource, target.namespace, new, old)


def merge(base: Any, patch: Any) -> Any:
    """Source: RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = base if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _fields(body: Object, *names: str) -> Object:
    """Shape: which fields of a patch are set, as managedFields has it."""
    return {
        f"f:{name}": _fields(body[name], *body[name]) if isinstance(body[name], dict) else {}
        for name in names
    }


def _event(change: Change, target: Target) -> list[Object]:
    """Shape: the line of a change for one watch; an object that leaves its selector is deleted there."""
    before = change.old is not None and _meets(change.old, target)
    after = change.new is not None and _meets(change.new, target)
    if after:
        return [{"type": "MODIFIED" if before else "ADDED", "object": change.new}]
    if not before:
        return []
    last = copy.deepcopy(change.old)
    assert last is not None
    last["metadata"]["resourceVersion"] = str(change.version)
    return [{"type": "DELETED", "object": last}]


def _meets(obj: Object, target: Target) -> bool:
    meta = obj["metadata"]
    if target.namespace and meta.get("namespace") != target.namespace:
        return False
    fields = {"metadata.name": meta["name"], "metadata.namespace": meta.get("namespace", "")}
    fields["type"] = obj.get("type", "")
    fields["spec.nodeName"] = (obj.get("spec") or {}).get("nodeName", "")
    return _selected(target.query.get("fieldSelector", ""), fields.get) and _selected(
        target.query.get("labelSelector", ""), (meta.get("labels") or {}).get
    )


def _selected(selector: str, value: Callable[[str], str | None]) -> bool:
    for part in filter(None, selector.split(",")):
        name, sign, wanted = part.partition("!=") if "!=" in part else part.partition("=")
        found = value(name)
        if (found != wanted.lstrip("=")) == (sign == "=") if sign else found is None:
            return False
    return True
