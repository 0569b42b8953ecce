"""
A corporate PKI and one PKI mount per trust domain, in memory.

Rules that must stay true here:

- `FakeIssuer`, `FakeAuthorities` and `FakeAuthoritySigner` pass the contract suites that the real server passes.
- Every call that would go to the server goes through `Faults.call`, in the order in which the real adapter makes
  them, so a test can crash at call *n*, before or after its effect.
- Several adapters over one `FakeVault` see the same server: a fresh engine after a crash takes new ones.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rotator.core.model import Generation, Serial, TrustDomainName
from rotator.errors import Conflict, InvariantBroken, Rejected
from rotator.pki.certificates import (
    authority_key_id,
    parse_certificates,
    serial_of,
    sha256_of,
    spki_sha256_of,
    uri_names,
)
from rotator.pki.returned import check_leaf
from rotator.ports import (
    AuthorityOrder,
    AuthorityRequest,
    Clock,
    HeldAuthorities,
    IssuedCertificate,
    IssuedLeaf,
    LeafOrder,
    PreparedAuthority,
    SignedAuthority,
)
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.faults import Faults

Answer = Callable[[bytes], bytes]

SKEW = timedelta(seconds=1)
"""As far as a test's clock may jump between a call and its answer."""


@dataclass
class Entry:
    """One certificate on a mount's own list."""

    certificate: x509.Certificate
    revoked_at: datetime | None = None


@dataclass
class _Signer:
    """One issuer of a trust domain's mount."""

    reference: str
    ca: FakeCA
    key_name: str
    number: int | None = None
    """None until it has been named: installed, and not ready."""


@dataclass
class _Mount:
    """One trust domain's PKI mount."""

    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)
    signers: dict[str, _Signer] = field(default_factory=dict)
    issued: dict[Serial, Entry] = field(default_factory=dict)
    pointer: str | None = None


class FakeVault:
    """The server. Ask it for the adapters of a trust domain."""

    def __init__(self, clock: Clock, *, corporate_lifetime: timedelta = timedelta(days=3650)) -> None:
        """Start with a corporate issuing CA that is a day old and lives for *corporate_lifetime* from now."""
        self.clock = clock
        self.faults = Faults()
        self.corporate = FakeCA(
            "Corp Issuing",
            "corp.example",
            clock.now() - timedelta(days=1),
            clock.now() + corporate_lifetime,
            path_length=1,
        )
        self.signed: dict[Serial, Entry] = {}
        """What the corporate PKI has signed."""
        self.answer: Answer = bytes
        """Replaces every signed leaf on its way back: a hostile or broken server."""
        self._mounts: dict[TrustDomainName, _Mount] = {}
        self._lock = threading.RLock()

    def issuer(self, trust_domain: TrustDomainName) -> FakeIssuer:
        """Return the issuer of *trust_domain*'s leaves."""
        return FakeIssuer(self, trust_domain)

    def authorities(self, trust_domain: TrustDomainName) -> FakeAuthorities:
        """Return the keeper of *trust_domain*'s generations."""
        return FakeAuthorities(self, trust_domain)

    def signer(self, trust_domain: TrustDomainName, parent: FakeCA | None = None) -> FakeAuthoritySigner:
        """Return who signs *trust_domain*'s CAs whose keys are made elsewhere: *parent*, or the corporate issuer."""
        return FakeAuthoritySigner(self, trust_domain, parent or self.corporate)

    def mount(self, trust_domain: TrustDomainName) -> _Mount:
        """Return *trust_domain*'s mount, empty at first."""
        with self._lock:
            return self._mounts.setdefault(trust_domain, _Mount())

    @contextmanager
    def call(self, name: str) -> Iterator[str]:
        """Make the call *name*; give its request id."""
        with self.faults.call(name), self._lock:
            yield str(uuid.uuid4())


def _listed(entry: Entry) -> IssuedCertificate:
    """Return *entry* as the CA's list shows it."""
    certificate = entry.certificate
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    return IssuedCertificate(
        serial=serial_of(certificate),
        sha256=sha256_of(certificate),
        spki_sha256=spki_sha256_of(certificate),
        subject=certificate.subject.rfc4514_string(),
        issuer=authority_key_id(certificate),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        revoked_at=entry.revoked_at,
        is_authority=is_authority,
    )


