"""Holders that take over from each other, or from the dead, and clients that notice nothing of it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from bench.proxy import processes
from edge.holder.record import pid_namespace
from edge.messages import receive, send
from tests.e2e.lab import wait_for
from tests.e2e.succession import Succession, nothing_failed, succession, traffic
from tests.e2e.survival.traffic import HOST
from tests.fakes.client import ask

pytestmark = [pytest.mark.root, pytest.mark.slow]

LONG = bool(os.environ.get("EDGE_LONG"))
CHILDREN = ("data_pid", "controller_pid")


def children(edge: Succession) -> list[str]:
    """Return the pids of data plane and controller."""
    status = edge.wait_well()
    return [status[name] for name in CHILDREN]


@pytest.mark.parametrize("loop", ["uring", "epoll"])
def test_take_over_and_death_of_a_holder_cost_nothing(tmp_path: Path, loop: str) -> None:
    with succession(tmp_path, loop=loop) as edge:
        before = children(edge)
        with traffic(edge) as seen:
            for _ in range(3):
                edge.take_over()
                edge.kill_holder()
                edge.start()
                edge.wait_well()
        assert children(edge) == before
        nothing_failed(seen)
        status = edge.holder()
        assert (status["handovers"], status["adoptions"]) == ("3", "3")
        assert (status["data_restarts"], status["controller_restarts"]) == ("0", "0")
        edge.route("b")  # the channels work in both directions
        edge.serves("b")
        assert edge.metrics()['edge_request_outcomes_total{outcome="lost"}'] == 0
        kinds = [message.fields.get("kind") for message in edge.talk("events")]
        assert kinds.count("hand-over") == 3 and kinds.count("adoption") == 3
        assert edge.stop() == 0
        assert not edge.processes()


def test_a_dead_holder_and_a_dead_controller(tmp_path: Path) -> None:
    """The sockets are taken out of the data plane, which drains when another serves."""
    with succession(tmp_path) as edge:
        for _ in range(2):
            with traffic(edge) as seen:
                counted = edge.metrics()["edge_requests_total"]
                status = edge.holder()
                edge.kill(int(status["pid"]), int(status["controller_pid"]))
                edge.start()
                fresh = int(edge.wait_well()["data_pid"])
                assert fresh != int(status["data_pid"])
                assert edge.metrics()["edge_requests_total"] >= counted
            nothing_failed(seen, tunnel_may_end=True)
            wait_for("the orphan has drained", lambda: edge.ended(int(status["data_pid"])))  # noqa: B023
        assert edge.holder()["adoptions"] == "2"


def test_without_holder_nothing_is_published_and_nothing_is_lost(tmp_path: Path) -> None:
    with succession(tmp_path) as edge:
        edge.kill_holder()
        edge.route("b")
        wait_for("it is said", lambda: "the holder is gone" in edge.admin("/diagnostics").text)
        assert edge.served("b.example") == 404
        edge.start()
        edge.serves("b")
        assert edge.holder()["adoptions"] == "1"


def test_a_data_plane_that_died_without_holder_is_replaced_by_the_next(tmp_path: Path) -> None:
    with succession(tmp_path) as edge:
        before = edge.wait_well()
        edge.kill_holder()
        edge.kill(int(before["data_pid"]))
        wait_for("the controller has noticed", lambda: edge.admin("/readyz").status == 503)
        edge.start()
        after = edge.wait_well()
        assert after["controller_pid"] == before["controller_pid"]
        assert after["data_pid"] != before["data_pid"]


def test_one_line_refuses_who_does_not_take_over(tmp_path: Path) -> None:
    with succession(tmp_path) as edge:
        done = subprocess.run(edge.command(), capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "is running already" in done.stderr and "--take-over" in done.stderr


def test_options_that_cannot_be_met_leave_the_old_holder(tmp_path: Path) -> None:
    with succession(tmp_path) as edge, traffic(edge) as seen:
        before = edge.wait_well()
        words = [*edge.command(), "--take-over", "--access-log", str(tmp_path / "nowhere" / "log")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "--access-log" in done.stderr
        wait_for("the old one goes on", lambda: edge.well().get("pid") == before["pid"])
        edge.route("b")
        edge.serves("b")
    nothing_failed(seen)


def ask_to_take_over(edge: Succession, **fields: object) -> socket.socket:
    """Be a successor; shape: our end."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.settimeout(10)
    control.connect(str(Path(str(edge.options["run_dir"])) / edge.name / "control.sock"))
    send(control, "take-over", **{"protocol": 1, "pidns": pid_namespace(), **fields})
    return control


def drop_until(control: socket.socket, *verbs: str) -> str:
    """Drop what is said until one of these verbs; return it."""
    while (message := receive(control)) is not None:
        message.close()
        if message.verb in verbs:
            return message.verb
    return ""


def test_a_successor_that_goes_away_leaves_the_old_holder(tmp_path: Path) -> None:
    with succession(tmp_path) as edge, traffic(edge) as seen:
        before = edge.wait_well()
        for stage in ("asked", "handed", "taken", "another protocol"):
            control = ask_to_take_over(edge, protocol=2 if stage == "another protocol" else 1)
            with control:
                if stage == "another protocol":
                    assert drop_until(control, "refused", "handed") == "refused"
                elif stage != "asked":
                    assert drop_until(control, "handed") == "handed"
                if stage == "taken":
                    # It stops reading before it says so: its end comes before `left` can be heard.
                    os.kill(int(before["pid"]), signal.SIGSTOP)
                    send(control, "taken")
            if stage == "taken":
                os.kill(int(before["pid"]), signal.SIGCONT)
            edge.route(stage.partition(" ")[0])
            edge.serves(stage.partition(" ")[0])
            assert edge.wait_well()["pid"] == before["pid"]
    nothing_failed(seen)


