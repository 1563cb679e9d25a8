"""A stop, then a start where the source, or the state, is not what it was.

Stories on loopback. What each kind of spoilt file does stands in tests/edge/controller/test_keeper.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lab import wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod

pytestmark = pytest.mark.slow

CURRENT = "last-good.jsonl"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, "objects.yaml", service("web"), endpoints("web", port))
    for name in "ab":
        route(folder, name)
    return folder


def route(config: Path, name: str, host: str = "") -> None:
    write(config, f"{name}.yaml", ingress(name, [(host or f"{name}.example", "/", "web")]))


def instance(tmp_path: Path, config: Path, **options: object) -> Running:
    return Running(tmp_path, config, **{"instance": "kept", "workers": 1, **options})  # type: ignore[arg-type]


def statuses(edge: Running, names: str) -> list[int]:
    return [edge.served(f"{name}.example") for name in names]


def findings(edge: Running) -> list[str]:
    """Shape: object and reason of every finding."""
    found = edge.admin_json("/diagnostics")
    assert found["publish_error"] == ""
    return [f"{one['object']} {one['reason']}" for one in found["diagnostics"]]


def written(edge: Running) -> None:
    wait_for("the state is written", lambda: edge.metrics()["edge_state_current"] == 1)


def once(tmp_path: Path, config: Path, **options: object) -> None:
    """Run it once, so that there is a state."""
    with instance(tmp_path, config, **options) as edge:
        assert statuses(edge, "ab") == [200, 200]
        written(edge)
        assert edge.stop() == 0


def kill_controller(edge: Running) -> None:
    old = edge.pid("edge-controller")
    os.kill(old, signal.SIGKILL)
    wait_for("another controller", lambda: edge.ready() and edge.pid("edge-controller") != old)


def test_a_folder_that_is_not_there(tmp_path: Path, config: Path) -> None:
    once(tmp_path, config)
    away = config.rename(tmp_path / "away")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abc") == [200, 200, 404]
        assert findings(edge) == ["File Unreadable"]
        assert edge.lines().count("is away or empty") == 1
        assert edge.metrics()["edge_source_lost_seconds"] >= 0
        kill_controller(edge)
        wait_for("the next one knows as well", lambda: findings(edge) == ["File Unreadable"])
        assert statuses(edge, "abc") == [200, 200, 404]
        route(away, "c")
        (away / "b.yaml").unlink()
        away.rename(config)
        wait_for("the source is back", lambda: statuses(edge, "abc") == [200, 404, 200])
        wait_for("nothing is wrong", lambda: findings(edge) == [])
        assert edge.metrics()["edge_source_lost_seconds"] == 0


def test_an_empty_folder(tmp_path: Path, config: Path) -> None:
    once(tmp_path, config)
    empty = tmp_path / "empty"
    empty.mkdir()
    with instance(tmp_path, empty) as edge:
        assert statuses(edge, "ab") == [200, 200]
        assert findings(edge) == ["File SourceEmpty"]
        written(edge)  # else what runs is newer, and goes on without a version of the next one's
        kill_controller(edge)
        wait_for("the next one trusts it as little", lambda: findings(edge) == ["File SourceEmpty"])
        assert statuses(edge, "ab") == [200, 200]
        written(edge)
        assert edge.stop() == 0
    with instance(tmp_path, empty) as edge:
        assert statuses(edge, "ab") == [200, 200], "a start from the state leaves the state"
        assert edge.stop() == 0
    with instance(tmp_path, empty, accept_empty=True) as edge:
        assert statuses(edge, "ab") == [404, 404] and findings(edge) == []
        written(edge)
        assert edge.stop() == 0
    with instance(tmp_path, empty) as edge:
        assert statuses(edge, "ab") == [404, 404] and findings(edge) == []


def test_deleting_is_deleting_while_it_runs(tmp_path: Path, config: Path) -> None:
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "ab") == [200, 200]
        written(edge)
        kill_controller(edge)
        for path in config.iterdir():
            path.unlink()
        wait_for("deleted", lambda: statuses(edge, "ab") == [404, 404])
        kill_controller(edge)
        assert statuses(edge, "ab") == [404, 404] and findings(edge) == []
        route(config, "a")
        os.kill(edge.pid("edge-controller"), signal.SIGSTOP)  # nobody sees the file go
        (config / "a.yaml").unlink()
        os.kill(edge.pid("edge-controller"), signal.SIGKILL)
        wait_for("the next one sees it gone", lambda: edge.ready() and edge.served("a.example") == 404)


def test_a_file_that_broke_while_nobody_ran(tmp_path: Path, config: Path) -> None:
    once(tmp_path, config)
    (config / "a.yaml").write_text("kind: [")
    route(config, "b", "new.example")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "ab") == [200, 404] and edge.served("new.example") == 200
        assert findings(edge) == ["File/a.yaml Unreadable"]
        kill_controller(edge)
        assert edge.served("a.example") == 200
        route(config, "a", "other.example")
        wait_for("repaired", lambda: edge.served("other.example") == 200)
        assert edge.served("a.example") == 404


def test_slots_and_versions_go_on_after_a_stop(tmp_path: Path, config: Path) -> None:
    def slots(edge: Running) -> tuple[int, dict[str, int]]:
        page = edge.admin_json("/snapshot")
        return page["version"], {one["host"]: one["slot"] for one in page["routes"]}

    with instance(tmp_path, config) as edge:
        first, before = slots(edge)
        written(edge)
        assert edge.stop() == 0
    route(config, "0")  # its name would come first
    with instance(tmp_path, config) as edge:
        second, after = slots(edge)
    assert second > first
    assert {host: after[host] for host in before} == before


def test_a_change_just_before_a_stop_is_kept(tmp_path: Path, config: Path) -> None:
    with instance(tmp_path, config) as edge:
        written(edge)
        for name in "cde":  # the second and third within the second that writes lie apart
            route(config, name)
            wait_for("served", lambda host=f"{name}.example": edge.served(host) == 200)
        assert edge.stop() == 0
    config.rename(tmp_path / "away")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abcde") == [200] * 5


def test_a_spoilt_state_is_one_line_and_a_finding(tmp_path: Path, config: Path) -> None:
    with instance(tmp_path, config) as edge:
        written(edge)
        route(config, "c")
        wait_for("served", lambda: edge.served("c.example") == 200)
        written(edge)
        current = edge.state / CURRENT
        assert edge.stop() == 0
    current.write_bytes(current.read_bytes()[:-100])
    away = config.rename(tmp_path / "away")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abc") == [200, 200, 404], "what was before the last change"
        assert findings(edge) == [
            "File Unreadable",
            "State/last-known-good Older",
            "State/last-known-good Unusable",
        ]
        assert edge.lines().count("half written") == 1
        written(edge)
        assert edge.stop() == 0
    for name in edge.state.iterdir():
        name.write_bytes(b"noise")
    status, lines = instance(tmp_path, config).refusal()
    assert status == 2 and "--config" in lines.splitlines()[-1], "nothing is left to serve"
    away.rename(config)
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abc") == [200, 200, 200]
        assert findings(edge) == ["State/last-known-good Unusable"] * 2


# ---- a state folder that cannot be written ---------------------------------------------------


def not_written(edge: Running) -> bool:
    return "State/last-known-good NotWritten" in findings(edge)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB where the state is."""
    folder = tmp_path / "state"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "edge-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.root
