"""Which Ingresses are ours: by class field, by old annotation, by default class; and what their class says.

Called by ingress.py. An Ingress of somebody else gets no route and no Diagnostic. An instance serves
the classes that --ingress-class names, so that two instances with two classes never serve each other's
objects; if an IngressClass of that name exists, its controller must be ours (--controller-class), and
where none exists (a folder on a plain host) the name is enough. Its spec.parameters name a ConfigMap of
settings, which lie over the controller's own for the Ingresses of that class alone.
Source: Ingress v1, ingressClassName and "Default IngressClass"; IngressClassParametersReference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge.model.annotations import IMPLEMENTATION_SPECIFIC, OURS, USUAL, Wishes
from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.model.settings import read_settings
from edge.resources.kinds import (
    NAME,
    NAME_BYTES_MAX,
    NAMESPACE,
    ConfigMap,
    Ingress,
    IngressClass,
    Problem,
    shown,
)
from edge.resources.store import Key, ResourceStore

OLD_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class ClassRule:
    """``names``: the classes that we serve; ``held``: those that are not somebody else's.

    ``default``: the class of Ingresses that name none, "": they are not ours; ``elsewhere``: what holds where
    an Ingress says nothing, and ``of_class``: where its class says another thing; ``parameters``: the
    ConfigMaps that classes of ours name, there or not.
    """

    names: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    default: str = ""
    elsewhere: Wishes = USUAL
    of_class: Mapping[str, Wishes] = field(default_factory=dict)
    parameters: frozenset[Key] = frozenset()

    def usual(self, ingress: object) -> Wishes | None:
        """What holds for an Ingress where its annotations say nothing; None: it is not ours."""
        if not isinstance(ingress, Ingress):
            return self.elsewhere
        named = ingress.spec.ingress_class_name if ingress.spec else None
        if named:
            ours = named in self.held
        else:
            named = (ingress.metadata.annotations or {}).get(OLD_ANNOTATION, self.default)
            ours = named != "" and named in self.names
        return self.of_class.get(named, self.elsewhere) if ours else None


def class_rule(
    store: ResourceStore,
    classes: str,
    controller: str,
    without_class: bool,
    usual: Wishes,
    findings: Findings,
) -> ClassRule:
    """Read the IngressClasses and what they name. ``classes``: names, with commas between them."""
    names = tuple(classes.split(","))
    held, default, of_class, parameters = set(names), set(), {}, set()
    for _, found, decoded in store.typed("IngressClass"):
        ref = ObjectRef("IngressClass", "", found)
        if isinstance(decoded, Problem):
            findings.problem(ref, decoded)
            held.discard(found)
            continue
        assert isinstance(decoded, IngressClass)
        if decoded.spec is None or decoded.spec.controller != controller:
            held.discard(found)
            continue
        if found not in names:
            message = f"this instance serves the class '{classes}' (--ingress-class), not this one"
            findings.warning(ref, "metadata.name", "OtherClass", message)
            continue
        annotations = decoded.metadata.annotations or {}
        if annotations.get(DEFAULT_ANNOTATION) == "true":
            default.add(found)
        wishes = usual
        if decoded.spec.parameters is not None:
            place = _reference(decoded.spec.parameters)
            if isinstance(place, Problem):
                findings.warning(ref, place.field, place.reason, place.message)
            else:
                parameters.add(place)
                wishes = _laid_over(usual, store, place, ref, findings)
        meaning = annotations.get(OURS + "implementation-specific")
        if meaning in IMPLEMENTATION_SPECIFIC:
            if IMPLEMENTATION_SPECIFIC[meaning]:
                wishes = replace(wishes, string_prefix=True)
        elif meaning is not None:
            message = f"{shown(meaning)} is none of {', '.join(IMPLEMENTATION_SPECIFIC)}; 'prefix' stays"
            path = f"metadata.annotations[{OURS}implementation-specific]"
            findings.warning(ref, path, "InvalidAnnotation", message)
        if wishes != usual:
            of_class[found] = wishes
    first = next((name for name in names if name in default), names[0] if without_class else "")
    return ClassRule(names, frozenset(held), first, usual, of_class, frozenset(parameters))


def _reference(given: object) -> Key | Problem:
    """Shape: the ConfigMap that spec.parameters names; Problem: why it cannot be followed."""
    words: Mapping[str, object] = given if isinstance(given, Mapping) else {}
    kind, group, scope, namespace, name = (
        words.get(word) or "" for word in ("kind", "apiGroup", "scope", "namespace", "name")
    )
    if kind != "ConfigMap" or group:
        what = f"{shown(kind)} of group {shown(group)} is not read"
        path, message = "kind", f"{what}; name a ConfigMap, without apiGroup"
    elif scope != "Namespace":
        path, message = "scope", f"{shown(scope)}: a ConfigMap has a namespace; write scope: Namespace"
    elif not isinstance(namespace, str) or not NAMESPACE.fullmatch(namespace):
        path, message = "namespace", f"{shown(namespace)} is no namespace; write where the ConfigMap is"
    elif not isinstance(name, str) or len(name) > NAME_BYTES_MAX or not NAME.fullmatch(name):
        path, message = "name", f"{shown(name)} is no name; write that of the ConfigMap"
    else:
        return ("ConfigMap", namespace, name)
    return Problem(f"spec.parameters.{path}", "UnsupportedParameters", message)


def _laid_over(usual: Wishes, store: ResourceStore, key: Key, ref: ObjectRef, findings: Findings) -> Wishes:
    """Read the ConfigMap that a class names. Shape: what holds for its Ingresses."""
    found = store.decoded(*key)
    if found is None:
        message = f"no ConfigMap {key[1]}/{key[2]} is there, or it may not be read; the class does without"
        findings.warning(ref, "spec.parameters.name", "ParametersNotFound", message)
        return usual
    assert isinstance(found, ConfigMap | Problem)
    wishes, wrong = read_settings(ObjectRef(*key), found, usual)
    findings.update(wrong)
    return wishes
