"""XDP filtering is never off: a denied source sends all the time, through every death and every upgrade.

Not one packet of it may reach the node's stack, each one must be counted as denied, counters add up and
never go back. Real processes in namespaces; after a reboot, where pins are gone too, the sockets must not
be open before packets are judged. EDGE_LONG repeats every step.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bpf.witness import Witness, wait_quiet
from tests.e2e.lab import ADDRESS, wait_for
from tests.e2e.objects import policy, write
from tests.e2e.survival import actions
from tests.e2e.survival.stage import Stage
from tests.e2e.survival.traffic import CLIENT_ROLE, DENIED, DENIED_ROLE, HOST, PORT

pytestmark = [pytest.mark.root, pytest.mark.slow]

LONG = bool(os.environ.get("EDGE_LONG"))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path, "auto") as stage:
        yield stage


class Counters:
    """XDP's counters as /xdp shows them, compared with the time before at each look."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.last: dict[str, int] = {}

    def look(self) -> dict[str, int]:
        shown = wait_for("/xdp", lambda: self._stage.edge.admin_json("/xdp").get("counters"), 30)
        page = {name: pair["packets"] for name, pair in shown.items()}
        for name, value in self.last.items():
            assert page.get(name, 0) >= value, f"{name} went back from {value} to {page.get(name)}"
        self.last = page
        return page

    def at_rest(self) -> dict[str, int]:
        """A page on which packets add up; other traffic of the node goes on, so some pages are in between."""

        def adds_up() -> dict[str, int] | None:
            page = self.look()
            ends = sum(value for name, value in page.items() if name != "offered")
            return page if page["offered"] == ends else None

        found: dict[str, int] = wait_for("offered = passed + dropped + transmitted", adds_up, 5)
        return found


def another_object(stage: Stage, *maps: str) -> None:
    """Put a packet program with other maps where the next controller finds it."""
    (path,) = stage.edge.state.glob("xdp_edge-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    for name in maps:
        found["maps"][name]["entries"] += 1
    path.write_text(json.dumps(found))


def committed_over(stage: Stage, maps: str) -> bool:
    """Tell whether this controller runs over such maps, and has published."""
    edge = stage.edge
    return edge.admin_json("/xdp").get("maps") == maps and bool(edge.admin_json("/snapshot").get("routes"))


def upgraded(*maps: str) -> Callable[[Stage, int], None]:
    def run(stage: Stage, number: int) -> None:
        another_object(stage, *maps)
        actions.kill_controller(stage, number)
        wait_for("it has moved", lambda: committed_over(stage, "new" if maps else "reopened"), 30)
        wait_for("one place", lambda: len(list(stage.edge.pins.glob("maps/*"))) == 1, 30)

    return run


def all_killed(stage: Stage, _number: int) -> None:
    """Kill every process at once, the holder first, and start again over what the kernel keeps."""
    edge = stage.edge
    for pid, _name in sorted(edge.processes().items(), key=lambda found: found[1] != "edge-holder"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for("all are gone", lambda: not edge.processes(), 10)
    edge.process.wait(10)
    edge.start()
    edge.wait_well()


STEPS: dict[str, Callable[[Stage, int], object]] = {
    "holder killed": actions.kill_holder,
    "taken over": actions.take_over,
    "controller killed": actions.kill_controller,
    "data plane killed": actions.kill_data_plane,
    "same shape": upgraded(),
    "other VIPs": upgraded("edge_vips"),
    "other counters": upgraded("edge_counts", "edge_buckets"),
    "edge upgrade": actions.upgrade_all,
    "all killed": all_killed,
    "stop and start": actions.stop_and_start,
}


def test_a_denied_source_never_gets_through(stage: Stage) -> None:
    counters = Counters(stage)
    denied_before = counters.at_rest()["drop_denied"]
    with Witness(stage.lab, DENIED_ROLE, DENIED, ADDRESS, PORT) as witness:
        for number in range(4 if LONG else 1):
            for name, step in STEPS.items():
                step(stage, number)
                counters.look()
                seen = witness.seen
                assert seen.passed == 0, f"{name}: {seen.passed} of {seen.sent} packets came through"
        with witness.resting():
            seen = wait_quiet(witness)
            page = counters.at_rest()
        assert seen.sent > 500
        assert page["drop_denied"] - denied_before == seen.sent, (page, seen)


def test_after_a_reboot_no_socket_is_open_before_packets_are_judged(stage: Stage) -> None:
    """Pins are gone, so its packets reach the node again; nobody may ever answer them.

    Nor may the page of the heartbeat, which nobody has stamped yet, be taken for a dead man's.
    """
    edge = stage.edge
    dead_man = {"seconds": 2, "action": "pass"}
    write(stage.config, "policy.yaml", policy(deny=[f"{DENIED}/32"], deadMan=dead_man))
    wait_for("the policy", lambda: edge.admin_json("/xdp").get("dead_man", {}).get("seconds") == 2)
    with Witness(stage.lab, DENIED_ROLE, DENIED, ADDRESS, PORT, 0.0002) as witness:
        for number in range(8 if LONG else 1):
            assert edge.stop() == 0
            assert edge.run_command("detach").returncode == 0
            before = witness.seen.passed
            wait_for("its packets come through again", lambda n=before: witness.seen.passed > n)  # type: ignore[misc]
            edge.start()
            edge.wait_well()
            seen = witness.seen
            with stage.lab.inside(CLIENT_ROLE):
                assert edge.served(HOST) == 200
            assert seen.accepted == 0, f"start {number}: {seen.accepted} connections were accepted"
            with witness.resting():
                wait_quiet(witness)
            passed = witness.seen.passed
            wait_for("it goes on", lambda n=seen.sent: witness.seen.sent > n + 50)  # type: ignore[misc]
            assert witness.seen.passed == passed
