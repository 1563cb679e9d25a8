"""Events: what is said, how often, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from edge.controller.events import (
    AGAIN_S,
    EACH_MAX,
    KEPT_MAX,
    NAME_MAX,
    NOTE_MAX,
    REPEAT_S,
    EventRecorder,
    Notice,
    Regarding,
    notices,
)
from edge.errors import ApiError
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity

REF = ObjectRef("Ingress", "shop", "web")
BAD = Notice("Refused", "spec.rules[0].host: InvalidHost: 'x_y' is no host")
GOOD = Notice("Accepted", "served", normal=True)


class Server:
    """Takes Events as the API server does: a name once, PATCH of what is there."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.refuse: ApiError | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "",
        timeout: float = 0.0,
        allowed: Callable[[], bool] | None = None,
    ) -> bytes:
        self.asked.append(method)
        if self.refuse is not None:
            raise self.refuse
        data = json.loads(body or b"")
        if method == "POST":
            name = data["metadata"]["name"]
            if name in self.events:
                raise ApiError(409, "AlreadyExists", "it is there")
            self.events[name] = data
        else:
            name = path.rpartition("/")[2]
            if name not in self.events:
                raise ApiError(404, "NotFound", "its time was over")
            self.events[name] |= data
        return b"{}"


class Stage:
    def __init__(self) -> None:
        self.now = 0.0
        self.server = Server()
        self.recorder = self.another()

    def another(self) -> EventRecorder:
        return EventRecorder(self.server, "pod-1", lambda: True, lambda: self.now)  # type: ignore[arg-type]

    def record(self, *said: Notice, uid: str = "u", edition: int = 1, name: str = "web") -> float | None:
        about = Regarding(("Ingress", "shop", name), "networking.k8s.io/v1", uid, "7", edition)
        return asyncio.run(self.recorder.record(about, said))

    def counts(self) -> list[int]:
        return [one.get("series", {}).get("count", 1) for one in self.server.events.values()]


def error(number: int = 0, reason: str = "InvalidHost", text: str = "wrong") -> Diagnostic:
    return Diagnostic(REF, f"spec.rules[{number}]", reason, text)


def test_what_is_said() -> None:
    odd = Diagnostic(REF, "metadata", "UnsupportedAnnotation", "no effect", Severity.WARNING)
    assert notices((), "served") == (GOOD,)
    assert notices((), "") == ()
    assert notices((odd,), "served") == (
        Notice("Accepted", "served, but: metadata: UnsupportedAnnotation: no effect"),
    )
    assert notices((odd, error()), "served") == (Notice("Refused", "spec.rules[0]: InvalidHost: wrong"),)
    assert [one.reason for one in notices((error(reason="Conflict"),), "served")] == ["Conflict"]
    many = notices(tuple(error(number) for number in range(100)), "served")
    assert len(many) == EACH_MAX and many[-1].note.startswith("and 93 more")
    assert len(notices(tuple(error(number) for number in range(EACH_MAX)), "served")) == EACH_MAX
    assert len(notices((error(text="ü" * 5000),), "")[0].note.encode()) <= NOTE_MAX


def test_an_error_that_lasts_is_one_event_that_stays_alive() -> None:
    stage = Stage()
    assert stage.record(BAD) == AGAIN_S
    stage.now += AGAIN_S - 1
    stage.record(BAD)
    assert stage.server.asked == ["POST"]
    for _ in range(3):
        stage.now += AGAIN_S
        assert stage.record(BAD) == AGAIN_S
    assert stage.counts() == [4] and len(stage.server.events) == 1
    stage.server.events.clear()  # its hour was over
    stage.now += AGAIN_S
    stage.record(BAD)
    assert len(stage.server.events) == 1


def test_an_error_that_comes_and_goes_is_counted_at_most_once_a_minute() -> None:
    stage = Stage()
    for _ in range(100):
        stage.record(BAD)
        stage.record()
        stage.now += 1.0
    assert len(stage.server.events) == 1 and stage.counts() == [100 // int(REPEAT_S) + 1]


@pytest.mark.parametrize("turn_s", [0.1, 100.0, 2 * AGAIN_S])
def test_one_event_a_turn_and_all_in_the_end(turn_s: float) -> None:
    stage = Stage()
    said = notices(tuple(error(number) for number in range(100)), "")
    for number in range(EACH_MAX):
        again = stage.record(*said)
        assert len(stage.server.events) == len(stage.server.asked) == number + 1
        assert again is not None and (again < 1.0 or number == EACH_MAX - 1)
        stage.now += turn_s
    before = len(stage.server.asked)
    stage.record(*said)
    assert len(stage.server.asked) <= before + 1


def test_another_edition_is_another_event() -> None:
    stage = Stage()
    stage.record(BAD)
    stage.record(BAD, edition=2)
    stage.record(BAD, uid="v", edition=2)
    assert len(stage.server.events) == 3
    stage.record(uid="v", edition=3)
    assert stage.record(GOOD, uid="v", edition=3) is None
    assert stage.recorder.counts == {"Accepted": 1, "Refused": 3, "Conflict": 0}


def test_the_next_leader_repeats_nothing() -> None:
    stage = Stage()
    stage.record(BAD)
    stage.recorder = stage.another()
    assert stage.record(BAD) == AGAIN_S
    assert len(stage.server.events) == 1 and stage.recorder.counts["Refused"] == 0
    stage.now += AGAIN_S
    stage.record(BAD)
    assert stage.counts() == [2]


def test_what_was_not_written_is_not_known() -> None:
    stage = Stage()
    stage.server.refuse = ApiError(403, "Forbidden", "no")
    with pytest.raises(ApiError):
        stage.record(BAD)
    stage.server.refuse = None
    stage.record(BAD)
    assert len(stage.server.events) == 1


def test_news() -> None:
    stage = Stage()
    about = Regarding(("Ingress", "shop", "web"), "v", "u", "7", 1)
    news = stage.recorder.news
    assert news(about, (BAD,)) and news(about, (GOOD,)) and not news(about, ())
    stage.record(BAD)
    assert not news(about, (BAD,)) and news(about, ()) and news(about, (BAD, GOOD))
    stage.record()
    assert news(about, (BAD,)) and not news(about, ())


def test_nothing_grows_without_bound() -> None:
    stage = Stage()
    for number in range(10 * KEPT_MAX):
        stage.record(Notice("Refused", f"{number}"))
    assert stage.record(Notice("Refused", "0")) == AGAIN_S, "long forgotten, and said again"
    stage.record(Notice("Refused", "x"), name="a" * 253)
    assert all(len(name) <= NAME_MAX for name in stage.server.events)
    stage.recorder.forget(("Ingress", "shop", "web"))
    stage.recorder.clear()
