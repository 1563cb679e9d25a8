"""What status must say: addresses that are ours among others', conditions, texts that fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge.controller import status
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity

REF = ObjectRef("EdgePolicy", "", "p")


def error(field: str, reason: str, message: str, level: Severity = Severity.ERROR) -> Diagnostic:
    return Diagnostic(REF, field, reason, message, level)


ONE, TWO, NINE = ({"ip": f"198.18.0.{n}"} for n in (1, 2, 9))
A, B = "198.18.0.1", "198.18.0.2"
NAMED = {"hostname": "lb.test", "ports": [{"port": 80, "protocol": "TCP"}]}


@pytest.mark.parametrize(
    "current, wanted, ours, result",
    [
        ([], [A], [A], [ONE]),
        ([NAMED], [A], [A], [NAMED, ONE]),  # another's stays where it is, whatever it says about ports
        ([ONE, TWO], [B], [A, B], [TWO]),  # a node that left, whose address is known as ours
        ([NINE], [B], [B], [NINE, TWO]),  # an address of an unknown hand
        ([TWO, ONE], [A, B], [], [TWO, ONE]),  # order is nobody's business
        ([ONE, NAMED], [], [A], [NAMED]),  # not ours any more
    ],
)
def test_addresses(
    current: list[dict[str, Any]], wanted: list[str], ours: list[str], result: list[dict[str, Any]]
) -> None:
    assert status.merged(current, wanted, ours) == result
    assert status.merged(result, wanted, ours) == result, "the second time nothing changes"


def test_addresses_have_one_form_and_one_order() -> None:
    places = ["edge.test", "fd00:198:0::2", "198.18.0.10", "198.18.0.9", "fd00:198::1", "198.18.0.9", ""]
    assert status.in_order(places) == ("198.18.0.9", "198.18.0.10", "fd00:198::1", "fd00:198::2", "edge.test")
    assert len(status.in_order(f"198.18.{n >> 8}.{n & 255}" for n in range(2000))) == status.ADDRESSES_MAX


INSIDE = {"clusterIP": "198.18.96.1"}
EXTERNAL = {"externalIPs": ["198.18.0.5"]}


@pytest.mark.parametrize(
    "spec, found, places",
    [
        ({"type": "LoadBalancer"}, [NAMED, ONE], (A, "lb.test")),
        ({"type": "LoadBalancer", **EXTERNAL}, [], ("198.18.0.5",)),
        ({"type": "LoadBalancer", **INSIDE}, [], ()),
        ({"type": "ClusterIP", **INSIDE}, [], ("198.18.96.1",)),
        ({"type": "ClusterIP", "clusterIP": "None"}, [], ()),
        ({"type": "NodePort", **INSIDE}, [], ("198.18.96.1",)),
        ({"type": "NodePort", **INSIDE, **EXTERNAL}, [], ("198.18.0.5",)),
        ({"type": "ExternalName", "externalName": "edge.test"}, [], ("edge.test",)),
    ],
)
def test_addresses_of_a_service(spec: dict[str, Any], found: list[Any], places: tuple[str, ...]) -> None:
    raw = json.dumps({"metadata": {}, "spec": spec, "status": {"loadBalancer": {"ingress": found}}}).encode()
    subject = status.subject(raw)
    assert subject is not None and status.of_service(subject) == places


def test_addresses_of_a_node() -> None:
    inside = {"type": "InternalIP", "address": "198.18.0.1"}, {"type": "InternalIP", "address": "fd00:198::1"}
    outside = {"type": "ExternalIP", "address": "198.18.1.1"}
    name = {"type": "Hostname", "address": "n1"}
    for listed, places in (
        ([*inside, name], ("198.18.0.1", "fd00:198::1")),
        ([*inside, outside, name], ("198.18.1.1",)),
        ([name], ()),
    ):
        subject = status.subject(json.dumps({"status": {"addresses": listed}}).encode())
        assert subject is not None and status.of_node(subject) == places


@pytest.mark.parametrize("raw", [b"[]", b"{", b'{"metadata": 5}', b'{"status": "x"}'])
def test_what_is_no_object(raw: bytes) -> None:
    assert status.subject(raw) is None


@pytest.mark.parametrize(
    "found", [{}, {"loadBalancer": None}, {"loadBalancer": {"ingress": "x"}}, {"conditions": {}}]
)
def test_status_of_a_strange_shape(found: dict[str, Any]) -> None:
    subject = status.subject(json.dumps({"status": found}).encode())
    assert subject is not None and subject.balancer == [] and subject.conditions == []


def fields(manager: str, *path: str) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for word in reversed(path):
        inner = {word: inner}
    return {"manager": manager, "operation": "Update", "subresource": "status", "fieldsV1": inner}


def test_who_wrote_the_addresses_last() -> None:
    path = ("f:status", "f:loadBalancer", "f:ingress")
    for managed, ours in (
        ([fields("kubectl", "f:spec", "f:rules"), fields("we", *path)], True),
        ([fields("nginx-ingress-controller", *path)], False),
        ([fields("we-too", *path)], False),
        ([], False),
    ):
        subject = status.subject(json.dumps({"metadata": {"managedFields": managed}}).encode())
        assert subject is not None and status.written_by("we", subject) is ours


def test_each_installation_writes_under_a_name_of_its_own() -> None:
    assert status.field_manager("ns", "lead") == "xdp-edge-status.ns.lead"
    places = [("ns", "lead"), ("ns", "other"), ("n" * 63, "l" * 253), ("n" * 63, "l" * 252 + "m")]
    names = {status.field_manager(*place) for place in places}
    assert len(names) == 4 and all(len(name) <= 128 for name in names)


# ---- conditions --------------------------------------------------------------------------------


def test_a_condition_turns_only_when_its_status_does() -> None:
    other = {
        "type": "Audited",
        "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "reason": "x",
        "message": "",
    }
    first = status.conditions([other], [status.accepted(True, ())], 1, "2026-11-21T00:00:00Z")
    assert first is not None and [one["type"] for one in first] == ["Audited", "Accepted"]
    assert first[1]["observedGeneration"] == 1
    assert status.conditions(first, [status.accepted(True, ())], 1, "2026-11-21T00:00:09Z") is None
    assert status.conditions(first[::-1], [status.accepted(True, ())], 1, "2026-11-21T00:00:09Z") is None
    later = status.conditions(first, [status.accepted(True, ())], 2, "2026-11-21T00:00:09Z")
    assert later is not None and later[1]["lastTransitionTime"] == "2026-11-21T00:00:00Z"
    turned = status.conditions(later, [status.accepted(False, ())], 2, "2026-11-21T00:00:09Z")
    assert turned is not None and turned[0] == other
    assert (turned[1]["status"], turned[1]["lastTransitionTime"]) == ("False", "2026-11-21T00:00:09Z")


def test_accepted() -> None:
    wrong = error("spec.deny[1]", "InvalidNetwork", "'x' is no network")
    odd = error("spec.perSource", "NoLimit", "nothing is limited", Severity.WARNING)
    for in_force, found, word, reason in (
        (True, (), "True", "Accepted"),
        (True, (odd,), "True", "Accepted"),
        (True, (odd, wrong), "True", "PartlyAccepted"),
        (False, (wrong,), "False", "InvalidNetwork"),
        (False, (), "False", "Pending"),
    ):
        made = status.accepted(in_force, found)
        assert (made.status, made.reason) == (word, reason)
    assert "spec.deny[1]: InvalidNetwork: 'x' is no network" in status.accepted(True, (odd, wrong)).message


def test_programmed() -> None:
    nodes = [f"n{number}" for number in range(14)]
    for in_force, waiting, without, count, guards, word, reason in (
        (True, [], [], 3, True, "True", "Programmed"),
        (True, ["n1"], [], 3, True, "False", "Pending"),
        (True, [], ["n1"], 3, True, "False", "WithoutXdp"),
        (True, [], ["n1"], 3, False, "True", "Programmed"),
        (True, [], [], 0, True, "Unknown", "NoNodes"),
        (False, [], [], 3, True, "False", "NotAccepted"),
    ):
        made = status.programmed(in_force, waiting, without, count, guards)
        assert (made.status, made.reason) == (word, reason)
    message = status.programmed(True, nodes, [], 14, True).message
    assert message.endswith("n9 and 4 more") and message.startswith("0 of 14")


def test_texts_are_cut_at_whole_characters() -> None:
    assert status.cut("ü" * 600, 1024).encode()[-5:] == "ü".encode() + b"..."
    assert len(status.cut("ü" * 600, 1024).encode()) <= 1024
    assert status.cut("short", 1024) == "short"
    many = tuple(error(f"spec.deny[{n}]", "InvalidNetwork", "no network") for n in range(5000))
    (made,) = status.conditions([], [status.accepted(False, many)], 1, "t") or []
    assert len(made["message"].encode()) <= status.MESSAGE_MAX and "and 4990 more" in made["message"]
