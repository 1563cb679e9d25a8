"""Raw objects to Model: the whole judgement, in a form that costs what has changed.

Called by the controller's loop for each batch, by `edge check` and by `edge explain`. Never does
I/O and reads no clock: the same store and settings give the same Model, in any order of arrival.

    builder = ModelBuilder(settings)
    model = builder.update(store, changed, source.diagnostics, refused)  # changed: keys since the last call
    model = build_model(store, settings, source.diagnostics, refused)    # the same, from nothing

``refused`` are error Diagnostics: the objects that they name are left out, the rest is served, and
they are in ``model.diagnostics``. Listeners come from `listeners_of(options)`: --http in order, then
--https; EdgePolicy's trustedProxies are added here. What did not change is handed on as the same object
(Route, endpoints tuple, Certificate), which is how edge/snapshot finds what did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from ipaddress import ip_address

from edge.model.annotations import USUAL, Wishes
from edge.model.default_backend import default_wish
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.edgepolicy import policies as read_policies
from edge.model.findings import Findings, Ledger
from edge.model.ingress import Identity, Reading, RouteWish, lose_route, precedes, read_ingress
from edge.model.ingress_class import ClassRule, class_rule
from edge.model.names import covers
from edge.model.ordered import Ordered
from edge.model.precedence import order
from edge.model.server_names import ServerNames
from edge.model.types import Certificate, Listener, Model, Network, Policy, Route, Transport
from edge.model.upstreams import Upstreams
from edge.options import CONTROLLER_CLASS, Options, parse_address, parse_network
from edge.resources.kinds import RESOLVED_NAME
from edge.resources.store import Key, ResourceStore

_NONE = Reading()


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the options say about the model. ``default_certificate``: see `certificates.given_certificate`.

    ``zone``: where this node stands, for topology hints; ``external_allowed``: addresses that a Service of
    type ExternalName may have although they are this node's, of loopback or of the link; ``default_backend``:
    NAMESPACE/NAME:PORT, "" for none; ``usual``: what holds where an Ingress says nothing; ``findings``: what
    is wrong with settings that are an object.
    """

    listeners: tuple[Listener, ...] = ()
    ingress_class: str = "edge"
    watch_ingress_without_class: bool = False
    default_certificate: Certificate | None = None
    zone: str = ""
    external_allowed: tuple[Network, ...] = ()
    controller_class: str = CONTROLLER_CLASS
    default_backend: str = ""
    usual: Wishes = USUAL
    findings: tuple[Diagnostic, ...] = ()


def listeners_of(options: Options) -> tuple[Listener, ...]:
    """Shape: --http in order, then --https: the place is the slot."""
    result = []
    for name, texts, transport in (
        ("--http", options.http, Transport.PLAIN),
        ("--https", options.https, Transport.TLS),
    ):
        for text in texts:
            host, port = parse_address(text, name)
            result.append(Listener(ip_address(host), port, transport))
    return tuple(result)


def settings_of(options: Options, listeners: tuple[Listener, ...] | None = None) -> ModelSettings:
    """What the options say, without a default certificate. Errors: OptionError."""
    return ModelSettings(
        listeners=listeners_of(options) if listeners is None else listeners,
        ingress_class=options.ingress_class,
        controller_class=options.controller_class,
        watch_ingress_without_class=options.watch_ingress_without_class,
        zone=options.zone,
        default_backend=options.default_backend,
        external_allowed=tuple(parse_network(text, "--external-allow") for text in options.external_allow),
    )


def build_model(
    store: ResourceStore,
    settings: ModelSettings,
    source_diagnostics: Iterable[Diagnostic] = (),
    refused: Iterable[Diagnostic] = (),
) -> Model:
    """Link and judge all objects of the store, from nothing."""
    return ModelBuilder(settings).update(store, store.all_keys(), source_diagnostics, refused)


