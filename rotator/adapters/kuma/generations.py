"""
The CA generations that a mesh's secrets hold, and how one more is made.

Rules that must stay true here:

- A generation is a certificate secret with its key secret. The key is written first: a crash leaves a key without a
  certificate, which is no generation and is removed by the next `prepare` (law 13).
- The key is made here, announced before anybody is asked to sign it, and goes only into its secret (laws 10 and 12).
- What comes back is compared with the request before it is kept (law 11).
- Generation 0 is what the mesh ran on before rotator: its own secret notes where that lies and holds its certificate,
  its key only where it stood in a document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from rotator.adapters.kuma.control_plane import Secrets, StoredSecret
from rotator.adapters.kuma.naming import Part, Purpose, bundle_purpose, is_bundle, purpose_in
from rotator.core.model import Authority, Generation, IssuerId, KeyType, TrustDomainName
from rotator.errors import ConfigError, Rejected
from rotator.pki.authority_name import common_name, number_in_name
from rotator.pki.certificates import (
    authority_of,
    is_authority,
    key_spki_sha256,
    parse_certificates,
    sha256_of,
    spki_sha256_of,
)
from rotator.pki.signing_request import new_key
from rotator.ports import AuthorityOrder, AuthorityRequest, AuthoritySigner, SignedAuthority

ADOPTED: Final = 0
"""The number of the generation that was there before rotator."""

IN_THE_MESH: Final = "(in the Mesh itself)"
"""What stands for the name of a key's secret while the key stands in a document."""

KEYS: Final = frozenset({KeyType.ECDSA_P256, KeyType.RSA_2048, KeyType.RSA_3072})
"""Envoy verifies these whoever built it; Kuma's own words doubt P-384 and Ed25519."""

_NOTE = re.compile(rb"^([a-z]+): ([^\r\n]*)\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One generation as the mesh's secrets hold it."""

    number: int
    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...] = ()
    """What stands above it, its issuer first, as far as it is kept beside it."""
    certificate_secret: str
    """The name of the secret that a document refers to for its certificate; empty if it lies in a document."""
    key_secret: str
    """The same for its key; empty if it cannot sign from a secret."""
    identity: str = ""
    """Generation 0 of the identity model: the name of its MeshIdentity."""

    @property
    def authority(self) -> Authority:
        """Return its certificate as the core sees it."""
        return authority_of(self.certificate)

    @property
    def pem(self) -> bytes:
        """Return its certificate alone."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def generation(self, *, reference: str, can_sign: bool = True, revoked: bool = False) -> Generation:
        """Return it as the engine sees it."""
        return Generation(
            number=self.number,
            authority=self.authority,
            reference=reference,
            can_sign=can_sign and bool(self.key_secret) and not revoked,
            revoked=revoked,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """Everything that rotator keeps in the secrets of one mesh."""

    kept: tuple[Kept, ...]
    """Ascending by number; generation 0 only if it was noted."""
    values: Mapping[str, bytes] = field(repr=False)
    """Content by name, keys left out."""
    bundles: tuple[str, ...]
    unfinished: tuple[str, ...]
    """Names of keys without a certificate."""
    problems: tuple[str, ...]
    """What somebody else did to them, each with the mend."""

    def numbered(self, number: int) -> Kept | None:
        """Return generation *number*, None if it is not there."""
        return next((each for each in self.kept if each.number == number), None)

    @property
    def own(self) -> tuple[Kept, ...]:
        """Return the generations that rotator made."""
        return tuple(each for each in self.kept if each.number != ADOPTED)


def shelf_of(held: Iterable[StoredSecret], trust_domain: TrustDomainName) -> Shelf:
    """Return what *held* means, with every mark of somebody else's hand."""
    certificates: dict[int, StoredSecret] = {}
    keys: dict[int, StoredSecret] = {}
    values: dict[str, bytes] = {}
    bundles: list[str] = []
    problems: list[str] = []
    for secret in held:
        purpose = purpose_in(secret.purpose)
        if purpose is not None and purpose.part is Part.KEY:
            keys[purpose.number] = secret
            continue
        values[secret.name] = secret.value
        if purpose is not None:
            certificates[purpose.number] = secret
        elif is_bundle(secret.purpose):
            bundles.append(secret.name)
            if bundle_purpose(secret.value) != secret.purpose:
                problems.append(_edited(secret, "its content is not the bundle that it was made for"))
    kept: list[Kept] = []
    for number, secret in sorted(certificates.items()):
        try:
            kept.append(_kept(number, secret, keys.get(number), trust_domain))
        except Rejected as e:
            problems.append(_edited(secret, str(e)))
    unfinished = tuple(each.name for number, each in sorted(keys.items()) if number not in certificates)
    return Shelf(
        kept=tuple(kept), values=values, bundles=tuple(bundles), unfinished=unfinished, problems=tuple(problems)
    )


