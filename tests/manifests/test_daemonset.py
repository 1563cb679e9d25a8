"""The DaemonSet as it is written: what the hand-over, the sandbox and the options ask of it."""

from __future__ import annotations

import re

from edge import privileges
from edge.cli.run import check_options
from edge.options import Options, parse_address
from tests.manifests.written import MANIFESTS, ROOT, container, documents, one, options, written

BASE = written("base")
SPEC = one(BASE, "DaemonSet")["spec"]
POD = SPEC["template"]["spec"]
EDGE = container(BASE)
TABLE = re.compile(r"^\| `CAP_(\w+)` \|", re.MULTILINE)
CHOSEN = options(BASE)


def test_capabilities_are_what_the_holder_keeps() -> None:
    context = EDGE["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert set(context["capabilities"]["add"]) == set(privileges.HOLDER_KEEPS)


def test_the_documented_table_names_the_same() -> None:
    assert set(TABLE.findall((MANIFESTS / "README.md").read_text())) == set(privileges.HOLDER_KEEPS)


def test_the_systemd_unit_names_the_same() -> None:
    """And SYS_PTRACE, for adoption: as PID 1 of a container nobody is left to adopt from."""
    unit = (MANIFESTS / "systemd/xdp-edge.service").read_text()
    lines = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    named = {word.removeprefix("CAP_") for line in lines for word in line.split()}
    assert named == {*privileges.HOLDER_KEEPS, "SYS_PTRACE"}


def test_nothing_else_is_given() -> None:
    context = EDGE["securityContext"]
    assert context["readOnlyRootFilesystem"] is True and context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"} and not context.get("privileged")
    assert not POD.get("hostPID") and not POD.get("hostIPC")
    paths = {item["hostPath"]["path"] for item in POD["volumes"] if "hostPath" in item}
    assert paths == {"/run/xdp-edge", "/var/lib/xdp-edge", "/sys/fs/bpf", "/sys/kernel/btf"}
    read_only = {item["mountPath"] for item in EDGE["volumeMounts"] if item.get("readOnly")}
    assert read_only == {"/sys/kernel/btf"}


def test_the_next_pod_can_stand_beside_the_old_one() -> None:
    assert SPEC["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert POD["hostNetwork"] is True and "ports" not in EDGE, "a declared port is a hostPort here"
    assert "--take-over" in EDGE["args"]
    assert "exec" in EDGE["startupProbe"], "over HTTP the old Pod would answer for the new one"


def test_the_options_are_accepted() -> None:
    check_options(CHOSEN)
    assert CHOSEN.kubernetes and CHOSEN.take_over and CHOSEN.loop == "epoll"
    assert {item["name"] for item in EDGE["env"]} - {"HOST_IP"} <= Options().to_environment().keys()


def test_the_webhook_listens_where_its_service_calls_and_nowhere_else() -> None:
    """A Pod in the node's network has the node's address, of either family."""
    for address in ("192.0.2.1", "2001:db8::1"):
        assert parse_address(options(BASE, address).webhook, "--webhook") == (address, 9443)
    (given,) = (item["valueFrom"] for item in EDGE["env"] if item["name"] == "HOST_IP")
    assert given == {"fieldRef": {"fieldPath": "status.hostIP"}}


def test_what_is_mounted_is_what_the_options_name() -> None:
    places = {item["name"]: item["mountPath"] for item in EDGE["volumeMounts"]}
    assert (places["run"], places["state"]) == (CHOSEN.run_dir, CHOSEN.state_dir)
    assert places["bpf"] == privileges.BPFFS


def test_the_readiness_is_the_admin_api_s() -> None:
    asked = EDGE["readinessProbe"]["httpGet"]
    assert f"{asked['host']}:{asked['port']}" == CHOSEN.admin


def test_no_controller_that_is_away_costs_the_connections() -> None:
    """The controller answers there: killed for its sake, a Pod would take the data plane along."""
    assert "livenessProbe" not in EDGE


def test_a_pod_that_ends_has_its_grace_period() -> None:
    assert POD["terminationGracePeriodSeconds"] >= CHOSEN.drain_delay + CHOSEN.grace_period + 15


def test_the_class_and_the_webhook_are_those_of_the_options() -> None:
    shown = one(BASE, "IngressClass", CHOSEN.ingress_class)
    assert shown["spec"]["controller"] == CHOSEN.controller_class
    service = one(BASE, "Service", CHOSEN.webhook_service)
    assert CHOSEN.webhook.rpartition(":")[2] == str(service["spec"]["ports"][0]["targetPort"])
    hook = one(BASE, "ValidatingWebhookConfiguration")["webhooks"][0]["clientConfig"]
    assert hook["service"]["name"] == CHOSEN.webhook_service
    assert hook.keys() == {"service"}, "an apply would undo what the leader has written"


def test_pods_of_ours_are_selected_everywhere() -> None:
    labels = SPEC["template"]["metadata"]["labels"]
    wanted = {"app.kubernetes.io/name": "xdp-edge"}
    assert SPEC["selector"]["matchLabels"] == wanted and wanted.items() <= labels.items()
    assert one(BASE, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == wanted
    assert one(BASE, "Service", "xdp-edge-webhook")["spec"]["selector"] == wanted


def test_the_namespace_permits_such_pods() -> None:
    labels = one(BASE, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"


def test_a_budget_for_a_daemonset_is_a_number() -> None:
    """It has no scale: the API server can compute no percentage, and no maxUnavailable."""
    spec = one(BASE, "PodDisruptionBudget")["spec"]
    assert isinstance(spec["minAvailable"], int) and "maxUnavailable" not in spec


def test_who_detaches_has_less() -> None:
    chosen = one(written("detach"), "DaemonSet", "xdp-edge-detach")["spec"]["template"]["spec"]
    (first,) = chosen["initContainers"]
    assert set(first["securityContext"]["capabilities"]["add"]) == {"BPF", "NET_ADMIN"}
    assert chosen["automountServiceAccountToken"] is False
    ours = {mount["name"]: mount["mountPath"] for mount in EDGE["volumeMounts"]}
    for mount in first["volumeMounts"]:
        assert ours[mount["name"]] == mount["mountPath"]
    assert {volume["name"]: volume for volume in POD["volumes"]}.items() >= {
        volume["name"]: volume for volume in chosen["volumes"]
    }.items()


def test_every_file_of_the_base_is_applied() -> None:
    (kustomization,) = documents((MANIFESTS / "base/kustomization.yaml").read_text())
    files = {path.name for path in (MANIFESTS / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files


def test_a_command_that_installs_works_in_an_empty_cluster() -> None:
    for path in (ROOT / "README.md", MANIFESTS / "README.md"):
        commands = re.findall(r"helm install [^\n`]*", path.read_text())
        assert commands and all("--create-namespace" in one for one in commands), path


def test_no_shipped_file_names_an_image_of_elsewhere() -> None:
    for path in (ROOT / "manifests").rglob("*.yaml"):
        for image in re.findall(r"^\s*image: (\S+)$", path.read_text(), re.MULTILINE):
            assert image.startswith(("localhost/xdp-edge:", '"{{')), f"{path}: {image}"
