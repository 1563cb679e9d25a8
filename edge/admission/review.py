"""AdmissionReview in, AdmissionReview out: what is asked, what the judge says of it, in which words.

Called by server.py. Everything in a review is text to be looked at: nothing is run, loaded, opened or
resolved, and a dry run is answered like any other, because an answer changes nothing. Pure but for the judge.
Source: admission.k8s.io/v1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from edge.admission.scope import Labels
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.judge import Draft, Judge
from edge.model.reasons import reason_of, sentence
from edge.resources.kinds import KINDS, Problem, Unknown, identify, shown
from edge.resources.store import Key

API_VERSION = "admission.k8s.io/v1"
KINDS_JUDGED = ("Ingress", "IngressClass", "EdgePolicy", "Secret")
UID_BYTES_MAX = 128
REFUSALS_SHOWN = 10
WARNINGS_SHOWN = 12
WARNING_BYTES_MAX = 250  # the API server cuts longer ones
MESSAGE_BYTES_MAX = 8192


_NULL = msgspec.Raw(b"null")


class Malformed(Exception):
    """A body that is no review; its text goes to the caller, with ``status``."""

    status = 400


class _GroupVersionKind(msgspec.Struct, frozen=True):
    group: str = ""
    version: str = ""
    kind: str = ""


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    api_version: Any = None
    kind: Any = None
    metadata: msgspec.Raw = _NULL


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: Any = None
    generate_name: Any = None
    namespace: Any = None
    labels: Any = None
    deletion_timestamp: Any = None


class _Request(msgspec.Struct, frozen=True, rename="camel"):
    uid: str
    operation: str
    kind: _GroupVersionKind = _GroupVersionKind()
    name: str = ""
    namespace: str = ""
    sub_resource: str = ""
    dry_run: bool | None = None
    user_info: _User = _User()
    object: msgspec.Raw = _NULL
    old_object: msgspec.Raw = _NULL


class _Review(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: _Request


_reviews = msgspec.json.Decoder(_Review)
_heads = msgspec.json.Decoder(_Head)
_metadata = msgspec.json.Decoder(_Metadata)
_documents = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. ``key`` None: an object that is nobody's business here; ``problem``: it has no identity.

    ``before``: the object as it is stored, where this changes it.
    """

    uid: str
    operation: str
    kind: str
    user: str
    dry_run: bool
    key: Key | None = None
    problem: Diagnostic | None = None
    object: bytes = b""
    before: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """``verdict``: allowed, refused, or passed for what is not ours to judge."""

    verdict: str
    refused: tuple[Diagnostic, ...] = ()
    warned: tuple[Diagnostic, ...] = ()


Scope = Callable[[str, str, Labels], bool]  # kind, namespace, labels: whether the object is ours


def read(body: bytes, scope: Scope) -> Question:
    """Read a review. Errors: Malformed."""
    request = _decode(body).request
    if not 0 < len(request.uid) <= UID_BYTES_MAX:
        raise Malformed("request.uid is missing or too long")
    old = bytes(request.old_object)
    question = Question(
        uid=request.uid,
        operation=request.operation,
        kind=request.kind.kind,
        user=request.user_info.username,
        dry_run=bool(request.dry_run),
        object=bytes(request.object),
        before=None if old == b"null" else old,
    )
    group = request.kind.group
    version = f"{group}/{request.kind.version}" if group else request.kind.version
    known = KINDS.get(question.kind)
    judged = question.kind in KINDS_JUDGED and known is not None and known.api_version == version
    if not judged or request.sub_resource or request.operation not in ("CREATE", "UPDATE"):
        return question
    head, metadata = _head(question.object)
    if metadata.deletion_timestamp is not None:
        return question  # it goes; its last changes take finalizers off
    name, namespace = metadata.name, metadata.namespace
    if name is None and metadata.generate_name is not None:
        name = request.name or "generated"  # a name that is not made yet is no name that is wrong
        question = replace(question, object=_named(question.object, name))
    labels = metadata.labels if isinstance(metadata.labels, dict) else {}
    if not scope(question.kind, request.namespace, labels):
        return question
    try:
        place = {"name": name, "namespace": request.namespace if namespace in (None, "") else namespace}
        found = identify({"apiVersion": head.api_version, "kind": head.kind, "metadata": place})
    except Unknown as error:
        raise Malformed(f"request.object is {shown(str(error))}, and not what request.kind says") from error
    if isinstance(found, Problem):
        ref = ObjectRef(question.kind, shown(request.namespace)[1:-1], shown(request.name)[1:-1])
        return replace(question, problem=Diagnostic(ref, found.field, found.reason, found.message))
    if found[0] != question.kind:
        raise Malformed(f"request.object is {shown(found[0])}, and not what request.kind says")
    return replace(question, key=found)