class ModelBuilder:
    """What is known of every object, and what of it must be looked at again when one changes."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._tls_served = any(one.transport is Transport.TLS for one in settings.listeners)
        self._ledger = Ledger()
        self._ledger.put("settings", settings.findings)
        self._rule = ClassRule()
        self._started = False
        self._refused: dict[ObjectRef, Diagnostic] = {}
        self._readings: dict[tuple[str, str], Reading] = {}
        self._claims: dict[Identity, list[RouteWish]] = {}  # what can be served first, then the oldest
        self._routes: Ordered[Route] = Ordered()
        self._keys: dict[Identity, tuple[object, ...]] = {}  # of _routes
        self._hosts: dict[str, set[Identity]] = {}
        self._below: dict[str, set[str]] = {}  # ".x.org" → hosts one label below it
        self._names = ServerNames(self._ledger, settings.default_certificate)
        self.upstreams = Upstreams(self._ledger, settings.zone, settings.external_allowed)
        self._policies: tuple[Policy, ...] = ()
        self._listeners = settings.listeners

    def update(
        self,
        store: ResourceStore,
        changed: Iterable[Key],
        source_diagnostics: Iterable[Diagnostic] = (),
        refused: Iterable[Diagnostic] = (),
    ) -> Model:
        """Take in what changed in the store since the last call, and give the Model of now."""
        touched = set(changed)
        self._ledger.put("source", source_diagnostics)
        touched |= self._refuse(refused)
        by_kind: dict[str, list[tuple[str, str]]] = {}
        for kind, namespace, name in touched:
            by_kind.setdefault(kind, []).append((namespace, name))

        ingresses = by_kind.get("Ingress", [])
        if not self._started or self.rereads(touched):
            findings = Findings()
            rule = self.class_rule(store, findings)
            self._ledger.put("IngressClass", findings.all())
            if rule != self._rule:
                if self._started:
                    ingresses = [*{*ingresses, *self._concerned(store, rule)}]
                self._rule = rule
        claimed: set[Identity] = set()
        if self._settings.default_backend and not self._started:
            wish = default_wish(self._settings.default_backend, self._settings.usual)
            self._claims[wish.identity] = [wish]
            claimed.add(wish.identity)
        for place in ingresses:
            claimed |= self._read(store, place)
        for identity in claimed:
            self._claim(identity)
        secured = self._names.settle(store, by_kind.get("Secret", ()), self._refused)
        again: set[Identity] = set(claimed)
        for name in secured:
            again |= self._served_under(name)
        for identity in again:
            self._finish(identity)
        services = {*by_kind.get("Service", ()), *self.upstreams.of_slices(store, by_kind)}
        self.upstreams.settle(store, services, by_kind.get(RESOLVED_NAME, ()), self._refused)
        if "EdgePolicy" in by_kind or not self._started:
            self._read_policies(store)
        self._started = True
        return Model(
            listeners=self._listeners,
            routes=self._routes.values(),
            upstreams=self.upstreams.all(),
            endpoints=self.upstreams.endpoints(),
            certificates=self._names.certificates(),
            policies=self._policies,
            diagnostics=self._ledger.sorted(),
            step=self._routes.step,
            moved=self.upstreams.moved,
        )

    def _refuse(self, refused: Iterable[Diagnostic]) -> set[Key]:
        """Shape: the objects that are left out now and were not before, or the other way round."""
        new = {diagnostic.object: diagnostic for diagnostic in refused}
        differing = new.keys() ^ self._refused.keys()
        self._refused = new
        self._ledger.put("refused", new.values())
        return {(ref.kind, ref.namespace, ref.name) for ref in differing}

    # ---- Ingresses -------------------------------------------------------------------------

    def _concerned(self, store: ResourceStore, rule: ClassRule) -> Iterator[tuple[str, str]]:
        """Shape: the Ingresses of which a new rule says another thing than the one that holds."""
        for key in store.all_keys():
            if key[0] == "Ingress":
                decoded = store.decoded(*key)
                store.forget_decoded(*key)
                if self._rule.usual(decoded) != rule.usual(decoded):
                    yield key[1:]

    def _read(self, store: ResourceStore, place: tuple[str, str]) -> set[Identity]:
        """Read one Ingress again; shape: what it asked for and what it asks for now."""
        ref = ObjectRef("Ingress", *place)
        decoded = store.decoded("Ingress", *place)
        new = _NONE
        usual = self._rule.usual(decoded)
        if decoded is not None and usual is not None:
            new = read_ingress(decoded, ref, usual)  # type: ignore[arg-type]
            if ref in self._refused:
                new = Reading(found=new.found)
        store.forget_decoded("Ingress", *place)
        old = self._readings.pop(place, _NONE)
        if new is not _NONE:
            self._readings[place] = new
        self._ledger.put(ref, new.found)
        touched = set()
        for wish in old.routes:
            self._claims[wish.identity].remove(wish)
            touched.add(wish.identity)
        for wish in new.routes:
            claims = self._claims.setdefault(wish.identity, [])
            claims.append(wish)
            if len(claims) > 1:
                claims.sort(key=precedes)
            touched.add(wish.identity)
        self._names.replace(old.secrets, new.secrets)
        return touched

    def _claim(self, identity: Identity) -> None:
        """Say who of those that want the same gets it: the oldest of those that lead somewhere."""
        claims = self._claims[identity]
        found = Findings()
        for loser in claims[1:]:
            lose_route(loser, claims[0], found)
        self._ledger.put(("claim", identity), found.all())
        self.upstreams.use(identity, claims[0] if claims else None)
        host = identity[0]
        if claims:
            self._hosts.setdefault(host, set()).add(identity)
            if host and not host.startswith("."):
                self._below.setdefault("." + host.partition(".")[2], set()).add(host)
            return
        del self._claims[identity]
        held = self._hosts.get(host, set())
        held.discard(identity)
        if not held:
            self._hosts.pop(host, None)
            self._below.get("." + host.partition(".")[2], set()).discard(host)

    def _served_under(self, name: str) -> set[Identity]:
        """Shape: the routes of the hosts that a certificate's name covers."""
        hosts = {name, *self._below.get(name, ())} if name.startswith(".") else {name}
        return {identity for host in hosts for identity in self._hosts.get(host, ())}

    def _finish(self, identity: Identity) -> None:
        """Put a route into the order, with what depends on others: whether plain requests go to https."""
        host = identity[0]
        claims = self._claims.get(identity)
        if not claims:
            key = self._keys.pop(identity, None)
            if key is not None:
                self._routes.remove(key)
            return
        wish = claims[0]
        redirect = wish.forced
        if self._tls_served and wish.redirect and host:
            parent = "." + host.partition(".")[2]
            redirect = redirect or any(covers(one, host) and self._names.has(one) for one in (host, parent))
        route = wish.route
        if route.redirect_https != redirect:
            route = replace(route, redirect_https=redirect)
        key = order(route)
        old = self._routes.get(key)
        if old is None or old != route:
            self._routes.put(key, route)
        self._keys[identity] = key

    # ---- for the loop ----------------------------------------------------------------------

    def rereads(self, changed: AbstractSet[Key]) -> bool:
        """Say whether what changed may be about all Ingresses: a class, or what one names."""
        if not self._rule.parameters.isdisjoint(changed):
            return True
        return any(key[0] == "IngressClass" for key in changed)

    @property
    def wanted(self) -> frozenset[Key]:
        """Shape: every Secret and ConfigMap that an object of ours names, there or not."""
        named = self._rule.parameters
        return self._names.secrets | named if named else self._names.secrets

    # ---- for questions (judge.py) ----------------------------------------------------------

    @property
    def rule(self) -> ClassRule:
        """Which Ingresses are ours."""
        return self._rule

    @property
    def names(self) -> ServerNames:
        """Who wants which server name."""
        return self._names

    def claims(self, identity: Identity) -> Sequence[RouteWish]:
        """Shape: those that want a match, the one that has it first."""
        return self._claims.get(identity, ())

    def class_rule(self, store: ResourceStore, findings: Findings) -> ClassRule:
        """Read the IngressClasses of a store, with our settings."""
        settings = self._settings
        return class_rule(
            store,
            settings.ingress_class,
            settings.controller_class,
            settings.watch_ingress_without_class,
            settings.usual,
            findings,
        )

    def serves(self, namespace: str, name: str) -> bool | None:
        """Say whether anything of an Ingress is served; None: it is not ours, or not there."""
        reading = self._readings.get((namespace, name))
        if reading is None:
            return None
        return any(self._claims.get(wish.identity, [None])[0] is wish for wish in reading.routes)

    # ---- the rest --------------------------------------------------------------------------

    def _read_policies(self, store: ResourceStore) -> None:
        findings = Findings()
        found = read_policies(store, findings)
        self._ledger.put("EdgePolicy", findings.all())
        self._policies = tuple(policy for policy in found if policy.object not in self._refused)
        networks: set[Network] = set()
        for policy in self._policies:
            networks.update(policy.trusted_proxies)
        trusted = tuple(
            sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen))
        )
        self._listeners = tuple(replace(one, trusted_proxies=trusted) for one in self._settings.listeners)
