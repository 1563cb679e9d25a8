"""What is asked, whose business it is; and poison: refused is what the model refuses, in its words."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge.admission import review as reviews
from edge.admission.review import Malformed, decide, drafts, read, render
from edge.admission.scope import parse_selector, scope_of
from edge.cli.check import check_folder
from edge.errors import OptionError
from edge.model.build import ModelSettings, build_model
from edge.model.diagnostics import Diagnostic, Severity
from edge.model.judge import Judge
from edge.model.reasons import REASONS
from edge.options import Options
from edge.resources.kinds import identify
from edge.resources.store import ResourceEvent, ResourceStore
from tests.edge.admission.world import GROUPS, SERVICE, Client, call, ingress, make_view, open_webhook, review
from tests.edge.model.test_poison import CLASS, INGRESS, OTHERS, POLICY, SECRET, TEXTS, leaves, poisoned

OLDER = ResourceEvent("Ingress", "default", "older", ingress("older", host="old.test"))


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    found = make_view(tmp_path, [SERVICE, OLDER]).judge
    assert found is not None
    return found


def ask(judge: Judge, asked: dict[str, Any], options: Options | None = None) -> dict[str, Any]:
    question = read(json.dumps(asked).encode(), scope_of(options or Options()))
    answer = decide(judge, question)
    if question.key is not None:
        assert decide(judge, question, drafts(judge, question)) == answer
    found: dict[str, Any] = msgspec.json.decode(render(question, answer))
    return found["response"] | {"verdict": answer.verdict}


BAD = ingress("bad", "no path")


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        (review(BAD), "refused"),
        (review(BAD, ingress("bad")), "refused"),
        (review(BAD, BAD), "allowed"),
        (review(None, BAD, "DELETE"), "passed"),
        (review(BAD, subResource="status"), "passed"),
        (review(BAD, operation="CONNECT"), "passed"),
        (review(BAD, dryRun=True), "refused"),
        (
            review(BAD | {"metadata": BAD["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            "passed",
        ),
        (review(ingress("bad", "no path", ingressClassName="other")), "allowed"),
        (review({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}), "passed"),
        (review(BAD | {"metadata": {"name": "B A D", "namespace": "default"}}), "refused"),
        (review(BAD | {"metadata": {"generateName": "x-", "namespace": "default"}}), "refused"),
        (review(ingress("a") | {"metadata": {"generateName": "x-", "namespace": "default"}}), "allowed"),
        (review(ingress("a") | {"metadata": {"name": "a"}}, namespace="default"), "allowed"),
        (review(ingress("older", host="old.test")), "allowed"),
    ],
)
def test_verdicts(judge: Judge, asked: dict[str, Any], verdict: str) -> None:
    found = ask(judge, asked)
    assert (found["verdict"], found["allowed"]) == (verdict, verdict != "refused")


def test_a_warning_is_a_warning(judge: Judge) -> None:
    asked = ingress("a", tls=[{"hosts": ["a.test"], "secretName": "later"}])
    found = ask(judge, review(asked))
    words = "there is no Secret default/later; the default certificate is served"
    assert found["warnings"] == [f"Ingress/default/a spec.tls[0].secretName: SecretNotFound: {words}"]


def test_many_findings_are_cut_short(judge: Judge) -> None:
    bad, worse = ingress("a"), ingress("b")
    rule = bad["spec"]["rules"][0]
    bad["spec"]["rules"] = [{**rule, "host": f"no host {n}"} for n in range(100)]
    message = ask(judge, review(bad))["status"]["message"]
    assert message.endswith("\nand 90 more") and len(message) < reviews.MESSAGE_BYTES_MAX
    worse["spec"]["tls"] = [{"hosts": [f"{n}.test"], "secretName": "x" * 300} for n in range(100)]
    warnings = ask(judge, review(worse))["warnings"]
    assert len(warnings) == reviews.WARNINGS_SHOWN + 1 and max(map(len, warnings)) < 256


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "admission.k8s.io/v1beta1"},
        {"kind": "Pod"},
        {"request": None},
        {"request": {"uid": ""}},
        {"request": {"uid": "x" * 200}},
        {"request": {"object": None}},
        {"request": {"object": []}},
        {"request": {"object": {"kind": "Ingress"}}},
        {"request": {"object": {**BAD, "kind": "IngressClass"}}},
        {"request": {"kind": 1}},
        {"request": {"operation": None}},
    ],
)
def test_what_no_api_server_sends_is_malformed(judge: Judge, change: dict[str, Any]) -> None:
    asked = review(BAD)
    for name, value in change.items():
        if isinstance(value, dict):
            asked[name] |= value
        else:
            asked[name] = value
    try:
        assert ask(judge, asked)["allowed"] is False
    except Malformed as error:
        assert str(error).isascii() and str(error).isprintable()


@pytest.mark.parametrize("field", ["kind", "metadata"])
def test_an_object_that_is_no_text_is_malformed_or_refused(judge: Judge, field: str) -> None:
    asked = review(copy.deepcopy(BAD))
    asked["request"]["object"][field] = "MARK" if field == "kind" else {"name": "MARK"}
    body = json.dumps(asked).encode().replace(b"MARK", b"\xff")
    with contextlib.suppress(Malformed):
        assert read(body, scope_of(Options())).problem is not None


def test_who_is_not_watched_is_not_judged(judge: Judge) -> None:
    assert ask(judge, review(BAD), Options(watch_namespace=("shop",)))["verdict"] == "passed"
    assert ask(judge, review(BAD), Options(watch_namespace=("shop", "default")))["verdict"] == "refused"
    assert ask(judge, review(BAD), Options(watch_selector="tier=web"))["verdict"] == "passed"
    labelled = BAD | {"metadata": BAD["metadata"] | {"labels": {"tier": "web"}}}
    assert ask(judge, review(labelled), Options(watch_selector="tier=web"))["verdict"] == "refused"
    policy = copy.deepcopy(POLICY)
    policy["spec"]["deny"] = ["x"]
    assert ask(judge, review(policy), Options(watch_namespace=("shop",)))["verdict"] == "refused"


@pytest.mark.parametrize(
    ("text", "labels", "wanted"),
    [
        ("", {}, True),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("! a", {"a": "x"}, False),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a != b", {"a": "b"}, False),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x,y)", {}, False),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y),b=1", {"a": "x", "b": "1"}, False),
        ("example.org/a=b,c", {"example.org/a": "b", "c": ""}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_selectors(text: str, labels: dict[str, str], wanted: bool) -> None:
    assert all(one.holds(labels) for one in parse_selector(text)) is wanted


@pytest.mark.parametrize("text", ["=", "a,,b", "a in x", "!a=b", "a in (x", "a b", "(a)", ","])
def test_selectors_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="--watch-selector"):
        parse_selector(text)


# ---- poison --------------------------------------------------------------------------------

POISONED = {"ingress": INGRESS, "class": CLASS, "policy": POLICY, "secret": SECRET}


def refusals(raw: dict[str, Any]) -> set[Diagnostic] | None:
    """What the model has against an object beside the others; None where it cannot even be named."""
    key = identify(raw)
    if not isinstance(key, tuple):
        return None
    store = ResourceStore([SERVICE, OLDER, ResourceEvent(*key, raw)])
    found = build_model(store, ModelSettings()).diagnostics
    return {
        one
        for one in found
        if (one.object.kind, one.object.namespace, one.object.name) == key
        and one.severity is Severity.ERROR
        and REASONS[one.reason].refuses
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", POISONED)
def test_poison_through_the_webhook(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = POISONED[name]
    view = make_view(tmp_path / "state", [SERVICE, OLDER])
    folder = tmp_path / "objects"
    folder.mkdir()
    told: dict[str, set[tuple[str, str, str]]] = {}

    async def story() -> None:
        async with open_webhook(view) as (_, port):
            client = await Client.to(port)
            for number, path in enumerate(leaves(good)):
                for place, value in enumerate([*TEXTS, *OTHERS]):
                    bad = poisoned(good, path, value)
                    status, body = await client.ask(call(review(bad, kind=good["kind"])))
                    if status == 400:
                        continue  # no JSON (a half character, no number), or no object: none reaches an API
                    assert status == 200
                    said = json.loads(body)["response"]
                    wanted = refusals(bad)
                    if wanted is None or name == "secret":
                        assert said["allowed"] is (name == "secret" and wanted is not None)
                        continue
                    assert said["allowed"] is (not wanted), (path, value)
                    causes = {
                        (one["reason"], one["message"], one["field"])
                        for one in said.get("status", {}).get("details", {}).get("causes", ())
                    }
                    assert causes == {(one.reason, one.message, one.field) for one in wanted}
                    if wanted and "name" not in path and value != OTHERS[-1]:  # deep: no file either
                        file = folder / f"{number:03}-{place:02}.json"
                        bad["metadata"]["name"] = file.stem
                        file.write_text(json.dumps(bad))
                        told[file.stem] = causes
            good_status, body = await client.ask(call(review(ingress("still-good"))))
            assert (good_status, json.loads(body)["response"]["allowed"]) == (200, True)
            await client.close()

    asyncio.run(story())
    lines = capfd.readouterr().err.splitlines()
    assert all(line.startswith("edge-controller: admission: CREATE by ") for line in lines)
    assert all(line.isascii() and line.isprintable() for line in lines)
    # The same objects in a folder: the check says the same of each.
    assert check_folder(str(folder), Options(), as_json=True) == (1 if told else 0)
    rows = json.loads(capfd.readouterr().out)["diagnostics"]
    found: dict[str, set[tuple[str, str, str]]] = {}
    for row in rows:
        found.setdefault(row["object"].rpartition("/")[2], set()).add(
            (row["reason"], row["message"], row["field"])
        )
    assert (len(told) > 20) is (name != "secret")
    for object_name, causes in told.items():
        assert causes <= found[object_name]


def test_every_kind_that_is_judged_is_poisoned() -> None:
    assert {raw["kind"] for raw in POISONED.values()} == set(reviews.KINDS_JUDGED) <= set(GROUPS)
