"""Every option of `edge run` seen at work: none is decoration.

Instances on loopback, with and without root; XDP's options are shown by tests/e2e/test_restart.py and
tests/bpf. What is refused at the start stands in tests/edge/test_options.py.
"""

from __future__ import annotations

import json
import mmap
import os
import pwd
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proxy.processes import free_port
from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.e2e.test_refused import certificate_of
from tests.fakes.client import Client, ask

pytestmark = pytest.mark.slow

HOST = "a.example"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, "objects.yaml", service("web"), endpoints("web", port), ingress("a", [(HOST, "/", "web")]))
    return folder


def logged(path: Path) -> str:
    def whole() -> str:
        text = path.read_text() if path.exists() else ""
        return text if HOST in text and text.endswith("\n") else ""

    return str(wait_for("an access log line", whole))


def test_log_format_json_to_a_path(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, log_format="json") as edge:
        assert edge.served(HOST) == 200
        line = json.loads(logged(tmp_path / "access.log").splitlines()[0])
    assert line["host"] == HOST and line["status"] == 200


def test_log_as_text_to_standard_output(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, access_log="-", log_format="text") as edge:
        assert edge.served(HOST) == 200
        text = logged(edge.log)
    assert " 200 " in next(line for line in text.splitlines() if HOST in line)


def test_no_log(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, access_log="off") as edge:
        assert edge.served(HOST) == 200
        wait_for("counted", lambda: edge.metrics()["edge_requests_total"] == 1)
        assert edge.metrics()["edge_access_log_lines_total"] == 0
        edge.process.send_signal(signal.SIGUSR1)  # nothing to reopen
        assert edge.served(HOST) == 200
    assert HOST not in edge.lines()


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_loop_and_workers(tmp_path: Path, config: Path, loop: str) -> None:
    with Running(tmp_path, config, loop=loop, workers=3) as edge:
        assert edge.served(HOST) == 200
        found = edge.holder()
        assert (found["loop"], found["workers"]) == (loop, "3")
        threads = Path(f"/proc/{edge.pid('edge-data')}/task").glob("*/comm")
        assert {"edge-w0", "edge-w1", "edge-w2"} <= {comm.read_text().strip() for comm in threads}


@pytest.mark.root
def test_user(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, user="daemon") as edge:
        assert edge.served(HOST) == 200
        status = Path(f"/proc/{edge.pid('edge-data')}/status").read_text()
    uid = pwd.getpwnam("daemon").pw_uid
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status


def test_grace_period_ends_what_is_open(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, grace_period=0.3) as edge, Client(edge.address, edge.port) as client:
        client.send_request(HOST, "/slow?s=30")
        wait_for("in flight", lambda: edge.metrics()["edge_requests_in_flight"] == 1)
        began = time.monotonic()
        assert edge.stop() == 0
        assert 0.3 <= time.monotonic() - began < 2.5


def test_grace_period_waits_for_what_is_open(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config, grace_period=10) as edge, Client(edge.address, edge.port) as client:
        client.send_request(HOST, "/slow?s=1")
        wait_for("in flight", lambda: edge.metrics()["edge_requests_in_flight"] == 1)
        edge.process.send_signal(signal.SIGTERM)
        assert client.read_response().status == 200
        assert edge.process.wait(5) == 0


def test_several_listeners_and_ipv6(tmp_path: Path, config: Path) -> None:
    first, second, third, fourth = (free_port() for _ in range(4))
    with Running(
        tmp_path,
        config,
        http=f"127.0.0.1:{first}",
        https=[f"[::1]:{third}", f"127.0.0.1:{fourth}"],
        **{"workers": 1},
    ) as one:
        assert one.served(HOST) == 200
        assert certificate_of("::1", third, HOST) == certificate_of("127.0.0.1", fourth, HOST)
    two = Running(tmp_path, config)
    two.options["http"] = [f"127.0.0.1:{first}", f"[::1]:{second}"]
    two.port = first
    with two:
        assert ask("127.0.0.1", first, HOST, "/").status == 200
        assert ask("::1", second, HOST, "/").status == 200
        assert two.holder()["listeners"] == f"127.0.0.1:{first},[::1]:{second}"


