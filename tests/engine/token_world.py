"""
A world of tokens: a stand-in control plane asked over HTTP, real directories, a real journal.

Rules that must stay true here:

- Everything that has an effect outside passes the world's fault point; time moves by hand.
- Whether a token lets in is asked of the control plane with the very file that a consumer would read.
"""

from __future__ import annotations

import base64
import functools
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from rotator.adapters.directory import TokenDirectory
from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.signing_keys import KumaSigningKeys
from rotator.adapters.kuma.token_secrets import HTTPShelves
from rotator.adapters.kuma.tokens import KumaTokens, list_name
from rotator.core.event import EventType
from rotator.core.model import (
    ManagedToken,
    Publication,
    Serial,
    SigningKey,
    SubjectName,
    TokenGrant,
    TokenKind,
    TrustDomainName,
)
from rotator.core.tokens import SigningKeyPolicy
from rotator.core.window import Budget, Calendar, LeafPolicy
from rotator.engine.targets import DomainTarget, Fleet, SigningKeyTarget, TokenTarget
from rotator.errors import Unavailable
from rotator.evidence.ledger import story
from rotator.ports import IssuanceState, IssuedToken, KnownToken, RotationState, Stamp
from tests.engine.world import MESH, World
from tests.fakes.clock import ManualClock
from tests.fakes.faults import Faults
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import GLOBAL_SECRET, SECRET
from tests.fakes.kuma.tokens import SigningKeyRing, TokenRefused
from tests.fakes.kuma.tokens import TokenKind as Theirs

WEB = SubjectName("web-token")
KEYS = SubjectName("proxy-keys")


