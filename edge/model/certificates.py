"""Secrets of type kubernetes.io/tls to certificates: structure only.

Called by ingress.py for the secrets that tls sections name, and by the controller for the default
one. Checks base64, the PEM frame and that chain and key are there; whether OpenSSL accepts the pair
is asked where it is loaded (the data plane refuses it by digest, and the Secret gets the Diagnostic).
Never puts a key into a message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from edge.model.diagnostics import ObjectRef
from edge.model.types import Certificate
from edge.resources.kinds import OVERSIZE, Problem, Secret

PEM_BYTES_MAX = 262_144
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----\s*([A-Za-z0-9+/=\s]+?)-----END \1-----")
_KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")


def secret_certificate(ref: ObjectRef, secret: Secret, names: tuple[str, ...]) -> Certificate | Problem:
    """Read a TLS Secret; the Problem names the field of the Secret."""
    if secret.type not in (None, "kubernetes.io/tls", "Opaque"):
        return Problem("type", "InvalidSecret", "a certificate needs a Secret of type kubernetes.io/tls")
    if "tls.key" in (secret.edge_withheld or ()):
        digest = hashlib.sha256(repr(("withheld", str(ref), names)).encode()).digest()
        return Certificate(ref, digest, b"", b"", names, withheld=True)
    found: list[bytes] = []
    for name in ("tls.crt", "tls.key"):
        if secret.string_data and name in secret.string_data:
            # The API server lets stringData win over data.
            found.append(secret.string_data[name].encode("utf-8", "replace"))
            continue
        text = (secret.data or {}).get(name)
        if not text:
            return Problem(f"data[{name}]", "Required", f"{name} is missing or empty")
        if text == OVERSIZE:
            return Problem(f"data[{name}]", "InvalidPem", f"{name} is longer than {PEM_BYTES_MAX} bytes")
        try:
            found.append(base64.b64decode("".join(text.split()), validate=True))
        except (binascii.Error, ValueError):
            return Problem(f"data[{name}]", "InvalidBase64", f"{name} is not base64")
    return _certificate(ref, found[0], found[1], names, False)


def given_certificate(chain_pem: bytes, key_pem: bytes) -> Certificate | Problem:
    """Make the default certificate of bytes that the controller was given or generated."""
    return _certificate(ObjectRef("Default", "", "certificate"), chain_pem, key_pem, (), True)


def _certificate(
    ref: ObjectRef, chain: bytes, key: bytes, names: tuple[str, ...], is_default: bool
) -> Certificate | Problem:
    for field, pem, allowed in (("tls.crt", chain, ("CERTIFICATE",)), ("tls.key", key, _KEYS)):
        problem = _pem_problem(pem, allowed)
        if problem:
            return Problem(f"data[{field}]", "InvalidPem", f"{field} {problem}")
    return Certificate(ref, hashlib.sha256(chain + key).digest(), chain, key, names, is_default)


def _pem_problem(pem: bytes, allowed: tuple[str, ...]) -> str:
    if len(pem) > PEM_BYTES_MAX:
        return f"is longer than {PEM_BYTES_MAX} bytes"
    try:
        text = pem.decode("ascii")
    except UnicodeDecodeError:
        return "is not PEM text"
    if "\0" in text:
        return "is not PEM text"
    found = False
    for label, body in _BLOCK.findall(text):
        if label not in allowed:
            if label == "EC PARAMETERS":
                continue  # `openssl ecparam -genkey` writes them before the key
            return f"holds a {label} where {allowed[0]} is expected"
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except (binascii.Error, ValueError):
            return "holds a block that is not base64"
        if not der.startswith(b"\x30"):
            return "holds a block that is not DER"
        found = True
    return "" if found else f"holds no {allowed[0]}"
