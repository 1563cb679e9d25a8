"""Which Ingresses are ours: by class field, by old annotation, by default class.

Called by ingress.py. An Ingress of somebody else gets no route and no Diagnostic. An instance serves
the class that --ingress-class names, so that two instances with two classes never serve each other's
objects; if an IngressClass of that name exists, its controller must be ours (--controller-class), and
where none exists (a folder on a plain host) the name is enough.
Source: Ingress v1, ingressClassName and "Default IngressClass".
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.model.annotations import IMPLEMENTATION_SPECIFIC, OURS
from edge.model.diagnostics import ObjectRef
from edge.model.findings import Findings
from edge.resources.kinds import Ingress, IngressClass, Problem, shown
from edge.resources.store import ResourceStore

OLD_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class ClassRule:
    """``name``: the class that we serve; ``held``: not somebody else's; ``default``: also without class.

    ``string_prefix``: what pathType ImplementationSpecific means in it.
    """

    name: str
    held: bool
    default: bool
    string_prefix: bool = False

    def serves(self, ingress: Ingress) -> bool:
        """Say whether the Ingress is ours."""
        named = ingress.spec.ingress_class_name if ingress.spec else None
        if named:
            return self.held and named == self.name
        old = (ingress.metadata.annotations or {}).get(OLD_ANNOTATION)
        if old is not None:
            return old == self.name
        return self.default


def class_rule(
    store: ResourceStore, name: str, controller: str, without_class: bool, findings: Findings
) -> ClassRule:
    """Read the IngressClasses."""
    held, default, string_prefix = True, without_class, False
    for _, found, decoded in store.typed("IngressClass"):
        ref = ObjectRef("IngressClass", "", found)
        if isinstance(decoded, Problem):
            findings.problem(ref, decoded)
            held = held and found != name
            continue
        assert isinstance(decoded, IngressClass)
        ours = decoded.spec is not None and decoded.spec.controller == controller
        if found == name:
            held = ours
            annotations = decoded.metadata.annotations or {}
            default = default or (ours and annotations.get(DEFAULT_ANNOTATION) == "true")
            meaning = annotations.get(OURS + "implementation-specific")
            if meaning in IMPLEMENTATION_SPECIFIC:
                string_prefix = ours and IMPLEMENTATION_SPECIFIC[meaning]
            elif meaning is not None and ours:
                message = f"{shown(meaning)} is none of {', '.join(IMPLEMENTATION_SPECIFIC)}; 'prefix' stays"
                field = f"metadata.annotations[{OURS}implementation-specific]"
                findings.warning(ref, field, "InvalidAnnotation", message)
        elif ours:
            message = f"this instance serves the class '{name}' (--ingress-class), not this one"
            findings.warning(ref, "metadata.name", "OtherClass", message)
    return ClassRule(name, held, default, string_prefix)
