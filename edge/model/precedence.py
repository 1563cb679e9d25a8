"""Which route of a host wins: the order as a number, smaller first.

Called by build.py (order of the model) and edge/snapshot/compile.py (the number in the image). The
matcher in C walks a host's routes in this order and takes the first that matches.
"""

from __future__ import annotations

from edge.model.types import Route

# RouteKey.path_type of a route that stands for an Ingress' spec.defaultBackend.
DEFAULT = "Default"


def precedence(route: Route) -> int:
    """Shape: rank (Exact 0, Prefix 1, default 2) in the upper half, missing path length in the lower.

    Source: Ingress v1: the longest path first, Exact before Prefix of equal length. A path that is
    equal to the whole request path is never shorter than a prefix of it, so rank may come first.
    """
    rank = {"Exact": 0, "Prefix": 1, DEFAULT: 2}[route.key.path_type]
    return rank << 32 | (0xFFFF_FFFF - len(route.path))


def order(route: Route) -> tuple[object, ...]:
    """Shape: the sorting key of a model's routes: host, precedence, then path and identity."""
    return (route.host, precedence(route), route.path, route.key)
