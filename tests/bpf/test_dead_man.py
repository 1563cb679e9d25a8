"""Dead-man: when nobody serves, packets to VIPs pass or drop as the policy says; until then nothing changes.

Real processes in namespaces, stopped and killed; a source that never rests shows what packets meet. Stopped
alone, controller, holder and data plane change nothing: each of the last two stamps the heartbeat.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.xdp import counts
from tests.bpf.witness import Witness
from tests.e2e.lab import ADDRESS, wait_for
from tests.e2e.objects import policy, write
from tests.e2e.survival.stage import Stage
from tests.e2e.survival.traffic import DENIED, DENIED_ROLE, PORT

pytestmark = [pytest.mark.root, pytest.mark.slow]

SECONDS = 2
LEAST = 30  # packets; by so many one can tell
ALLOWED = "198.18.2.2"


@contextlib.contextmanager
def stage_with(tmp_path: Path, action: str) -> Iterator[Stage]:
    with Stage(tmp_path, "auto") as stage:
        write(
            stage.config,
            "policy.yaml",
            policy(deny=[f"{DENIED}/32"], deadMan={"seconds": SECONDS, "action": action}),
        )
        wait_for("the policy is published", lambda: dead_man(stage).get("seconds") == SECONDS)
        yield stage


def dead_man(stage: Stage) -> dict[str, object]:
    shown: dict[str, object] = stage.edge.admin_json("/xdp").get("dead_man", {})
    return shown


def passes(witness: Witness) -> bool:
    """Tell whether packets sent from now on come through; all of them or none."""
    before = witness.seen
    wait_for("it goes on", lambda: witness.seen.sent > before.sent + LEAST)
    return witness.seen.passed > before.passed


@contextlib.contextmanager
def stopped(stage: Stage, *names: str) -> Iterator[None]:
    pids = [stage.edge.pid(name) for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def counted(stage: Stage) -> dict[str, int]:
    """What the kernel holds, whoever lives."""
    (place,) = stage.edge.pins.glob("maps/*")
    counter = counts.open_counter(place)
    assert counter is not None
    try:
        return {name: pair[0] for name, pair in counts.named(counts.total([counter])).items()}
    finally:
        counter.close()


def test_one_of_them_alive_is_enough_and_none_passes_all(tmp_path: Path) -> None:
    with (
        stage_with(tmp_path, "pass") as stage,
        Witness(stage.lab, DENIED_ROLE, DENIED, ADDRESS, PORT) as witness,
    ):
        stage.edge.wait_well()
        for pair in (("edge-controller", "edge-holder"), ("edge-controller", "edge-data")):
            with stopped(stage, *pair):
                end = time.monotonic() + SECONDS + 0.3
                wait_for("the time is over", lambda end=end: time.monotonic() > end)  # type: ignore[misc]
                assert not passes(witness), f"without {' and '.join(pair)} filtering was off"
        assert witness.seen.passed == 0
        assert dead_man(stage)["stale"] is False
        with stopped(stage, "edge-holder", "edge-data"):
            began = time.monotonic()
            wait_for("packets pass", lambda: witness.seen.passed, SECONDS + 3)
            assert time.monotonic() - began > SECONDS - 0.7  # the holder stamps every half second
            shown = dead_man(stage)
            assert shown["stale"] is True
            assert min(shown["ages"].values()) >= SECONDS  # type: ignore[attr-defined]
            assert passes(witness)
            assert stage.edge.metrics()['edge_xdp_packets_total{reason="pass_stale"}'] >= LEAST
        wait_for("it is over", lambda: not passes(witness), 5)
        assert dead_man(stage)["stale"] is False


def test_an_orphan_is_enough_and_all_dead_drops_and_a_start_recovers(tmp_path: Path) -> None:
    with (
        stage_with(tmp_path, "drop") as stage,
        Witness(stage.lab, DENIED_ROLE, ALLOWED, ADDRESS, PORT) as witness,
    ):
        edge = stage.edge
        edge.wait_well()
        assert passes(witness)
        data = edge.pid("edge-data")
        controller = edge.pid("edge-controller")
        for pid in (edge.process.pid, controller):
            os.kill(pid, signal.SIGKILL)
        edge.process.wait(10)
        end = time.monotonic() + SECONDS + 0.3
        wait_for("the time is over", lambda: time.monotonic() > end)
        assert passes(witness), "an orphaned data plane is no sign of life"
        os.kill(data, signal.SIGKILL)
        before = counted(stage)
        wait_for("packets are dropped", lambda: not passes(witness), SECONDS + 3)
        after = counted(stage)
        assert after["drop_stale"] > before["drop_stale"]
        edge.start()
        edge.wait_well()
        wait_for("it serves again", lambda: passes(witness), 5)
