"""Status, events and reports against an API server double: what is written, by whom, how often."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.controller import node_report, reporter, status
from edge.controller.reporter import Reporter
from edge.controller.view import View
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.options import Options
from edge.resources.store import ResourceEvent, ResourceStore
from edge.sources.api import Api
from tests.fakes.apiserver import ApiServer

pytestmark = pytest.mark.slow

PATIENCE_S = 20.0
NS = "xdp-edge"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than with people and other machines."""
    monkeypatch.setattr(reporter, "SETTLE_S", 0.05)
    monkeypatch.setattr(reporter, "TURN_S", 0.02)
    monkeypatch.setattr(reporter, "RESTART_S", 0.2)
    monkeypatch.setattr(node_report, "CHANGE_S", 0.1)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as found:
        yield found


@dataclass
class Instance:
    """What a controller has around its Reporter: a store that follows the server on order, and a view."""

    server: ApiServer
    api: Api
    node: str = "n1"
    options: dict[str, Any] = field(default_factory=dict)
    serves: dict[str, bool | None] = field(default_factory=dict)
    reporter: Reporter = field(init=False)
    store: ResourceStore = field(default_factory=ResourceStore)
    view: Any = None
    version: int = 0

    def begin(self) -> Instance:
        state = SimpleNamespace(draining=False, up=True, serving=0)
        self.view = SimpleNamespace(
            snapshot=None,
            diagnostics=(),
            publish_error="",
            state=state,
            serves=lambda namespace, name: self.serves.get(name, True),
            xdp_describe=lambda: {"interfaces": {"eth0": "native"}},
        )
        options = Options(
            kubernetes=True,
            node_name=self.node,
            pod_name=f"pod-{self.node}",
            pod_namespace=NS,
            **self.options,
        )
        self.reporter = Reporter(options, self.api, self.store, cast(View, self.view))
        return self

    def load(self, *found: Diagnostic, digest: str = "aa", policies: tuple[str, ...] = ()) -> None:
        """Take the server's objects as they are, and publish them."""
        events, there = [], set()
        for kind in ("Ingress", "EdgePolicy", "IngressClass", "Service"):
            for one in self.server.all(kind):
                namespace, name = one["metadata"].get("namespace", ""), one["metadata"]["name"]
                there.add((kind, namespace, name))
                events.append(ResourceEvent(kind, namespace, name, json.dumps(one).encode()))
        gone = [key for key in self.store.all_keys() if key not in there]
        events += [ResourceEvent(*key, None) for key in gone]
        fresh = [event for event in events if self.store.get(*event.key) != event.raw]
        self.store.apply(events)
        self.reporter.seen(event.key for event in fresh)
        self.publish(*found, digest=digest, policies=policies)

    def publish(self, *found: Diagnostic, digest: str = "aa", policies: tuple[str, ...] = ()) -> None:
        self.version += 1
        guard = SimpleNamespace(deny=("x",), allow=(), per_source=None, dead_man_s=0)
        named = tuple(
            SimpleNamespace(object=ObjectRef("EdgePolicy", "", name), **vars(guard)) for name in policies
        )
        self.view.snapshot = SimpleNamespace(
            version=self.version,
            routes_digest=bytes.fromhex(digest),
            endpoints_digest=b"\x00",
            policies=named,
        )
        self.view.state.serving = self.version
        self.view.diagnostics = found
        self.reporter.published()


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[Api]:
    found = Api.by_kubeconfig(server.kubeconfig(tmp_path))
    yield found
    found.close()


async def until(true: Callable[[], Any], what: str = "") -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < end, what or "it did not come"
        await asyncio.sleep(0.02)
    return found


def play(story: Callable[[], Awaitable[None]], *instances: Instance) -> None:
    async def all_of_it() -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            for one in instances:  # the first leads
                one.begin()
                tasks.append(asyncio.create_task(one.reporter.run()))
                await until(instances[0].reporter.acting)
            await story()
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    asyncio.run(all_of_it())


def node(server: ApiServer, name: str, address: str, ready: bool = True, app: str = "xdp-edge") -> None:
    listed = [{"type": "InternalIP", "address": address}]
    server.put({"kind": "Node", "metadata": {"name": name}, "status": {"addresses": listed}})
    pod(server, name, ready, app)


