"""Readiness speaks about the data plane."""

from edge.admin.health import alive, ready
from edge.dataplane.link import DataPlaneState, OpenListener


def state(**fields: object) -> DataPlaneState:
    values = {"up": True, "committed": 3, "serving": 3, **fields}
    return DataPlaneState(listeners={0: OpenListener(0, "127.0.0.1", 80)}, **values)  # type: ignore[arg-type]


def test_ready_when_a_version_is_served() -> None:
    assert ready(state(), 1) == (200, "serving version 3\n")
    assert alive()[0] == 200


def test_an_older_version_in_service_is_ready_too() -> None:
    assert ready(state(serving=2), 1)[0] == 200


def test_not_ready_says_why() -> None:
    assert "not up" in ready(state(up=False), 1)[1]
    assert "no version" in ready(state(committed=0), 1)[1]
    assert "not served yet" in ready(state(serving=0), 1)[1]
    assert "since the take-over" in ready(state(settled=False), 1)[1]
    assert "1 of 2" in ready(state(), 2)[1]
    assert "draining" in ready(state(draining=True), 1)[1]
