"""Which route of a host wins: the order as a number, smaller first.

Called by build.py (order of the model) and edge/snapshot/compile.py (the number in the image). The
matcher in C walks a host's routes in this order and takes the first that matches.
"""

from __future__ import annotations

from edge.model.types import Route

# RouteKey.path_type of a route that stands for an Ingress' spec.defaultBackend.
DEFAULT = "Default"
# And of one that is compared as text: ImplementationSpecific as ingress-nginx takes it (its `location /foo`).
STRING_PREFIX = "StringPrefix"


def precedence(route: Route) -> int:
    """Shape: rank (Exact 0, prefixes 1, default 2), then the missing path length, then element before text.

    Source: Ingress v1: the longest path first, Exact before Prefix of equal length. A path that is
    equal to the whole request path is never shorter than a prefix of it, so rank may come first.
    """
    word = route.key.path_type
    rank = {"Exact": 0, "Prefix": 1, STRING_PREFIX: 1, DEFAULT: 2}[word]
    return rank << 40 | (0xFFFF_FFFF - len(route.path)) << 1 | (word == STRING_PREFIX)


def order(route: Route) -> tuple[object, ...]:
    """Shape: the sorting key of a model's routes: host, precedence, then path and type."""
    return (route.host, precedence(route), route.path, route.key.path_type)