def pod(server: ApiServer, name: str, ready: bool = True, app: str = "xdp-edge") -> None:
    server.put(
        {
            "kind": "Pod",
            "metadata": {
                "name": f"pod-{name}",
                "namespace": NS,
                "labels": {"app.kubernetes.io/name": app},
            },
            "spec": {"nodeName": name},
            "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
        }
    )


def ingress(server: ApiServer, name: str, **status: Any) -> None:
    server.put({"kind": "Ingress", "metadata": {"name": name}, "spec": {"rules": []}, "status": status})


def policy(server: ApiServer, name: str, **spec: Any) -> None:
    server.put({"kind": "EdgePolicy", "metadata": {"name": name}, "spec": spec})


def addresses(server: ApiServer, name: str) -> list[str]:
    found = server.get("Ingress", "default", name) or {}
    listed = found.get("status", {}).get("loadBalancer", {}).get("ingress", [])
    return [one.get("ip") or one.get("hostname") for one in listed]


def patches(server: ApiServer, path: str) -> int:
    return sum(method == "PATCH" and path in asked for method, asked in list(server.requests))


def about(kind: str, name: str, reason: str, message: str = "it is wrong", **more: Any) -> Diagnostic:
    namespace = "default" if kind == "Ingress" else ""
    return Diagnostic(ObjectRef(kind, namespace, name), "spec.rules[0]", reason, message, **more)


def events(server: ApiServer) -> list[tuple[str, str, str]]:
    return sorted((one["regarding"]["name"], one["type"], one["reason"]) for one in server.all("Event"))


def condition(server: ApiServer, name: str, kind: str) -> tuple[str, str, int]:
    found = server.get("EdgePolicy", "", name) or {}
    for one in found.get("status", {}).get("conditions", []):
        if one["type"] == kind:
            return one["status"], one["reason"], one["observedGeneration"]
    return ("", "", 0)


