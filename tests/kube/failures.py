"""The table of failures: what clients and operators saw of each, a line each, shown at the end of a session.

Stories in test_failures*.py take the fixture `failure`: `with failure("API server killed") as row:` asks all
nodes at a steady rate meanwhile, requires that no request fails (unless the story says which may), and that
a change made afterwards is served everywhere: so that nothing that was broken stays so.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from tests.e2e.lab import wait_for
from tests.fakes.client import Closed
from tests.kube.installed import NAMESPACE, SELECTOR, Installed
from tests.kube.kubernetes import AnyNode, Kubernetes
from tests.kube.steady import Steady
from tests.kube.workload import ingress

HERE = "story-failures"
HOST = "steady.test"
ASKED_MIN = 20  # fewer say nothing; a story that is over sooner goes on being asked
ASKED_S = 30.0
TROUBLE = re.compile(
    r"edge_(restarts|watchdog_kills|state_write_errors|handovers)_total"
    r"|edge_publishes_total\{kind=\"(refused|failed)\"\}|edge_leader_changes_total"
)


@dataclass
class Row:
    """One failure: what clients saw, and what operators did."""

    what: str
    clients: str = ""
    operators: list[str] = field(default_factory=list)
    recovered: float = 0.0
    unreachable: set[str] = field(default_factory=set)
    """Nodes whose clients may see failures: they were cut off."""
    may_fail: int = 0
    """Requests through the other nodes that may: in flight to a Pod on a node that went without a word."""

    def __str__(self) -> str:
        return f"{self.what} | {self.clients} | {'; '.join(self.operators)} | {self.recovered:.1f} s"


class Failures:
    """Makes rows, keeps them for the end of the session."""

    rows: ClassVar[list[Row]] = []

    def __init__(self, kube: Kubernetes, edge: Installed) -> None:
        self.kube = kube
        self.edge = edge
        self.changes = 0

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[Row]:
        """Break something under a steady load; judge and note what was seen."""
        row = Row(what)
        before = {node.name: self.troubles(node) for node in self.kube.nodes}
        with Steady(self.kube, HOST) as steady:
            yield row
            row.recovered = self.takes_changes()
            well = [seen for name, seen in steady.by_node.items() if name not in row.unreachable]
            wait_for("clients ask", lambda: sum(seen.asked for seen in well) >= ASKED_MIN, ASKED_S)
        good = steady.seen(without=row.unreachable)
        row.clients = f"{good}; longest gap {good.gap:.2f} s"
        if row.unreachable:
            row.clients += f"; through the node itself {steady.seen(*row.unreachable)}"
        for node in self.kube.nodes:
            row.operators += self.moved(before[node.name], node)
        Failures.rows.append(row)
        assert good.failed <= row.may_fail, row

    def takes_changes(self) -> float:
        """Change something and wait until every node serves it; return the seconds."""
        started = time.monotonic()
        self.changes += 1
        host = f"after-{self.changes}.test"
        change = ingress("after", host, "web", HERE)
        self.kube.wait("the API server takes a change", lambda: self.kube.api.apply([change]))
        self.edge.everywhere(host, seconds=90)
        return time.monotonic() - started

    # ---- What operators look at --------------------------------------------------------------

    def findings(self, node: AnyNode) -> list[tuple[str, str]]:
        """Return reason and whole line of what a node's instance says is wrong."""
        found = self.edge.admin_json(node, "/diagnostics")["diagnostics"]
        return [(one["reason"], f"{one['object']}: {one['reason']}: {one['message']}") for one in found]

    def says(self, row: Row, *reasons: str, node: AnyNode | None = None, seconds: float = 60.0) -> None:
        """Wait until a node's instance says one of these reasons; note its line."""
        at = node or self.kube.nodes[0]

        def line() -> str:
            return next((text for reason, text in self.findings(at) if reason in reasons), "")

        row.operators.append(
            f"/diagnostics: {self.kube.wait(f'{at.name} says {reasons}', line, seconds)[:160]}"
        )

    def is_well(self, seconds: float = 90.0) -> None:
        """Wait until no instance says anything of the API server, and the cluster is well, too."""
        for node in self.kube.nodes:

            def about_api(node: AnyNode = node) -> list[str]:
                return [text for _, text in self.findings(node) if text.startswith("ApiServer")]

            try:
                self.kube.wait("no finding", lambda ask=about_api: not ask(), seconds)
            except AssertionError:
                raise AssertionError(f"{node.name}, after {seconds:g} s: {about_api()}") from None
        self.kube.settles(HERE)

    def troubles(self, node: AnyNode) -> Mapping[str, float]:
        """Return the counters that speak of trouble."""
        try:
            found = self.edge.metrics(node)
        except (OSError, Closed):
            return {}
        return {name: value for name, value in found.items() if TROUBLE.match(name)}

    def moved(self, before: Mapping[str, float], node: AnyNode) -> list[str]:
        """Return the counters that moved."""
        after = self.troubles(node) if before else {}
        return [
            f"{name} +{value - before[name]:g} on {node.name}"
            for name, value in after.items()
            if value > before.get(name, value)
        ]

    def pod_on(self, node: AnyNode) -> str:
        """Return the name of the Pod of a node."""
        pods = self.kube.api.list("v1", "Pod", NAMESPACE, SELECTOR)
        (name,) = [p["metadata"]["name"] for p in pods if p["spec"]["nodeName"] == node.name]
        return str(name)
