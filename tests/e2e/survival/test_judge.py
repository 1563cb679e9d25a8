"""How the survival program judges: what was inside a killed data plane, and what makes a line wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.survival.actions import ACTIONS, Death, Moved, Outage
from tests.e2e.survival.chaos import judge, judge_pace
from tests.e2e.survival.table import Line, render
from tests.e2e.survival.traffic import Event, Seen

GRACE_S = 2.0
CUT = Event("kept", "reset-before", 0, 4000, 1, at=10.02, opened=5, sent=10, answers=3, bytes=0)
TUNNEL = Event("tunnel", "closed-within", 0, 4001, 1, at=12.1, opened=5, sent=12, answers=1, bytes=0)
FROZEN = Death(listed=10, died=10.01, ports=frozenset({4000, 4001}), frozen=True)
NOTHING_THROUGH = {"attempts": 100, "accepted": 0, "refused": 0, "failed": 0}


def seen(*events: Event, **changes: object) -> Seen:
    counts = {"kept": 18_000, "fresh": 5_000}
    whole = Seen(0, 10, counts, counts, 0, 0, 0, 0, 0, 1, 0, [], [*events], denied=NOTHING_THROUGH, passed=[])
    return replace(whole, **changes)


def judged(name: str, what: Seen, *notes: object) -> Line:
    line = Line(name)
    judge(line, ACTIONS[name], what, notes, GRACE_S)
    judge_pace(line, ACTIONS[name], what, notes)
    return line


@pytest.mark.parametrize("name", ACTIONS)
def test_nothing_seen_is_a_good_line(name: str) -> None:
    assert not judged(name, seen()).wrong


@pytest.mark.parametrize("name", sorted(set(ACTIONS) - {"kill-data", "power-cut"}))
def test_a_failure_outside_is_wrong(name: str) -> None:
    line = judged(name, seen(CUT))
    assert line.outside == 1 and line.inside == 0
    assert "port 4000" in line.wrong[0]
    assert "WRONG" in render([line]) and "1 not as required" in render([line])


def test_what_the_killed_process_had_accepted_was_inside() -> None:
    line = judged("kill-data", seen(CUT), FROZEN)
    assert (line.inside, line.outside, line.resets) == (1, 0, 1) and not line.wrong


@pytest.mark.parametrize(
    "event",
    [
        replace(CUT, port=4002),  # never accepted by it
        replace(CUT, at=9.9),  # failed while it lived
        replace(CUT, opened=10.015),  # the same port, opened after its end
    ],
)
def test_what_it_had_not_accepted_was_outside(event: Event) -> None:
    assert judged("kill-data", seen(event), FROZEN).outside == 1


def test_what_a_running_process_accepted_after_the_list_was_inside() -> None:
    event = replace(CUT, port=4002, opened=10.005)
    assert judged("kill-data", seen(event), replace(FROZEN, frozen=False)).inside == 1
    assert judged("kill-data", seen(replace(event, opened=9.0)), replace(FROZEN, frozen=False)).outside == 1


def test_a_tunnel_ends_with_the_grace_period_and_not_before() -> None:
    good = judged("upgrade-data", seen(TUNNEL), Moved(10.0))
    assert good.tunnel == "ended 1" and not good.wrong
    early = judged("upgrade-data", seen(TUNNEL), Moved(10.5))
    assert "before the grace period" in early.wrong[0]
    assert judged("take-over", seen(TUNNEL)).outside == 1
    assert judged("upgrade-data", seen(replace(TUNNEL, what="reset-within")), Moved(10.0)).outside == 1


def test_resets_of_idle_connections_are_wrong_where_nothing_was_killed() -> None:
    idle = replace(CUT, what="idle-reset", in_flight=0)
    assert judged("take-over", seen(idle)).wrong and judged("stop", seen(idle)).wrong
    assert not judged("kill-data", seen(idle), FROZEN).wrong


def test_refusals_are_wrong_unless_it_stops() -> None:
    assert judged("upgrade-all", seen(refused=1)).wrong
    assert not judged("stop", seen(refused=1)).wrong


def test_recovery_has_a_limit_unless_it_stops() -> None:
    late = seen(gaps=[(1.0, 1.1, 0.0), (2.0, 2.6, 0.0)])
    assert "600 ms" in judged("kill-data", late).wrong[0]
    assert not judged("reboot", late).wrong


def test_a_denied_packet_is_wrong_unless_nothing_was_there() -> None:
    assert judged("stop", seen(passed=[5.0])).wrong
    assert judged("reboot", seen(passed=[5.0]), Outage(6, 7)).denied == 1
    assert not judged("reboot", seen(passed=[6.5]), Outage(6, 7)).wrong
    assert judged("reboot", seen(denied={**NOTHING_THROUGH, "accepted": 1}), Outage(6, 7)).wrong
    assert judged("take-over", seen(denied={**NOTHING_THROUGH, "attempts": 0})).wrong


def test_too_little_traffic_shows_nothing() -> None:
    assert judged("take-over", seen(asked={"kept": 1_000})).wrong
