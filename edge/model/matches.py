"""What decides beside host and path: method, headers, query parameters, times, and their precedence.

Part of a Route (types.py). Built for the Gateway API; an Ingress has none of it. What an expression
may be is `edge.native.check_pattern`'s to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FieldTarget(Enum):
    """Values are enum edge_field_target in edge.h."""

    HEADER = 1
    QUERY = 2
    METHOD = 3


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """One condition. ``name``: empty for a method; ``regex``: of the whole value, else equality."""

    target: FieldTarget
    value: str
    name: str = ""
    regex: bool = False


@dataclass(frozen=True, slots=True)
class Matches:
    """All must hold. Units: Unix seconds, 0 none; ``not_after`` is the last second.

    ``created``: of the object, the older one wins a tie. ``any_depth``: a wildcard host stands for
    one or more labels. ``fall_through``: what no path of this host matches goes on to less specific
    hosts. Both are the Gateway API's; an Ingress' wildcard is one label and its host decides alone.
    """

    fields: tuple[FieldMatch, ...] = ()
    not_before: int = 0
    not_after: int = 0
    created: int = 0
    any_depth: bool = False
    fall_through: bool = False


NO_MATCHES = Matches()


def effective(fields: tuple[FieldMatch, ...]) -> tuple[FieldMatch, ...]:
    """The conditions that count: of header or query names given twice only the first.

    Shape: header names in lower case.
    Source: Gateway API v1, HTTPHeaderMatch.name and HTTPQueryParamMatch.name.
    """
    kept: dict[tuple[FieldTarget, str], FieldMatch] = {}
    for field in fields:
        name = field.name.lower() if field.target is FieldTarget.HEADER else field.name
        kept.setdefault((field.target, name), FieldMatch(field.target, field.value, name, field.regex))
    return tuple(kept.values())


_PATH_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}


def gateway_precedence(hostname: str, path_type: str, path: str, fields: tuple[FieldMatch, ...]) -> int:
    """Shape: smaller wins. ``hostname``: the Route's own, before it met the listener's; "" any.

    Source: Gateway API v1, HTTPRouteSpec.hostnames and HTTPRouteRule.matches, in their order; ties
    are the image's to order (creation, name, rule). An expression stands between Exact and Prefix,
    the longer one first: that is left to us.
    """
    counted = effective(fields)

    def missing(target: FieldTarget) -> int:
        return 127 - min(127, sum(field.target is target for field in counted))

    number = 255 - (0 if hostname.startswith(("*", ".")) else len(hostname))
    number = number << 8 | 255 - len(hostname)
    number = number << 2 | _PATH_RANK[path_type]
    number = number << 13 | (0 if path_type == "Exact" else 8191 - min(8191, len(path)))
    number = number << 1 | all(field.target is not FieldTarget.METHOD for field in counted)
    number = number << 7 | missing(FieldTarget.HEADER)
    return number << 7 | missing(FieldTarget.QUERY)
