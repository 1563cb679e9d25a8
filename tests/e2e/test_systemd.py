"""The unit file under a real systemd: start, sandbox, reload, stop.

Nothing is written on this machine outside of the test's folder (systemd.py says how).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import ADDRESS, Lab, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import pod
from tests.e2e.systemd import NAME, UNIT, Managed, analyze
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
