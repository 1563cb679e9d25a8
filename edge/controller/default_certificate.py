"""The certificate for names that no Secret covers: self-signed, made at first need.

Called by the controller's loop when there is an --https listener. `cryptography` and not our own DER,
and not the openssl program, which a small container image does not have. On disk only where keys may be.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from edge.controller.log import say
from edge.controller.state import DEFAULT_CERTIFICATE, StateDirectory
from edge.errors import SourceError

BYTES_MAX = 65536
VALID = datetime.timedelta(days=3650)
NAME = "xdp-edge default certificate"


def make_default_certificate(now: datetime.datetime) -> tuple[bytes, bytes]:
    """Make a P-256 key and a certificate for it. Shape: chain and key, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("default.invalid")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain_pem = certificate.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return chain_pem, key_pem


def split_default_certificate(text: str) -> tuple[bytes, bytes] | None:
    """Read back chain and key from one text; None when they are not a certificate and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    chain, marker, rest = text.partition("-----BEGIN PRIVATE KEY")
    chain_pem, key_pem = chain.encode(), (marker + rest).encode()
    try:
        certificate = x509.load_pem_x509_certificate(chain_pem)
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError):
        return None
    return (chain_pem, key_pem) if key.public_key() == certificate.public_key() else None


def kept_certificate(directory: StateDirectory | None, running: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Find the pair that runs, or that of an earlier start, or make one and write it down.

    ``directory`` None: keys are kept nowhere. ``running``: keys by chain, of what is served now.
    """
    pair = next(((chain, key) for chain, key in running.items() if _is_ours(chain)), None)
    if pair is not None:
        return pair
    if directory is not None:
        try:
            kept = directory.read(DEFAULT_CERTIFICATE, BYTES_MAX)
            pair = split_default_certificate(kept.decode("ascii", "replace")) if kept is not None else None
            if kept is not None and pair is None:
                say(f"{directory.path / DEFAULT_CERTIFICATE} is of no use; another one is made")
        except SourceError as error:
            say(f"{error}; another one is made")
    if pair is not None:
        return pair
    pair = make_default_certificate(datetime.datetime.now(datetime.UTC))
    if directory is not None:
        try:
            directory.write(DEFAULT_CERTIFICATE, *pair)
        except SourceError as error:
            say(f"{error}; the default certificate lasts until the next start")
    return pair


def _is_ours(chain_pem: bytes) -> bool:
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(chain_pem)
    except ValueError:
        return False
    names = found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return found.subject == found.issuer and [one.value for one in names] == [NAME]
