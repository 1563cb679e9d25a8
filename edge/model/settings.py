"""The settings that users change while we run: the keys of a ConfigMap.

Called by the controller for the one that --configmap names, and by ingress_class.py for those that classes
name. Keys are those that users of ingress-nginx know; a key that we do not serve, or a value that cannot be
read, is a warning and the default stays.
Source: ingress-nginx 1.15, configmap.md.
"""

from __future__ import annotations

from edge.model import annotations as notes
from edge.model.annotations import NGINX, USUAL, Wishes
from edge.model.diagnostics import Diagnostic, ObjectRef, Severity
from edge.model.findings import Findings
from edge.resources.kinds import ConfigMap, Problem, shown

# Each is the default of the annotation of this name.
KEYS = (
    "force-ssl-redirect",
    "proxy-body-size",
    "proxy-connect-timeout",
    "proxy-read-timeout",
    "proxy-send-timeout",
    "ssl-redirect",
)


def read_settings(
    ref: ObjectRef, config_map: ConfigMap | Problem, usual: Wishes = USUAL
) -> tuple[Wishes, tuple[Diagnostic, ...]]:
    """Shape: what holds where an Ingress says nothing, and what is wrong with it. ``usual``: the defaults."""
    findings = Findings()
    if isinstance(config_map, Problem):
        findings.problem(ref, config_map)
        return usual, tuple(sorted(findings.all()))
    data = config_map.data or {}
    known = {NGINX + key: data[key] for key in KEYS if key in data}
    wishes = notes.read(known, ref, findings, usual) or usual
    wrong = []
    for one in findings.all():
        field = one.field.replace(f"metadata.annotations[{NGINX}", "data[")
        wrong.append(Diagnostic(ref, field, "InvalidSetting", one.message, Severity.WARNING))
    for key in sorted(data.keys() - set(KEYS)):
        message = f"{shown(key)} is not supported and has no effect"
        field = f"data[{ascii(key[:100])[1:-1]}]"
        wrong.append(Diagnostic(ref, field, "UnknownSetting", message, Severity.WARNING))
    return wishes, tuple(sorted(wrong))
