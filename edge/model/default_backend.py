"""The Service of --default-backend: what takes a request that no Ingress takes.

Called by build.py once. It stands where an Ingress with a defaultBackend and no rules would, behind all of
those, and loses to them without a word.
"""

from __future__ import annotations

from edge.model.annotations import Wishes
from edge.model.diagnostics import ObjectRef
from edge.model.ingress import OPTION, RouteWish
from edge.model.precedence import DEFAULT
from edge.model.types import PathType, Route, RouteKey, Upstream, UpstreamKey
from edge.options import parse_service

_NAME = "default-backend"
_LAST = (float("inf"), "\U0010ffff", "")  # behind every name


def default_wish(text: str, usual: Wishes) -> RouteWish:
    """Read NAMESPACE/NAME:PORT. ``usual``: limits of what says nothing. Errors: OptionError."""
    namespace, service, port = parse_service(text, f"--{_NAME}")
    upstream = Upstream(UpstreamKey(namespace, service, port))
    route = Route(
        key=RouteKey(OPTION, namespace, _NAME, "", DEFAULT, "/"),
        host="",
        path="/",
        path_type=PathType.PREFIX,
        references=((upstream.key, 1),),
        body_bytes_max=usual.body_bytes_max,
        path_written="/",
        service=f"{service}:{port}",
    )
    ref = ObjectRef(OPTION, namespace, _NAME)
    where = f"--{_NAME}"
    return RouteWish(route, _LAST, ref, where, where, upstream, redirect=False, forced=False)