def _edited(secret: StoredSecret, why: str) -> str:
    return (
        f"secret {secret.name} ({secret.purpose}) was changed by somebody else: {why}; restore it from a backup, or "
        "remove it if no document refers to it"
    )


def _kept(number: int, secret: StoredSecret, key: StoredSecret | None, trust_domain: TrustDomainName) -> Kept:
    """Return the generation in *secret*. Raises `Rejected` if it is not what rotator wrote there."""
    first, *above = parse_certificates(secret.value, source=f"secret {secret.name}")
    authority = authority_of(first)
    if key is not None and key_spki_sha256(key.value, source=f"secret {key.name}") != authority.spki_sha256:
        raise Rejected(f"its certificate and the key in secret {key.name} are no pair")
    if number == ADOPTED:
        notes = {found.group(1).decode(): found.group(2).decode() for found in _NOTE.finditer(secret.value)}
        return Kept(
            number=ADOPTED,
            certificate=first,
            above=tuple(above),
            certificate_secret=notes.get("certificate") or secret.name,
            key_secret=notes.get("key") or ("" if key is None else key.name),
            identity=notes.get("identity", ""),
        )
    names = [str(each.value) for each in first.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if [number_in_name(trust_domain, each) for each in names] != [number]:
        raise Rejected(f"its certificate is that of {authority.subject}, not of generation {number} of {trust_domain}")
    return Kept(
        number=number,
        certificate=first,
        above=tuple(above),
        certificate_secret=secret.name,
        key_secret="" if key is None else key.name,
    )


def note_adopted(secrets: Secrets, ancestor: Kept, *, inline_key: bytes | None) -> None:
    """Write down where generation 0 lies, so that it is found again while the mesh moves away from it."""
    if inline_key is not None:
        secrets.create(str(Purpose(number=ADOPTED, part=Part.KEY)), inline_key)
    said = {"certificate": ancestor.certificate_secret, "key": ancestor.key_secret, "identity": ancestor.identity}
    lines = "".join(f"{name}: {value}\n" for name, value in said.items() if value and value != IN_THE_MESH)
    pems = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (ancestor.certificate, *ancestor.above))
    secrets.create(str(Purpose(number=ADOPTED, part=Part.CERTIFICATE)), lines.encode() + pems)


def forget(secrets: Secrets, shelf: Shelf, kept: Kept) -> None:
    """Remove rotator's own secrets of *kept*, the key first; what rotator did not make stays."""
    names = {secret.purpose: secret.name for secret in secrets.held()}
    for part in (Part.KEY, Part.CERTIFICATE):
        name = names.get(str(Purpose(number=kept.number, part=part)))
        if name is not None:
            secrets.remove(name)
    for name in shelf.unfinished:
        secrets.remove(name)


