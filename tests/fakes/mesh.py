"""
A mesh at the level of the ports: a control plane that signs and publishes, and proxies that follow it on virtual time.

Rules that must stay true here:

- Every write that would leave the process passes `Faults.call`, in the order in which a real adapter makes them.
- A proxy knows only what it was given: it changes leaf and bundle when it is in contact and its lag has passed, never
  by itself; one that is out of contact keeps both, also when it is no longer listed.
- Nothing judges but `FakeMesh.broken`: every live leaf under every live bundle, from the proxies alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from rotator.core.model import Authority, Generation, IssuerId, RelyingParty, Serial, SubjectName, TrustDomainName
from rotator.errors import Conflict, Rejected
from rotator.ports import (
    Adoption,
    AuthorityOrder,
    HeldAuthorities,
    IssuedCertificate,
    MeshView,
    PreparedAuthority,
)
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.vault import Entry, FakeVault


class Model(StrEnum):
    """How a control plane hands out what it was told."""

    TOGETHER = "together"
    """Any change gives every proxy a new leaf and the bundle at once (a CA in the mesh's own document)."""
    APART = "apart"
    """The bundle and the identity are two documents: each is followed by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the control plane would give to a proxy that asks now."""

    bundle: tuple[IssuerId, ...]
    """Who signs first, empty while the mesh has no CA."""
    signer: IssuerId | None


@dataclass
class FakeProxy:
    """One proxy with what it holds."""

    name: SubjectName
    online: bool = True
    listed: bool = True
    readable: bool = True
    lag: timedelta = timedelta()
    follows: Told | None = None
    noticed: tuple[Told, datetime] | None = None
    issuer: IssuerId | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    trusted: frozenset[IssuerId] = frozenset()

    def lives(self, now: datetime) -> bool:
        """Return whether it holds a leaf that has not ended."""
        return self.not_after is not None and now < self.not_after


@dataclass
class _Kept:
    """One generation's secrets."""

    ca: FakeCA
    key: bool = True
    certificate: bool = False


@dataclass
class FakeMesh:
    """The control plane and its proxies. `rotator.ports.Authorities`, `Mesh` and `ParentRevocation` at once."""

    vault: FakeVault
    trust_domain: TrustDomainName
    leaf_lifetime: timedelta
    model: Model = Model.TOGETHER
    vanished_are_gone: bool = True
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupts: str | None = None
    proxies: dict[str, FakeProxy] = field(default_factory=dict)
    looks: list[bool] = field(default_factory=list)
    """Whether each look asked for proofs."""

    def __post_init__(self) -> None:
        """Start without any CA."""
        self.told = Told(bundle=(), signer=None)
        self.revision = 0
        self.found: FakeCA | None = None
        self._kept: dict[int, _Kept] = {}
        self._parent = self.vault.authorities(self.trust_domain)

    # --- the world's side -------------------------------------------------------------------------------------------

    def begin_with(self, ca: FakeCA) -> None:
        """Let the mesh run on *ca*, which rotator did not make."""
        self.found = ca
        self._tell(Told(bundle=(ca.authority.id,), signer=ca.authority.id))

    def join(self, name: str) -> FakeProxy:
        """Start a proxy: it gets what stands there now."""
        proxy = self.proxies[name] = FakeProxy(name=SubjectName(name))
        self.settle()
        return proxy

    def settle(self) -> None:
        """Let every proxy in contact do what is due."""
        for proxy in self.proxies.values():
            if proxy.online and self.told.signer is not None:
                self._follow(proxy)

    def _follow(self, proxy: FakeProxy) -> None:
        now = self.vault.clock.now()
        if proxy.follows != self.told:
            if proxy.noticed is None or proxy.noticed[0] != self.told:
                proxy.noticed = (self.told, now)
            if now - proxy.noticed[1] >= proxy.lag or proxy.follows is None:
                self._give(proxy, now)
        if proxy.not_before is not None and proxy.not_after is not None:
            used = (now - proxy.not_before) / (proxy.not_after - proxy.not_before)
            if used >= 0.8 and proxy.follows is not None and proxy.follows.signer is not None:
                self._sign(proxy, proxy.follows.signer, now)

    def _give(self, proxy: FakeProxy, now: datetime) -> None:
        before, proxy.follows, proxy.noticed = proxy.follows, self.told, None
        proxy.trusted = frozenset(self.told.bundle)
        moved = before is None or before.signer != self.told.signer or self.model is Model.TOGETHER
        if moved and self.told.signer is not None:
            self._sign(proxy, self.told.signer, now)

    def _sign(self, proxy: FakeProxy, signer: IssuerId, now: datetime) -> None:
        proxy.issuer, proxy.not_before, proxy.not_after = signer, now, now + self.leaf_lifetime

    def broken(self) -> list[str]:
        """Return every pair of which one presents a live leaf that the other does not trust, and leaves too long."""
        now = self.vault.clock.now()
        live = [each for each in self.proxies.values() if each.lives(now)]
        ends = {each.ca.authority.id: each.ca.authority.not_after for each in self._kept.values()}
        wrong = [
            f"{other.name} does not trust {one.name}"
            for one in live
            for other in live
            if one.issuer not in other.trusted
        ]
        return wrong + [
            f"the leaf of {each.name} outlives its CA"
            for each in live
            if each.issuer in ends and each.not_after is not None and each.not_after > ends[each.issuer]
        ]

    def secrets(self) -> list[str]:
        """Return the names of everything that is kept."""
        keys = [f"g{number}-key" for number, each in self._kept.items() if each.key]
        return sorted(keys + [f"g{number}-cert" for number, each in self._kept.items() if each.certificate])

    # --- Mesh -------------------------------------------------------------------------------------------------------

    def look(self, *, proofs: bool) -> MeshView:
        """Return what the control plane shows now."""
        with self.vault.call("mesh.look"):
            self.looks.append(proofs)
            self.settle()
            held = self._held()
            ids = frozenset(each.authority.id for each in held.generations)
            given = frozenset(self.told.bundle) & ids if self.told.bundle else None
            mesh = RelyingParty(
                name=SubjectName(f"mesh:{self.trust_domain}"), published=given, acknowledged=given or frozenset()
            )
            listed = sorted((each for each in self.proxies.values() if each.listed), key=lambda each: each.name)
            parties = tuple(self._party(each, given, ids, proofs=proofs) for each in listed)
            strays: dict[IssuerId, datetime] = {}
            for generation in held.generations if proofs else ():
                ends = [
                    each.last_leaf_not_after
                    for each in parties
                    if each.served_issuer is None and each.last_leaf_not_after is not None
                ]
                if ends and generation.authority.id != held.active:
                    strays[generation.authority.id] = max(ends)
            return MeshView(
                held=held,
                parties=(mesh, *parties),
                stray_until=strays,
                vanished_are_gone=self.vanished_are_gone,
                refusals=tuple(self.refusals),
                warnings=tuple(self.warnings),
                adoption=self._adoption(),
            )

    def _party(
        self, proxy: FakeProxy, given: frozenset[IssuerId] | None, ids: frozenset[IssuerId], *, proofs: bool
    ) -> RelyingParty:
        seen = proofs and proxy.online and proxy.readable
        return RelyingParty(
            name=proxy.name,
            published=given,
            acknowledged=proxy.trusted & ids if seen else frozenset(),
            reachable=proxy.online and (proxy.readable or not proofs),
            served_issuer=proxy.issuer if seen and proxy.issuer in ids else None,
            last_leaf_not_after=proxy.not_after,
        )

    def _adoption(self) -> Adoption | None:
        if self.told.signer is None:
            return Adoption(found="no CA", plan=("turn mTLS on",), interrupts=self.interrupts)
        if self.found is not None and self.told.signer == self.found.authority.id:
            return Adoption(found="the builtin CA", plan=("rotate away from it",), interrupts=self.interrupts)
        return None

    def publish(self, bundle: tuple[Authority, ...]) -> str | None:
        """Give every proxy *bundle* by one write."""
        ids = tuple(each.id for each in bundle)
        signer = self.told.signer
        if signer is None or signer not in ids:
            raise Rejected("the bundle lacks who signs")
        with self.vault.call("mesh.create_bundle"):
            pass
        with self.vault.call("mesh.write"):
            self._tell(Told(bundle=(signer, *(each for each in ids if each != signer)), signer=signer))
        return f"revision {self.revision}"

    def _tell(self, told: Told) -> None:
        self.told = told
        self.revision += 1

    # --- Authorities ------------------------------------------------------------------------------------------------

    def observe(self) -> HeldAuthorities:
        """Return what is held."""
        with self.vault.call("authorities.observe"):
            return self._held()

    def _held(self) -> HeldAuthorities:
        found = [self._generation(number, each.ca) for number, each in self._kept.items() if each.certificate]
        if self.found is not None and self._is_used(self.found.authority.id):
            found.append(self._generation(0, self.found))
        found.sort(key=lambda each: each.number)
        cas = {each.ca.authority.id: each.ca for each in self._kept.values()}
        if self.found is not None:
            cas[self.found.authority.id] = self.found
        return HeldAuthorities(
            generations=tuple(found),
            active=self.told.signer,
            certificates_pem={each.authority.id: cas[each.authority.id].pem for each in found},
        )

    def _is_used(self, issuer: IssuerId) -> bool:
        served = any(each.issuer == issuer for each in self.proxies.values() if each.online and each.listed)
        return issuer in self.told.bundle or served

    def _generation(self, number: int, ca: FakeCA) -> Generation:
        entry = self.vault.signed.get(ca.authority.serial)
        revoked = entry is not None and entry.revoked_at is not None
        has_key = number == 0 or self._kept[number].key
        return Generation(
            number=number,
            authority=ca.authority,
            reference=f"g{number}",
            can_sign=has_key and not revoked,
            revoked=revoked,
        )

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """Make a key, have it signed, keep both as secrets: key first."""
        for generation in self._held().generations:
            if generation.number == order.number:
                return PreparedAuthority(generation=generation, request_id=None)
        for number in [number for number, each in self._kept.items() if not each.certificate]:
            with self.vault.call("mesh.remove_key"):
                del self._kept[number]
        now = self.vault.clock.now()
        ca = FakeCA(
            f"{self.trust_domain} CA g{order.number} {order.rotation_id[:8]}",
            self.trust_domain,
            now - timedelta(seconds=1),
            now + order.lifetime,
            self.vault.corporate,
            key=ec.generate_private_key(ec.SECP256R1()),
        )
        order.announce(ca.authority.spki_sha256)
        with self.vault.call("mesh.sign_authority") as request_id:
            self.vault.signed[ca.authority.serial] = Entry(ca.certificate)
        with self.vault.call("mesh.create_key"):
            kept = self._kept[order.number] = _Kept(ca)
        with self.vault.call("mesh.create_cert"):
            kept.certificate = True
        return PreparedAuthority(generation=self._generation(order.number, ca), request_id=request_id)

    def activate(self, generation: Generation) -> str | None:
        """Let *generation* sign: certificate and key move by one write."""
        issuer = generation.authority.id
        if issuer not in {each.authority.id for each in self._held().generations}:
            raise Rejected(f"generation {generation.number} is not held")
        with self.vault.call("mesh.create_bundle"):
            pass
        with self.vault.call("mesh.write"):
            self._tell(Told(bundle=(issuer, *(each for each in self.told.bundle if each != issuer)), signer=issuer))
        return f"revision {self.revision}"

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """Remove the secrets of *generation*; somebody else's are left."""
        if generation.authority.id in self.told.bundle:
            raise Conflict(f"generation {generation.number} is still in the bundle")
        if generation.number == 0:
            return None
        request_id = self.revoke_authority(generation.authority.serial) if revoke else None
        if generation.number not in self._kept:
            return request_id
        with self.vault.call("mesh.remove_key"):
            self._kept[generation.number].key = False
        with self.vault.call("mesh.remove_cert"):
            del self._kept[generation.number]
        return request_id

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return what the corporate PKI signed for this trust domain."""
        return self._parent.strays(known)

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke one CA certificate at the corporate PKI."""
        return self._parent.revoke_authority(serial)
