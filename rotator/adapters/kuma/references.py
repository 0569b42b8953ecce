"""
What ``Mesh.mtls`` refers to: which certificates and whose key, and whether they are what rotator put there.

Rules that must stay true here:

- Read only. What cannot be read is `Rejected` with the mend; what somebody else changed is a guard's sentence.
- A CA that rotator did not make counts as generation 0 only while none of rotator's has taken its place: later it is
  somebody else's hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509

from rotator.adapters.kuma import guards
from rotator.adapters.kuma.control_plane import ControlPlane
from rotator.adapters.kuma.generations import ADOPTED, IN_THE_MESH, Kept, Shelf, by_sha256, chain_of
from rotator.adapters.kuma.mesh import BUILTIN, Mtls, Source, builtin_secrets
from rotator.errors import Rejected
from rotator.pki.certificates import key_spki_sha256, parse_certificates, sha256_of, subject_key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """The CA that was there before rotator, as far as the mesh still needs it."""

    kept: Kept | None = None
    inline_key: bytes | None = field(default=None, repr=False)
    """Its key, if that stands in the Mesh itself."""
    problem: str | None = None


def sources_of(mesh: str, mtls: Mtls) -> tuple[Source, Source]:
    """Return where the enabled backend's certificate and key are, a builtin one's by Kuma's own names."""
    if mtls.enabled.type == BUILTIN:
        certificate, key = builtin_secrets(mesh, mtls.enabled.name)
        return Source(secret=certificate), Source(secret=key)
    return mtls.enabled.certificate, mtls.enabled.key


def certificates_at(plane: ControlPlane, shelf: Shelf, source: Source) -> tuple[x509.Certificate, ...]:
    """Return the certificates that *source* holds."""
    if source.inline is not None:
        return parse_certificates(source.inline, source="the Mesh itself")
    if not source.secret:
        raise Rejected(f"its certificate is {source.elsewhere}: move it into a secret")
    value = shelf.values.get(source.secret)
    if value is None:
        value = plane.secrets.read(source.secret)
    if value is None:
        raise Rejected(f"secret {source.secret} is not there")
    return parse_certificates(value, source=f"secret {source.secret}")


def ancestor_of(
    plane: ControlPlane, shelf: Shelf, bundle: tuple[x509.Certificate, ...], certificate: Source, key: Source
) -> Ancestor:
    """Return generation 0 if the mesh still runs on it or trusts it, and what speaks against touching it."""
    first, where = bundle[0], "Mesh.mtls"
    noted = shelf.numbered(ADOPTED)
    signs_noted = noted is not None and sha256_of(first) == sha256_of(noted.certificate)
    if signs_noted or sha256_of(first) in by_sha256(shelf.own):
        is_trusted = noted is not None and any(sha256_of(each) == sha256_of(noted.certificate) for each in bundle)
        return Ancestor(kept=noted if is_trusted else None)
    if not subject_key_id(first):
        return Ancestor(problem=guards.ca_without_key_id(first, where))
    if noted is not None or shelf.own:
        return Ancestor(problem=guards.unknown_ca_signs(first, where))
    if chain_of(bundle) is None:
        return Ancestor(problem=guards.strangers_in_bundle(bundle, [sha256_of(first)], where))
    pem = key.inline
    if pem is None and key.secret:
        pem = plane.secrets.read(key.secret)
    if pem is None:
        return Ancestor(problem=f"the key of the CA in {where} is {key.elsewhere or 'not there'}: move it to a secret")
    kept = Kept(
        number=ADOPTED, certificate=first, certificate_secret=certificate.secret, key_secret=key.secret or IN_THE_MESH
    )
    if key_spki_sha256(pem, source=f"the key of the CA in {where}") != kept.authority.spki_sha256:
        return Ancestor(
            problem=f"the key of the CA in {where} does not match its first certificate: put the pair right"
        )
    return Ancestor(kept=kept, inline_key=key.inline)


def references_problems(
    shelf: Shelf, active: Kept, known: Iterable[Kept], bundle: tuple[x509.Certificate, ...], mtls: Mtls
) -> tuple[str | None, ...]:
    """Return what somebody else did to what the Mesh refers to while *active* signs."""
    certificate, key = mtls.enabled.certificate, mtls.enabled.key
    is_taken_over = certificate.secret in shelf.bundles
    if active.number == ADOPTED and not is_taken_over:
        # Whatever its people made: rotator has not written here yet.
        return ()
    wrong_key = key.secret != active.key_secret
    return (
        guards.strangers_in_bundle(bundle, by_sha256(known), "Mesh.mtls"),
        None if certificate.secret in shelf.values else guards.secret_of_somebody_else(certificate.secret, "Mesh.mtls"),
        guards.secret_of_somebody_else(key.secret, "the key of Mesh.mtls") if wrong_key else None,
    )