def _decode(body: bytes) -> _Review:
    try:
        review = _reviews.decode(body)
    except msgspec.ValidationError as error:
        raise Malformed(f"is no AdmissionReview: {ascii(str(error))[1:-1]}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"is no JSON: {ascii(str(error)[:200])[1:-1]}") from error
    if review.api_version != API_VERSION or review.kind != "AdmissionReview":
        version = shown(f"{review.api_version} {review.kind}")
        raise Malformed(f"is {version}; {API_VERSION} AdmissionReview is answered")
    return review


def _head(raw: bytes) -> tuple[_Head, _Metadata]:
    """Read no more of an object than says which one it is."""
    try:
        head = _heads.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of text, that it was passed over unread
        raise Malformed("request.object is no object") from error
    except RecursionError as error:
        raise Malformed("request.object is nested too deep") from error
    try:
        return head, _metadata.decode(head.metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return head, _Metadata()


def _named(raw: bytes, name: str) -> bytes:
    document = _documents.decode(raw)
    return msgspec.json.encode({**document, "metadata": {**document["metadata"], "name": name}})


# ---- answers -------------------------------------------------------------------------------


def drafts(judge: Judge, question: Question) -> tuple[Draft, Draft | None]:
    """Read object and stored object by themselves: the costly part of a large one, good in any thread."""
    assert question.key is not None
    before = judge.read(question.key, question.before) if question.before is not None else None
    return judge.read(question.key, question.object), before


def decide(judge: Judge, question: Question, read: tuple[Draft, Draft | None] | None = None) -> Answer:
    """Judge what is asked, in the builder's thread."""
    if question.problem is not None:
        return Answer("refused", (question.problem,))
    key, before = question.key, question.before
    if key is None:
        return Answer("passed")
    if read is not None:
        draft, old = read
        verdict = judge.verdict(draft, (lambda: old) if old is not None else None)
    else:
        verdict = judge.verdict(
            judge.read(key, question.object),
            (lambda: judge.read(key, before)) if before is not None else None,
        )
    return Answer("refused" if verdict.refused else "allowed", verdict.refused, verdict.warned)


def render(question: Question, answer: Answer) -> bytes:
    """Shape: the body of the answer."""
    response: dict[str, Any] = {"uid": question.uid, "allowed": not answer.refused}
    if answer.refused:
        response["status"] = {
            "status": "Failure",
            "code": 403,
            "reason": "Forbidden",
            "message": message_of(answer.refused),
            "details": {
                "causes": [
                    {"reason": one.reason, "message": plain(one.message), "field": one.field}
                    for one in answer.refused[:REFUSALS_SHOWN]
                ]
            },
        }
    if answer.warned:
        some = answer.warned[:WARNINGS_SHOWN]
        response["warnings"] = [_cut(sentence(one), WARNING_BYTES_MAX) for one in some]
        if len(answer.warned) > WARNINGS_SHOWN:
            response["warnings"].append(f"and {len(answer.warned) - WARNINGS_SHOWN} more")
    review = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    return msgspec.json.encode(review)


def message_of(refused: tuple[Diagnostic, ...]) -> str:
    """Shape: a line for each reason, as the folder's check says it, with what to do."""
    lines = [f"{sentence(one)}. Do: {reason_of(one.reason).advice}." for one in refused[:REFUSALS_SHOWN]]
    if len(refused) > REFUSALS_SHOWN:
        lines.append(f"and {len(refused) - REFUSALS_SHOWN} more")
    return _cut("\n".join(lines), MESSAGE_BYTES_MAX)


def plain(text: str) -> str:
    """Shape: what stands outside of ASCII, half characters too, as escapes."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _cut(text: str, most: int) -> str:
    short = plain(text)
    return short if len(short) <= most else f"{short[: most - 3]}..."
