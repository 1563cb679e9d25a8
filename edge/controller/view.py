"""What the controller lets others see: one object that the admin API reads.

Written by the controller's loop and publisher, read by edge/admin in the same thread. Holds no secret.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge.controller.keeper import Keeper
from edge.controller.validity import Validity
from edge.dataplane.link import DataPlaneState
from edge.dataplane.stats import Statistics
from edge.model.diagnostics import Diagnostic
from edge.model.judge import Judge
from edge.model.upstreams import Upstreams
from edge.snapshot.types import Snapshot

PUBLISHES = ("full", "patch", "refused", "failed")  # refused: one object is left out; failed: all of it


ADMISSION_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, float("inf"))


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


class XdpView(Protocol):
    """The part of edge/xdp's plane that is read."""

    def describe(self) -> Mapping[str, Any]:
        """Shape: where it is attached, and how; counters; what it makes of the heartbeat."""


class ReporterView(Protocol):
    """The part of edge/controller/reporter.py that is read."""

    def describe(self) -> Mapping[str, Any]:
        """Shape: who leads, what was written, what waits."""

    def acting(self) -> bool:
        """Say whether this instance may write what only the leader writes."""


@dataclass(slots=True)
class Admission:
    """What the webhook has done. ``errors``: by status; ``seconds``: calls that took up to each bound.

    ``certificate_ends``: of what it serves with; seconds since 1970, 0 where it serves nothing.
    """

    reviews: Counter[tuple[str, str]] = field(default_factory=Counter)  # kind, verdict
    errors: Counter[int] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)
    seconds_sum: float = 0.0
    certificate_ends: float = 0.0

    def took(self, seconds: float) -> None:
        """Count an answer by its time."""
        self.seconds[next(bound for bound in ADMISSION_BOUNDS if seconds <= bound)] += 1
        self.seconds_sum += seconds


@dataclass(slots=True)
class View:
    """Shape: ``snapshot`` is the last committed one of this controller, None until its first publish."""

    state: DataPlaneState
    statistics: Statistics
    keeper: Keeper
    listeners_wanted: int = 0
    snapshot: Snapshot | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    publish_error: str = ""
    publishes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PUBLISHES, 0))
    plane: XdpView | None = None
    xdp_reason: str = ""
    image: Callable[[], bytes | None] | None = None  # of the running version, made when it is asked for
    upstreams: Upstreams | None = None  # what the model knows of every endpoint
    serves: Callable[[str, str], bool | None] | None = None  # of an Ingress: anything; None: not ours
    reporter: ReporterView | None = None  # with --kubernetes
    judge: Judge | None = None  # since the objects that are there were read
    model_rests: asyncio.Event = field(default_factory=_set_event)  # not set while a thread makes a model
    admission: Admission = field(default_factory=Admission)
    _validity: Validity = field(default_factory=Validity)
    _lost_since: float | None = None
    _lost_from: float = 0.0  # the same by the clock that never jumps

    @property
    def lost_since(self) -> float | None:
        """Since when the source is lost, None: it is there. Units: seconds since 1970."""
        return self._lost_since

    @lost_since.setter
    def lost_since(self, since: float | None) -> None:
        if since != self._lost_since and since is not None:
            self._lost_from = time.monotonic() - max(0.0, time.time() - since)
        self._lost_since = since

    @property
    def lost_s(self) -> float:
        """How long the source has been lost; 0 where it is not."""
        return 0.0 if self.lost_since is None else time.monotonic() - self._lost_from

    @property
    def findings(self) -> tuple[Diagnostic, ...]:
        """Shape: what is wrong with objects, with the state folder, and by the clock of now."""
        certificates = self.snapshot.certificates if self.snapshot else ()
        dates = self._validity.findings(certificates, time.time())
        return tuple(sorted((*self.diagnostics, *self.keeper.findings, *dates)))

    @property
    def xdp_on(self) -> bool:
        """Say whether XDP is attached."""
        return self.plane is not None

    def xdp_describe(self) -> dict[str, Any]:
        """Shape: what the plane says about itself."""
        return dict(self.plane.describe()) if self.plane else {}
