"""A slow matcher in plain Python, written from the specifications' text: what C is compared with.

Used by test_match.py on random tables, and by golden cases through `ingress_winner`. It knows no
precedence numbers, no hashes and no image: it filters all rules and sorts what is left.
Sources: Kubernetes Ingress v1 (concept page and API reference); Gateway API v1, HTTPRouteSpec.hostnames,
HTTPRouteRule.matches, HTTPHeaderMatch, HTTPQueryParamMatch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from edge.model.types import Route


@dataclass(frozen=True)
class Field:
    """A condition on a header, a query parameter, or the method (kind "method", no name)."""

    kind: str
    name: str
    value: str
    regex: bool = False


@dataclass(frozen=True)
class Rule:
    """One match of one rule. ``host`` as objects write it: "", "a.b", "*.b"; ``ident`` says which it is."""

    ident: int
    host: str
    path_type: str
    path: str
    fields: tuple[Field, ...] = ()
    not_before: int = 0
    not_after: int = 0
    created: int = 0
    owner: tuple[str, str] = ("", "")
    place: tuple[int, int] = (0, 0)
    listener: str = ""


@dataclass(frozen=True)
class Asked:
    """A request, as a client writes it. ``path`` has no query."""

    host: str
    path: str
    method: str = "GET"
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    now: int = 1


def host_name(host: str) -> str:
    """Without port and trailing dot, in lower case."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower().removesuffix(".")


def elements(path: str) -> list[str]:
    """What stands between slashes; one slash at the end of a prefix does not count."""
    parts = path.split("/")
    return parts[:-1] if parts[-1] == "" else parts


def path_matches(kind: str, pattern: str, path: str) -> bool:
    if not path.startswith("/"):
        return False
    if kind == "Exact":
        return path == pattern
    if kind == "RegularExpression":
        return re.fullmatch(pattern, path) is not None
    if kind == "StringPrefix":
        return path.startswith(pattern)
    wanted = elements(pattern)
    return path.split("/")[: len(wanted)] == wanted


def value_matches(field: Field, value: str) -> bool:
    return re.fullmatch(field.value, value) is not None if field.regex else field.value == value


def considered(fields: Iterable[Field]) -> list[Field]:
    """Of equivalent names only the first entry; header names compare without regard to case."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for field in fields:
        name = (field.kind, field.name.lower() if field.kind == "header" else field.name)
        if name not in seen:
            kept.append(field)
        seen.add(name)
    return kept


def field_holds(field: Field, asked: Asked) -> bool:
    if field.kind == "method":
        return asked.method == field.value
    if field.kind == "header":
        values = [value for name, value in asked.headers if name.lower() == field.name.lower()]
        return bool(values) and value_matches(field, ", ".join(values))
    values = [value for name, value in parse_qsl(asked.query, keep_blank_values=True) if name == field.name]
    return bool(values) and value_matches(field, values[0])


def holds(rule: Rule, asked: Asked) -> bool:
    if rule.not_before and asked.now < rule.not_before:
        return False
    if rule.not_after and asked.now > rule.not_after:
        return False
    return all(field_holds(field, asked) for field in considered(rule.fields))


# ---- Ingress ---------------------------------------------------------------------------------------


def ingress_host_matches(rule_host: str, name: str) -> bool:
    """A wildcard covers exactly one label."""
    if rule_host.startswith("*."):
        label, dot, rest = name.partition(".")
        return bool(label and dot) and rest == rule_host[2:]
    return rule_host == name


def ingress_order(rule: Rule) -> tuple[object, ...]:
    """The longest matching path first; of equal ones Exact, then by elements, then by text."""
    if rule.path_type == "Default":
        return (1,)
    kind = ("Exact", "Prefix", "StringPrefix").index(rule.path_type)
    matched = len(rule.path) if kind != 1 else max(1, len("/".join(elements(rule.path))))
    return (0, -matched, kind, rule.created, rule.owner, rule.place)


def decide_ingress(rules: Sequence[Rule], asked: Asked) -> Rule | None:
    """Exact hosts before wildcards before none; the host that is found decides alone.

    What none of its paths takes goes to the default backend: the "/" prefix for no host.
    """
    name = host_name(asked.host)
    for wildcard, some in ((False, True), (True, True), (False, False)):
        own = [
            rule
            for rule in rules
            if rule.host.startswith("*.") == wildcard
            and bool(rule.host) == some
            and (not some or ingress_host_matches(rule.host, name))
        ]
        if own:
            break
    else:
        return None
    last = [rule for rule in rules if not rule.host and rule.path_type != "Exact" and rule.path == "/"]
    for group in (own, [rule for rule in last if rule.path_type != "StringPrefix"]):
        taken = [rule for rule in group if path_matches(rule.path_type, rule.path, asked.path)]
        if taken:
            return min(taken, key=ingress_order)
    return None


def ingress_winner(routes: Iterable[Route], host: str, path: str) -> Route | None:
    """Which of a model's routes takes a request. ``path`` without its query."""
    given = list(routes)
    rules = [
        Rule(
            ident=i,
            host="*" + route.host if route.host.startswith(".") else route.host,
            path_type=route.key.path_type,
            path=route.path,
            owner=(route.key.namespace, route.key.name),
            place=(route.rule_index, route.path_index),
        )
        for i, route in enumerate(given)
    ]
    found = decide_ingress(rules, Asked(host, path))
    return given[found.ident] if found else None


# ---- Gateway API -----------------------------------------------------------------------------------


def gateway_host_matches(pattern: str, name: str) -> bool:
    """A wildcard is a suffix match of one or more labels."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and not name.startswith(".")
    return not pattern or pattern == name


def gateway_order(rule: Rule) -> tuple[object, ...]:
    """In the order of the specification's two lists; then age, name, and place in the object.

    An expression is ours to place: behind Exact, before prefixes, the longer one first.
    """
    counted = considered(rule.fields)
    kinds = [field.kind for field in counted]
    return (
        -(0 if rule.host.startswith("*.") else len(rule.host)),
        -len(rule.host),
        ("Exact", "RegularExpression", "PathPrefix").index(rule.path_type),
        0 if rule.path_type == "Exact" else -len(rule.path),
        "method" not in kinds,
        -kinds.count("header"),
        -kinds.count("query"),
        rule.created,
        rule.owner,
        rule.place,
    )


def decide_gateway(rules: Sequence[Rule], asked: Asked) -> Rule | None:
    """Every rule whose hostname (and whose listener's) matches competes; the best one wins."""
    name = host_name(asked.host)
    taken = [
        rule
        for rule in rules
        if gateway_host_matches(rule.host, name)
        and gateway_host_matches(rule.listener, name)
        and path_matches(rule.path_type, rule.path, asked.path)
        and holds(rule, asked)
    ]
    return min(taken, key=gateway_order) if taken else None
