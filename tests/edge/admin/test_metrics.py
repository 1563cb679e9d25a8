"""The metrics page: one family once, labels escaped, counters of objects and not of slots."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge.admin.metrics import Page, render, sample
from edge.controller.keeper import Keeper
from edge.controller.state import StateDirectory
from edge.controller.view import View
from edge.dataplane.link import DataPlaneState
from edge.dataplane.stats import Statistics, ensure_formatted
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from tests.edge.dataplane.test_stats import LANES, Writer


class Plane:
    """What the page asks of XDP."""

    def describe(self) -> Mapping[str, Any]:
        counted = {"offered": (12, 900), "pass_vip": (10, 800), "drop_denied": (2, 100)}
        return {
            "interfaces": {"eth0": "native"},
            "without": {"eth1": "interface eth1 does not exist"},
            "counters": {name: {"packets": one, "bytes": two} for name, (one, two) in counted.items()},
            "dead_man": {
                "seconds": 5.0, "action": "drop", "ages": {"holder": 6.5, "data": 7.0}, "stale": True,
            },
        }  # fmt: skip


class Reporter:
    """What the page asks of who tells the API server about us."""

    def acting(self) -> bool:
        return True

    def describe(self) -> Mapping[str, Any]:
        return {
            "leading": True,
            "changes": 3,
            "status": {"written": 5, "conflict": 1, "failed": 2},
            "waiting": {"status": 7, "events": 0},
            "events": {"Accepted": 9},
        }


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    memory = os.memfd_create("stats")
    keeper = Keeper(StateDirectory(tmp_path), False, lambda *_: None)
    ensure_formatted(memory, LANES)
    writer = Writer(memory)
    lane = writer.lane(1)
    lane.requests, lane.in_flight = 9, 2
    lane.outcomes[0], lane.outcomes[1] = 4, 3
    lane.latency[0], lane.latency[5] = 3, 4
    yield View(
        DataPlaneState(up=True, committed=3, serving=3),
        Statistics(memory),
        keeper,
    )
    os.close(memory)


def samples(page: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, _, value in lines}
    assert len(found) == len(lines), "a sample stands there twice"
    return found


def test_label_values_are_escaped() -> None:
    assert sample("a", {"b": 'c"d\\e\nf'}, 1) == 'a{b="c\\"d\\\\e\\nf"} 1'
    assert sample("a", {}, 2) == "a 2"


def test_a_family_has_help_and_type_before_its_samples() -> None:
    page = Page()
    page.family("a_total", "counter", "Words.", [({}, 1)])
    assert page.text() == "# HELP a_total Words.\n# TYPE a_total counter\na_total 1\n"


def test_the_books_balance(view: View) -> None:
    found = samples(render(view))
    outcomes = [value for name, value in found.items() if name.startswith("edge_request_outcomes_total")]
    assert found["edge_requests_total"] == 9
    assert sum(outcomes) + found["edge_requests_in_flight"] == 9


def test_the_histogram_only_grows_and_ends_with_its_count(view: View) -> None:
    found = samples(render(view))
    name = "edge_request_duration_seconds"
    buckets = [value for key, value in found.items() if key.startswith(f"{name}_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found[f'{name}_bucket{{le="+Inf"}}'] == found[f"{name}_count"] == 7
    assert found[f'{name}_bucket{{le="2e-06"}}'] == 3


def test_every_family_is_declared_once_and_named_well(view: View) -> None:
    view.plane, view.reporter = Plane(), Reporter()
    view.diagnostics = (Diagnostic(ObjectRef("Ingress", "n", "a"), "f", "R", "m", Severity.WARNING),)
    page = render(view)
    types = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.M)
    assert len(types) == len({name for name, _ in types})
    declared = {name for name, _ in types}
    for key in samples(page):
        name = key.partition("{")[0]
        assert {name, re.sub(r"_(bucket|count|sum)$", "", name)} & declared, key
    for name, kind in types:
        assert name.startswith("edge_") and (kind != "counter" or name.endswith("_total")), name


def test_packets_by_reason(view: View) -> None:
    view.plane = Plane()
    found = samples(render(view))
    assert found['edge_xdp_packets_total{reason="drop_denied"}'] == 2
    assert found["edge_xdp_attached"] == found['edge_xdp_interface_attached{interface="eth0"}'] == 1
    assert found['edge_xdp_interface_attached{interface="eth1"}'] == 0
    assert found['edge_xdp_stale{action="drop"}'] == 1
    assert found['edge_xdp_heartbeat_age_seconds{process="holder"}'] == 6.5


def test_what_the_api_server_is_told(view: View) -> None:
    assert not [name for name in samples(render(view)) if name.startswith("edge_leader")]
    view.reporter = Reporter()
    found = samples(render(view))
    assert (found["edge_leader"], found["edge_leader_changes_total"]) == (1, 3)
    assert found['edge_status_writes_total{result="failed"}'] == 2
    assert found['edge_api_waiting{queue="status"}'] == 7
    assert found['edge_events_written_total{reason="Accepted"}'] == 9


def test_what_the_holder_counts_and_the_state(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    found = samples(render(view))
    assert "edge_state_age_seconds" not in found and found["edge_state_current"] == 0
    view.state.counts.update(data_restarts=3, handovers=1, adoptions=2, upgrades=4, watchdog_kills=5)
    view.keeper.written, view.keeper.version, view.keeper.errors = 1000, 7, 2
    view.lost_since = time.time() - 50
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400)  # a clock that jumps
    found = samples(render(view))
    assert found['edge_restarts_total{process="data"}'] == 3
    names = ("handovers", "adoptions", "upgrades", "watchdog_kills")
    assert [found[f"edge_{name}_total"] for name in names] == [1, 2, 4, 5]
    assert found["edge_state_version"] == 7 and found["edge_state_write_errors_total"] == 2
    assert 50 <= found["edge_source_lost_seconds"] < 100
    view.lost_since = None
    assert samples(render(view))["edge_source_lost_seconds"] == 0


def test_the_webhook_where_it_serves(view: View) -> None:
    assert "edge_admission" not in render(view)
    done = view.admission
    done.certificate_ends = 2e9
    done.reviews["Ingress", "refused"] += 2
    done.errors[401] += 1
    for seconds in (0.0001, 0.02, 30.0):
        done.took(seconds)
    found = samples(render(view))
    assert found['edge_admission_reviews_total{kind="Ingress",verdict="refused"}'] == 2
    assert found['edge_admission_errors_total{code="401"}'] == 1
    assert found['edge_admission_duration_seconds_bucket{le="0.001"}'] == 1
    assert found['edge_admission_duration_seconds_bucket{le="0.025"}'] == 2
    assert found['edge_admission_duration_seconds_bucket{le="+Inf"}'] == 3
    assert found["edge_admission_certificate_end_seconds"] == 2e9
