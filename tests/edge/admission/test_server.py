"""The webhook over real TLS: its answers, and what it says to those who should not ask."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from edge.admission import server
from edge.admission.server import Serving
from edge.controller.view import View
from edge.resources.store import ResourceEvent
from tests.edge.admission.world import (
    PAIR,
    SERVICE,
    TOKEN,
    Client,
    ask_all,
    call,
    ingress,
    make_view,
    open_webhook,
    review,
    trusting,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def view(tmp_path: Path) -> View:
    older = ingress("older", age=1, host="old.test")
    return make_view(tmp_path, [SERVICE, ResourceEvent("Ingress", "default", "older", older)])


def ask(view: View, *requests: bytes) -> list[tuple[int, bytes]]:
    return asyncio.run(ask_all(view, *requests))


def response(answer: tuple[int, bytes]) -> dict[str, Any]:
    status, body = answer
    assert status == 200, body
    found: dict[str, Any] = json.loads(body)["response"]
    return found


def test_good_and_bad(view: View, capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = ask(view, call(review(ingress("a"))), call(review(ingress("b", host="old.test", age=2))))
    uid = "705ab4f5-6393-11e8-b7cc-42010a800002"
    assert response(good) == {"uid": uid, "allowed": True}
    said = response(bad)
    assert (said["uid"], said["allowed"], said["status"]["code"]) == (uid, False, 403)
    words = "Ingress/default/b spec.rules[0].http.paths[0]: Conflict: old.test Prefix / is served by Ingress"
    assert said["status"]["message"].startswith(words)
    cause = {
        "reason": "Conflict",
        "message": "old.test Prefix / is served by Ingress/default/older",
        "field": "spec.rules[0].http.paths[0]",
    }
    assert said["status"]["details"] == {"causes": [cause]}
    line = capfd.readouterr().err
    assert f"admission: CREATE by 'alice\\n' refused: {words}" in line and line.count("\n") == 1
    assert view.admission.reviews == {("Ingress", "allowed"): 1, ("Ingress", "refused"): 1}
    assert sum(view.admission.seconds.values()) == 2


def test_several_calls_on_one_connection(view: View) -> None:
    async def story() -> None:
        async with open_webhook(view) as (_, port):
            client = await Client.to(port)
            for number in range(5):
                status, _ = await client.ask(call(review(ingress(f"i{number}"))))
                assert status == 200
            await client.close()

    asyncio.run(story())


def test_a_large_object_is_read_in_a_thread(view: View) -> None:
    big = ingress("a", note=["x" * 50] * 1000)
    big["metadata"]["annotations"] = {f"example.org/{n}": "x" * 100 for n in range(1000)}
    bad = json.loads(json.dumps(big))
    bad["spec"]["rules"][0]["host"] = "old.test"
    bad["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    good, refused = ask(view, call(review(big)), call(review(bad)))
    assert response(good)["allowed"] and not response(refused)["allowed"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (call({}, "/validate"), 404),
        (call({}, "/"), 404),
        (call({}, "/validate/"), 401),
        (call({}, "/validate/0123456789abcdeF"), 401),
        (call({}, "/validate/\u00fc"), 400),
        (call({}, f"/validate/{TOKEN}", "GET"), 405),
        (call({}, Content_Type="text/plain"), 415),
        (call({}, Content_Type=""), 415),
        (call({}), 400),
        (call(b""), 400),
        (call(b"\x00\xff{"), 400),
        (call(b"[" * 100_000), 400),
        (call(b'{"a":' * 100_000), 400),
        (call({}, Content_Length=str(9 << 20)), 413),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=lambda value: f"{value[:24]!a}" if isinstance(value, bytes) else str(value),
)
def test_who_asks_wrongly_gets_words(view: View, request_bytes: bytes, status: int) -> None:
    ((found, text),) = ask(view, request_bytes)
    assert (found, len(text) > 10, text.endswith(b"\n")) == (status, True, True)
    assert view.admission.errors == {status: 1}


def test_before_the_objects_are_read_it_is_503(view: View) -> None:
    judge, view.judge = view.judge, None
    assert [one[0] for one in ask(view, call(review(ingress("a"))))] == [503]
    # What is not ours to judge does not wait for that.
    assert [one[0] for one in ask(view, call(review(None, ingress("a"), "DELETE")))] == [200]
    view.judge, view.lost_since = judge, 1.0
    assert [one[0] for one in ask(view, call(review(ingress("a"))))] == [503]


def test_while_a_model_is_made_it_waits(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with open_webhook(view) as (_, port):
            view.model_rests.clear()
            client = await Client.to(port)
            asking = asyncio.create_task(client.ask(call(review(ingress("a")))))
            done, _ = await asyncio.wait([asking], timeout=0.1)
            assert not done
            view.model_rests.set()
            assert (await asking)[0] == 200
            view.model_rests.clear()
            monkeypatch.setattr(server, "MODEL_S", 0.05)
            assert (await client.ask(call(review(ingress("a")))))[0] == 503
            await client.close()

    asyncio.run(story())


def test_strangers_make_way(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            known = await Client.to(port)
            assert (await known.ask(call(review(ingress("a")))))[0] == 200
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
            another = await Client.to(port)
            assert (await another.ask(call(review(ingress("a")))))[0] == 200
            assert (await known.ask(call(review(ingress("a")))))[0] == 200
            for _, writer in silent:
                writer.transport.abort()
            await known.close()
            await another.close()

    asyncio.run(story())


def test_strangers_are_taken_at_a_pace(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their handshakes run in the loop that publishes; they wait in the queue, and so does who is known."""
    monkeypatch.setattr(server, "ACCEPTED_A_SECOND", 50, raising=False)
    monkeypatch.setattr(server, "ACCEPTED_AT_ONCE", 5, raising=False)

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            began = asyncio.get_running_loop().time()
            clients = await asyncio.gather(*(Client.to(port) for _ in range(25)))
            assert asyncio.get_running_loop().time() - began >= (25 - 5) / 50 - 0.03
            assert (await clients[-1].ask(call(review(ingress("a")))))[0] == 200
            for client in clients:
                await client.close()

    asyncio.run(story())


