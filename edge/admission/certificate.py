"""The webhook's certificates: an authority that signs one and is forgotten, and when both are renewed.

Called by secret.py. Pure but for the random keys; the time is an argument, because a clock may be wrong: a
certificate begins a day early, and not later than the one that it replaces was made. `cryptography`, as for
the default certificate.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509

LIFETIME = datetime.timedelta(days=90)
EARLY = datetime.timedelta(days=1)  # so much may the clocks of two machines differ
PEM_BYTES_MAX = 65536


@dataclass(frozen=True, slots=True)
class Pair:
    """PEM all: the authority, what it signed, and the key of that. The authority's own key is not kept."""

    authority: bytes
    chain: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Dates:
    """When a certificate begins and ends."""

    begins: datetime.datetime
    ends: datetime.datetime

    def is_due(self, now: datetime.datetime) -> bool:
        """Say whether two thirds are over, counted from when it was made."""
        return now >= self.ends - LIFETIME / 3


def make_pair(names: Iterable[str], now: datetime.datetime, replaced: Dates | None = None) -> Pair:
    """Make an authority and a certificate for these names. ``replaced``: dates of the one before."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    begins = now - EARLY
    if replaced is not None:
        begins = min(begins, replaced.ends - LIFETIME - EARLY)
    ends = now + LIFETIME
    # A name of its own for each authority: a client that has two of one name would have to try both.
    issuer = _name(f"xdp-edge webhook authority {secrets.token_hex(4)}")
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    listed = tuple(names)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    authority = (
        builder(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        builder(_name(listed[0][:64]), key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in listed]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return Pair(
        authority.public_bytes(pem),
        certificate.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def dates_of(chain: bytes) -> Dates | None:
    """Read when a chain's first certificate begins and ends; None for what is no certificate."""
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificate(chain)
    except ValueError:
        return None
    return Dates(found.not_valid_before_utc, found.not_valid_after_utc)


def is_good(pair: Pair, names: Iterable[str]) -> bool:
    """Say whether a pair fits together and is for these names; of what was read, nothing is believed."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        authority = x509.load_pem_x509_certificate(pair.authority)
        certificate = x509.load_pem_x509_certificate(pair.chain)
        key = load_pem_private_key(pair.key, None)
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except Exception:
        # A certificate of the wrong kind fails in a dozen ways; each means: make another.
        return False
    held = set(listed.get_values_for_type(x509.DNSName))
    return key.public_key() == certificate.public_key() and held >= set(names)


def split_bundle(bundle: bytes) -> list[bytes]:
    """Shape: the certificates of a bundle, one PEM each; what stands between them is left out."""
    end = b"-----END CERTIFICATE-----"
    begin = b"-----BEGIN CERTIFICATE-----"
    parts = bundle[:PEM_BYTES_MAX].split(end)[:-1]
    return [begin + part.partition(begin)[2] + end + b"\n" for part in parts if begin in part]


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _usage(signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
