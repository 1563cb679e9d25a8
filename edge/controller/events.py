"""Events of objects, for `kubectl describe`: Accepted, Refused, Conflict (events.k8s.io/v1).

Called by reporter.py for one object at a time, by the leader alone; each call writes one Event at most.
What is said again is one Event with a count (a series), and is said again at most every half hour, which
keeps it alive. Its name follows from what it says, so that the next leader does not say it a second time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge.controller.calls import MERGE_PATCH, Calls
from edge.controller.log import micro_moment
from edge.controller.status import cut, sentence
from edge.errors import ApiError
from edge.model.diagnostics import Diagnostic, Severity
from edge.resources.store import Key

EVENTS = "/apis/events.k8s.io/v1/namespaces/{}/events"
CONTROLLER = "xdp-edge.dev/ingress-controller"
CLUSTER_NAMESPACE = "default"  # where the API wants Events of objects without a namespace
NOTE_MAX = 1024
INSTANCE_MAX = 128
NAME_MAX = 253
EACH_MAX = 8  # Events about one object at one time
KEPT_MAX = 32  # Events about one object that are remembered
AGAIN_S = 1800.0  # an Event lives for an hour
MORE_S = 0.1  # more is to be said of the object: it queues up again
REPEAT_S = 60.0  # what comes and goes is counted so often at most


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about."""

    key: Key
    api_version: str
    uid: str
    resource_version: str
    edition: int  # another one after each change


@dataclass(frozen=True, slots=True)
class Notice:
    """What an Event says. ``normal``: nothing is wrong."""

    reason: str
    note: str
    normal: bool = False


def notices(found: Sequence[Diagnostic], accepted: str) -> tuple[Notice, ...]:
    """Shape: one for each error, or Accepted in the words of ``accepted`` with the warnings; "": not."""
    errors = [one for one in found if one.severity is Severity.ERROR]
    if errors:
        rest = len(errors) - EACH_MAX
        kept = errors if rest <= 0 else errors[: EACH_MAX - 1]
        result = [_refusal(one) for one in kept]
        if rest > 0:
            text = f"and {len(errors) - len(kept)} more; all are in /diagnostics of the admin API"
            result.append(Notice("Refused", text))
        return tuple(result)
    if not accepted:
        return ()
    text = f"{accepted}, but: {'; '.join(map(sentence, found))}" if found else accepted
    return (Notice("Accepted", cut(text, NOTE_MAX), not found),)


def _refusal(one: Diagnostic) -> Notice:
    return Notice("Conflict" if one.reason == "Conflict" else "Refused", cut(sentence(one), NOTE_MAX))


@dataclass(slots=True)
class _Series:
    name: str
    count: int
    at: float


@dataclass(slots=True)
class _Told:
    """What was said of one edition of an object. ``now``: what of it lasts, when all of it was said."""

    uid: str
    edition: int
    series: dict[Notice, _Series] = field(default_factory=dict)
    now: frozenset[Notice] = frozenset()


class EventRecorder:
    """``counts``: Events written, by reason."""

    def __init__(
        self,
        calls: Calls,
        instance: str,
        allowed: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._instance = cut(instance, INSTANCE_MAX)
        self._allowed = allowed
        self._clock = clock
        self._told: dict[Key, _Told] = {}
        self.counts: dict[str, int] = {"Accepted": 0, "Refused": 0, "Conflict": 0}

    def news(self, about: Regarding, said: Sequence[Notice]) -> bool:
        """Say whether this is another than what was to be said of the object last."""
        told = self._told.get(about.key)
        if told is None or (told.uid, told.edition) != (about.uid, about.edition):
            return bool(said)
        return any(one.normal for one in said) or frozenset(said) != told.now

    async def record(self, about: Regarding, said: Sequence[Notice]) -> float | None:
        """Write what is new of an object: one Event, what was never said first. Errors: ApiError.

        Shape: after how many seconds this is to be called again; None: never.
        """
        told = self._told.get(about.key)
        if told is None or (told.uid, told.edition) != (about.uid, about.edition):
            if not said:
                self._told.pop(about.key, None)
                return None
            told = self._told[about.key] = _Told(about.uid, about.edition)
        told.now &= frozenset(said)
        while len(told.series) > KEPT_MAX:
            del told.series[next(one for one in told.series if one not in said)]
        due = self._due(told, said)
        if due:
            notice, known = due[0], told.series.get(due[0])
            told.series[notice] = await (
                self._begin(about, notice) if known is None else self._again(about, notice, known)
            )
            if not notice.normal:
                told.now |= {notice}
            if len(due) > 1:
                return MORE_S
        told.now = frozenset(notice for notice in said if not notice.normal)
        if all(notice.normal for notice in told.series):
            del self._told[about.key]  # of ten thousand objects nothing is wrong with most
        return AGAIN_S if told.now else None

    def _due(self, told: _Told, said: Sequence[Notice]) -> list[Notice]:
        """Shape: what is to be written; what was never said comes first, then what was not for longest."""
        fresh = [notice for notice in said if notice not in told.series]
        old = [
            notice
            for notice in said
            if (known := told.series.get(notice)) is not None
            and self._clock() >= known.at + (AGAIN_S if notice in told.now else REPEAT_S)
        ]
        return fresh + sorted(old, key=lambda notice: told.series[notice].at)

    def forget(self, key: Key) -> None:
        """Drop what is known of an object that is gone."""
        self._told.pop(key, None)

    def clear(self) -> None:
        """Drop everything: another leads."""
        self._told.clear()

    async def _begin(self, about: Regarding, notice: Notice) -> _Series:
        kind, namespace, name = about.key
        where = namespace or CLUSTER_NAMESPACE
        words = repr((kind, about.uid, about.edition, notice.reason, notice.note))
        mark = hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:16]
        series = _Series(f"{name[: NAME_MAX - 17].rstrip('.-')}.{mark}", 1, self._clock())
        regarding: dict[str, Any] = {
            "apiVersion": about.api_version,
            "kind": kind,
            "name": name,
            "uid": about.uid,
            "resourceVersion": about.resource_version,
        }
        if namespace:
            regarding["namespace"] = namespace
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": series.name, "namespace": where},
            "eventTime": micro_moment(time.time()),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Serve",
            "reason": notice.reason,
            "type": "Normal" if notice.normal else "Warning",
            "note": notice.note,
            "regarding": regarding,
        }
        try:
            await self._calls.request(
                "POST", EVENTS.format(where), body=msgspec.json.encode(event), allowed=self._allowed
            )
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        else:
            self.counts[notice.reason] += 1
        return series

    async def _again(self, about: Regarding, notice: Notice, known: _Series) -> _Series:
        where = about.key[1] or CLUSTER_NAMESPACE
        series = _Series(known.name, known.count + 1, self._clock())
        written = {"series": {"count": series.count, "lastObservedTime": micro_moment(time.time())}}
        try:
            await self._calls.request(
                "PATCH",
                f"{EVENTS.format(where)}/{known.name}",
                body=msgspec.json.encode(written),
                content_type=MERGE_PATCH,
                allowed=self._allowed,
            )
        except ApiError as error:
            if error.status != 404:
                raise
            return await self._begin(about, notice)
        return series
