"""
The two worlds in which the contracts of `Issuer` and `Authorities` hold: a real OpenBao, and the fake.

The fakes are `FakeIssuer` and `FakeAuthorities`.

Rules that must stay true here:

- A test asks its world for a trust domain that no other test has, so tests disturb each other in no order.
- The real one has the shipped policies and no right beyond them; the fake has a clock that stands still.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rotator.clock import SystemClock
from rotator.core.model import Generation, KeyType, TrustDomainName
from rotator.embedded.openbao import OpenBaoServer
from rotator.pki.signing_request import PrivateKey, new_key, signing_request
from rotator.ports import (
    Authorities,
    AuthorityOrder,
    Clock,
    Issuer,
    LeafOrder,
    ParentRevocation,
)
from tests.fakes.clock import ManualClock
from tests.fakes.vault import FakeVault
from tests.fixtures_openbao import new_domain

LIFETIME = timedelta(hours=6)
LEAF = timedelta(minutes=10)
ROTATION = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One trust domain, seen through the ports alone."""

    trust_domain: TrustDomainName
    clock: Clock
    authorities: Authorities
    revocation: ParentRevocation
    issuer: Issuer

    def order(
        self, number: int, *, lifetime: timedelta = LIFETIME, announce: Callable[[str], None] = lambda _: None
    ) -> AuthorityOrder:
        """Return the order for generation *number*."""
        return AuthorityOrder(
            trust_domain=self.trust_domain,
            number=number,
            lifetime=lifetime,
            key=KeyType.ECDSA_P256,
            rotation_id=ROTATION,
            announce=announce,
        )

    def generation(self, number: int = 1, *, lifetime: timedelta = LIFETIME) -> Generation:
        """Prepare generation *number* and return it."""
        return self.authorities.prepare(self.order(number, lifetime=lifetime)).generation

    def leaf_order(
        self,
        signer: Generation,
        *,
        identity: str | None = None,
        lifetime: timedelta = LEAF,
        key: PrivateKey | None = None,
        dns_names: tuple[str, ...] = (),
    ) -> LeafOrder:
        """Return the order for a leaf by *signer*."""
        key = key or new_key(KeyType.ECDSA_P256)
        identity = identity or f"spiffe://{self.trust_domain}/workload"
        return LeafOrder(
            csr_pem=signing_request(key, identity, dns_names),
            spki_sha256=key.spki_sha256,
            identity=identity,
            dns_names=dns_names,
            lifetime=lifetime,
            signer=signer,
            key=key.type,
        )


class FakeWorld:
    """Everything in memory."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.vault = FakeVault(self.clock)
        self._numbers = itertools.count(1)

    def domain(self) -> Domain:
        """Return a trust domain that nobody has used."""
        name = TrustDomainName(f"fake{next(self._numbers)}.test")
        authorities = self.vault.authorities(name)
        return Domain(
            trust_domain=name,
            clock=self.clock,
            authorities=authorities,
            revocation=authorities,
            issuer=self.vault.issuer(name),
        )


class RealWorld:
    """A real server, the shipped policies."""

    def __init__(self, server: OpenBaoServer, directory: Path, cleanup: ExitStack) -> None:
        self._server = server
        self._directory = directory
        self._cleanup = cleanup

    def domain(self) -> Domain:
        """Return a trust domain with mount, role, policy and AppRole of its own."""
        domain = new_domain(self._server, self._directory, lifetimes=(LIFETIME, timedelta(minutes=2)))
        session = self._cleanup.enter_context(domain.session())
        authorities = domain.authorities(session)
        return Domain(
            trust_domain=domain.trust_domain,
            clock=SystemClock(),
            authorities=authorities,
            revocation=authorities,
            issuer=domain.issuer(session),
        )


World = FakeWorld | RealWorld