class FaultyIssuer:
    """A token issuer whose effects pass the world's fault point."""

    def __init__(self, inner: KumaTokens, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults
        self.revoked = inner.revoked

    def issue(self, grant: TokenGrant, lifetime: timedelta) -> IssuedToken:
        """Issue through the fault point."""
        with self._faults.call("issue"):
            return self.inner.issue(grant, lifetime)

    def revoke(self, grant: TokenGrant, *, add: frozenset[Serial], drop: frozenset[Serial]) -> None:
        """Revoke through the fault point."""
        with self._faults.call("revoke"):
            self.inner.revoke(grant, add=add, drop=drop)


class FaultyKeys:
    """Signing keys whose changes pass the world's fault point."""

    def __init__(self, inner: KumaSigningKeys, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults
        self.place = inner.place
        self.answer = True
        self.known: tuple[KnownToken, ...] = ()
        """Tokens of others that are known to be in use."""

    def held(self) -> tuple[SigningKey, ...]:
        """Return the keys, without a fault point, while they `answer`."""
        if not self.answer:
            raise Unavailable("the control plane did not answer")
        return self.inner.held()

    def add(self, serial: int) -> None:
        """Add through the fault point."""
        with self._faults.call("add key"):
            self.inner.add(serial)

    def remove(self, serial: int) -> None:
        """Remove through the fault point."""
        with self._faults.call("remove key"):
            self.inner.remove(serial)

    def known_tokens(self) -> tuple[KnownToken, ...]:
        """Return what is known, without a fault point."""
        return (*self.inner.known_tokens(), *self.known)


class FaultyDirectory:
    """A directory whose writes pass the world's fault point."""

    def __init__(self, inner: TokenDirectory, faults: Faults) -> None:
        self.inner = inner
        self._faults = faults
        self.target = inner.target

    def read(self) -> Publication | None:
        """Read, without a fault point."""
        return self.inner.read()

    def text(self) -> str:
        """Return what is published."""
        return self.inner.text()

    def put_token(self, text: str, *, expected: int, stamp: Stamp) -> Publication:
        """Publish through the fault point."""
        with self._faults.call("put"):
            return self.inner.put_token(text, expected=expected, stamp=stamp)

    def forget(self, *, keep: frozenset[int]) -> None:
        """Forget through the fault point."""
        with self._faults.call("forget"):
            self.inner.forget(keep=keep)


class TokenWorld(World):
    """As `World`, with one token in two directories, and its signing keys."""

    def __init__(
        self,
        directory: Path,
        standin: StandIn,
        *,
        lifetime: timedelta = timedelta(hours=1),
        rotate_every: timedelta = timedelta(days=90),
        others_live: timedelta = timedelta(),
        mesh: str = "default",
        revoke: bool = True,
        **wanted: Any,
    ) -> None:
        self.standin = standin
        self.places = (directory / "token-a", directory / "token-b")
        self.mesh = mesh
        self.grant = TokenGrant(kind=TokenKind.DATAPLANE, name="web", mesh=mesh)
        self.ring = SigningKeyRing(Theirs.DATAPLANE, mesh)
        self.revoke, self.lifetime = revoke, lifetime
        standin.edit_mesh(mesh)
        standin.keep_secret(f"{self.ring.prefix}-1", first_key(), mesh=mesh)
        self.key_policy = SigningKeyPolicy(
            rotate_every=rotate_every,
            known_after=timedelta(seconds=30),
            others_live=others_live,
            skew=timedelta(seconds=5),
            calendar=Calendar(),
        )
        self.token_policy = LeafPolicy(
            renew_at=0.5,
            skew=timedelta(seconds=5),
            budget=Budget(
                issue=timedelta(seconds=5),
                publish=timedelta(seconds=5),
                drain=timedelta(),
                proof=timedelta(),
                retry=timedelta(minutes=5),
            ),
            calendar=Calendar(),
        )
        token_file = directory / "login"
        token_file.write_text(standin.admin_token)
        self.api = ControlPlaneAPI(Endpoint(url=standin.url, token_file=token_file))
        super().__init__(directory, certificates=0, **wanted)
        assert self.clock is standin.clock

    def make_clock(self) -> ManualClock:
        """Return the stand-in's own clock: both live in one time."""
        assert isinstance(self.standin.clock, ManualClock), "time passes by itself"
        return self.standin.clock

    def domains(self) -> dict[TrustDomainName, DomainTarget]:
        """Return no trust domain: its mesh is led elsewhere."""
        return {}

    def fleet(self) -> Fleet:
        """Return the fleet as configured now."""
        stores = tuple(FaultyDirectory(TokenDirectory(place), self.faults) for place in self.places)
        token = ManagedToken(
            name=WEB,
            trust_domain=MESH,
            grant=self.grant,
            lifetime=self.lifetime,
            revoke=self.revoke,
            revoke_after=timedelta(minutes=2),
        )
        issuer = FaultyIssuer(KumaTokens(self.api, clock=self.clock, skew=timedelta(seconds=5)), self.faults)
        keys = KumaSigningKeys(HTTPShelves(self.api), kind=self.grant.kind, mesh=self.mesh, place=self.standin.url)
        return Fleet(
            environment="test",
            policy_sha256="0" * 64,
            tokens={WEB: TokenTarget(token=token, policy=self.token_policy, issuer=issuer, stores=stores, keys=KEYS)},
            signing_keys={
                KEYS: SigningKeyTarget(name=KEYS, policy=self.key_policy, keys=FaultyKeys(keys, self.faults))
            },
        )

    def settled(self) -> bool:
        """Return whether the token is published everywhere, and nothing is open or unaccounted."""
        view = self.engine.tokens.view(WEB)
        return (
            view is not None
            and view.proven
            and not self.store.rotations(state=RotationState.OPEN)
            and len(self.engine.memory.orders(WEB)) == 1
        )

    # --- what is true -----------------------------------------------------------------------------------------------

    def text(self, at: int = 0) -> str:
        """Return the token as a consumer reads it."""
        return (self.places[at] / "CURRENT" / "token").read_text()

    def lets_in(self, text: str) -> str:
        """Return why the control plane lets nobody in with *text*, empty if it does."""
        self.standin.catch_up()
        try:
            self.standin.tokens.admit_dataplane(text, mesh=self.mesh, name="web")
        except TokenRefused as e:
            return str(e)
        return ""

    def listed(self) -> list[list[str]]:
        """Return the revocation lists: the mesh's, and the whole control plane's."""
        found = []
        for kind, mesh in ((SECRET, self.mesh), (GLOBAL_SECRET, "")):
            kept = self.standin.store.get(kind, mesh, list_name(self.grant))
            found.append(_decoded(kept.spec["data"]).split(",") if kept is not None else [])
        return found

    def story(self) -> list[str]:
        """Return the token's life in sentences."""
        return story(self.told(), WEB)

    def wrong(self) -> list[str]:
        """Return everything that does not add up, in words."""
        found = []
        texts = {self.text(at) for at in range(len(self.places))}
        if len(texts) != 1:
            found.append("the places differ")
        found += [f"refused: {why}" for why in map(self.lets_in, texts) if why]
        states = {each.spki_sha256: each.state for each in self.store.issuances(states=frozenset(IssuanceState))}
        unfinished = [state for state in states.values() if state in {IssuanceState.ASKED, IssuanceState.ISSUED}]
        found += [f"an order stands as {state}" for state in unfinished]
        if sum(state is IssuanceState.PUBLISHED for state in states.values()) != 1:
            found.append("not exactly one order is published")
        issued = {each.new.serial for each in self.events(EventType.ISSUED) if each.new is not None}
        ended = {str(each.detail.get("serial")) for each in self.events(EventType.REVOKED, EventType.LAPSED)}
        view = self.engine.tokens.view(WEB)
        present = view.best.token.id if view is not None and view.best is not None and view.best.token else ""
        found += [f"token {each} has no end" for each in issued - ended - {present}]
        if present not in issued:
            found.append("what is published was never recorded as issued")
        return [*found, *self._records_wrong(issued)]

    def _records_wrong(self, issued: set[str]) -> list[str]:
        """Return every effect that is recorded twice, or not at all (law 21), in words."""
        told = self.events(*_ONCE)
        effects = Counter(
            (
                each.type,
                each.subject,
                each.rotation_id,
                each.new.serial if each.new is not None else each.detail.get("serial"),
                *(each.detail.get(key) for key in ("target", "publication", "kid", "order")),
                (each.result, each.old.serial) if each.type is EventType.MISSED and each.old is not None else None,
                each.reason if each.type in {EventType.DISTRIBUTED, EventType.LAPSED} else None,
            )
            for each in told
        )
        found = [f"{count} records of {effect}" for effect, count in effects.items() if count > 1]
        for rotation in self.store.rotations():
            if rotation.state is RotationState.DONE:
                types = {each.type for each in told if each.rotation_id == rotation.id}
                wanted = _OF_KEYS if rotation.subject == KEYS else _OF_TOKENS
                found += [f"rotation {rotation.id} has no record {each}" for each in sorted(wanted - types)]
        seen = {each.new.serial for each in self.events(EventType.DISTRIBUTED) if each.new is not None}
        unused = {str(each.detail.get("serial")) for each in self.events(EventType.REVOKED, EventType.LAPSED)}
        return found + [f"token {each} was never recorded as published" for each in issued - seen - unused]


_OF_TOKENS = frozenset({EventType.ISSUED, EventType.DISTRIBUTED, EventType.VERIFIED, EventType.COMPLETED})
_OF_KEYS = frozenset({EventType.ISSUED, EventType.ACTIVATED, EventType.RETIRED, EventType.COMPLETED})
_ONCE = (*(_OF_TOKENS | _OF_KEYS), EventType.REVOKED, EventType.LAPSED, EventType.MISSED)


@functools.cache
def first_key() -> bytes:
    """Return the first signing key of every world's mesh: making one takes longer than most of a world's life."""
    spare = StandIn()
    ring = SigningKeyRing(Theirs.ZONE)
    spare.tokens.ensure_key(ring)
    kept = spare.store.get(GLOBAL_SECRET, "", f"{ring.prefix}-1")
    assert kept is not None
    return base64.b64decode(kept.spec["data"])


def _decoded(data: str) -> str:
    return base64.b64decode(data).decode()
