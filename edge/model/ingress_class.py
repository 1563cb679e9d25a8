"""Which Ingresses are ours: by class field, by old annotation, by default class.

Called by ingress.py. An Ingress of somebody else gets no route and no Diagnostic. An instance serves
the classes that --ingress-class names, so that two instances with two classes never serve each other's
objects; if an IngressClass of that name exists, its controller must be ours (--controller-class), and
where none exists (a folder on a plain host) the name is enough.
Source: Ingress v1, ingressClassName and "Default IngressClass".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge.model.annotations import IMPLEMENTATION_SPECIFIC, OURS, USUAL, Wishes
from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.resources.kinds import Ingress, IngressClass, Problem, shown
from edge.resources.store import ResourceStore

OLD_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class ClassRule:
    """``names``: the classes that we serve; ``held``: those that are not somebody else's.

    ``default``: also without class; ``string_prefix``: those in which ImplementationSpecific means text.
    """

    names: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()
    default: bool = False
    string_prefix: frozenset[str] = frozenset()
    elsewhere: Wishes = USUAL

    def serves(self, ingress: Ingress) -> bool:
        """Say whether the Ingress is ours."""
        named = ingress.spec.ingress_class_name if ingress.spec else None
        if named:
            return named in self.held
        old = (ingress.metadata.annotations or {}).get(OLD_ANNOTATION)
        if old is not None:
            return old in self.names
        return self.default

    def usual(self, ingress: object) -> Wishes:
        """What holds for an Ingress where its annotations say nothing."""
        if not self.string_prefix or not isinstance(ingress, Ingress):
            return self.elsewhere
        named = ingress.spec.ingress_class_name if ingress.spec else None
        name = named or (ingress.metadata.annotations or {}).get(OLD_ANNOTATION) or self.names[0]
        return replace(self.elsewhere, string_prefix=True) if name in self.string_prefix else self.elsewhere


def class_rule(
    store: ResourceStore,
    classes: str,
    controller: str,
    without_class: bool,
    usual: Wishes,
    findings: Findings,
) -> ClassRule:
    """Read the IngressClasses. ``classes``: names, with commas between them."""
    names = tuple(classes.split(","))
    held, default, string_prefix = set(names), without_class, set()
    for _, found, decoded in store.typed("IngressClass"):
        ref = ObjectRef("IngressClass", "", found)
        if isinstance(decoded, Problem):
            findings.problem(ref, decoded)
            held.discard(found)
            continue
        assert isinstance(decoded, IngressClass)
        ours = decoded.spec is not None and decoded.spec.controller == controller
        if found in names:
            if not ours:
                held.discard(found)
            annotations = decoded.metadata.annotations or {}
            default = default or (ours and annotations.get(DEFAULT_ANNOTATION) == "true")
            if ours and decoded.spec is not None and decoded.spec.parameters is not None:
                message = "parameters have no effect yet; --configmap gives defaults for all classes"
                findings.warning(ref, "spec.parameters", "UnsupportedParameters", message)
            meaning = annotations.get(OURS + "implementation-specific")
            if meaning in IMPLEMENTATION_SPECIFIC:
                if ours and IMPLEMENTATION_SPECIFIC[meaning]:
                    string_prefix.add(found)
            elif meaning is not None and ours:
                message = f"{shown(meaning)} is none of {', '.join(IMPLEMENTATION_SPECIFIC)}; 'prefix' stays"
                field = f"metadata.annotations[{OURS}implementation-specific]"
                findings.warning(ref, field, "InvalidAnnotation", message)
        elif ours:
            message = f"this instance serves the class '{classes}' (--ingress-class), not this one"
            findings.warning(ref, "metadata.name", "OtherClass", message)
    return ClassRule(names, frozenset(held), default, frozenset(string_prefix), usual)