def make_generation(
    order: AuthorityOrder, secrets: Secrets, signer: AuthoritySigner, taken: Sequence[Authority], *, chain: bool
) -> tuple[Kept, str | None]:
    """
    Make generation ``order.number``: key, signature, secrets; return it with the signer's request id.

    With *chain* what stands above it is kept beside it; *taken* are the authorities that live in the mesh.

    Raises:
        ConfigError: If the configured key is none that every proxy verifies.
        InvariantBroken: If the corporate PKI may not sign it (laws 4 and 6).
        Rejected: If it came back wrong; the certificate then shows in the signer's strays.
    """
    if order.key not in KEYS:
        allowed = ", ".join(sorted(KEYS))
        raise ConfigError(f"a mesh's CA cannot have a key of type {order.key}: use one of {allowed}")
    subject = common_name(order.trust_domain, order.number, order.rotation_id)
    key = new_key(order.key)
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    ).add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{order.trust_domain}")]), critical=False
    )
    order.announce(key.spki_sha256)
    signed = signer.sign_authority(
        AuthorityRequest(
            csr_pem=key.request(builder).public_bytes(serialization.Encoding.PEM),
            spki_sha256=key.spki_sha256,
            common_name=subject,
            trust_domain=order.trust_domain,
            lifetime=order.lifetime,
        )
    )
    what = f"generation {order.number} of {order.trust_domain}"
    certificate, above = _checked(signed, key.spki_sha256, what, taken)
    key_name = secrets.create(str(Purpose(number=order.number, part=Part.KEY)), key.pem())
    content = (certificate, *above) if chain else (certificate,)
    certificate_name = secrets.create(
        str(Purpose(number=order.number, part=Part.CERTIFICATE)),
        b"".join(each.public_bytes(serialization.Encoding.PEM) for each in content),
    )
    kept = Kept(
        number=order.number,
        certificate=certificate,
        above=above if chain else (),
        certificate_secret=certificate_name,
        key_secret=key_name,
    )
    return kept, signed.request_id


def _checked(
    signed: SignedAuthority, spki_sha256: str, what: str, taken: Sequence[Authority]
) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
    """Return what was signed and what is above it, if a mesh can live with it (laws 6 and 11)."""
    certificate = parse_certificates(signed.certificate_pem, source=f"the certificate of {what}")[0]
    authority = authority_of(certificate)
    if spki_sha256_of(certificate) != spki_sha256:
        raise Rejected(f"{what} came back with another public key than the one sent")
    for other in taken:
        if other.subject == authority.subject or other.id == authority.id:
            raise Rejected(f"{what} came back with the name or the key id of {other.subject}, which lives in the mesh")
    above = tuple(
        each for pem in signed.above_pem for each in parse_certificates(pem, source=f"what stands above {what}")
    )
    return certificate, above


def anchors_above(kept: Iterable[Kept]) -> tuple[x509.Certificate, ...]:
    """Return every certificate above *kept*, each once, in order."""
    return tuple({sha256_of(each): each for one in kept for each in one.above}.values())


def by_sha256(kept: Iterable[Kept]) -> dict[str, Kept]:
    """Return *kept* by the SHA-256 of their certificates."""
    return {sha256_of(each.certificate): each for each in kept}


def ids_in(certificates: Iterable[x509.Certificate], kept: Iterable[Kept]) -> frozenset[IssuerId]:
    """Return which of *kept* stand among *certificates*."""
    known = by_sha256(kept)
    found = (known.get(sha256_of(each)) for each in certificates)
    return frozenset(each.authority.id for each in found if each is not None)


def chain_of(certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...] | None:
    """Return what stands above the first of *certificates* if the rest is its chain, None if others are among them."""
    above: list[x509.Certificate] = []
    rest = list(certificates[1:])
    last = certificates[0]
    while rest:
        parent = next((each for each in rest if is_authority(each) and each.subject == last.issuer), None)
        if parent is None:
            return None
        rest.remove(parent)
        above.append(parent)
        last = parent
    return tuple(above)
