"""The admin API over a real socket: reads only, one answer for every wrong question."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.admin.server import AdminApi
from edge.controller import listening as late
from edge.controller.keeper import Keeper
from edge.controller.state import StateDirectory
from edge.controller.view import View
from edge.dataplane.link import DataPlaneState, OpenListener
from edge.dataplane.stats import Statistics
from edge.model.diagnostics import Diagnostic, ObjectRef


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    memory = os.memfd_create("stats")
    keeper = Keeper(StateDirectory(tmp_path), False, lambda *_: None)
    state = DataPlaneState(up=True, committed=7, serving=7, listeners={0: OpenListener(0, "127.0.0.1", 80)})
    yield View(
        state,
        Statistics(memory),
        keeper,
        listeners_wanted=1,
        xdp_reason="--xdp off",
    )
    os.close(memory)


def talk(view: View, *requests: bytes) -> bytes:
    """Send bytes on one connection, and return all that comes until it is closed."""

    async def story() -> bytes:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        api = AdminApi(view)
        await api.start(listening, "127.0.0.1:0")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for request in requests:
                writer.write(request)
                await writer.drain()
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 5)
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await api.close()

    return asyncio.run(story())


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/snapshot", "/diagnostics", "/xdp"])
def test_every_page_before_the_first_publish(view: View, path: str) -> None:
    assert talk(view, get(path)).startswith(b"HTTP/1.1 200 ")


def test_several_requests_on_one_connection(view: View) -> None:
    answer = talk(view, get("/healthz") + get("/readyz"), get("/nothing"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"200", b"404"]


def test_not_ready_is_503(view: View) -> None:
    view.state.up = False
    assert talk(view, get("/readyz")).startswith(b"HTTP/1.1 503 ")


def test_head_has_no_body(view: View) -> None:
    answer = talk(view, get("/healthz", "HEAD"))
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")
    assert b"content-length: 3" in answer.lower()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(view: View, method: str) -> None:
    answer = talk(view, get("/metrics", method))
    assert answer.startswith(b"HTTP/1.1 405 ") and b"allow: get, head" in answer.lower()


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"],
)
def test_what_is_no_request_is_400(view: View, request_bytes: bytes) -> None:
    assert talk(view, request_bytes).startswith(b"HTTP/1.1 400 ")


def test_a_head_without_end_is_refused(view: View) -> None:
    answer = talk(view, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000)
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_leaves_is_no_error(view: View) -> None:
    assert talk(view) == b""
    assert b"200" not in talk(view, b"GET /met")


def test_events_and_the_state(view: View) -> None:
    view.state.note("restart", "the data plane ended", 60)
    view.keeper.written, view.keeper.version, view.keeper.error = 3600, 7, "full"
    view.lost_since = 0.5
    found = json.loads(talk(view, get("/diagnostics")).partition(b"\r\n\r\n")[2])
    assert found["events"] == [
        {"at": "1970-01-01T00:01:00Z", "kind": "restart", "text": "the data plane ended"}
    ]
    assert found["source"] == {"lost_since": "1970-01-01T00:00:00Z"}
    state = found["state"]
    assert (state["written"], state["version"], state["error"]) == ("1970-01-01T01:00:00Z", 7, "full")
    assert [one["reason"] for one in found["diagnostics"]] == ["NotWritten"]


def test_diagnostics_and_xdp(view: View) -> None:
    view.diagnostics = (Diagnostic(ObjectRef("Ingress", "n", "a"), "spec.x", "Invalid", 'a "b"\n'),)
    view.publish_error = "later"
    found = json.loads(talk(view, get("/diagnostics")).partition(b"\r\n\r\n")[2])
    assert found["publish_error"] == "later"
    assert found["diagnostics"] == [
        {
            "severity": "error",
            "object": "Ingress/n/a",
            "field": "spec.x",
            "reason": "Invalid",
            "message": 'a "b"\n',
            "advice": "see the documentation",
        }
    ]
    assert json.loads(talk(view, get("/xdp")).partition(b"\r\n\r\n")[2]) == {
        "attached": False,
        "reason": "--xdp off",
    }


def test_an_address_that_is_taken_is_waited_for(
    view: View, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(late, "RETRY_S", 0.01)

    async def story() -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        place = taken.getsockname()
        ours = socket.socket()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        api = AdminApi(view)
        await api.start(ours, f"{place[0]}:{place[1]}")
        await asyncio.sleep(0.03)
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        taken.close()
        async with asyncio.timeout(5):
            while not view.state.events:
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*place)
        writer.write(get("/healthz"))
        assert b" 200 " in await reader.readline()
        writer.close()
        await api.close()

    asyncio.run(story())
    assert capfd.readouterr().err.count("the admin API is open") == 1


@pytest.mark.parametrize("path", ["/image", "/explain?method=GET&url=http://a.test/"])
def test_nothing_to_ask_before_the_first_publish(view: View, path: str) -> None:
    assert talk(view, get(path)).startswith(b"HTTP/1.1 503 ")


def test_a_port_that_only_the_holder_may_open_is_given_up(
    view: View, capfd: pytest.CaptureFixture[str]
) -> None:
    class Refused(socket.socket):
        def bind(self, _place: object) -> None:
            raise PermissionError

    async def story() -> None:
        with Refused() as ours:
            api = AdminApi(view)
            await api.start(ours, "127.0.0.1:99")
            assert api._late is not None
            await asyncio.wait_for(api._late, 5)
            await api.close()

    asyncio.run(story())
    assert capfd.readouterr().err.count("no privilege") == 1
