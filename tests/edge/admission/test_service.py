"""One instance's webhook over a small API server: who calls it trusts what the API server was told."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.admission import secret, service
from edge.admission.service import AdmissionService
from edge.controller.view import View
from edge.errors import OptionError
from edge.options import Options
from edge.sources.api import Api
from tests.edge.admission.test_secret import CONFIGURATION, KIND
from tests.edge.admission.world import SERVICE, Client, call, ingress, make_view, review
from tests.fakes.apiserver import ApiServer

pytestmark = pytest.mark.slow

NAME = "xdp-edge-webhook.xdp-edge.svc"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(secret, "TEND_S", 0.02)
    monkeypatch.setattr(secret, "LEADS_S", 0.02)
    monkeypatch.setattr(service, "FIRST_S", 0.02)
    monkeypatch.setattr(service, "FOLLOW_S", 0.02)
    with ApiServer() as server:
        server.put(CONFIGURATION)
        yield server


class Instance:
    def __init__(self, server: ApiServer, directory: Path, view: View, options: Options) -> None:
        api = Api.by_kubeconfig(str(server.kubeconfig(directory)))
        self.service = AdmissionService(options, view, api, "xdp-edge")
        self.leads = True
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.service.start(self.listening.dup(), lambda: self.leads)

    async def close(self) -> None:
        await self.service.close()
        self.listening.close()


async def announced(server: ApiServer, other_than: str = "") -> tuple[bytes, str]:
    """What the API server calls, and by which authorities."""
    async with asyncio.timeout(10):
        while True:
            client = server.get(KIND, "", "xdp-edge")["webhooks"][0]["clientConfig"]
            if client.get("caBundle", "") not in ("", other_than):
                return base64.b64decode(client["caBundle"]), client["service"]["path"]
            await asyncio.sleep(0.01)


async def connect(port: int, bundle: bytes) -> Client:
    context = ssl.create_default_context(cadata=bundle.decode())
    return Client(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME))


def test_from_nothing_to_an_answer(server: ApiServer, tmp_path: Path) -> None:
    async def story() -> None:
        view = make_view(tmp_path / "state", [SERVICE])
        instance = Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1"))
        bundle, path = await announced(server)
        client = await connect(instance.port, bundle)
        assert (await client.ask(call(review(ingress("a")), path)))[0] == 200
        assert (await client.ask(call(review(ingress("a")), "/validate/x")))[0] == 401
        await client.close()
        assert view.admission.certificate_ends > 1e9
        await instance.close()

    asyncio.run(story())


def test_instances_follow_the_one_that_leads(server: ApiServer, tmp_path: Path) -> None:
    """What is broken is made anew by the leader, and all serve it; who does not lead writes nothing."""

    async def story() -> None:
        view = make_view(tmp_path / "state", [SERVICE])
        instances = [Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1")) for _ in range(3)]
        for instance in instances[1:]:
            instance.leads = False
        first, path = await announced(server)
        stored = server.get("Secret", "xdp-edge", "xdp-edge-webhook")
        stored["data"]["tls.key"] = "AAAA"
        server.put(stored)
        both, same_path = await announced(server, base64.b64encode(first).decode())
        assert path == same_path and first in both
        for instance in instances:
            async with asyncio.timeout(10):
                while True:
                    # Whoever trusts both meets no error at any time.
                    client = await connect(instance.port, both)
                    status, _ = await client.ask(call(review(ingress("a")), path))
                    chain = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                    await client.close()
                    assert status == 200
                    served = base64.b64decode(
                        server.get("Secret", "xdp-edge", "xdp-edge-webhook")["data"]["tls.crt"]
                    )
                    if ssl.PEM_cert_to_DER_cert(served.decode()) == chain:
                        break
                    await asyncio.sleep(0.01)
        for instance in instances:
            await instance.close()

    asyncio.run(story())


def test_an_api_server_that_is_away_takes_nothing_away(
    server: ApiServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        view = make_view(tmp_path / "state", [SERVICE])
        instance = Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1"))
        bundle, path = await announced(server)
        await (await connect(instance.port, bundle)).close()
        server.stop()
        said = ""
        async with asyncio.timeout(10):
            while "webhook: Unreachable" not in said:
                await asyncio.sleep(0.01)
                said += capfd.readouterr().err
        client = await connect(instance.port, bundle)
        assert (await client.ask(call(review(ingress("a")), path)))[0] == 200
        await client.close()
        await instance.close()

    asyncio.run(story())


def test_a_successor_gets_the_new_calls(server: ApiServer, tmp_path: Path) -> None:
    """Two processes that share a socket: the one that leaves answers what it has, and refuses nobody."""

    async def story() -> None:
        view = make_view(tmp_path / "state", [SERVICE])
        old = Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1"))
        bundle, path = await announced(server)
        held = await connect(old.port, bundle)
        assert (await held.ask(call(review(ingress("a")), path)))[0] == 200
        fresh = make_view(tmp_path / "fresh", [SERVICE])
        old.service.stop_accepting()
        waiting = asyncio.create_task(connect(old.port, bundle))  # nobody accepts just now
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        api = Api.by_kubeconfig(str(server.kubeconfig(tmp_path)))
        new = AdmissionService(Options(webhook="127.0.0.1:1"), fresh, api, "xdp-edge")
        new.start(old.listening.dup(), lambda: False)
        client = await asyncio.wait_for(waiting, 10)
        assert (await client.ask(call(review(ingress("a")), path)))[0] == 200
        assert sum(fresh.admission.reviews.values()) == 1
        await client.close()
        await new.close()
        await old.close()

    asyncio.run(story())


def test_who_has_not_read_the_objects_leaves_calls_to_who_has(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        view = make_view(tmp_path / "state", [SERVICE])
        judge, view.judge = view.judge, None
        instance = Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1"))
        bundle, path = await announced(server)
        waiting = asyncio.create_task(connect(instance.port, bundle))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        view.judge = judge
        client = await asyncio.wait_for(waiting, 10)
        assert (await client.ask(call(review(ingress("a")), path)))[0] == 200
        await client.close()
        await instance.close()
        # But in the end somebody says it.
        monkeypatch.setattr(service, "READ_S", 0.1)
        view.judge = None
        instance = Instance(server, tmp_path, view, Options(webhook="127.0.0.1:1"))
        client = await asyncio.wait_for(connect(instance.port, bundle), 10)
        assert (await client.ask(call(review(ingress("a")), path)))[0] == 503
        await client.close()
        await instance.close()

    asyncio.run(story())


@pytest.mark.parametrize("wrong", [{"webhook_client_ca": "/nowhere"}, {"watch_selector": "a b"}])
def test_options_that_cannot_be(server: ApiServer, tmp_path: Path, wrong: dict[str, str]) -> None:
    async def story() -> None:
        api = Api.by_kubeconfig(str(server.kubeconfig(tmp_path)))
        with pytest.raises(OptionError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
            AdmissionService(Options(webhook="127.0.0.1:1", **wrong), make_view(tmp_path), api, "x")

    asyncio.run(story())