def test_a_pace_has_a_burst_and_a_rate() -> None:
    pace = server.Pace(10, 3, 100.0)
    assert [pace.take(100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.1, 0.2]
    assert pace.take(100.5) == 0.0, "what was waited for is paid"
    assert [pace.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.1], "rest saves no more than a burst"


def test_who_sends_nothing_is_left(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_S", 0.05)
    monkeypatch.setattr(server, "BODY_S", 0.05)
    monkeypatch.setattr(server, "SWEEP_S", 0.01)

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            client = await Client.to(port)
            assert await asyncio.wait_for(client.reader.read(), 5) == b""
            client = await Client.to(port)
            assert await client.ask(call(b"{}", Content_Length="3")) == (0, b"")

    asyncio.run(story())


def test_all_bodies_together_have_a_limit(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HELD_BYTES_MAX", 3000)

    async def story() -> None:
        async with open_webhook(view) as (webhook, port):
            slow, other = await Client.to(port), await Client.to(port)
            slow.writer.write(call(b"", Content_Length="2500"))
            async with asyncio.timeout(5):
                while not webhook._held:
                    await asyncio.sleep(0)
            status, text = await other.ask(call(review(ingress("a"))))
            assert (status, b"try again" in text) == (503, True)
            await slow.close()
            async with asyncio.timeout(5):
                while webhook._held:
                    await asyncio.sleep(0)
            other = await Client.to(port)
            assert (await other.ask(call(review(ingress("a")))))[0] == 200
            await other.close()

    asyncio.run(story())


def test_a_stop_answers_what_is_under_way(view: View) -> None:
    async def story() -> None:
        async with open_webhook(view) as (webhook, port):
            idle, client = await Client.to(port), await Client.to(port)
            assert (await idle.ask(call(review(ingress("a")))))[0] == 200
            view.model_rests.clear()
            asking = asyncio.create_task(client.ask(call(review(ingress("a")))))
            async with asyncio.timeout(5):
                while not any(caller.busy for caller in webhook._callers):
                    await asyncio.sleep(0)
            webhook.stop()
            view.model_rests.set()
            assert (await asking)[0] == 200
            assert await asyncio.wait_for(client.reader.read(), 5) == b""
            # One that an API server may be writing to just now is answered, too, and told to come anew.
            assert (await idle.ask(call(review(ingress("a")))))[0] == 200
            assert await asyncio.wait_for(idle.reader.read(), 5) == b""

    asyncio.run(story())


def test_old_versions_of_tls_are_refused(view: View) -> None:
    async def story() -> None:
        async with open_webhook(view) as (_, port):
            context = trusting()
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await Client.to(port, context)

    with pytest.warns(DeprecationWarning):
        asyncio.run(story())


def test_a_certificate_is_replaced_without_a_restart(view: View) -> None:
    import datetime

    from edge.controller.default_certificate import make_default_certificate

    other = make_default_certificate(datetime.datetime.now(datetime.UTC))

    async def story() -> None:
        async with open_webhook(view) as (webhook, port):
            old = await Client.to(port)
            with pytest.raises(ssl.SSLError):
                webhook.use(Serving(other[0], PAIR[1]))  # not a pair: all stays
            await (await Client.to(port)).close()
            webhook.use(Serving(*other, ("new", TOKEN)))
            with pytest.raises(ssl.SSLError):
                await Client.to(port)
            fresh = await Client.to(port, trusting(other[0]))
            assert (await fresh.ask(call(review(ingress("a")), "/validate/new")))[0] == 200
            assert (await old.ask(call(review(ingress("a")))))[0] == 200
            await fresh.close()
            await old.close()

    asyncio.run(story())


def test_a_client_certificate_can_be_asked_for(view: View, tmp_path: Path) -> None:
    ca, pair = tmp_path / "ca.pem", tmp_path / "pair.pem"
    ca.write_bytes(PAIR[0])
    pair.write_bytes(b"".join(PAIR))

    async def story() -> None:
        async with open_webhook(view, client_ca=str(ca)) as (_, port):
            bare = await Client.to(port)
            status, text = await bare.ask(call(review(ingress("a"))))
            assert (status, b"client certificate" in text) == (401, True)
            await bare.close()
            context = trusting()
            context.load_cert_chain(pair)
            shown = await Client.to(port, context)
            assert (await shown.ask(call(review(ingress("a")))))[0] == 200
            await shown.close()

    asyncio.run(story())


def test_a_hundred_bodies_of_garbage_and_it_goes_on(view: View) -> None:
    import random

    source = random.Random(7)
    good = call(review(ingress("a")))
    body = good.partition(b"\r\n\r\n")[2]

    def spoiled() -> bytes:
        data = bytearray(body)
        for _ in range(source.randint(1, 8)):
            place = source.randrange(len(data))
            data[place : place + source.randint(0, 9)] = source.randbytes(source.randint(0, 9))
        return bytes(data)

    bodies = [source.randbytes(source.randint(0, 2000)) for _ in range(30)]
    bodies += [body[: source.randrange(len(body))] for _ in range(20)] + [spoiled() for _ in range(50)]

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            client = await Client.to(port)
            answers = [await client.ask(call(one)) for one in [*bodies, body]]
            assert {status for status, _ in answers} == {200, 400}
            assert sum(status == 400 for status, _ in answers) > 60
            assert response(answers[-1])["allowed"]
            await client.close()

    asyncio.run(story())


def test_no_client_keeps_a_stop_waiting(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WRITE_S", 0.1)

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            for data in (b"", b"\x16\x03\x01"):
                silent = socket.create_connection(("127.0.0.1", port))
                silent.send(data)
                silent.close()

    asyncio.run(asyncio.wait_for(story(), 5))
