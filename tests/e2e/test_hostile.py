"""An operator's bad day: odd folders, full disks, processes killed at the worst moment.

Stories on loopback; all but one need no root. What clients see of single deaths stands in
tests/e2e/test_restart.py.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.proxy import processes
from tests.e2e.lab import ADDRESS, Lab, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import Running, pod
from tests.fakes.client import ask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with pod("web") as number:
        yield number


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    write(folder, "objects.yaml", service("web"), endpoints("web", port))
    route(folder, "a")
    return folder


def route(config: Path, name: str) -> None:
    write(config, f"{name}.yaml", ingress(name, [(f"{name}.example", "/", "web")]))


def served(edge: Running, name: str, seconds: float = 15) -> None:
    wait_for(f"{name}.example is served", lambda: edge.served(f"{name}.example") == 200, seconds)


def children(edge: Running) -> dict[str, int]:
    """Shape: name to pid of what the holder runs now."""
    pids = processes.descendants(edge.process.pid)[1:]
    return {name: pid for pid in pids if (name := processes.command_name(pid)).startswith("edge-")}


def kill(edge: Running, name: str) -> None:
    pid = children(edge).get(name)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def settled(edge: Running) -> bool:
    """Tell whether all workers serve what is committed, and nothing else is staged."""
    found = edge.holder()
    return found["serving"] == found["committed"] and found["staged"] == "0"


# ---- the folder ------------------------------------------------------------------------------


def test_a_folder_with_everything_but_files(tmp_path: Path, config: Path) -> None:
    os.mkfifo(config / "fifo.yaml")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(config / "socket.yaml"))
    (config / "folder.yaml").mkdir()
    (config / "nowhere.yaml").symlink_to("missing")
    (config / "loop.yaml").symlink_to("loop.yaml")
    (config / "null.yaml").symlink_to("/dev/null")
    (config / "zero.yaml").symlink_to("/dev/zero")
    (config / "empty.yaml").write_text("")
    (config / "bytes.yaml").write_bytes(bytes(range(256)))
    (config / "bomb.yaml").write_text(
        "a: &a [x, x]\n"
        + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20)
        )
    )
    (config / "deep.yaml").write_text("[" * 20000)
    (config / os.fsdecode(b"\xff\n.yaml")).write_text("kind: x")
    with (config / "huge.yaml").open("wb") as file:
        file.truncate(1 << 30)
    with Running(tmp_path, config) as edge:
        served(edge, "a")
        found = edge.admin("/diagnostics").text
        assert all(name in found for name in ("bytes.yaml", "bomb.yaml", "deep.yaml", "huge.yaml"))
        route(config, "b")
        served(edge, "b")
        (config / "a.yaml").unlink()
        (config / "a.yaml").mkdir()
        wait_for("a is gone", lambda: edge.served("a.example") == 404)


def test_an_empty_folder_serves_nothing_and_is_followed(tmp_path: Path, port: int) -> None:
    config = tmp_path / "config"
    config.mkdir()
    with Running(tmp_path, config) as edge:
        assert edge.served("a.example") == 404
        write(config, "objects.yaml", service("web"), endpoints("web", port))
        route(config, "a")
        served(edge, "a")


def test_a_folder_that_goes_away_and_comes_back(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config) as edge:
        served(edge, "a")
        config.rename(tmp_path / "away")
        wait_for("it is said", lambda: "cannot be read" in edge.admin("/diagnostics").text)
        assert edge.served("a.example") == 200
        wait_for("the state is written", (edge.state / "last-good.jsonl").exists)
        kill(edge, "edge-controller")
        wait_for("the next controller serves what was", lambda: "is away or empty" in edge.lines())
        wait_for("it answers", edge.ready)
        assert edge.served("a.example") == 200
        (tmp_path / "away").rename(config)
        route(config, "b")
        served(edge, "b")


def test_a_hundred_changes_a_second(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config) as edge:
        began = time.monotonic()
        for number in range(300):
            time.sleep(max(0.0, began + number * 0.01 - time.monotonic()))
            route(config, f"r{number % 10}")
            if number % 3 == 0:
                (config / f"r{(number + 5) % 10}.yaml").unlink(missing_ok=True)
            assert edge.served("a.example") == 200
        route(config, "last")
        served(edge, "last", 3)
        there = {path.stem for path in config.glob("r*.yaml")}
        for number in range(10):
            wanted = 200 if f"r{number}" in there else 404
            assert edge.served(f"r{number}.example") == wanted


# ---- deaths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["edge-controller", "edge-data", "both"])
def test_killed_at_any_moment_of_publishing(tmp_path: Path, config: Path, who: str) -> None:
    """Kills at random moments after a change, which preparing and committing fill."""
    rng = random.Random(who)
    versions: list[int] = []
    with Running(tmp_path, config, workers=1) as edge:
        for number in range(5):
            route(config, f"r{number}")
            time.sleep(rng.uniform(0, 0.03))  # the moment of the kill, not a wait
            if who in ("both", "edge-controller"):
                kill(edge, "edge-controller")
            if who in ("both", "edge-data"):
                kill(edge, "edge-data")
            served(edge, f"r{number}")
            versions.append(int(edge.holder()["committed"]))
        for number in range(5):
            served(edge, f"r{number}")
        assert edge.admin_json("/diagnostics")["publish_error"] == ""
        # The last controller may have been killed after its commit: its successor publishes once more.
        wait_for("nothing is half done", lambda: settled(edge))
    assert versions == sorted(set(versions)), versions


def test_a_stopped_data_plane_is_waited_for(tmp_path: Path, config: Path) -> None:
    """Changes meanwhile are published as one when it goes on."""
    with Running(tmp_path, config) as edge:
        served(edge, "a")
        data = edge.pid("edge-data")
        os.kill(data, signal.SIGSTOP)
        for number in range(5):
            route(config, f"r{number}")
        assert edge.admin("/healthz").status == 200
        os.kill(data, signal.SIGCONT)
        for number in range(5):
            served(edge, f"r{number}")


def test_a_data_plane_that_is_killed_while_it_is_asked(tmp_path: Path, config: Path) -> None:
    """Stopped when the image comes, then killed: its successor answers for it."""
    with Running(tmp_path, config) as edge:
        before = int(edge.holder()["committed"])
        data = edge.pid("edge-data")
        os.kill(data, signal.SIGSTOP)
        route(config, "b")
        wait_for("the image is staged", lambda: int(edge.holder()["staged"]) > before)
        os.kill(data, signal.SIGKILL)
        served(edge, "b", 5)


# ---- what the host refuses -------------------------------------------------------------------


def test_a_full_state_folder_stops_no_publish(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config) as edge:
        kept = edge.state / "last-good.jsonl"
        wait_for("the state is written", kept.exists)
        kept.unlink()
        kept.mkdir()  # as good as a full disk: every write fails
        route(config, "b")
        served(edge, "b")
        assert edge.admin_json("/diagnostics")["publish_error"] == ""
        wait_for("it is said", lambda: "--state-dir: cannot write" in edge.lines())
        assert edge.lines().count("--state-dir: cannot write") == 1
        kill(edge, "edge-controller")
        route(config, "c")
        served(edge, "c")


def test_a_state_folder_that_is_lost_while_running(tmp_path: Path, config: Path) -> None:
    with Running(tmp_path, config) as edge:
        served(edge, "a")
        for path in edge.state.iterdir():
            path.unlink()
        edge.state.rmdir()
        edge.state.write_text("in the way")
        kill(edge, "edge-controller")
        route(config, "b")
        served(edge, "b")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"state_dir": "/proc/nothing"}, "--state-dir"),
        ({"run_dir": "/proc/nothing"}, "--run-dir"),
        ({"run_dir": "/tmp/" + "x" * 120}, "--run-dir"),
        ({"config": "/proc/nothing"}, "--config"),
        ({"access_log": "/proc/nothing"}, "--access-log"),
        ({"https": "127.0.0.1:0"}, "--https"),
        ({"http": "198.51.100.7:80"}, "does not have that address"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, config: Path, options: dict[str, str], word: str) -> None:
    edge = Running(tmp_path, config)
    edge.options.update(options)
    status, lines = edge.refusal()
    assert status == 2
    assert word in lines
    assert len(lines.splitlines()) == 1, lines
    assert "Traceback" not in lines


@pytest.mark.root
@pytest.mark.parametrize("user", ["no-such-user", "root"])
def test_a_user_that_cannot_be_is_one_line(tmp_path: Path, config: Path, user: str) -> None:
    status, lines = Running(tmp_path, config, user=user).refusal()
    assert status == 2
    assert "--user" in lines and len(lines.splitlines()) == 1


@pytest.mark.root
def test_pins_of_a_stop_hinder_no_start(tmp_path: Path) -> None:
    """The packets' version outlives a stop, and here the state folder does not."""
    config = tmp_path / "config"
    config.mkdir()
    with Lab(clients=1, pods=1) as lab:
        lab.start_pod(1, "web")
        write(config, "a.yaml", service("web"), endpoints("web", 8080, [lab.pod_address(1)]),
              ingress("a", [("a.example", "/", "web")]))  # fmt: skip
        options = {"xdp": "native", "interface": lab.interfaces()}
        with Running(tmp_path, config, lab=lab, http=f"{ADDRESS}:80", **options) as edge:
            assert edge.stop() == 0
            for path in edge.state.iterdir():
                path.unlink()
            edge.start()
            wait_for("ready again", edge.ready)
            with lab.inside("client1"):
                assert ask(ADDRESS, 80, "a.example", "/").status == 200
            assert edge.admin_json("/diagnostics")["publish_error"] == ""
