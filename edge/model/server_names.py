"""Server names of tls sections to certificates: who gives a name its Secret, and what becomes of a bad one.

Called by build.py. A name whose Secret is missing, broken or refused is served with the default certificate,
and no other name is touched by it: a wildcard's certificate does not step in for a host that has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from edge.model.certificates import secret_certificate
from edge.model.diagnostics import Diagnostic, ObjectRef
from edge.model.findings import Findings, Ledger
from edge.model.ingress import SecretWish
from edge.model.ordered import Ordered
from edge.model.types import Certificate
from edge.resources.kinds import Problem, Secret
from edge.resources.store import Key, ResourceStore

Place = tuple[str, str]


def lose_name(loser: SecretWish, winner: SecretWish, findings: Findings) -> None:
    """Say to a wish that another object gives the name its certificate, unless it is the same one."""
    if (loser.ref.namespace, loser.secret) != (winner.ref.namespace, winner.secret):
        message = f"{loser.name} has its certificate from {winner.ref}"
        findings.error(loser.ref, loser.where, "Conflict", message)


def miss_secret(wish: SecretWish, findings: Findings) -> None:
    """Say to a wish that its Secret is not there."""
    place = f"{wish.ref.namespace}/{wish.secret[:253]}"
    message = f"there is no Secret {place}; the default certificate is served"
    findings.error(wish.ref, f"{wish.where}.secretName", "SecretNotFound", message)


class ServerNames:
    """Which Secret each name wants, and the certificates that came of it."""

    def __init__(self, ledger: Ledger, default: Certificate | None) -> None:
        self._ledger = ledger
        self._default = default
        self._claims: dict[str, list[SecretWish]] = {}  # by server name, oldest first
        self._wants: dict[Place, set[str]] = {}  # Secret → names
        self._secrets: frozenset[Key] | None = None  # its keys, as the store has them
        self._place_of: dict[str, Place] = {}
        self._made: Ordered[Certificate] = Ordered()
        self._plain: set[str] = set()  # names that get the default certificate by their own wish
        self._failed: set[str] = set()  # and those that get it because theirs cannot be served
        self._touched: set[str] = set()
        self._row: tuple[Certificate, ...] = ()  # what `certificates` gave last, of _last
        self._last: tuple[Certificate, ...] | None = None

    def replace(self, old: Iterable[SecretWish], new: Iterable[SecretWish]) -> None:
        """Take an Ingress' wishes out and others in; `settle` judges them."""
        for wish in old:
            self._claims[wish.name].remove(wish)
            self._touched.add(wish.name)
        for wish in new:
            claims = self._claims.setdefault(wish.name, [])
            claims.append(wish)
            claims.sort(key=lambda one: one.age)
            self._touched.add(wish.name)

    def settle(
        self, store: ResourceStore, secrets: Iterable[Place], refused: Mapping[ObjectRef, Diagnostic]
    ) -> set[str]:
        """Judge what was touched. Shape: the names of which `has` says another thing now, perhaps."""
        places = {place for place in secrets if place in self._wants}
        result = set(self._touched)
        for name in self._touched:
            places |= self._choose(name)
        self._touched.clear()
        for place in places:
            result |= self._make(store, place, refused)
        return result

    def _choose(self, name: str) -> set[Place]:
        """Give a name to the oldest Ingress that wants it; shape: the Secrets to look at again."""
        claims = self._claims[name]
        found = Findings()
        places: set[Place] = set()
        before = self._place_of.pop(name, None)
        if before is not None:
            self._wants[before].discard(name)
            places.add(before)
        self._plain.discard(name)
        self._failed.discard(name)
        if not claims:
            del self._claims[name]
        else:
            first = claims[0]
            place = (first.ref.namespace, first.secret)
            for loser in claims[1:]:
                lose_name(loser, first, found)
            if first.secret:
                if place not in self._wants:
                    self._wants[place] = set()
                    self._secrets = None
                self._wants[place].add(name)
                self._place_of[name] = place
                places.add(place)
            else:
                self._plain.add(name)
        self._ledger.put(("server name", name), found.all())
        return places

    def _make(self, store: ResourceStore, place: Place, refused: Mapping[ObjectRef, Diagnostic]) -> set[str]:
        """Make the certificate of one Secret for the names that want it; shape: these names."""
        names = self._wants.get(place, set())
        if not names:
            self._wants.pop(place, None)
            self._secrets = None
            self._made.remove(place)
            self._ledger.put(("secret", place), ())
            return set()
        found = Findings()
        ref = ObjectRef("Secret", *place)
        decoded = store.decoded("Secret", *place)
        made: Certificate | None = None
        if decoded is None:
            for name in names:
                miss_secret(self._claims[name][0], found)
        elif ref not in refused:
            assert isinstance(decoded, Secret | Problem)
            result = (
                decoded
                if isinstance(decoded, Problem)
                else secret_certificate(ref, decoded, tuple(sorted(names)))
            )
            if isinstance(result, Problem):
                found.problem(ref, result)
            else:
                made = result
                if made.withheld:
                    message = "the state holds no key of it; handshakes are rejected until the source is back"
                    found.error(ref, "data[tls.key]", "KeyWithheld", message)
        self._ledger.put(("secret", place), found.all())
        if made is None:
            self._made.remove(place)
            self._failed |= names
        else:
            self._failed -= names
            if self._made.get(place) != made:
                self._made.put(place, made)
        return set(names)

    def claims(self, name: str) -> Sequence[SecretWish]:
        """Shape: those that want a server name, the one that has it first."""
        return self._claims.get(name, ())

    @property
    def secrets(self) -> frozenset[Key]:
        """Shape: every Secret that an object of ours names, there or not."""
        if self._secrets is None:
            self._secrets = frozenset(("Secret", *place) for place in self._wants)
        return self._secrets

    def has(self, name: str) -> bool:
        """Say whether TLS is set for a name: then plain requests are sent to https.

        Also where its own certificate cannot be served: a broken Secret must not turn encryption off.
        """
        if name in self._plain or name in self._failed:
            return self._default is not None
        return name in self._place_of

    def certificates(self) -> tuple[Certificate, ...]:
        """Shape: the default one with the names that fell to it, others by Secret, last those withheld."""
        made = self._made.values()
        if any(one.withheld for one in made):
            made = tuple(sorted(made, key=lambda one: one.withheld))
        if self._default is None:
            return made
        fallen = tuple(sorted(self._plain | self._failed))
        if self._default.names != fallen:
            self._default = replace(self._default, names=fallen)
        if made is not self._last or self._row[0] is not self._default:
            self._row, self._last = (self._default, *made), made
        return self._row
