"""The webhook's Secret: what is in it, how the leader makes and renews it, how each instance follows it.

Called by service.py. A renewal loses no call: the new authority goes into the bundle that API servers trust
first, and only when they had time to learn it is its certificate served. What is read is not believed:
whatever does not fit together is made anew. Every write names the resourceVersion that was read, so that two
leaders cannot undo each other's.

| key | holds |
|---|---|
| ca.crt | the authorities that are trusted, the newest first |
| tls.crt, tls.key | what is served |
| next.crt, next.key | what will be served, while it waits |
| token | the end of the path, which only API servers are told |
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from edge.admission.certificate import PEM_BYTES_MAX, Pair, dates_of, is_good, make_pair, split_bundle
from edge.admission.server import PATH
from edge.controller.calls import MERGE_PATCH, Calls
from edge.controller.log import say
from edge.errors import ApiError
from edge.resources.kinds import plain

TEND_S = 10.0
LEADS_S = 2.0  # between two looks whether we lead
SETTLE_S = 60.0  # from the bundle's change until what it brought is served
AUTHORITIES_MAX = 3
SKEW = datetime.timedelta(hours=1)  # between the API server's clock and ours, before ours is not believed
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

Now = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """Read the wall clock."""
    return datetime.datetime.fromtimestamp(time.time(), datetime.UTC)


class _Managed(msgspec.Struct, frozen=True):
    time: str | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    managed_fields: list[_Managed] | None = None


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Metadata
    data: dict[str, str] | None = None


_read = msgspec.json.Decoder(_Secret)


@dataclass(frozen=True, slots=True)
class Contents:
    """What the Secret says. ``authorities``: PEM each, the newest first."""

    authorities: tuple[bytes, ...]
    chain: bytes
    key: bytes
    token: str
    next_chain: bytes = b""
    next_key: bytes = b""

    @property
    def bundle(self) -> bytes:
        """What API servers are to trust."""
        return b"".join(self.authorities)

    def serves(self, names: tuple[str, ...]) -> bool:
        """Say whether chain and key fit together, are for these names, and an authority is there for them."""
        return any(is_good(Pair(one, self.chain, self.key), names) for one in self.authorities)

    def to_data(self) -> dict[str, str]:
        """Shape: the data of the Secret."""
        texts = {
            "ca.crt": self.bundle,
            "tls.crt": self.chain,
            "tls.key": self.key,
            "token": self.token.encode(),
        }
        if self.next_chain:
            texts |= {"next.crt": self.next_chain, "next.key": self.next_key}
        return {name: base64.b64encode(text).decode() for name, text in texts.items()}

    @classmethod
    def of(cls, data: dict[str, str] | None) -> Contents:
        """Read what is there; what is missing or no base64 is empty."""

        def value(name: str) -> bytes:
            try:
                text = base64.b64decode((data or {}).get(name, ""), validate=True)
            except (binascii.Error, ValueError):
                return b""
            return text if len(text) <= PEM_BYTES_MAX else b""

        token = value("token").decode("ascii", "replace")
        return cls(
            tuple(split_bundle(value("ca.crt"))[:AUTHORITIES_MAX]),
            value("tls.crt"),
            value("tls.key"),
            token if len(token) >= 16 and token.isalnum() and token.isascii() else "",
            value("next.crt"),
            value("next.key"),
        )


class WebhookSecret:
    """The Secret of one Service. ``names``: by which API servers call it."""

    def __init__(self, calls: Calls, namespace: str, service: str) -> None:
        self._calls = calls
        self._namespace, self._service = namespace, service
        self._folder = f"/api/v1/namespaces/{namespace}/secrets"
        self.configuration = service.removesuffix("-webhook")
        bare = f"{service}.{namespace}"
        self.names = (f"{bare}.svc", f"{bare}.svc.cluster.local", bare)

    async def read(self) -> tuple[str, Contents] | None:
        """Shape: resourceVersion and contents, None where there is no Secret. Errors: ApiError."""
        try:
            answer = await self._calls.request("GET", f"{self._folder}/{self._service}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        found = _decode(answer)
        return found.metadata.resource_version, Contents.of(found.data)

    async def write(self, contents: Contents, version: str) -> tuple[str, datetime.datetime | None]:
        """Create it, or replace what was read as ``version``.

        Shape: the new resourceVersion, and when that was by the API server's clock. Errors: ApiError.
        """
        metadata: dict[str, Any] = {
            "name": self._service,
            "namespace": self._namespace,
            "labels": {"app.kubernetes.io/managed-by": "xdp-edge"},
        }
        if version:
            metadata["resourceVersion"] = version
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": "Opaque",
            "data": contents.to_data(),
        }
        path = f"{self._folder}/{self._service}" if version else self._folder
        answer = await self._calls.request(
            "PUT" if version else "POST", path, body=msgspec.json.encode(secret)
        )
        found = _decode(answer)
        times = [one.time for one in found.metadata.managed_fields or () if one.time]
        try:
            at = datetime.datetime.fromisoformat(max(times, default=""))
        except ValueError:
            at = None
        return found.metadata.resource_version, at

    async def announce(self, contents: Contents) -> bool:
        """Have API servers trust the bundle and call the path. Shape: whether something was changed.

        Errors: ApiError; 404 where there is no configuration.
        """
        path = f"{CONFIGURATIONS}/{self.configuration}"
        configuration = plain(await self._calls.request("GET", path))
        bundle = base64.b64encode(contents.bundle).decode()
        changed = False
        for one in configuration.get("webhooks") or ():
            client = one.get("clientConfig", {})
            service = client.get("service") or {}
            if (service.get("namespace"), service.get("name")) != (self._namespace, self._service):
                continue
            wanted = f"{PATH}/{contents.token}"
            if client.get("caBundle") != bundle or service.get("path") != wanted:
                client["caBundle"], service["path"] = bundle, wanted
                changed = True
        if changed:
            version = configuration["metadata"]["resourceVersion"]
            patch = {"metadata": {"resourceVersion": version}, "webhooks": configuration["webhooks"]}
            body = msgspec.json.encode(patch)
            await self._calls.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        return changed


class Tender:
    """The leader's part: makes the Secret, renews it, and tells API servers."""

    def __init__(
        self, secret: WebhookSecret, now: Now = utc_now, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secret = secret
        self._now = now
        self._clock = clock
        self._told = ""
        self._announced: tuple[bytes, float] | None = None  # which bundle API servers know, since when

    async def run(self, leads: Callable[[], bool]) -> None:
        """Tend it while we lead, until cancelled. Never fails."""
        while True:
            if not leads():
                self._announced = None
                await asyncio.sleep(LEADS_S)
                continue
            try:
                await self.tend()
                self._say("")
            except ApiError as error:
                if error.status != 409:  # another wrote it: looked at again next time
                    self._say(f"webhook: {error}")
            await asyncio.sleep(TEND_S)

    async def tend(self) -> None:
        """Do what is due now. Errors: ApiError."""
        found = await self._secret.read()
        version, contents = found if found is not None else ("", Contents.of(None))
        wanted = self._due(contents)
        if wanted is not contents:
            version, at = await self._secret.write(wanted, version)
            made = wanted.chain not in (contents.chain, contents.next_chain)
            if made and at is not None and abs(at - self._now()) > SKEW:
                # The API server is the one that must find the certificate valid.
                wanted = self._fresh(replace(contents, token=wanted.token), at)
                await self._secret.write(wanted, version)
        await self._announce(wanted)

    def _due(self, now: Contents) -> Contents:
        """Shape: what the Secret should say; the same object where it says so."""
        names = self._secret.names
        if not now.token or not now.serves(names):
            return self._fresh(now, self._now())
        if now.next_chain:
            staged = replace(now, chain=now.next_chain, key=now.next_key, next_chain=b"", next_key=b"")
            if not staged.serves(names):
                return replace(now, next_chain=b"", next_key=b"")
            known = self._announced is not None and self._announced[0] == now.bundle
            if known and self._announced is not None and self._clock() - self._announced[1] >= SETTLE_S:
                say("webhook: the renewed certificate is served from now on")
                return staged
            return now
        dates = dates_of(now.chain)
        if dates is not None and dates.is_due(self._now()):
            pair = make_pair(names, self._now(), dates)
            say("webhook: the certificate is renewed")
            authorities = (pair.authority, *now.authorities)[: AUTHORITIES_MAX - 1]
            return replace(now, authorities=authorities, next_chain=pair.chain, next_key=pair.key)
        return now

    def _fresh(self, old: Contents, now: datetime.datetime) -> Contents:
        """Shape: a new pair that is served at once; what else was trusted stays so for a while."""
        pair = make_pair(self._secret.names, now)
        say("webhook: a certificate is made")
        token = old.token or secrets.token_hex(16)
        authorities = (pair.authority, *old.authorities)[: AUTHORITIES_MAX - 1]
        return Contents(authorities, pair.chain, pair.key, token)

    async def _announce(self, contents: Contents) -> None:
        try:
            changed = await self._secret.announce(contents)
        except ApiError as error:
            self._announced = None
            if error.status != 404:
                raise
            name = self._secret.configuration
            raise ApiError(
                404, "NotFound", f"there is no ValidatingWebhookConfiguration {name}; nobody asks us"
            ) from error
        if changed or self._announced is None or self._announced[0] != contents.bundle:
            self._announced = (contents.bundle, self._clock())

    def _say(self, text: str) -> None:
        """Say what is wrong, once."""
        if text and text != self._told:
            say(text)
        self._told = text


def _decode(answer: bytes) -> _Secret:
    try:
        return _read.decode(answer)
    except msgspec.DecodeError as error:
        raise ApiError(0, "Unreadable", str(error)) from error