def test_addresses_of_the_nodes_that_serve(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    node(server, "n2", "198.18.0.2")
    node(server, "n3", "198.18.0.3", ready=False)
    ingress(server, "ours")
    ingress(server, "theirs", loadBalancer={"ingress": [{"ip": "198.18.9.9"}]})
    ingress(server, "shared", loadBalancer={"ingress": [{"hostname": "lb.test"}]})
    ingress(server, "broken")
    one = Instance(server, api, serves={"theirs": None, "broken": False})

    async def story() -> None:
        one.load(about("Ingress", "broken", "Required"))
        await until(lambda: addresses(server, "ours") == ["198.18.0.1", "198.18.0.2"])
        await until(lambda: addresses(server, "shared") == ["lb.test", "198.18.0.1", "198.18.0.2"])
        assert addresses(server, "theirs") == ["198.18.9.9"] and addresses(server, "broken") == []
        asked = patches(server, "/status")
        one.load(about("Ingress", "broken", "Required"))  # our own writes come back
        node(server, "n4", "198.18.0.4")
        await until(lambda: "198.18.0.4" in addresses(server, "ours"))
        await until(lambda: "198.18.0.4" in addresses(server, "shared"))
        assert patches(server, "/status") == asked + 2, "what is right is not written"

    play(story, one)
    assert "198.18.0.4" in addresses(server, "ours"), "a stop removes nothing"
    lease = server.get("Lease", NS, "xdp-edge-leader")
    assert lease is not None and lease["spec"]["holderIdentity"] == ""
    assert "198.18.0.4" in lease["metadata"]["annotations"]["xdp-edge.dev/addresses"]


def test_an_ingress_that_is_ours_no_more(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    for name in ("a", "b"):
        ingress(server, name, loadBalancer={"ingress": [{"hostname": "lb.test"}]})
    one = Instance(server, api)

    def last_written_by(name: str, manager: str) -> None:
        found = server.get("Ingress", "default", name)
        assert found is not None
        path = {"f:status": {"f:loadBalancer": {"f:ingress": {}}}}
        found["metadata"]["managedFields"] = [{"manager": manager, "operation": "Update", "fieldsV1": path}]
        server.put(found)

    async def story() -> None:
        one.load()
        await until(lambda: "198.18.0.1" in addresses(server, "a") and "198.18.0.1" in addresses(server, "b"))
        last_written_by("a", status.field_manager(NS, "xdp-edge-leader"))
        last_written_by("b", "nginx-ingress-controller")  # which may run on the same nodes
        one.serves = {"a": None, "b": None}
        one.load()
        await until(lambda: addresses(server, "a") == ["lb.test"])
        await until(
            lambda: ("GET", "/apis/networking.k8s.io/v1/namespaces/default/ingresses/b") in server.requests
        )
        await asyncio.sleep(0)
        assert addresses(server, "b") == ["lb.test", "198.18.0.1"]

    play(story, one)


def test_two_installations_leave_each_others_addresses(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    node(server, "n2", "198.18.0.2", app="other")
    ingress(server, "a")
    ingress(server, "b")
    one = Instance(server, api, serves={"b": None, "d": None})
    options = {"election_lease": "other-leader"}
    two = Instance(server, api, "n2", options, serves={"a": None, "c": None})
    folder = "/apis/networking.k8s.io/v1/namespaces/default/ingresses/"

    async def story() -> None:
        one.load()
        two.load()
        await until(lambda: addresses(server, "a") and addresses(server, "b"))
        asked = patches(server, "/status")
        one.load()
        two.load()
        await until(lambda: {("GET", folder + "a"), ("GET", folder + "b")} <= set(server.requests))
        ingress(server, "c")
        ingress(server, "d")
        one.load()
        two.load()
        await until(lambda: addresses(server, "c") and addresses(server, "d"))  # written one after the other
        assert addresses(server, "a") == addresses(server, "c") == ["198.18.0.1"]
        assert addresses(server, "b") == addresses(server, "d") == ["198.18.0.2"]
        assert patches(server, "/status") == asked + 2
        await until(lambda: server.get("Lease", NS, "xdp-edge-node-n1"))
        await until(lambda: server.get("Lease", NS, "other-node-n2"))

    play(story, one, two)


def test_the_lease_is_given_back_after_the_last_write(
    server: ApiServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    one = Instance(server, api)
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []
    request = api.request

    def slow(method: str, path: str, **more: Any) -> bytes:
        if method == "PATCH" and "/ingresses/" in path:
            begun.set()
            go_on.wait(PATIENCE_S)
            ended.append("write")
        elif b'"holderIdentity":""' in (more.get("body") or b""):
            ended.append("lease")
        return request(method, path, **more)

    monkeypatch.setattr(api, "request", slow)

    async def story() -> None:
        one.load()
        await until(begun.is_set)
        asyncio.get_running_loop().call_later(0.3, go_on.set)  # when the stop is under way

    play(story, one)
    assert ended == ["write", "lease"]


def test_what_another_writes_meanwhile_is_looked_at_again(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    one = Instance(server, api)

    async def story() -> None:
        one.load()
        ingress(
            server, "a", loadBalancer={"ingress": [{"hostname": "lb.test"}]}
        )  # the store does not know it
        await until(lambda: addresses(server, "a") == ["lb.test", "198.18.0.1"])
        assert one.reporter.describe()["status"]["conflict"] == 1

    play(story, one)


@pytest.mark.parametrize(
    "options, places",
    [
        ({"publish_service": "edge/front"}, ["198.18.5.5"]),
        ({"publish_status_address": ("edge.test", "198.18.6.6")}, ["198.18.6.6", "edge.test"]),
        ({"update_status": False}, []),
    ],
)
def test_other_addresses(server: ApiServer, api: Api, options: dict[str, Any], places: list[str]) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    balancer = {"loadBalancer": {"ingress": [{"ip": "198.18.5.5"}]}}
    front = {"kind": "Service", "metadata": {"name": "front", "namespace": "edge"}, "status": balancer}
    server.put({**front, "spec": {"type": "LoadBalancer"}})
    policy(server, "p")
    one = Instance(server, api, options=options)

    async def story() -> None:
        one.load()
        await until(lambda: condition(server, "p", "Accepted")[2])
        ingress(server, "b")  # of those before us, an earlier leader has spoken where status cannot tell
        one.load()
        await until(lambda: ("b", "Normal", "Accepted") in events(server))
        assert addresses(server, "a") == addresses(server, "b") == places
        if "publish_service" in options:
            balancer["loadBalancer"]["ingress"] = [{"hostname": "lb.test"}]
            server.put({**front, "spec": {"type": "LoadBalancer"}})
            one.load()
            await until(lambda: addresses(server, "a") == ["lb.test"])

    play(story, one)


def test_events(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    for name in ("good", "odd", "bad", "loser", "many"):
        ingress(server, name)
    policy(server, "p")
    one = Instance(server, api)
    found = [
        about("Ingress", "odd", "UnsupportedAnnotation", severity=Severity.WARNING),
        about("Ingress", "bad", "InvalidHost", "'x_y' is no host" + "!" * 3000),
        about("Ingress", "loser", "Conflict", "any host Prefix / is served by Ingress/default/good"),
        about("EdgePolicy", "p", "InvalidValue"),
        Diagnostic(ObjectRef("File", "", "x.yaml"), "", "Unreadable", "no object of the API"),
        *(about("Ingress", "many", "InvalidPath", f"path {number}") for number in range(100)),
    ]

    async def story() -> None:
        one.serves = {"bad": False, "loser": False, "many": False}
        one.load(*found)
        await until(lambda: len(server.all("Event")) == 13)
        said = events(server)
        assert said[:3] == [
            ("bad", "Warning", "Refused"),
            ("good", "Normal", "Accepted"),
            ("loser", "Warning", "Conflict"),
        ]
        assert said[3:11] == [("many", "Warning", "Refused")] * 8
        assert said[11:] == [("odd", "Warning", "Accepted"), ("p", "Warning", "Refused")]
        notes = {one["regarding"]["name"]: one for one in server.all("Event")}
        assert notes["bad"]["note"].startswith("spec.rules[0]: InvalidHost: 'x_y' is no host")
        assert len(notes["bad"]["note"].encode()) <= 1024
        assert notes["p"]["metadata"]["namespace"] == "default" and "namespace" not in notes["p"]["regarding"]
        assert notes["bad"]["regarding"]["uid"] == server.get("Ingress", "default", "bad")["metadata"]["uid"]  # type: ignore[index]
        # nothing new: nothing said, not even where the status was written
        one.load(*found)
        one.serves = {}
        server.put({"kind": "Ingress", "metadata": {"name": "good"}, "spec": {"rules": [{}]}})
        one.load()
        await until(lambda: len(server.all("Event")) == 17, "good again, and what was wrong")
        assert [said for said in events(server) if said[0] == "good"] == [("good", "Normal", "Accepted")] * 2
        server.put(
            {
                "kind": "Ingress",
                "metadata": {"name": "good", "annotations": {"a": "b"}},
                "spec": {"rules": [{}]},
            }
        )
        one.load()
        await until(lambda: len(server.all("Event")) == 18, "annotations are no generation, but a change")

    play(story, one)


def test_a_write_that_comes_back_holds_no_event_up(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    one = Instance(server, api)

    async def story() -> None:
        one.load()
        one.reporter.seen_quietly([("Ingress", "default", "a")])  # no publish follows
        await until(lambda: events(server) == [("a", "Normal", "Accepted")])

    play(story, one)


def test_policies(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    node(server, "n2", "198.18.0.2")
    policy(server, "p", deny=["198.18.7.0/24"])
    one, two = Instance(server, api), Instance(server, api, "n2")

    async def story() -> None:
        one.load(policies=("p",))
        await until(lambda: condition(server, "p", "Accepted") == ("True", "Accepted", 1))
        assert condition(server, "p", "Programmed") == ("False", "Pending", 1)
        two.load(policies=("p",))
        await until(lambda: condition(server, "p", "Programmed") == ("True", "Programmed", 1))
        # the second node lags behind
        policy(server, "p", deny=["198.18.8.0/24"])
        one.load(digest="bb", policies=("p",))
        await until(lambda: condition(server, "p", "Programmed") == ("False", "Pending", 2))
        await until(
            lambda: "1 of 2 nodes serve it; not yet: n2" in json.dumps(server.get("EdgePolicy", "", "p"))
        )
        two.load(digest="bb", policies=("p",))
        await until(lambda: condition(server, "p", "Programmed") == ("True", "Programmed", 2))
        one.load(about("EdgePolicy", "p", "OutOfRange"), digest="cc")
        await until(lambda: condition(server, "p", "Accepted") == ("False", "OutOfRange", 2))
        assert condition(server, "p", "Programmed") == ("False", "NotAccepted", 2)

    play(story, one, two)


def test_a_report_is_of_what_every_worker_serves(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    one = Instance(server, api)

    def reported() -> dict[str, str]:
        found = server.get("Lease", NS, "xdp-edge-node-n1") or {"metadata": {"annotations": {}}}
        return cast(dict[str, str], found["metadata"]["annotations"])

    async def story() -> None:
        one.load(digest="aa")
        await until(lambda: reported().get("xdp-edge.dev/routes-digest") == "aa")
        assert reported()["xdp-edge.dev/xdp"] == "native"
        owner = (server.get("Lease", NS, "xdp-edge-node-n1") or {})["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"]) == ("Node", "n1")
        one.publish(digest="bb")
        one.view.state.serving = 1
        one.view.state.up = False
        await until(lambda: reported()["xdp-edge.dev/routes-digest"] == "")
        one.view.state.up = True
        await until(lambda: reported()["xdp-edge.dev/routes-digest"] == "aa")
        one.view.state.serving = 2
        await until(lambda: reported()["xdp-edge.dev/routes-digest"] == "bb")

    play(story, one)


def test_trouble_of_the_server_is_waited_out_and_delays_nobody(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    one = Instance(server, api)

    async def story() -> None:
        server.fail(429, method="PATCH", path="/status", times=1, reason="TooManyRequests", retry_after=1)
        server.fail(500, method="PATCH", path="/status", times=1)
        begun = time.monotonic()
        one.load()
        assert time.monotonic() - begun < 0.5
        await until(lambda: addresses(server, "a") == ["198.18.0.1"])
        assert time.monotonic() - begun >= 1.0 and one.reporter.describe()["status"]["failed"] == 2

    play(story, one)


@pytest.mark.parametrize(
    "verb, plural", [("list", "nodes"), ("get", "services"), ("patch", "ingresses/status")]
)
def test_rights_that_are_missing_cost_only_what_they_are_for(
    server: ApiServer, api: Api, verb: str, plural: str, capfd: pytest.CaptureFixture[str]
) -> None:
    node(server, "n1", "198.18.0.1")
    ingress(server, "a")
    server.forbid(verb, plural)
    one = Instance(server, api, options={"publish_service": "edge/front"} if plural == "services" else {})

    async def story() -> None:
        one.load()
        await until(lambda: events(server) == [("a", "Normal", "Accepted")])
        assert addresses(server, "a") == []

    play(story, one)
    assert f"cannot {verb} resource" in capfd.readouterr().err


def test_the_next_leader_says_nothing_twice(server: ApiServer, api: Api) -> None:
    node(server, "n1", "198.18.0.1")
    node(server, "n2", "198.18.0.2")
    for number in range(20):
        ingress(server, f"i{number}")
    bad = about("Ingress", "i0", "InvalidHost")
    one, two = Instance(server, api), Instance(server, api, "n2")

    async def first() -> None:
        one.load(bad)
        await until(lambda: len(server.all("Event")) == 20)
        await until(lambda: all(addresses(server, f"i{number}") for number in range(20)))

    async def second() -> None:
        asked = len(server.requests)
        two.load(bad)
        await until(two.reporter.acting)
        await until(
            lambda: ("POST", "/apis/events.k8s.io/v1/namespaces/default/events") in server.requests[asked:]
        )
        two.load(bad, about("Ingress", "i1", "InvalidPath"))
        await until(lambda: len(server.all("Event")) == 21)
        later = server.requests[asked:]
        assert sum("/events" in path for _, path in later) == 2, "the one that is there, and the new one"
        assert not any("/ingresses/" in path and method == "PATCH" for method, path in later)

    play(first, one)
    play(second, two)
