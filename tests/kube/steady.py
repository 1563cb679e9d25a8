"""A client at a steady rate through every node, for stories of failure: it counts what a client would notice.

    with Steady(kube, "web.test") as steady:     # 20 requests a second and node, each over a fresh connection
        ...break something...
    seen = steady.seen()                         # of all nodes; steady.seen("n2") of one
    seen.failed, seen.asked, seen.gap, seen.why

A request that gets no answer within 10 s, or any other status than 200, failed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from tests.fakes.client import Client, Closed
from tests.kube.kubernetes import AnyNode, Kubernetes

RATE = 20.0
PATIENCE_S = 10.0


@dataclass
class Seen:
    """What a client saw. `gap`: the longest time without a good answer, in seconds."""

    asked: int = 0
    failed: int = 0
    gap: float = 0.0
    why: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.why.most_common(3))
        return f"{self.failed} of {self.asked} failed" + (f" ({reasons})" if reasons else "")


class Steady:
    """One thread a node; a context manager. `wanted`: the status that is good."""

    def __init__(self, kube: Kubernetes, host: str, *, wanted: int = 200, rate: float = RATE) -> None:
        self.kube = kube
        self.host = host
        self.wanted = wanted
        self.rate = rate
        self.ended = threading.Event()
        self.by_node = {node.name: Seen() for node in kube.nodes}
        self.threads = [threading.Thread(target=self.ask, args=(node,)) for node in kube.nodes]

    def __enter__(self) -> Steady:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def seen(self, *names: str, without: Collection[str] = ()) -> Seen:
        """Return what was seen through these nodes, all by default."""
        chosen = [self.by_node[name] for name in names or self.by_node if name not in without]
        total = Seen(sum(s.asked for s in chosen), sum(s.failed for s in chosen), max(s.gap for s in chosen))
        for one in chosen:
            total.why += one.why
        return total

    def ask(self, node: AnyNode) -> None:
        """Ask one node until the end."""
        seen = self.by_node[node.name]
        begun = good = time.monotonic()
        with self.kube.on("client"):
            while not self.ended.is_set():
                reason = self.ask_once(node)
                moment = time.monotonic()
                seen.asked += 1
                seen.gap = max(seen.gap, moment - good)
                if reason:
                    seen.failed += 1
                    seen.why[reason] += 1
                else:
                    good = moment
                begun = max(begun + 1 / self.rate, moment - 1)
                self.ended.wait(max(0.0, begun - moment))

    def ask_once(self, node: AnyNode) -> str:
        """Ask once; return why that was no success, empty when it was one."""
        try:
            with Client(node.address, 80, timeout=PATIENCE_S) as client:
                status = client.ask(self.host).status
        except (OSError, Closed) as error:
            return type(error).__name__
        return "" if status == self.wanted else str(status)
