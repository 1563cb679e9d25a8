"""Puts packets into the program of a plane and says what became of them; checks conservation each time."""

from __future__ import annotations

from edge.model.diagnostics import ObjectRef
from edge.model.types import Policy
from edge.xdp import syscalls
from edge.xdp.plane import XdpPlane

V4, V6 = "198.18.0.1", "fd00:198::1"
VIPS = [(V4, 443, "tcp"), (V6, 443, "tcp"), (V4, 443, "udp"), (V6, 443, "udp")]


def policy(name: str = "p", **values: object) -> Policy:
    return Policy(object=ObjectRef("EdgePolicy", "", name), **values)  # type: ignore[arg-type]


class Probe:
    """Puts a packet in; says what became of it."""

    def __init__(self, plane: XdpPlane) -> None:
        self.plane = plane
        self._version = 0

    def publish(self, *policies: Policy, vips: list[tuple[str, int, str]] | None = None) -> None:
        self._version += 1
        self.plane.prepare(self._version, VIPS if vips is None else vips, policies)
        self.plane.commit()
        self.plane.retire()

    def run(self, packet: bytes, repeat: int = 1) -> dict[str, int]:
        """Shape: packets by reason, as this call alone changed them; "verdict" of the last."""
        before = self.plane.statistics()
        result = syscalls.test_run(self.plane._loaded.program, packet, repeat)
        after = self.plane.statistics()
        assert result.data == packet
        change = {name: after[name][0] - before[name][0] for name in after if after[name] != before[name]}
        size = {name: after[name][1] - before[name][1] for name in change}
        assert change.pop("offered") == sum(change.values()) == repeat
        assert size.pop("offered") == sum(size.values()) == repeat * len(packet)
        return change | {"verdict": result.verdict}

    def reason(self, packet: bytes) -> str:
        """The one reason; checks that the verdict is what the reason says."""
        change = self.run(packet)
        verdict = change.pop("verdict")
        (name,) = change
        assert verdict == (2 if name.startswith("pass") else 1)
        return name