def test_a_full_disk(tmp_path: Path, config: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with instance(tmp_path, config) as edge:
        written(edge)
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        for name in "cd":
            route(config, name)
            wait_for("served", lambda host=f"{name}.example": edge.served(host) == 200)
            wait_for("it is a finding", lambda: not_written(edge))
        assert edge.lines().count("No space left") == 1, "said once"
        assert not [path for path in edge.state.iterdir() if path.name.startswith(".")], "no half of a file"
        kill_controller(edge)
        assert statuses(edge, "abcd") == [200] * 4
        wait_for("the next one finds the same", lambda: not_written(edge))
        ballast.unlink()
        written(edge)
        assert findings(edge) == [] and edge.lines().count("written again") == 1
        assert edge.stop() == 0
    config.rename(tmp_path / "away")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abcd") == [200] * 4


@pytest.mark.root
def test_a_disk_that_can_only_be_read(tmp_path: Path, config: Path, small_disk: Path) -> None:
    once(tmp_path, config)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    config.rename(tmp_path / "away")
    with instance(tmp_path, config) as edge:
        assert statuses(edge, "abc") == [200, 200, 404]
        wait_for("it is a finding", lambda: not_written(edge))
        (tmp_path / "away").rename(config)
        route(config, "c")
        wait_for("served", lambda: edge.served("c.example") == 200)
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        written(edge)


def test_a_state_folder_taken_away(tmp_path: Path, config: Path) -> None:
    with instance(tmp_path, config) as edge:
        written(edge)
        for path in edge.state.iterdir():
            path.unlink()
        edge.state.rmdir()
        edge.state.write_text("in the way")
        route(config, "c")
        wait_for("served", lambda: edge.served("c.example") == 200)
        wait_for("it is a finding", lambda: not_written(edge))
        page = edge.metrics()
        assert page["edge_state_write_errors_total"] >= 1 and page["edge_state_current"] == 0
        edge.state.unlink()
        written(edge)
        assert findings(edge) == []
        assert (edge.state / CURRENT).exists()
