"""Certificates, tokens and kubeconfigs of a Kubernetes of the tests."""

from __future__ import annotations

import datetime
import ipaddress
import json
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.kube.network import API_SERVICE, CONTROL, CONTROL6

SERVER = f"https://{CONTROL}:6443"
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
}


def make(run: Path, nodes: int) -> None:
    """Write the CA, the API server's certificate, the key of tokens, all users and their kubeconfigs."""
    keys = run / "keys"
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("edge-kube-ca", ca_key, None)
    write(keys / "ca", ca_key, ca)
    server_key = ec.generate_private_key(ec.SECP256R1())
    write(keys / "api", server_key, certificate("kube-apiserver", server_key, (ca, ca_key)))
    new_token_key(keys)
    lines = []
    for name, (user, group) in (USERS | {f"n{n}": node_user(n) for n in range(1, nodes + 1)}).items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user},"{group}"\n')
        write_kubeconfig(run / f"{name}.kubeconfig", keys / "ca.crt", token)
    (keys / "tokens.csv").write_text("".join(lines))


def node_user(number: int) -> tuple[str, str]:
    """Return user and group of a kubelet."""
    return f"system:node:n{number}", "system:nodes"


def new_token_key(keys: Path) -> None:
    """Write the key that signs tokens of service accounts; a second call makes all earlier tokens void."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (keys / "tokens.key").write_bytes(private(key))
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (keys / "tokens.pub").write_bytes(public)


def write_kubeconfig(path: Path, ca: Path, token: str) -> None:
    """Write a kubeconfig for a token; JSON is YAML too."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": SERVER, "certificate-authority": str(ca)}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }
    path.write_text(json.dumps(config, indent=1))


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
) -> x509.Certificate:
    """Return a certificate for a year; without a signer one of its own, to sign others.

    It begins a week ago, as that of a cluster that has run for a while: a story's clocks go back.
    """
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=7))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not signer:  # a strict client, as Python 3.13 is, wants to see that it may sign
        signs = dict.fromkeys(("key_cert_sign", "crl_sign", "digital_signature"), True)
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        usage = x509.KeyUsage(**signs, **dict.fromkeys((*others, "encipher_only", "decipher_only"), False))
        builder = builder.add_extension(usage, critical=True)
    else:
        addresses = ("127.0.0.1", CONTROL, CONTROL6, API_SERVICE)
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")
        alternatives = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        builder = builder.add_extension(
            x509.SubjectAlternativeName([*alternatives, *map(x509.DNSName, names)]), critical=False
        ).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer[1].public_key()), critical=False
        )
    return builder.sign(signer[1] if signer else key, hashes.SHA256())


def write(stem: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """Write a key and its certificate beside each other."""
    stem.with_suffix(".key").write_bytes(private(key))
    stem.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
