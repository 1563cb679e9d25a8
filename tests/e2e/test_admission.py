"""The webhook's socket outlives controllers and holders: no API server is ever refused a connection."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench.proxy import processes
from tests.e2e.lab import wait_for
from tests.e2e.succession import Succession
from tests.edge.admission.test_secret import CONFIGURATION, KIND
from tests.edge.admission.test_service import NAME
from tests.edge.admission.world import SERVICE, call, ingress, review
from tests.fakes.apiserver import ApiServer

pytestmark = [pytest.mark.root, pytest.mark.slow]


class Asking(threading.Thread):
    """One call after the other, each on a fresh connection; bad and good objects in turns.

    ``cut``: connections that ended without an answer; ``wrong``: refused connections, other answers.
    """

    def __init__(self, port: int, client: dict[str, Any]) -> None:
        super().__init__()
        self.port = port
        self.path = client["service"]["path"]
        self.context = ssl.create_default_context(cadata=base64.b64decode(client["caBundle"]).decode())
        self.answers = 0
        self.cut: list[str] = []
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        taken = ingress("thief", host="old.test", age=9)
        while not self.ended.wait(0.005):
            for obj, wanted in ((ingress("fresh"), True), (taken, False)):
                try:
                    allowed = self.ask(obj)
                except ConnectionRefusedError as error:
                    self.wrong.append(str(error))
                except (OSError, ValueError) as error:
                    self.cut.append(repr(error))
                else:
                    self.answers += 1
                    if allowed is not wanted:
                        self.wrong.append(f"{wanted} was wanted")

    def ask(self, obj: dict[str, Any]) -> bool:
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        with plain, self.context.wrap_socket(plain, server_hostname=NAME) as channel:
            channel.sendall(call(review(obj), self.path, Connection="close"))
            data = b"".join(iter(lambda: channel.recv(65536), b""))
        if not data:
            raise ConnectionResetError("it ended without an answer")
        head, _, body = data.partition(b"\r\n\r\n")
        if b" 200 " not in head:
            self.wrong.append(data.decode()[-200:])
        return bool(json.loads(body)["response"]["allowed"])

    def until(self, more: int = 20) -> None:
        """Wait until so many more answers have come."""
        wanted = self.answers + more
        wait_for("answers come", lambda: self.answers >= wanted, 30)


def test_controllers_and_holders_come_and_go(tmp_path: Path) -> None:
    port = processes.free_port()
    with ApiServer() as server:
        server.put(CONFIGURATION)
        for one in (SERVICE.raw, ingress("older", host="old.test")):
            assert isinstance(one, dict)
            server.put({"apiVersion": "v1", "kind": "Service", **one})
        options = {
            "kubeconfig": server.kubeconfig(tmp_path),
            "webhook": f"127.0.0.1:{port}",
            "pod_namespace": "xdp-edge",
            "workers": 1,
        }

        def announced() -> dict[str, Any]:
            found: dict[str, Any] = (server.get(KIND, "", "xdp-edge") or {})["webhooks"][0]["clientConfig"]
            return found if "caBundle" in found else {}

        with Succession(tmp_path, None, **options) as edge:  # type: ignore[arg-type]
            asking = Asking(port, wait_for("an authority", announced, 20))
            wait_for("the objects are read", lambda: asking.ask(ingress("fresh")), 20)
            asking.start()
            try:
                asking.until()
                edge.take_over()
                asking.until()
                said = list(edge.talk("upgrade", what="controller", executable=sys.executable))
                assert said[-1].verb == "done", said
                asking.until()
                assert not asking.cut, "nothing was killed so far"
                edge.kill_holder()
                edge.start()
                edge.wait_well()
                asking.until()
                assert not asking.cut
                # What a controller is answering when it is killed is lost; what waits is not.
                os.kill(edge.pid("edge-controller"), signal.SIGKILL)
                asking.until()
            finally:
                asking.ended.set()
                asking.join()
            assert not asking.wrong and len(asking.cut) <= 1, (asking.wrong[:3], asking.cut)
            assert edge.stop() == 0