def test_a_stop_before_the_successor_serves_leaves_it_the_sockets(tmp_path: Path) -> None:
    """Of another PID namespace: what connects meanwhile waits for it, and is not dropped."""
    with succession(tmp_path) as edge:
        with ask_to_take_over(edge, pidns=1) as control:
            members: list[socket.socket] = []
            while (message := receive(control)) is not None and message.verb != "handed":
                if message.fields.get("what") == "listener":
                    members += [socket.socket(fileno=os.dup(number)) for number in message.descriptors]
                message.close()
            send(control, "taken")
            assert drop_until(control, "left") == "left"
            assert edge.stop() == 0
            assert drop_until(control, "kept") == ""
        with socket.create_connection((edge.address, edge.port), 5):
            pass
        assert (tmp_path / "run" / edge.name / "control.sock").exists()
        for member in members:
            member.close()
        assert not edge.processes()


def test_deaths_in_the_middle_of_a_hand_over(tmp_path: Path) -> None:
    """Old holder or successor is killed at some moment of it; whoever starts next finds all."""
    chance = random.Random(4)
    with succession(tmp_path) as edge, traffic(edge) as seen:
        before = children(edge)
        for _ in range(12 if LONG else 2):
            for victim in ("old", "successor"):
                old = edge.process
                edge.options["take_over"] = True
                edge.start()
                time.sleep(chance.uniform(0.1, 0.5))  # the moment is what varies
                with contextlib.suppress(ProcessLookupError):
                    os.kill((old if victim == "old" else edge.process).pid, signal.SIGKILL)
                if victim == "old":
                    old.wait(10)
                    if edge.process.poll() is not None:  # it had asked, and not got it
                        edge.start()
                else:
                    edge.process.wait(10)
                    if old.poll() is None and not settled(edge, old):
                        old.wait(10)
                    if old.poll() is None:
                        edge.process = old
                    else:
                        edge.start()
                assert edge.wait_well()["pid"] == str(edge.process.pid)
        assert children(edge) == before
    nothing_failed(seen)


def settled(edge: Succession, old: subprocess.Popen[bytes]) -> bool:
    """Wait until the old holder has either gone or answers as the holder."""
    wait_for("either", lambda: old.poll() is not None or edge.status().get("pid") == str(old.pid), 20)
    return old.poll() is None


def test_as_many_descriptors_after_many_hand_overs(tmp_path: Path) -> None:
    with succession(tmp_path) as edge:
        edge.take_over()
        first, sockets = edge.descriptors(), edge.sockets_at_rest("edge-data")
        for _ in range(100 if LONG else 4):
            edge.take_over()
        assert edge.descriptors() == first
        assert edge.sockets_at_rest("edge-data") == sockets
        for _ in range(30 if LONG else 2):
            edge.kill_holder()
            edge.start()
            edge.wait_well()
        assert edge.descriptors() == first
        assert edge.sockets_at_rest("edge-data") == sockets


def test_other_options_after_a_take_over(tmp_path: Path) -> None:
    with succession(tmp_path) as edge:
        before = edge.wait_well()
        with traffic(edge) as seen:
            edge.take_over(log_format="json", workers=1)
            wait_for("both are replaced", lambda: both_replaced(edge, before), 20)
        nothing_failed(seen, tunnel_may_end=True)
        assert edge.holder()["workers"] == "2"
        assert "--workers 1: the running instance keeps its 2 until a stop" in edge.lines()
        assert "other options than before: --log-format\n" in edge.lines()
        edge.ask("nobody.example")
        log = edge.folder / "access.log"
        wait_for("a line in JSON", lambda: any(line[0] == "{" for line in log.read_text().splitlines()))


def test_other_listeners_after_a_take_over(tmp_path: Path) -> None:
    """What is served before and after is served all the time, though its slot is another one."""
    with succession(tmp_path) as edge:
        kept, more, other = edge.port, processes.free_port(), processes.free_port()
        before = edge.wait_well()
        with traffic(edge) as seen:
            edge.take_over(http=[f"127.0.0.1:{more}", f"127.0.0.1:{kept}"])
            both = f"127.0.0.1:{more},127.0.0.1:{kept}"
            wait_for("both are served", lambda: edge.well().get("listeners") == both, 20)
            assert ask("127.0.0.1", more, HOST, "/echo").status == 200
        nothing_failed(seen)
        assert edge.holder()["data_pid"] == before["data_pid"]
        edge.take_over(http=[f"127.0.0.1:{other}"])
        wait_for("the other one", lambda: edge.well().get("listeners") == f"127.0.0.1:{other}", 20)
        assert ask("127.0.0.1", other, HOST, "/echo").status == 200
        for port in (kept, more):
            wait_for("refused", lambda: refused(port), 5)  # noqa: B023
        with socket.create_server(("127.0.0.1", kept)):  # somebody else's now: it stays as it is
            old = edge.process
            edge.options["http"] = [f"127.0.0.1:{kept}", f"127.0.0.1:{other}"]
            edge.start()
            assert old.wait(20) == 0
            wait_for("it is said", lambda: "does not take the other options" in edge.lines(), 20)
            wait_for("as before", lambda: edge.well().get("listeners") == f"127.0.0.1:{other}", 20)
        assert ask("127.0.0.1", other, HOST, "/echo").status == 200


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def both_replaced(edge: Succession, before: dict[str, str]) -> bool:
    status = edge.well()
    return bool(status) and all(status[name] != before[name] for name in CHILDREN)
