"""The Secret over a small API server: made, renewed with both authorities trusted, mended."""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.admission.certificate import Pair, dates_of, is_good
from edge.admission.secret import SETTLE_S, Contents, Tender, WebhookSecret, utc_now
from edge.controller.calls import Calls
from edge.errors import ApiError
from edge.sources.api import Api
from tests.fakes.apiserver import ApiServer

DAY = datetime.timedelta(days=1)
KIND = "ValidatingWebhookConfiguration"
SERVICE = {"name": "xdp-edge-webhook", "namespace": "xdp-edge", "port": 443}
CONFIGURATION: dict[str, Any] = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": KIND,
    "metadata": {"name": "xdp-edge"},
    "webhooks": [
        {"name": "objects.xdp-edge.dev", "clientConfig": {"service": SERVICE}, "timeoutSeconds": 5},
        {"name": "of.another", "clientConfig": {"service": {"name": "x", "namespace": "y"}}},
    ],
}


class World:
    """``now``: the leader's wall clock; ``clock``: the one that nobody sets."""

    def __init__(self, server: ApiServer, directory: Path) -> None:
        self.server = server
        self.calls = Calls(Api.by_kubeconfig(str(server.kubeconfig(directory))), 1)
        self.secret = WebhookSecret(self.calls, "xdp-edge", "xdp-edge-webhook")
        self.now, self.clock = utc_now(), 1000.0
        self.tender = self.another()

    def another(self) -> Tender:
        return Tender(self.secret, lambda: self.now, lambda: self.clock)

    def stored(self) -> Contents:
        return Contents.of(self.server.get("Secret", "xdp-edge", "xdp-edge-webhook")["data"])

    def announced(self) -> list[tuple[bytes, str]]:
        found = self.server.get(KIND, "", "xdp-edge")["webhooks"]
        return [
            (
                base64.b64decode(one["clientConfig"].get("caBundle", "")),
                one["clientConfig"]["service"].get("path", ""),
            )
            for one in found
        ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ApiServer() as server:
        server.put(CONFIGURATION)
        made = World(server, tmp_path)
        yield made
        made.calls.close()


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


def test_made_announced_and_left_alone(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        made = world.stored()
        assert made.serves(world.secret.names) and len(made.authorities) == 1 and len(made.token) == 32
        assert world.announced() == [(made.bundle, f"/validate/{made.token}"), (b"", "")]
        assert world.server.get(KIND, "", "xdp-edge")["webhooks"][0]["timeoutSeconds"] == 5
        world.server.requests.clear()
        for _ in range(3):
            await world.tender.tend()
        assert {method for method, _ in world.server.requests} == {"GET"}
        found = await world.secret.read()
        assert found is not None and found[1] == made

    run(story)


def test_every_entry_of_ours_is_announced(world: World) -> None:
    """The manifests have one that may fail closed, and one that never does."""
    ours = [{"name": name, "clientConfig": {"service": dict(SERVICE)}} for name in ("objects", "classes")]
    world.server.put({**CONFIGURATION, "webhooks": ours})

    async def story() -> None:
        await world.tender.tend()
        made = world.stored()
        assert world.announced() == [(made.bundle, f"/validate/{made.token}")] * 2

    run(story)


def test_a_renewal_is_trusted_before_it_is_served(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        first = world.stored()
        world.now += 60 * DAY
        await world.tender.tend()
        staged = world.stored()
        assert (staged.chain, staged.key, staged.token) == (first.chain, first.key, first.token)
        assert len(staged.authorities) == 2 and staged.authorities[1] == first.authorities[0]
        assert world.announced()[0][0] == staged.bundle
        world.clock += SETTLE_S - 1
        await world.tender.tend()
        assert world.stored() == staged
        world.clock += 1
        await world.tender.tend()
        second = world.stored()
        assert (second.chain, second.key, second.next_chain) == (staged.next_chain, staged.next_key, b"")
        assert second.authorities == staged.authorities, "who has not heard yet trusts the old one"
        for _ in range(2):
            world.now += 60 * DAY
            await world.tender.tend()
            world.clock += SETTLE_S
            await world.tender.tend()
        assert len(world.stored().authorities) == 2

    run(story)


def test_another_leader_waits_anew(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        world.now += 60 * DAY
        await world.tender.tend()
        staged = world.stored()
        world.clock += SETTLE_S
        another = world.another()
        await another.tend()
        assert world.stored() == staged
        world.clock += SETTLE_S
        await another.tend()
        assert world.stored().chain == staged.next_chain

    run(story)


def test_a_configuration_that_is_not_there_serves_no_renewal(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        world.now += 60 * DAY
        world.server.remove(KIND, "", "xdp-edge")
        for _ in range(3):
            with pytest.raises(ApiError, match="nobody asks us"):
                await world.tender.tend()
            world.clock += SETTLE_S
        staged = world.stored()
        assert staged.next_chain
        world.server.put(CONFIGURATION)
        await world.tender.tend()
        assert world.stored() == staged
        world.clock += SETTLE_S
        await world.tender.tend()
        assert world.stored().chain == staged.next_chain

    run(story)


@pytest.mark.parametrize("field", ["ca.crt", "tls.crt", "tls.key", "token", "data"])
def test_what_is_broken_is_made_anew(world: World, field: str) -> None:
    async def story() -> None:
        await world.tender.tend()
        before = world.stored()
        stored = world.server.get("Secret", "xdp-edge", "xdp-edge-webhook")
        if field == "data":
            del stored["data"]
        else:
            stored["data"][field] = "AAAA"
        world.server.put(stored)
        await world.tender.tend()
        made = world.stored()
        assert made.serves(world.secret.names) and made.chain != before.chain
        assert (made.token == before.token) is (field in ("ca.crt", "tls.crt", "tls.key"))
        assert world.announced()[0] == (made.bundle, f"/validate/{made.token}")

    run(story)


def test_a_next_one_that_is_broken_is_dropped(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        stored = world.server.get("Secret", "xdp-edge", "xdp-edge-webhook")
        stored["data"] |= {"next.crt": "AAAA", "next.key": "AAAA"}
        world.server.put(stored)
        before = world.stored()
        await world.tender.tend()
        assert world.stored() == replace(before, next_chain=b"", next_key=b"")

    run(story)


def test_two_leaders_do_not_undo_each_other(world: World) -> None:
    async def story() -> None:
        results = await asyncio.gather(*(world.another().tend() for _ in range(4)), return_exceptions=True)
        assert all(one is None or (isinstance(one, ApiError) and one.status == 409) for one in results)
        made = world.stored()
        await world.another().tend()
        assert world.stored() == made and world.announced()[0][0] == made.bundle

    run(story)


def test_a_leader_with_a_wrong_clock_goes_by_the_api_server(world: World) -> None:
    async def story() -> None:
        world.now = datetime.datetime(1971, 1, 1, tzinfo=datetime.UTC)
        await world.tender.tend()
        found = dates_of(world.stored().chain)
        assert found is not None and found.begins < utc_now() < found.ends

    run(story)


@pytest.mark.parametrize("wrong", [1.5 * DAY, -100 * DAY])
def test_what_a_wrong_clock_mends_is_valid_by_the_api_server(world: World, wrong: datetime.timedelta) -> None:
    async def story() -> None:
        await world.tender.tend()
        before = world.stored()
        stored = world.server.get("Secret", "xdp-edge", "xdp-edge-webhook")
        stored["data"]["tls.key"] = "AAAA"
        del stored["metadata"]["managedFields"]
        world.server.put(stored)
        world.now += wrong
        await world.tender.tend()
        made = world.stored()
        found = dates_of(made.chain)
        assert found is not None and found.begins < utc_now() < found.ends
        assert made.token == before.token and made.authorities[1:] == before.authorities

    run(story)


def test_a_renewal_by_a_wrong_clock_is_trusted_before_it_is_served(world: World) -> None:
    async def story() -> None:
        await world.tender.tend()
        first = world.stored()
        world.now += 61 * DAY
        for served in (first.chain, None):
            await world.tender.tend()
            world.clock += SETTLE_S
            found = dates_of(world.stored().chain)
            assert found is not None and found.begins < utc_now() < found.ends
            assert (world.stored().chain == first.chain) is (served is not None)

    run(story)


def test_a_permission_that_is_missing_is_said_and_tried_again(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.admission.secret.TEND_S", 0.01)

    async def story() -> None:
        world.server.fail(403, path="/secrets", times=5, reason="Forbidden")
        running = asyncio.create_task(world.tender.run(lambda: True))
        async with asyncio.timeout(10):
            while not world.announced()[0][0]:
                await asyncio.sleep(0.01)
        running.cancel()

    run(story)
    assert capfd.readouterr().err.count("Forbidden") == 1


def test_nothing_of_a_secret_is_believed() -> None:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    for data in (
        None,
        {},
        {"token": "no base64!"},
        {"token": text(b"../../etc/passwd")},
        {"token": text(b"x")},
    ):
        assert Contents.of(data).token == ""
    assert Contents.of({"tls.crt": text(b"x" * 70_000)}).chain == b""
    assert not is_good(Pair(b"", b"", b""), ())