def test_one_port_for_any_address_of_both_kinds(tmp_path: Path, config: Path) -> None:
    number = free_port()
    edge = Running(tmp_path, config)
    edge.options["http"], edge.port = [f"0.0.0.0:{number}", f"[::]:{number}"], number
    with edge:
        assert edge.served(HOST) == 200
        assert ask("::1", number, HOST, "/").status == 200


def test_environment_mirrors_options(tmp_path: Path, config: Path) -> None:
    edge = Running(tmp_path, config, workers=None, access_log=None, loop=None)
    log = tmp_path / "mirrored.log"
    edge.environment = {"EDGE_WORKERS": "2", "EDGE_ACCESS_LOG": str(log), "EDGE_LOOP": "epoll"}
    with edge:
        assert edge.served(HOST) == 200
        assert (edge.holder()["workers"], edge.holder()["loop"]) == ("2", "epoll")
        assert logged(log)


def test_ingress_class(tmp_path: Path, config: Path) -> None:
    other, none = ingress("b", [("b.example", "/", "web")]), ingress("c", [("c.example", "/", "web")])
    other["spec"]["ingressClassName"] = "other"
    del none["spec"]["ingressClassName"]
    write(config, "others.yaml", other, none)

    def answers(**options: object) -> list[int]:
        with Running(tmp_path, config, **options) as edge:  # type: ignore[arg-type]
            return [edge.served(f"{name}.example") for name in "abc"]

    assert answers() == [200, 404, 404]
    assert answers(ingress_class="other") == [404, 200, 404]
    assert answers(watch_ingress_without_class=True) == [200, 404, 200]


def test_hangup_reads_everything_again(tmp_path: Path, config: Path) -> None:
    """A change through a mapping is one that inotify does not tell, until the file is closed."""
    with Running(tmp_path, config) as edge:
        with (config / "objects.yaml").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            place = memory.find(HOST.encode())
            memory[place : place + 1] = b"z"
            for _ in range(20):
                assert edge.served(HOST) == 200
            log = tmp_path / "access.log"
            log.rename(tmp_path / "old.log")
            edge.process.send_signal(signal.SIGHUP)
            wait_for("the file is read", lambda: edge.served("z.example") == 200)
        wait_for("the log is opened again too", log.exists)
        write(config, "b.yaml", ingress("b", [("b.example", "/", "web")]))
        wait_for("still followed", lambda: edge.served("b.example") == 200)


def test_state_secrets_keep_the_default_certificate(tmp_path: Path, config: Path) -> None:
    def shown(**options: object) -> bytes:
        tls = free_port()
        with Running(tmp_path, config, https=f"127.0.0.1:{tls}", instance="kept", **options) as edge:  # type: ignore[arg-type]
            found = certificate_of("127.0.0.1", tls, "nobody.example")
            old = edge.pid("edge-controller")
            before = int(edge.holder()["committed"])
            os.kill(old, signal.SIGKILL)
            wait_for("another", lambda: edge.holder()["controller_pid"] not in ("0", str(old)))
            wait_for("published", lambda: int(edge.holder()["committed"]) > before)
            return found if certificate_of("127.0.0.1", tls, "nobody.example") == found else b"another"

    kept = tmp_path / "state" / "kept" / "default.pem"
    assert shown() and not kept.exists()
    first = shown(state_secrets=True)
    assert first != b"another"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert shown(state_secrets=True) == first
    kept.write_text("-----BEGIN PRIVATE KEY-----\nnonsense")
    assert shown(state_secrets=True) not in (first, b"another")


def test_admin_on_ipv6(tmp_path: Path, config: Path) -> None:
    number = free_port()
    edge = Running(tmp_path, config, admin=f"[::1]:{number}")
    edge.start()
    try:

        def ready() -> bool:
            try:
                return ask("::1", number, "localhost", "/readyz").status == 200
            except OSError:
                return False

        wait_for("ready", ready)
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", number), 1):
            pass
    finally:
        edge.close()
