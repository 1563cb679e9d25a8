"""One list and one watch: what is told, and what is not, as connections and permissions are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge.errors import ApiError
from edge.model.certificates import secret_certificate
from edge.model.diagnostics import ObjectRef
from edge.resources.kinds import OVERSIZE, Metadata, Problem, Secret
from edge.resources.store import Key, ResourceEvent
from edge.sources import follow
from edge.sources.api import Api
from edge.sources.follow import Follower, State
from edge.sources.objects import BASE64_MAX, ENDPOINT_SLICES, INGRESSES, SECRETS, SERVICES, trim
from tests.fakes.apiserver import ApiServer, Object

pytestmark = pytest.mark.slow

DEADLINE_S = 10.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_S", 0.01)
    monkeypatch.setattr(follow, "SELDOM_S", 0.02)
    monkeypatch.setattr(follow, "PAGE", 3)


class Listener:
    """What one follower has told, in order."""

    def __init__(self, server: ApiServer, folder: Path, resource=SERVICES, **more) -> None:
        self.told: list[ResourceEvent] = []
        self.objects: dict[Key, bytes] = {}
        self.news = threading.Condition()
        self.api = Api.by_kubeconfig(server.kubeconfig(folder))
        self.follower = Follower(self.api, resource, self._hear, **more)
        self.follower.start()

    def _hear(self, _: Follower, events: list[ResourceEvent]) -> None:
        with self.news:
            self.told += events
            for event in events:
                if event.raw is None:
                    del self.objects[event.key]
                else:
                    assert isinstance(event.raw, bytes)
                    self.objects[event.key] = event.raw
            self.news.notify_all()

    def wait(self, what: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(what, DEADLINE_S), (self.told, self.follower.problem)

    def names(self) -> list[str]:
        return sorted(key[2] for key in self.objects)

    def close(self) -> None:
        self.follower.close()
        self.follower.join(DEADLINE_S)
        self.api.close()


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as found:
        yield found


@pytest.fixture
def listen(server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(resource=SERVICES, **more) -> Listener:
        made.append(Listener(server, tmp_path, resource, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def service(name: str, port: int = 80, **meta: object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, **meta},
        "spec": {"ports": [{"port": port}]},
    }


def soon(what: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_pages_then_changes(server: ApiServer, listen: Callable[..., Listener]) -> None:
    for number in range(7):
        server.put(service(f"s{number}"))
    one = listen()
    one.wait(lambda: len(one.objects) == 7)
    assert sum("limit=" in path for _, path in server.requests) == 3
    server.put(service("new"))
    server.remove("Service", "default", "s0")
    one.wait(lambda: "new" in one.names() and "s0" not in one.names())
    assert len(one.told) == 9


def test_a_relist_tells_only_what_differs(server: ApiServer, listen: Callable[..., Listener]) -> None:
    for name in "abc":
        server.put(service(name))
    one = listen()
    one.wait(lambda: one.follower.state is State.FOLLOWING and len(one.told) == 3)
    soon(lambda: server.watches("services") == 1)
    server.stop()
    server.remove("Service", "default", "a")
    server.put(service("b", 81))
    server.put(service("d"))
    server.compact()
    server.start()
    one.wait(lambda: one.names() == ["b", "c", "d"])
    assert [(event.name, event.raw is None) for event in one.told[3:]] == [
        ("a", True),
        ("b", False),
        ("d", False),
    ]
    assert one.follower.relists == 1


def test_a_cut_watch_goes_on_without_a_list(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.put(service("a"))
    one = listen()
    one.wait(lambda: one.follower.state is State.FOLLOWING)
    for number in range(3):
        soon(lambda number=number: server.watches("services") == number + 1)
        server.cut_watches()
        server.put(service(f"n{number}"))
        one.wait(lambda number=number: f"n{number}" in one.names())
    assert sum("limit=" in path for _, path in server.requests) == 1
    assert len(one.told) == 4


def test_a_bookmark_saves_a_relist(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.put(service("a"))
    one = listen()
    soon(lambda: server.watches("services") == 1)
    for number in range(5):
        server.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"x{number}"}})
    server.bookmark()
    latest = str(server.version)
    soon(lambda: one.follower._version == latest)
    server.compact()
    server.oldest -= 1  # history from the bookmark on is there
    soon(lambda: server.watches("services") == 2)
    server.put(service("b"))
    one.wait(lambda: one.names() == ["a", "b"])
    assert one.follower.relists == 0


def test_status_alone_is_quiet(server: ApiServer, listen: Callable[..., Listener]) -> None:
    ingress: Object = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}}
    server.put(ingress)
    one = listen(INGRESSES)
    one.wait(lambda: len(one.told) == 1)
    server.put({**ingress, "status": {"loadBalancer": {"ingress": [{"ip": "198.18.0.1"}]}}})
    one.wait(lambda: len(one.told) == 2)
    server.put({**ingress, "spec": {"ingressClassName": "edge"}})
    one.wait(lambda: len(one.told) == 3)
    assert [event.quiet for event in one.told] == [False, True, False]
    assert b"198.18.0.1" in (one.told[1].raw or b"")


def test_what_is_not_allowed_deletes_nothing(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.put(service("a"))
    one = listen()
    one.wait(lambda: one.follower.state is State.FOLLOWING)
    server.forbid("watch", "services")
    server.forbid("list", "services")
    server.compact()
    one.wait(lambda: one.follower.state is State.FORBIDDEN)
    assert one.follower.problem is not None and "cannot" in one.follower.problem.message
    assert one.names() == ["a"]
    server.put(service("b"))
    server.heal()
    one.wait(lambda: one.names() == ["a", "b"] and one.follower.state is State.FOLLOWING)
    assert len(one.told) == 2


def test_a_server_that_starts_forbids_all_for_a_moment_and_is_asked_again_soon(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "FIRST_S", 0.4)
    monkeypatch.setattr(follow, "SELDOM_S", 30.0)
    follower = Follower(Api.by_kubeconfig(server.kubeconfig(tmp_path)), SERVICES, lambda *_: None)
    away = [follower._note(ApiError(0, "Unreachable", "refused")) for _ in range(8)]
    assert max(away) > 2
    forbidden = [follower._note(ApiError(403, "Forbidden", "no roles yet")) for _ in range(8)]
    assert forbidden[0] < 1
    assert max(forbidden) > 10


def test_where_only_lists_are_allowed_they_are_read_again(
    server: ApiServer, listen: Callable[..., Listener]
) -> None:
    server.forbid("watch", "services")
    server.put(service("a"))
    one = listen()
    one.wait(lambda: one.names() == ["a"])
    server.put(service("b"))
    one.wait(lambda: one.names() == ["a", "b"])


def test_a_resource_that_comes_later(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.unserve("services")
    one = listen()
    one.wait(lambda: one.follower.state is State.MISSING)
    server.serve("services")
    server.put(service("a"))
    one.wait(lambda: one.names() == ["a"])


@pytest.mark.slow  # the server asks for a second
def test_pages_that_expire_begin_again(server: ApiServer, listen: Callable[..., Listener]) -> None:
    for number in range(7):
        server.put(service(f"s{number}"))
    server.fail(410, path="continue=", reason="Expired")
    server.fail(500, path="limit=3")
    server.fail(429, path="limit=3", reason="TooManyRequests", retry_after=1)
    one = listen()
    one.wait(lambda: len(one.objects) == 7)
    assert len(one.told) == 7


def test_an_error_in_the_stream_is_an_answer(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.put(service("a"))
    one = listen()
    soon(lambda: server.watches("services") == 1)
    server.oldest = server.version + 10  # the next watch is told 410 in its first line
    server.cut_watches()
    soon(lambda: one.follower.relists >= 1)
    server.oldest = 0
    server.put(service("b"))
    one.wait(lambda: one.names() == ["a", "b"])
    assert len(one.told) == 2


def test_kept_objects_stand_in_until_the_first_list(
    server: ApiServer, listen: Callable[..., Listener]
) -> None:
    server.put(service("b"))
    kept = {("Service", "default", name): b"{}" for name in "ab"}
    server.fail(503, times=2, reason="ServiceUnavailable")
    one = listen(kept=kept.items())
    one.objects.update(kept)
    one.wait(lambda: one.names() == ["b"])
    assert [(event.name, event.raw is None) for event in one.told] == [("a", True), ("b", False)]


def test_selectors_and_namespaces(server: ApiServer, listen: Callable[..., Listener]) -> None:
    for namespace in ("n", "m"):
        for kind in ("kubernetes.io/tls", "Opaque"):
            name = kind.rpartition("/")[2].lower()
            server.put(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": name, "namespace": namespace},
                    "type": kind,
                }
            )
    tls = listen(SECRETS, namespace="n", fields="type=kubernetes.io/tls")
    named = listen(SECRETS, namespace="m", fields="metadata.name=opaque")
    tls.wait(lambda: list(tls.objects) == [("Secret", "n", "tls")])
    named.wait(lambda: list(named.objects) == [("Secret", "m", "opaque")])


def test_asked_to_list_again(server: ApiServer, listen: Callable[..., Listener]) -> None:
    server.put(service("a"))
    one = listen()
    soon(lambda: server.watches("services") == 1)
    one.follower.relist()
    soon(lambda: server.watches("services") == 2)
    assert sum("limit=" in path for _, path in server.requests) == 2
    assert len(one.told) == 1


def test_asked_to_list_again_while_a_watch_connects(
    server: ApiServer, listen: Callable[..., Listener]
) -> None:
    server.put(service("a"))
    server.fail(0, path="watch=", delay=0.3)
    one = listen()
    soon(lambda: server.watches("services") == 1)
    one.follower.relist()
    soon(lambda: sum("limit=" in path for _, path in server.requests) == 2)


def test_a_watch_that_fails_where_lists_work_backs_off(
    server: ApiServer, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        server.put(service(f"s{number}"))
    server.fail(504, path="watch=", times=1000, reason="Timeout")
    one = listen()
    one.wait(lambda: one.follower._tries >= 4)
    assert one.follower.state is State.LOST and one.follower.problem is not None
    since = one.follower.since
    one.wait(lambda: one.follower._tries >= 6)
    assert one.follower.since == since, "lists that work do not make it new"
    server.heal()
    server.put(service("new"))
    one.wait(lambda: "new" in one.names() and one.follower.problem is None)


def test_a_history_that_is_always_gone_backs_off(server: ApiServer, tmp_path: Path) -> None:
    follower = Follower(Api.by_kubeconfig(server.kubeconfig(tmp_path)), SERVICES, lambda *_: None)
    gone = [follower._note(ApiError(410, "Expired", "too old")) for _ in range(8)]
    assert gone[0] == 0.0
    assert min(gone[6:]) > max(0.2, 10 * follow.FIRST_S)
    assert follower._note(ApiError(0, "Unreachable", "refused")) < 2 * follow.FIRST_S


def test_an_answer_that_nobody_expected_does_not_end_it(
    server: ApiServer, listen: Callable[..., Listener]
) -> None:
    server.put(service("a"))
    one = listen()
    one.wait(lambda: one.names() == ["a"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "trim", lambda *_: msgspec.json.decode("[" * 5_000 + "]" * 5_000))
        server.put(service("a", 81))
        one.wait(lambda: one.follower.problem is not None)
        assert one.follower.problem is not None and one.follower.problem.reason == "Failed"
    server.put(service("b"))
    one.wait(lambda: one.names() == ["a", "b"] and one.follower.problem is None)


def test_of_secrets_only_certificates_are_kept() -> None:
    longest = "A" * (BASE64_MAX - 2)
    data = {"tls.crt": longest, "tls.key": longest + "AAAA", "ca.crt": "eA==", "notes": longest}
    raw = msgspec.json.encode({"metadata": {"name": "s", "namespace": "n"}, "data": data})
    found = trim(SECRETS, raw)
    kept = msgspec.json.decode(found.raw)["data"]
    assert kept == {"tls.crt": longest, "tls.key": OVERSIZE, "ca.crt": "eA=="}
    secret = Secret(Metadata("s"), data={"tls.crt": "eA==", "tls.key": OVERSIZE})
    problem = secret_certificate(ObjectRef("Secret", "n", "s"), secret, ())
    assert problem == Problem("data[tls.key]", "InvalidPem", "tls.key is longer than 262144 bytes")


def test_secrets_are_asked_for_in_small_pages(server: ApiServer, listen: Callable[..., Listener]) -> None:
    one = listen(SECRETS)
    one.wait(lambda: one.follower.listed)
    assert sum("limit=20" in path for _, path in server.requests) == 1


def test_ballast_is_cut_off() -> None:
    raw = msgspec.json.encode(
        {
            "metadata": {
                "name": "s",
                "namespace": "n",
                "resourceVersion": "7",
                "uid": "u",
                "labels": {"kubernetes.io/service-name": "web", "app": "x"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "now"},
                "managedFields": [{"manager": "m"}],
                "ownerReferences": [{"uid": "o"}],
            },
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": ["198.18.0.1"],
                    "conditions": {"ready": True},
                    "targetRef": {"name": "pod"},
                    "nodeName": "n1",
                    "zone": "z",
                }
            ],
            "ports": [{"port": 80, "name": "http", "protocol": "TCP"}],
        }
    )
    found = trim(ENDPOINT_SLICES, raw)
    assert found.key == ("EndpointSlice", "n", "s") and found.version == "7"
    assert msgspec.json.decode(found.raw) == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "s",
            "namespace": "n",
            "uid": "u",
            "resourceVersion": "7",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["198.18.0.1"], "conditions": {"ready": True}, "zone": "z"}],
        "ports": [{"port": 80, "name": "http", "protocol": "TCP"}],
    }
    wrong = trim(ENDPOINT_SLICES, b'{"metadata":{"name":"s"},"endpoints":"many"}')
    assert b'"endpoints":"many"' in wrong.raw
    kubectl = (
        b'{"metadata":{"name":"i","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}}}'
    )
    assert b"last-applied" not in trim(INGRESSES, kubectl).raw


def test_a_server_that_ends_every_watch_is_not_asked_without_rest(
    server: ApiServer, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "WATCH_S", (0, 0))
    monkeypatch.setattr(follow, "RETRY_MAX_S", 0.2)
    server.put(service("a"))
    one = listen()
    soon(lambda: server.watches("services") >= 3)
    begun, before = time.monotonic(), server.watches("services")
    soon(lambda: server.watches("services") >= before + 4)
    assert time.monotonic() - begun > 0.02
    server.put(service("b"))
    one.wait(lambda: one.names() == ["a", "b"])
