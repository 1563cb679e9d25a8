"""The API server as a source: what a start serves, what is said, and what stays when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.errors import SourceError
from edge.options import Options
from edge.resources.kinds import plain
from edge.resources.store import Key, ResourceEvent, ResourceStore
from edge.sources import follow, kubernetes
from edge.sources.api import Api
from edge.sources.kubernetes import KubernetesSource
from tests.fakes.apiserver import ApiServer, Object

pytestmark = pytest.mark.slow

DEADLINE_S = 10.0
OPTIONS = Options(kubernetes=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_S", 0.01)
    monkeypatch.setattr(follow, "SELDOM_S", 0.02)
    monkeypatch.setattr(follow, "RETRY_MAX_S", 0.1)
    monkeypatch.setattr(kubernetes, "LOST_S", 0.05)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as found:
        yield found


class Follows:
    """A source in a loop of its own, and a store that it feeds."""

    def __init__(self, server: ApiServer, folder: Path, options: Options = OPTIONS, **more) -> None:
        self.source = KubernetesSource(Api.by_kubeconfig(server.kubeconfig(folder)), options, **more)
        self.store = ResourceStore()
        self.batches: list[list[ResourceEvent]] = []
        self.news = threading.Condition()
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Task[None] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def load(self) -> Follows:
        self.store.apply(self.source.load())
        self.thread.start()
        return self

    def _run(self) -> None:
        self.task = self.loop.create_task(self._watch())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.task)

    async def _watch(self) -> None:
        async for batch in self.source.watch():
            with self.news:
                self.batches.append(batch)
                self.store.apply(batch)
                self.news.notify_all()

    def wait(self, what: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(what, DEADLINE_S), (self.there(), self.source.diagnostics)

    def there(self) -> list[Key]:
        return sorted(self.store.all_keys())

    def reasons(self) -> list[str]:
        return [one.reason for one in self.source.diagnostics]

    def want(self, *places: tuple[str, str], kind: str = "Secret") -> None:
        self.loop.call_soon_threadsafe(self.source.want, [(kind, *place) for place in places])

    def close(self) -> None:
        if self.thread.is_alive():
            soon(lambda: self.task is not None)
            self.loop.call_soon_threadsafe(self.task.cancel)
            self.thread.join(DEADLINE_S)
        self.loop.close()
        self.source.close()


Make = Callable[..., Follows]


@pytest.fixture
def follows(server: ApiServer, tmp_path: Path) -> Iterator[Make]:
    made: list[Follows] = []

    def make(options: Options = OPTIONS, **more) -> Follows:
        made.append(Follows(server, tmp_path, options, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def secret(name: str, kind: str = "kubernetes.io/tls", namespace: str = "default") -> Object:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": kind, "data": {"x": "eA=="}}


def named(kind: str, name: str, namespace: str = "default", **more: object) -> Object:
    versions = {"Ingress": "networking.k8s.io/v1", "Service": "v1", "Node": "v1", "ConfigMap": "v1"}
    return {
        "apiVersion": versions[kind],
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **more},
    }


def soon(what: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_everything_is_read_and_followed(server: ApiServer, follows: Make) -> None:
    server.put(named("Ingress", "i"))
    server.put(named("Service", "s"))
    server.put(secret("t"))
    server.put(secret("other", "Opaque"))
    one = follows().load()
    assert one.there() == [
        ("Ingress", "default", "i"),
        ("Secret", "default", "t"),
        ("Service", "default", "s"),
    ]
    assert one.reasons() == [] and one.source.lost_since is None
    server.remove("Service", "default", "s")
    one.wait(lambda: ("Service", "default", "s") not in one.there())


def test_own_node_settings_namespaces_and_selector(server: ApiServer, follows: Make) -> None:
    for name in ("n1", "n2"):
        server.put(named("Node", name, labels={"topology.kubernetes.io/zone": name}))
    for name in ("settings", "other"):
        server.put(named("ConfigMap", name, "edge"))
    for namespace in ("a", "b", "c"):
        server.put(named("Ingress", "i", namespace, labels={"tier": namespace}))
    one = follows(
        replace(
            OPTIONS,
            node_name="n1",
            configmap="edge/settings",
            watch_namespace=("a", "b"),
            watch_selector="tier!=b",
        )
    ).load()
    assert one.there() == [
        ("ConfigMap", "edge", "settings"),
        ("Ingress", "a", "i"),
        ("Node", "", "n1"),
    ]


def test_a_secret_of_another_type_is_followed_by_name(server: ApiServer, follows: Make) -> None:
    server.put(secret("plain", "Opaque"))
    one = follows().load()
    assert one.there() == []
    one.want(("default", "plain"), ("default", "later"))
    one.wait(lambda: one.there() == [("Secret", "default", "plain")])
    server.put(secret("later"))
    one.wait(lambda: len(one.there()) == 2)
    soon(lambda: len(one.source._named) == 1)  # the watch of the type has it now
    server.remove("Secret", "default", "later")
    one.wait(lambda: len(one.there()) == 1)
    one.want()
    one.wait(lambda: one.there() == [])


def test_a_kept_secret_of_another_type_stays_until_it_is_compared(server: ApiServer, follows: Make) -> None:
    kept = {
        "": tuple(
            (("Secret", "default", name), secret(name, kind))
            for name, kind in (
                ("plain", "Opaque"),
                ("gone", "Opaque"),
                ("unnamed", "Opaque"),
                ("lost", "kubernetes.io/tls"),
            )
        )
    }
    server.put(secret("plain", "Opaque"))
    server.put(secret("unnamed", "Opaque"))
    one = follows(kept=kept)
    loaded = {event.name for event in one.source.load()}
    assert loaded == {"plain", "gone", "unnamed"}
    one.source.want({("Secret", "default", "plain"), ("Secret", "default", "gone")})
    first = {event.name: event.raw is not None for event in one.source.first(DEADLINE_S)}
    assert first == {"plain": True, "gone": False, "unnamed": False}


def test_the_first_that_is_wanted_is_waited_for(server: ApiServer, follows: Make) -> None:
    server.put(secret("plain", "Opaque"))
    server.fail(0, path="metadata.name", delay=0.2)
    one = follows()
    assert one.source.load() == []
    one.source.want({("Secret", "default", "plain")})
    assert [event.name for event in one.source.first(DEADLINE_S)] == ["plain"]
    assert one.source.first(0.0) == []


def test_what_is_wanted_while_the_server_is_away_is_read_when_it_is_back(
    server: ApiServer, follows: Make
) -> None:
    server.put(secret("plain", "Opaque"))
    kept = {"": ((("Ingress", "default", "i"), b"{}"),)}
    server.stop()
    one = follows(kept=kept).load()
    one.want(("default", "plain"))
    server.start()
    one.wait(lambda: one.there() == [("Secret", "default", "plain")])


def test_followers_by_name_are_forgotten(server: ApiServer, follows: Make) -> None:
    server.put(secret("plain", "Opaque"))
    one = follows().load()
    before = len(one.source._followers)
    for _ in range(3):
        one.want(("default", "plain"))
        one.wait(lambda: len(one.there()) == 1)
        follower = one.source._named["Secret", "default", "plain"]
        one.want()
        one.wait(lambda: one.there() == [])
        one.source._hear(follower, [ResourceEvent("Secret", "default", "plain", b"{}")])
    assert len(one.source._states) == before
    assert one.there() == [] and not one.source._pending


def test_a_config_map_is_followed_by_name_in_any_namespace(server: ApiServer, follows: Make) -> None:
    for name in ("one", "two"):
        server.put(named("ConfigMap", name, "far", labels={}))
    one = follows(replace(OPTIONS, watch_namespace=("a",))).load()
    assert one.there() == []
    one.want(("far", "one"), ("far", "later"), kind="ConfigMap")
    one.wait(lambda: one.there() == [("ConfigMap", "far", "one")])
    server.put(named("ConfigMap", "later", "far"))
    one.wait(lambda: len(one.there()) == 2)
    one.want(("far", "later"), kind="ConfigMap")
    one.wait(lambda: one.there() == [("ConfigMap", "far", "later")])
    server.remove("ConfigMap", "far", "later")
    one.wait(lambda: one.there() == [])
    asked = {path for _, path in server.requests if "configmaps" in path}
    assert asked and all("/namespaces/far/" in path and "metadata.name" in path for path in asked)


def test_the_config_map_of_the_controller_is_followed_once(server: ApiServer, follows: Make) -> None:
    server.put(named("ConfigMap", "settings", "edge"))
    one = follows(replace(OPTIONS, configmap="edge/settings")).load()
    one.want(("edge", "settings"), ("edge", "other"), kind="ConfigMap")
    soon(lambda: list(one.source._named) == [("ConfigMap", "edge", "other")])
    soon(lambda: server.watches("configmaps") == 2)
    one.want()
    soon(lambda: not one.source._named)
    assert one.there() == [("ConfigMap", "edge", "settings")]


def test_a_kept_config_map_stays_until_it_is_compared(server: ApiServer, follows: Make) -> None:
    names = ("settings", "stays", "gone", "unnamed")
    kept = {"": tuple((("ConfigMap", "edge", name), b"{}") for name in names)}
    for name in ("settings", "stays", "unnamed"):
        server.put(named("ConfigMap", name, "edge"))
    one = follows(replace(OPTIONS, configmap="edge/settings"), kept=kept)
    assert {event.name for event in one.source.load()} == set(names)
    one.source.want({("ConfigMap", "edge", name) for name in ("settings", "stays", "gone")})
    first = {event.name: event.raw is not None for event in one.source.first(DEADLINE_S)}
    assert first == {"stays": True, "gone": False, "unnamed": False}


def test_a_config_map_that_may_not_be_read_is_said_and_nothing_else_waits(
    server: ApiServer, follows: Make
) -> None:
    server.put(named("ConfigMap", "one", "far"))
    server.forbid("list", "configmaps")
    one = follows()
    assert one.source.load() == []
    one.source.want({("ConfigMap", "far", "one")})
    assert one.source.first(DEADLINE_S) == []
    one.source._assess()
    (found,) = one.source.diagnostics
    assert (found.reason, found.object.name) == ("Forbidden", "configmaps") and "far" in found.message


def test_permissions_that_are_missing_are_named_and_the_rest_is_served(
    server: ApiServer, follows: Make
) -> None:
    server.put(named("Ingress", "i"))
    server.put(secret("t"))
    server.forbid("list", "secrets")
    server.unserve("edgepolicies")
    one = follows().load()
    assert one.there() == [("Ingress", "default", "i")]
    assert one.reasons() == ["ResourceMissing", "Forbidden"] or one.reasons() == [
        "Forbidden",
        "ResourceMissing",
    ]
    assert any("secrets" in str(found.object) and "list" in found.message for found in one.source.diagnostics)
    server.heal()
    server.serve("edgepolicies")
    one.wait(lambda: len(one.there()) == 2 and one.reasons() == [])


def test_nothing_kept_and_nobody_there_waits(server: ApiServer, follows: Make) -> None:
    server.put(named("Ingress", "i"))
    one = follows()
    server.stop()
    done: list[list[ResourceEvent]] = []
    thread = threading.Thread(target=lambda: done.append(one.source.load()))
    thread.start()
    soon(lambda: one.reasons() == ["Unreachable"])
    assert not done
    server.start()
    thread.join(DEADLINE_S)
    assert [event.key for event in done[0]] == [("Ingress", "default", "i")]


def test_closed_while_it_waits(server: ApiServer, follows: Make) -> None:
    one = follows()
    server.stop()
    threading.Timer(0.05, one.source.close).start()
    with pytest.raises(SourceError):
        one.source.load()


def test_what_was_kept_serves_while_the_server_is_away_and_is_compared_after(
    server: ApiServer, follows: Make
) -> None:
    server.put(named("Ingress", "stays"))
    server.put(named("Ingress", "new"))
    kept = {"": tuple((("Ingress", "default", name), b"{}") for name in ("stays", "gone"))}
    server.stop()
    one = follows(kept=kept).load()
    assert [key[2] for key in one.there()] == ["gone", "stays"]
    assert one.source.lost_since is not None  # at once: the state must not be written as if it were new
    one.wait(lambda: one.reasons() == ["Unreachable"])
    assert one.source.lost_since is not None
    server.start()
    one.wait(lambda: [key[2] for key in one.there()] == ["new", "stays"])
    one.wait(lambda: one.reasons() == [] and one.source.lost_since is None)


def test_that_nothing_is_lost_any_more_is_told(server: ApiServer, follows: Make) -> None:
    server.put(named("Service", "s"))
    one = follows(lost_since=5.0).load()
    # The last of several followers is back: no object differs, and no finding was left to go.
    one.source.lost_since = 5.0
    one.loop.call_soon_threadsafe(lambda: one.source._wake and one.source._wake.set())
    one.wait(lambda: one.batches == [[]] and one.source.lost_since is None)


def test_away_while_it_runs_deletes_nothing(server: ApiServer, follows: Make) -> None:
    for number in range(3):
        server.put(named("Service", f"s{number}"))
    one = follows().load()
    server.stop()
    one.wait(lambda: one.reasons() == ["Unreachable"])
    assert len(one.there()) == 3
    server.remove("Service", "default", "s0")
    server.compact()
    server.start()
    one.wait(lambda: len(one.there()) == 2 and one.reasons() == [])
    changes = [event.name for batch in one.batches for event in batch]
    assert changes == ["s0"]


def test_a_refused_token_is_said(server: ApiServer, follows: Make) -> None:
    server.put(named("Service", "s"))
    one = follows().load()
    good, server.tokens = server.tokens, {"another"}
    server.cut_watches()
    one.wait(lambda: one.reasons() == ["Unauthorized"])
    assert len(one.there()) == 1
    server.tokens = good
    one.wait(lambda: one.reasons() == [])


def test_read_again(server: ApiServer, follows: Make) -> None:
    server.put(named("Service", "s"))
    one = follows().load()
    soon(lambda: server.watches("services") == 1)
    one.source.reread()
    soon(lambda: server.watches("services") == 2)
    assert [plain(raw)["metadata"]["name"] for _, raw in one.store.objects()] == ["s"]


def test_too_many_secrets_by_name(server: ApiServer, follows: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "NAMED_MAX", 2)
    server.put(secret("t"))
    one = follows().load()
    one.want(*(("default", name) for name in "abct"))
    server.put(named("Service", "s"))  # findings go with the next batch
    one.wait(lambda: one.reasons() == ["TooManyNamed"])
    assert "1 Secrets" in one.source.diagnostics[0].message
    one.want(("default", "a"), ("default", "t"))
    server.put(named("Service", "s2"))
    one.wait(lambda: one.reasons() == [])


def test_one_resource_that_fails_keeps_its_pauses(
    server: ApiServer, follows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "FIRST_S", 5.0)  # longer than this test
    monkeypatch.setattr(follow, "RETRY_MAX_S", 60.0)
    kept = {"": ((("Service", "default", "s"), b"{}"),)}
    server.fail(500, path="/ingressclasses", times=1000)
    one = follows(kept=kept).load()
    soon(lambda: sum("/ingressclasses" in path for _, path in server.requests) >= 1)
    asked = sum("/ingressclasses" in path for _, path in server.requests)
    for number in range(20):
        server.put(named("Service", f"s{number}"))
    one.wait(lambda: len(one.there()) == 20)
    # The others' first words may wake it, what they tell later does not.
    assert sum("/ingressclasses" in path for _, path in server.requests) <= asked + 8
