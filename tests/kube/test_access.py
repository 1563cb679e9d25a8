"""What the API server lets xdp-edge do, and people with its roles: the table of rights, nothing more.

Asked by SubjectAccessReviews, for every resource of the table and for some that nobody should touch, with
every verb, in the own namespace, in a watched one, and by name.
"""

from __future__ import annotations

from itertools import product

import pytest

from tests.kube.cluster import Cluster
from tests.kube.workload import namespace
from tests.manifests.access import TABLE, Right
from tests.manifests.written import NAMESPACE, kustomized

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:xdp-edge"
GROUPS = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
FORBIDDEN = """
    pods/exec pods/eviction serviceaccounts/token configmaps namespaces nodes/proxy secrets/status
    daemonsets.apps clusterroles.rbac.authorization.k8s.io rolebindings.rbac.authorization.k8s.io
    customresourcedefinitions.apiextensions.k8s.io mutatingwebhookconfigurations.admissionregistration.k8s.io
""".split()
ELSEWHERE = "story-access"
NAMES = ("", "xdp-edge", "xdp-edge-webhook")


@pytest.fixture
def roles(kube: Cluster) -> None:
    """Apply what the manifests say about access, and nothing that starts a Pod."""
    kinds = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    kube.api.apply([item for item in kustomized() if item["kind"] in kinds])


def may(
    kube: Cluster, right: Right, place: str, user: str = ACCOUNT, groups: list[str] | None = None
) -> bool:
    """Ask the API server whether a user may do it in a namespace, "" for an object without one."""
    plural, _, subresource = right.plural.partition("/")
    asked = {
        "group": right.group, "resource": plural, "subresource": subresource, "verb": right.verb,
        "namespace": place, "name": right.name,
    }  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups or [], "resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(kube.api.request("POST", path, review)["status"]["allowed"])


def expected(right: Right, place: str) -> bool:
    """Say whether the table grants it there, to all objects or to the named one."""
    return any(
        (known.resource, known.verb) == (right.resource, right.verb)
        and known.name in ("", right.name)
        and (known.where == "own") <= (place == NAMESPACE)
        for known in TABLE
    )


def test_the_account_may_do_what_the_table_says_and_nothing_else(kube: Cluster, roles: None) -> None:
    resources = sorted({right.resource for right in TABLE} | set(FORBIDDEN))
    wrong = []
    for resource, verb, place in product(resources, VERBS, ("", NAMESPACE, ELSEWHERE)):
        for name in NAMES if verb in ("get", "update", "patch", "delete") else NAMES[:1]:
            right = Right("", resource, verb, name)
            if may(kube, right, place, groups=GROUPS) != expected(right, place):
                wrong.append((right, place, "granted" if not expected(right, place) else "missing"))
    assert not wrong


def test_people_have_what_their_role_says(kube: Cluster, roles: None) -> None:
    """A route author writes Ingresses where the role is bound, nowhere else, and reads no Secret."""
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "authors", "namespace": ELSEWHERE},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "xdp-edge-route-author",
        },
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}],
    }
    kube.api.apply([namespace(ELSEWHERE), binding])
    ingresses = "ingresses.networking.k8s.io"

    def can(verb: str, resource: str, place: str = ELSEWHERE) -> bool:
        return may(kube, Right("", resource, verb), place, "ann")

    kube.wait("the binding counts", lambda: can("create", ingresses), 10)
    assert all(can(verb, ingresses) for verb in ("get", "list", "watch", "update", "patch", "delete"))
    assert not can("create", ingresses, "default") and not can("get", "secrets")
    assert not can("patch", f"ingresses/status.{ingresses.partition('.')[2]}")
    assert not can("create", "edgepolicies.xdp-edge.dev", "")
    kube.api.delete([namespace(ELSEWHERE)])
