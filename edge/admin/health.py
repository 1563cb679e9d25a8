"""What /healthz and /readyz answer.

Called by edge/admin/server.py. Readiness is a statement about the data plane: a controller's restart,
or an object that is wrong, does not unready a node that serves. Only a holder's first controller must have
published, to XDP too: a new Pod that cannot must not count as one that can.
"""

from __future__ import annotations

from edge.dataplane.link import DataPlaneState


def alive() -> tuple[int, str]:
    """Answer /healthz: whoever can answer is alive."""
    return 200, "ok\n"


def ready(state: DataPlaneState, listeners_wanted: int) -> tuple[int, str]:
    """Answer /readyz. Shape: status and one line that says why not."""
    if state.draining:
        return 503, "draining\n"
    if not state.up:
        return 503, "the data plane is not up\n"
    if not state.committed:
        return 503, "no version was published yet\n"
    if not state.settled:
        return 503, "no version was published yet since the take-over\n"
    if state.serving != state.committed and state.serving == 0:
        return 503, f"version {state.committed} is not served yet\n"
    if len(state.listeners) < listeners_wanted:
        return 503, f"{len(state.listeners)} of {listeners_wanted} listeners are open\n"
    return 200, f"serving version {state.serving}\n"
