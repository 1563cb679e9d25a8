"""Every reason code that a Diagnostic can have: its level, what it says, and what to do about it.

The one list: `edge check --list` prints it, Diagnostics take their advice from it, tests compare it with
what the code uses. A new reason is a line here.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.model.diagnostics import Diagnostic, Severity


@dataclass(frozen=True, slots=True)
class Reason:
    """``meaning``: what is the matter; ``effect``: what is done with the object; ``advice``: what to do.

    ``later``: another object is missing or wrong, and may be put right after this one: admission warns.
    """

    level: Severity
    meaning: str
    effect: str
    advice: str
    later: bool = False

    @property
    def refuses(self) -> bool:
        """Say whether the admission webhook refuses an object for it."""
        return self.level is Severity.ERROR and not self.later


_E, _W = Severity.ERROR, Severity.WARNING
_LATER = True
_ROUTE = "this rule is not served; the others are"
_503 = "the match answers 503"
_WHOLE = "the object is not served; the others are"
_DEFAULT = "the default certificate is served for these names, and for no others"

REASONS: dict[str, Reason] = {
    # files
    "Unreadable": Reason(
        _E,
        "a file or a document in it cannot be read",
        "what it said last stays in force",
        "correct the file at the place that is named; nothing else has to be done",
    ),
    "Empty": Reason(
        _E,
        "there is nothing where something must be: no rules, no paths, no objects",
        "what would follow from it is not served",
        "add what is missing, or delete the object",
    ),
    "SourceEmpty": Reason(
        _E,
        "the folder holds no object, where there were some before",
        "the last known good ones are served",
        "put the files back; if nothing is to be served, start with --accept-empty",
    ),
    "Blind": Reason(
        _W,
        "changes of files are not announced by the kernel",
        "the folder is read every second instead",
        "raise fs.inotify.max_user_instances and max_user_watches",
    ),
    "Duplicate": Reason(
        _E,
        "an object stands in two places",
        "the first is used, by file name and then by place",
        "delete one of the two",
    ),
    "Folder": Reason(
        _W, "a folder lies among the files", "it is not read", "move its files up, or point --config at it"
    ),
    "UnknownKind": Reason(
        _W,
        "nobody here reads objects of this kind",
        "it is left alone",
        "nothing, if another program reads it; else compare apiVersion and kind with the documentation",
    ),
    "UnsupportedVersion": Reason(
        _E,
        "the object is of a retired API version",
        _WHOLE,
        "write it in the version that is named; kubectl convert does it",
    ),
    "NotAnObject": Reason(
        _E, "a document is no object", "it is left out", "begin it with apiVersion, kind and metadata"
    ),
    # the API server
    "Unreachable": Reason(
        _E,
        "the API server does not answer",
        "what it said last stays in force",
        "look whether it runs, can be reached from this node, and has its time; it is asked again by itself",
    ),
    "Unauthorized": Reason(
        _E,
        "the API server does not accept our token",
        "what it said last stays in force",
        "look whether the ServiceAccount exists, and whether the clock is right; the token is read again",
    ),
    "Forbidden": Reason(
        _E,
        "we may not read a resource",
        "what it holds is as it was last known, or not served",
        "grant list and watch for it, as manifests/ does",
    ),
    "ResourceMissing": Reason(
        _W,
        "the API server knows no such resource",
        "what it would hold is not served; all else is",
        "apply its CRD (manifests/crds), if it is wanted; it is looked for twice a minute",
    ),
    "TooManyNamed": Reason(
        _W,
        "many Secrets of other types than kubernetes.io/tls, or ConfigMaps, are named: each is a watch",
        "those beyond the limit are not read",
        "make certificates Secrets of type kubernetes.io/tls",
    ),
    "UnsupportedParameters": Reason(
        _W,
        "an IngressClass of ours names parameters of a kind or in a way that is not read",
        "they have no effect; the class is served with the controller's settings",
        "name a ConfigMap: kind, name, namespace, and scope: Namespace",
    ),
    "ParametersNotFound": Reason(
        _W,
        "the ConfigMap that an IngressClass of ours names is not there, or may not be read",
        "the class is served with the controller's settings until it is",
        "make it, or correct the reference; permit to list and watch it as manifests/README.md says",
    ),
    "UnknownSetting": Reason(
        _W,
        "a ConfigMap of settings has a key that is not served",
        "it has no effect",
        "compare it with the list in the README; delete it where it is not needed",
    ),
    "InvalidSetting": Reason(
        _W,
        "a value of a ConfigMap of settings cannot be used",
        "the default stays",
        "write it as the message says",
    ),
    # shape
    "Required": Reason(_E, "a field that must be set is missing", "what needs it is not served", "set it"),
    "InvalidType": Reason(
        _E, "a field has a value of another type", _WHOLE, "write the type that is named; quote texts"
    ),
    "UnknownField": Reason(
        _E,
        "a field is not of this kind's, and a guard must not be misspelt",
        _WHOLE,
        "correct the spelling, or delete the field",
    ),
    "InvalidValue": Reason(
        _E,
        "a value is none of those that are allowed",
        "what it belongs to is not served",
        "choose one of them",
    ),
    "OutOfRange": Reason(
        _E, "a number is too small or too large", "what it belongs to is not served", "stay within the range"
    ),
    "InvalidName": Reason(
        _E,
        "a name is not one that the Kubernetes API takes",
        "what it names is not served",
        "use lower case letters, digits, '-' and '.'",
    ),
    "InvalidTime": Reason(
        _W,
        "metadata.creationTimestamp is no time",
        "the object counts as the youngest where two conflict",
        "delete the field, or write it as 2026-01-31T00:00:00Z",
    ),
    # Ingress
    "InvalidHost": Reason(
        _E,
        "a host is no DNS name, nor '*.' and one",
        _ROUTE,
        "write the name alone, without port; international names in their xn-- form",
    ),
    "InvalidPath": Reason(
        _E,
        "a path could never match: requests come in normal form",
        _ROUTE,
        "begin with '/'; no '//', '/./', '/../', '%2f', '#' or '?'",
    ),
    "Conflict": Reason(
        _E,
        "two objects want the same match or server name",
        "the oldest has it (without creation times: by namespace and name)",
        "delete the rule from one of them, or change its host or path",
    ),
    "UnsupportedBackend": Reason(
        _E,
        "a resource backend, or a resource and a Service together",
        _503,
        "name a Service instead",
    ),
    "UnsupportedGuard": Reason(
        _E,
        "an annotation guards access (or shares traffic out) in a way that is not supported",
        "the Ingress is not served: without its guard it must not open",
        "guard the Service in another way and delete the annotation",
    ),
    "UnsupportedAnnotation": Reason(
        _W, "an annotation is not supported", "it has no effect", "delete it, or do without what it asks for"
    ),
    "InvalidAnnotation": Reason(
        _W, "an annotation's value cannot be read", "the default stays", "write a value that is named"
    ),
    "OtherClass": Reason(
        _W,
        "an IngressClass is of this controller, but this instance serves another",
        "its Ingresses are left to the instance that serves it",
        "nothing, if there is one; else start it with --ingress-class",
    ),
    # Services and endpoints
    "ServiceNotFound": Reason(
        _E, "a rule names a Service that is not there", _503, "create the Service", _LATER
    ),
    "PortNotFound": Reason(
        _E,
        "a rule names a port that its Service does not have",
        _503,
        "write one of the Service's TCP ports, as spec.ports names or numbers it",
        _LATER,
    ),
    "InvalidService": Reason(_E, "a Service cannot be read", _503, "correct the Service", _LATER),
    "InvalidExternalName": Reason(
        _E,
        "spec.externalName is no host name",
        _503,
        "write a DNS name without scheme or port",
        _LATER,
    ),
    "NotResolved": Reason(
        _W,
        "a host name of a Service of type ExternalName has no addresses now",
        "the last good addresses stay; without any the match answers 503",
        "look at the DNS answer that is named; a folder alone resolves nothing",
    ),
    "ForbiddenAddress": Reason(
        _E,
        "an external name leads to this node, to loopback or to the link",
        "the address is not used",
        "allow it with --external-allow if it is meant",
        _LATER,
    ),
    "NoService": Reason(
        _W,
        "an EndpointSlice belongs to no Service",
        "it has no effect",
        "set the label kubernetes.io/service-name",
    ),
    "InvalidAddress": Reason(
        _E, "an endpoint's address is none", "this address is left out", "correct the EndpointSlice"
    ),
    "InvalidPort": Reason(_E, "an endpoint's port is none", "this port is left out", "write 1 to 65535"),
    "UnsupportedAddressType": Reason(
        _W,
        "addresses are neither IPv4 nor IPv6",
        "the slice is left out",
        "use a Service of type ExternalName",
    ),
    # certificates
    "SecretNotFound": Reason(
        _E,
        "a tls section names a Secret that is not there",
        _DEFAULT,
        "create the Secret",
        _LATER,
    ),
    "InvalidSecret": Reason(
        _E,
        "a Secret is of another type",
        _DEFAULT,
        "make it with kubectl create secret tls",
        _LATER,
    ),
    "InvalidBase64": Reason(
        _E,
        "a Secret's data is not base64",
        _DEFAULT,
        "encode the file, or use stringData",
        _LATER,
    ),
    "InvalidPem": Reason(
        _E,
        "a certificate or key is not PEM",
        _DEFAULT,
        "put the chain into tls.crt and its key into tls.key",
        _LATER,
    ),
    "KeyWithheld": Reason(
        _E,
        "a certificate is known from the last start, its key is not",
        "TLS handshakes for its names are rejected, and no other certificate is shown for them",
        "bring the source of the Secret back; --state-secrets keeps keys over a stop",
    ),
    "NotYetValid": Reason(
        _W,
        "a certificate is valid from a later time on",
        "it is served; clients refuse it",
        "look at the clock of this machine, then at the certificate",
    ),
    "Expired": Reason(_W, "a certificate's time is over", "it is served; clients refuse it", "renew it"),
    "ExpiresSoon": Reason(_W, "a certificate ends within 14 days", "none yet", "renew it"),
    "UnusedTlsHost": Reason(
        _W,
        "a tls section names a host that no rule of the Ingress has",
        "its certificate is served for that name all the same",
        "add a rule for the host, or delete it from the tls section",
    ),
    # EdgePolicy
    "InvalidNetwork": Reason(
        _E,
        "an entry is no network",
        "this entry is left out, the others are in force",
        "write 198.51.100.0/24",
    ),
    "NoLimit": Reason(_E, "a per-source limit limits nothing", "it has no effect", "set a rate"),
    # the state folder
    "NotWritten": Reason(
        _W,
        "the state folder cannot be written",
        "serving goes on; a start would find less",
        "make room there",
    ),
    "NotKept": Reason(
        _W,
        "an object cannot be kept in the state folder",
        "a start without its file would not know it",
        "none",
    ),
    "Older": Reason(_W, "the newest state was of no use", "the one before it is used", "look at the disk"),
    "Unusable": Reason(
        _W, "a state file is of no use", "it is replaced with the next write", "look at the disk"
    ),
    # limits, and what other parts refuse
    "LimitReached": Reason(
        _E,
        "there are more things of a kind than this version holds",
        "what came last is left out",
        "use fewer",
    ),
    "Refused": Reason(
        _E,
        "the data plane refused what was made of the object",
        "the object is left out until it changes",
        "correct what the sentence names; if nothing is wrong with it, please report it",
    ),
}

_UNKNOWN = Reason(_E, "", "", "see the documentation")


def reason_of(code: str) -> Reason:
    """Look a code up; one that is not in the table has no advice of its own."""
    return REASONS.get(code, _UNKNOWN)


def sentence(entry: Diagnostic) -> str:
    """Shape: a finding on one line, as the folder's check, the webhook and others say it."""
    field = f" {entry.field}" if entry.field else ""
    return f"{entry.object}{field}: {entry.reason}: {entry.message}"
