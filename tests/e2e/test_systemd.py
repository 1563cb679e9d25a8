"""The unit file under a real systemd: start, sandbox, reload, deaths, watchdog, stop.

Nothing is written on this machine outside of the test's folder (systemd.py says how). What clients see is
asked all the time over fresh connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import ADDRESS, Lab, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.e2e.systemd import LOG, NAME, UNIT, Managed, analyze
from tests.e2e.test_pid1 import inner_pid
from tests.fakes.client import Closed

pytestmark = [pytest.mark.root, pytest.mark.slow]

HOST = "a.example"
EXPOSURE_MAX = 3.5


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "config"
    folder.mkdir()
    with pod("web") as port:
        objects = service("web"), endpoints("web", port), ingress("a", [(HOST, "/", "web")])
        write(folder, "objects.yaml", *objects)
        yield folder


class Asking:
    """Asks one after the other in a thread, for as long as the block lasts."""

    def __init__(self, edge: Running) -> None:
        self._edge = edge
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.good = 0
        self.bad: list[object] = []

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                status = self._edge.ask(HOST).status
            except (OSError, Closed) as error:
                self.bad.append(error)
                continue
            if status == 200:
                self.good += 1
            else:
                self.bad.append(status)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self._over.set()
        self._thread.join()


def test_the_unit_is_what_systemd_understands(tmp_path: Path) -> None:
    copy = tmp_path / NAME
    copy.write_text(UNIT.read_text().replace("/usr/bin/edge", "/bin/true"))
    done = analyze("verify", copy)
    assert done.returncode == 0 and not done.stderr, done.stderr
    done = analyze("security", "--offline=true", copy)
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found and float(found[1]) <= EXPOSURE_MAX, done.stdout


def test_start_means_served_and_the_sandbox_holds(tmp_path: Path, config: Path) -> None:
    with Lab(clients=1, pods=1) as lab:
        lab.start_pod(1, "web")
        write(config, "objects.yaml", service("web"), endpoints("web", 8080, [lab.pod_address(1)]),
              ingress("a", [(HOST, "/", "web")]))  # fmt: skip
        options = {"xdp": "native", "interface": lab.interfaces()}
        with Managed(tmp_path, config, lab=lab, http=f"{ADDRESS}:80", **options) as edge:
            with lab.inside("client1"):
                assert edge.served(HOST) == 200, "systemctl start returned before anything was served"
            shown = edge.show("StatusText", "MainPID", "NRestarts", "ActiveState")
            assert shown["ActiveState"] == "active" and shown["NRestarts"] == "0"
            assert shown["StatusText"].startswith("serving version"), shown
            assert edge.admin_json("/xdp")["attached"], edge.journal()
            wait_for("access log lines", lambda: HOST in edge.run_inside("cat", LOG).stdout)
            members = edge.members()
            assert set(members) == {"edge-holder", "edge-controller", "edge-data"}
            for pid in members.values():
                status = Path(f"/proc/{pid}/status").read_text()
                assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
                for place in ("/usr/bin", "/etc", "/sys/kernel", "/proc/sys/kernel"):
                    assert_read_only(pid, place)
            assert "CapEff:\t0000000000000000" in Path(f"/proc/{members['edge-data']}/status").read_text()


def assert_read_only(pid: int, place: str) -> None:
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    over = [one for one in mounts if place == one[4] or place.startswith(one[4].rstrip("/") + "/")]
    mount = max(over, key=lambda one: len(one[4]))
    assert "ro" in mount[5].split(","), f"{place} is writable for {pid}: {mount}"


def test_reload_reads_the_objects_again(tmp_path: Path, config: Path) -> None:
    with Managed(tmp_path, config, workers=1) as edge:
        write(config, "b.yaml", ingress("b", [("b.example", "/", "web")]))
        assert edge.systemctl("reload", NAME).returncode == 0
        wait_for("b is served", lambda: edge.served("b.example") == 200)
        wait_for("it is active again", lambda: edge.show("ActiveState")["ActiveState"] == "active")


def test_a_killed_holder_is_started_again_and_nobody_notices(tmp_path: Path, config: Path) -> None:
    with Managed(tmp_path, config) as edge, Asking(edge) as asking:
        before = edge.members()
        os.kill(before["edge-holder"], signal.SIGKILL)
        wait_for("restarted", lambda: edge.show("NRestarts")["NRestarts"] == "1")
        wait_for("active", lambda: edge.show("ActiveState")["ActiveState"] == "active", 20)
        wait_for("ready", edge.ready)
        after = edge.members()
        assert after["edge-holder"] != before["edge-holder"]
        assert {n: p for n, p in after.items() if n != "edge-holder"} == {
            n: p for n, p in before.items() if n != "edge-holder"
        }, edge.journal()
    assert asking.good > 20 and not asking.bad, asking.bad[:3]


def test_a_stuck_holder_is_replaced_by_the_watchdog(tmp_path: Path, config: Path) -> None:
    with Managed(tmp_path, config, drop_in="WatchdogSec=2s") as edge, Asking(edge) as asking:
        os.kill(edge.members()["edge-holder"], signal.SIGSTOP)
        wait_for("restarted", lambda: edge.show("NRestarts")["NRestarts"] == "1", 20)
        wait_for("active", lambda: edge.show("ActiveState")["ActiveState"] == "active", 20)
        assert edge.served(HOST) == 200
    assert asking.good > 20 and not asking.bad, asking.bad[:3]


def test_an_upgrade_names_the_new_main_process(tmp_path: Path, config: Path) -> None:
    with Managed(tmp_path, config, drop_in="WatchdogSec=2s") as edge:
        before = edge.members()
        with Asking(edge) as asking:
            done = edge.edge("upgrade")
            assert done.returncode == 0, done.stdout + done.stderr + edge.journal()
            after = edge.members()
            assert after["edge-holder"] != before["edge-holder"]

            def named() -> bool:
                return inner_pid(after["edge-holder"]) == int(edge.show("MainPID")["MainPID"])

            wait_for("systemd knows its main process", named)
            beats = edge.show("WatchdogTimestampMonotonic")
            wait_for("it feeds the watchdog", lambda: edge.show("WatchdogTimestampMonotonic") != beats)
            shown = edge.show("NRestarts", "ActiveState")
            assert shown == {"NRestarts": "0", "ActiveState": "active"}
            os.kill(after["edge-holder"], signal.SIGKILL)
            wait_for("its death is noticed", lambda: edge.show("NRestarts")["NRestarts"] == "1")
            wait_for("active", lambda: edge.show("ActiveState")["ActiveState"] == "active", 20)
            done = edge.edge("upgrade")
            assert done.returncode == 0, done.stdout + done.stderr + edge.journal()
        assert asking.good > 20 and not asking.bad, asking.bad[:3]
        assert edge.systemctl("stop", NAME).returncode == 0
        assert edge.show("Result")["Result"] == "success" and edge.members() == {}, edge.journal()


def test_a_stop_drains_and_leaves_nothing_running(tmp_path: Path, config: Path) -> None:
    with Managed(tmp_path, config) as edge:
        assert edge.systemctl("stop", NAME).returncode == 0
        shown = edge.show("Result", "ExecMainStatus", "ActiveState")
        wanted = {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
        assert shown == wanted, edge.journal()
        assert edge.members() == {}
        with contextlib.suppress(OSError, Closed):
            edge.ask(HOST)
            raise AssertionError("somebody still serves")
        assert edge.systemctl("start", NAME).returncode == 0
        assert edge.served(HOST) == 200