class FakeIssuer:
    """Signs the leaves of one trust domain."""

    def __init__(self, vault: FakeVault, trust_domain: TrustDomainName) -> None:
        """Serve *trust_domain* from *vault*."""
        self._vault = vault
        self._trust_domain = trust_domain
        self._mount = vault.mount(trust_domain)

    def _call(self, name: str) -> AbstractContextManager[str]:
        return self._vault.call(f"issuer.{name}")

    def sign(self, order: LeafOrder) -> IssuedLeaf:
        """Have *order* signed by its own generation."""
        now = self._vault.clock.now()
        with self._call("sign") as request_id:
            signer = self._signer(order.signer)
            if not order.identity.startswith(f"spiffe://{self._trust_domain}/"):
                raise Rejected(f"the role does not allow {order.identity}")
            chain = signer.ca.sign(order.csr_pem, order.identity, order.lifetime, now, dns_names=order.dns_names)
            certificate = parse_certificates(chain, source="the fake's own answer")[0]
            if certificate.not_valid_after_utc > signer.ca.certificate.not_valid_after_utc:
                raise Rejected(f"a leaf of {order.lifetime} would outlive generation {order.signer.number}")
            self._mount.issued[serial_of(certificate)] = Entry(certificate)
        chain = self._vault.answer(chain)
        leaf = check_leaf(
            parse_certificates(chain, source=f"the certificate for {order.identity}"),
            spki_sha256=order.spki_sha256,
            identity=order.identity,
            dns_names=order.dns_names,
            lifetime=order.lifetime,
            signer=signer.ca.certificate,
            above=[self._vault.corporate.certificate],
            asked_at=now,
            received_at=self._vault.clock.now(),
            skew=SKEW,
        )
        return IssuedLeaf(chain_pem=chain, leaf=leaf, request_id=request_id)

    def revoke(self, serial: Serial) -> str | None:
        """Revoke one leaf."""
        with self._call("revoke") as request_id:
            if serial not in self._mount.issued:
                raise Rejected(f"no certificate {serial} was issued here")
            entry = self._mount.issued[serial]
            entry.revoked_at = entry.revoked_at or self._vault.clock.now()
            return request_id

    def revoked(self, signer: Generation) -> frozenset[Serial]:
        """Return the serials on *signer*'s CRL."""
        with self._call("crl"):
            self._signer(signer)
            return frozenset(
                serial
                for serial, entry in self._mount.issued.items()
                if entry.revoked_at is not None and authority_key_id(entry.certificate) == signer.authority.id
            )

    def issued(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the mount's list."""
        with self._call("list"):
            return tuple(_listed(entry) for serial, entry in self._mount.issued.items() if serial not in known)

    def _signer(self, generation: Generation) -> _Signer:
        """Return the mount's issuer behind *generation*."""
        found = self._mount.signers.get(generation.reference)
        if found is None or found.key_name not in self._mount.keys:
            raise Rejected(f"generation {generation.number} cannot sign")
        return found


class FakeAuthorities:
    """Keeps the CA generations of one trust domain."""

    def __init__(self, vault: FakeVault, trust_domain: TrustDomainName) -> None:
        """Serve *trust_domain* from *vault*."""
        self._vault = vault
        self._trust_domain = trust_domain
        self._mount = vault.mount(trust_domain)

    def _call(self, name: str) -> AbstractContextManager[str]:
        return self._vault.call(f"authorities.{name}")

    def observe(self) -> HeldAuthorities:
        """Return what the mount holds."""
        with self._call("observe"):
            named = sorted(
                (signer for signer in self._mount.signers.values() if signer.number is not None),
                key=lambda signer: signer.number or 0,
            )
            active = [signer.ca.authority.id for signer in named if signer.reference == self._mount.pointer]
            return HeldAuthorities(
                generations=tuple(self._generation(signer) for signer in named),
                active=active[0] if active else None,
                certificates_pem={signer.ca.authority.id: signer.ca.pem for signer in named},
            )

    def _generation(self, signer: _Signer) -> Generation:
        entry = self._vault.signed.get(signer.ca.authority.serial)
        revoked = entry is not None and entry.revoked_at is not None
        return Generation(
            number=signer.number or 0,
            authority=signer.ca.authority,
            reference=signer.reference,
            can_sign=signer.key_name in self._mount.keys and not revoked,
            revoked=revoked,
        )

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """Make the generation, unless it is there already."""
        held = self.observe()
        for generation in held.generations:
            if generation.number == order.number:
                if generation.authority.not_after <= self._vault.clock.now() or not generation.can_sign:
                    raise Conflict(f"generation {order.number} of {self._trust_domain} exists and cannot sign")
                return PreparedAuthority(generation=generation, request_id=None)
        self._clean_up()
        now = self._vault.clock.now()
        ends = self._vault.corporate.certificate.not_valid_after_utc
        if now >= ends:
            raise InvariantBroken(6, f"the corporate issuer ended at {ends}")
        if now + order.lifetime > ends:
            raise InvariantBroken(4, f"generation {order.number} of {self._trust_domain} would outlive its parent")
        key_name = f"g{order.number}"
        with self._call("generate"):
            self._mount.keys[key_name] = key = ec.generate_private_key(ec.SECP256R1())
        name = f"{self._trust_domain} CA g{order.number} {order.rotation_id[:8]}"
        ca = FakeCA(
            name,
            self._trust_domain,
            now - timedelta(seconds=1),
            now + order.lifetime,
            self._vault.corporate,
            key=key,
        )
        order.announce(ca.authority.spki_sha256)
        with self._call("sign_intermediate") as request_id:
            self._vault.signed[ca.authority.serial] = Entry(ca.certificate)
        signer = _Signer(reference=str(uuid.uuid4()), ca=ca, key_name=key_name)
        with self._call("set_signed"):
            self._mount.signers[signer.reference] = signer
        with self._call("name"):
            signer.number = order.number
        return PreparedAuthority(generation=self._generation(signer), request_id=request_id)

    def _clean_up(self) -> None:
        """Remove issuers that were never named and keys without issuer: an earlier try ended there."""
        unfinished = [signer for signer in self._mount.signers.values() if signer.number is None]
        for unnamed in unfinished:
            with self._call("delete_issuer"):
                del self._mount.signers[unnamed.reference]
        used = {signer.key_name for signer in self._mount.signers.values()}
        for key_name in sorted(set(self._mount.keys) - used):
            with self._call("delete_key"):
                del self._mount.keys[key_name]

    def activate(self, generation: Generation) -> str | None:
        """Move the pointer."""
        with self._call("activate") as request_id:
            signer = self._mount.signers.get(generation.reference)
            if signer is None or not self._generation(signer).can_sign:
                raise Rejected(f"generation {generation.number} of {self._trust_domain} cannot sign")
            self._mount.pointer = generation.reference
            return request_id

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """Remove *generation* and its key, after revoking it at its parent if asked."""
        if self._mount.pointer == generation.reference:
            raise Conflict(f"generation {generation.number} of {self._trust_domain} is the active one")
        request_id = self.revoke_authority(generation.authority.serial) if revoke else None
        with self._call("delete_issuer"):
            self._mount.signers.pop(generation.reference, None)
        with self._call("delete_key"):
            self._mount.keys.pop(f"g{generation.number}", None)
        return request_id

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the CA certificates that the corporate PKI signed for this trust domain."""
        with self._call("strays"):
            return _strays(self._vault, self._trust_domain, known)

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke one CA certificate at the corporate PKI."""
        with self._call("revoke_authority") as request_id:
            _revoke(self._vault, serial)
            return request_id


class FakeAuthoritySigner:
    """Signs CAs of one trust domain whose keys were made elsewhere."""

    def __init__(self, vault: FakeVault, trust_domain: TrustDomainName, parent: FakeCA) -> None:
        """Have them signed by *parent*, and kept on *vault*'s list."""
        self._vault = vault
        self._trust_domain = trust_domain
        self._parent = parent

    def _call(self, name: str) -> AbstractContextManager[str]:
        return self._vault.call(f"signer.{name}")

    def sign_authority(self, request: AuthorityRequest) -> SignedAuthority:
        """Have *request* signed."""
        now, ends = self._vault.clock.now(), self._parent.certificate.not_valid_after_utc
        if now >= ends:
            raise InvariantBroken(6, f"the corporate issuer ended at {ends}")
        if now + request.lifetime > ends:
            raise InvariantBroken(4, f"{request.common_name} would outlive its parent")
        with self._call("sign_intermediate") as request_id:
            certificate = self._parent.sign_authority(
                request.csr_pem, request.common_name, self._trust_domain, request.lifetime, now
            )
            self._vault.signed[serial_of(certificate)] = Entry(certificate)
        if spki_sha256_of(certificate) != request.spki_sha256:
            raise Rejected(f"{request.common_name} certifies another public key than the one sent")
        above = [self._parent]
        while above[-1].parent is not None:
            above.append(above[-1].parent)
        return SignedAuthority(
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            above_pem=tuple(each.pem for each in above),
            request_id=request_id,
        )

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the CA certificates that were signed for this trust domain."""
        with self._call("strays"):
            return _strays(self._vault, self._trust_domain, known)

    def is_revoked(self, serial: Serial) -> bool:
        """Return whether *serial* was revoked."""
        with self._call("is_revoked"):
            entry = self._vault.signed.get(serial)
            return entry is not None and entry.revoked_at is not None

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke one CA certificate."""
        with self._call("revoke_authority") as request_id:
            _revoke(self._vault, serial)
            return request_id


def _strays(vault: FakeVault, trust_domain: TrustDomainName, known: frozenset[Serial]) -> tuple[IssuedCertificate, ...]:
    return tuple(
        _listed(entry)
        for serial, entry in vault.signed.items()
        if serial not in known and f"spiffe://{trust_domain}" in uri_names(entry.certificate)
    )


def _revoke(vault: FakeVault, serial: Serial) -> None:
    if serial not in vault.signed:
        raise Rejected(f"the corporate PKI did not sign {serial}")
    entry = vault.signed[serial]
    entry.revoked_at = entry.revoked_at or vault.clock.now()
