"""RBAC: the rules that are written grant the table (access.py) and nothing else; so do those for people."""

from __future__ import annotations

from itertools import product

import pytest

from edge.model.settings import KEYS
from tests.manifests.access import BOUND, PEOPLE, TABLE, Right
from tests.manifests.written import NAME, NAMESPACE, Object, one, written

BASE = written("base")
READING = {"get", "list", "watch"}


def granted(role: Object, where: str) -> list[Right]:
    found = []
    for rule in role["rules"]:
        groups, resources, verbs = rule["apiGroups"], rule["resources"], rule["verbs"]
        names = rule.get("resourceNames", [""])
        for group, resource, verb, name in product(groups, resources, verbs, names):
            found.append(Right(where, f"{resource}.{group}" if group else resource, verb, name))
    return found


def test_the_rules_grant_the_table_and_nothing_else() -> None:
    found = [
        right for where, (kind, name) in BOUND.items() for right in granted(one(BASE, kind, name), where)
    ]
    assert len(found) == len(set(found)), "a right is granted twice"
    assert set(found) == TABLE


def test_only_these_roles_are_bound_and_to_the_account_alone() -> None:
    bindings = [item for item in BASE if item["kind"].endswith("RoleBinding")]
    assert {(item["roleRef"]["kind"], item["roleRef"]["name"]) for item in bindings} == set(BOUND.values())
    account = [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    assert all(item["subjects"] == account for item in bindings)


def test_nothing_is_deleted_and_no_rule_has_a_star() -> None:
    assert not {right.verb for right in TABLE} & {
        "delete",
        "deletecollection",
        "*",
        "impersonate",
        "escalate",
    }
    for item in BASE:
        for rule in item.get("rules", []):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], item["metadata"]


def test_the_example_of_a_class_permits_what_the_class_names_and_nothing_else() -> None:
    made = written("examples/class")
    named = one(made, "IngressClass", "edge")["spec"]["parameters"]
    role, binding = (one(made, kind, "xdp-edge-class") for kind in ("Role", "RoleBinding"))
    assert granted(role, "") == [Right("", "configmaps", verb, named["name"]) for verb in ("list", "watch")]
    assert named["namespace"] == role["metadata"]["namespace"] == binding["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}]
    config_map = one(made, "ConfigMap", named["name"])
    assert config_map["metadata"]["namespace"] == named["namespace"]
    assert set(config_map["data"]) <= set(KEYS)


@pytest.mark.parametrize("name", PEOPLE)
def test_people_write_what_is_theirs_alone(name: str) -> None:
    rights = granted(one(BASE, "ClusterRole", name), "cluster")
    assert {right.resource for right in rights if right.verb not in READING} == set(PEOPLE[name].split())
    assert not [right for right in rights if right.plural == "secrets"]
