"""
The CA generations of one trust domain: issuers of its mount, and the pointer that says which of them signs.

Rules that must stay true here:

- A generation is an issuer that rotator has named; number and trust domain stand in the name. What has no name yet is
  no generation: it was never finished, and the next `prepare` removes it (law 13).
- The key is made inside Vault and never leaves it (law 10). Its public half is announced before the corporate PKI is
  asked to sign, so that whatever a crash leaves behind is found by it (law 12).
- The corporate PKI is reached through `VaultAuthoritySigner`, which judges its issuer and compares what comes back
  before it is installed (laws 4, 6 and 11).
- The pointer (the mount's default issuer) moves by `activate` alone. Vault would let the first issuer of an empty
  mount become the default by itself, an activation that nobody ordered; so before that the pointer is set to rest on
  the corporate CA's certificate, which has no key here and signs nothing.
- The pointer is no way to sign: leaves name their generation. It is the one fact that says which one is active.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rotator.adapters.vault.corporate import UNCONSTRAINED, CorporateIssuer, NameConstraints, Parent
from rotator.adapters.vault.listing import certificate_in, mapping
from rotator.adapters.vault.naming import EXPIRY_BEHAVIOR, KEY_PARAMETERS, generation_name, number_in
from rotator.adapters.vault.parent import VaultAuthoritySigner
from rotator.adapters.vault.session import VaultSession, names
from rotator.core.model import Generation, Serial, TrustDomainName
from rotator.errors import Conflict, Rejected
from rotator.pki.authority_name import common_name
from rotator.pki.certificates import authority_of, spki_sha256_of
from rotator.ports import (
    AuthorityOrder,
    AuthorityRequest,
    Clock,
    HeldAuthorities,
    IssuedCertificate,
    PreparedAuthority,
)

__all__ = ["CorporateIssuer", "NameConstraints", "VaultAuthorities"]

_RESTS_WITHOUT_KEY = re.compile(r"^This selected default issuer has no key associated with it")
"""What Vault says when the pointer is set to rest: it is meant so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """One issuer of the mount, as its list shows it."""

    reference: str
    name: str
    key_id: str


class VaultAuthorities:
    """Keeps the generations of one trust domain at its mount, signed by the corporate PKI. Also `ParentRevocation`."""

    def __init__(
        self,
        session: VaultSession,
        *,
        clock: Clock,
        trust_domain: TrustDomainName,
        mount: str,
        corporate: CorporateIssuer,
        skew: timedelta,
        name_constraints: NameConstraints = UNCONSTRAINED,
    ) -> None:
        """Keep *trust_domain*'s generations at *mount*; *skew* is how far Vault's clock may be from ours."""
        self._session = session
        self._clock = clock
        self._trust_domain = trust_domain
        self._mount = mount
        self._signer = VaultAuthoritySigner(
            session,
            clock=clock,
            trust_domain=trust_domain,
            corporate=corporate,
            skew=skew,
            name_constraints=name_constraints,
        )

    # --- seeing -----------------------------------------------------------------------------------------------------

    def observe(self) -> HeldAuthorities:
        """Return what the mount holds, expired generations included; never cached."""
        held, keys = self._issuers(), self._keys()
        pointer = self._pointer()
        found = [
            (self._generation(one, number, keys), one)
            for one in held
            if (number := number_in(self._trust_domain, one.name)) is not None
        ]
        found.sort(key=lambda pair: pair[0][0].number)
        active = [generation.authority.id for (generation, _), one in found if one.reference == pointer]
        return HeldAuthorities(
            generations=tuple(generation for (generation, _), _ in found),
            active=active[0] if active else None,
            certificates_pem={generation.authority.id: pem for (generation, pem), _ in found},
        )

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        return self._signer.strays(known)

    def _issuers(self) -> list[_Held]:
        reply = self._session.list(f"{self._mount}/issuers", doing=f"listing the issuers of {self._mount}")
        details = mapping(None if reply is None else reply.body.get("key_info"))
        held = []
        for reference in names(reply):
            about = mapping(details.get(reference))
            held.append(
                _Held(
                    reference=reference,
                    name=str(about.get("issuer_name") or ""),
                    key_id=str(about.get("key_id") or ""),
                )
            )
        return held

    def _keys(self) -> dict[str, str]:
        """Return key id to key name."""
        reply = self._session.list(f"{self._mount}/keys", doing=f"listing the keys of {self._mount}")
        details = mapping(None if reply is None else reply.body.get("key_info"))
        return {key: str(mapping(details.get(key)).get("key_name") or "") for key in names(reply)}

    def _pointer(self) -> str:
        """Return the id of the mount's default issuer, empty for none."""
        reply = self._session.read(f"{self._mount}/config/issuers", doing=f"reading the pointer of {self._mount}")
        return "" if reply is None else str(reply.body.get("default") or "")

    def _generation(self, held: _Held, number: int, keys: Mapping[str, str]) -> tuple[Generation, bytes]:
        """Return the generation behind *held* with its PEM."""
        what = f"generation {number} of {self._trust_domain}"
        reply = self._session.read(f"{self._mount}/issuer/{held.reference}", doing=f"reading {what}")
        certificate = certificate_in(reply, what)
        about = {} if reply is None else reply.body
        authority = authority_of(certificate)
        revoked = bool(about.get("revoked")) or self._signer.is_revoked(authority.serial)
        usage = {word.strip() for word in str(about.get("usage") or "").split(",")}
        has_key = str(about.get("key_id") or "") in keys
        generation = Generation(
            number=number,
            authority=authority,
            reference=held.reference,
            can_sign=has_key and not revoked and "issuing-certificates" in usage,
            revoked=revoked,
        )
        return generation, certificate.public_bytes(serialization.Encoding.PEM)

    # --- preparing --------------------------------------------------------------------------------------------------

    def prepare(self, order: AuthorityOrder) -> PreparedAuthority:
        """
        Make generation ``order.number``; return it as it is if it is there already.

        Raises:
            Conflict: If the number is there and cannot sign: the next number is to be used.
            InvariantBroken: If the corporate issuer may not sign it (laws 4 and 6); nothing was changed.
            Rejected: If something refused or came back wrong; a certificate that was signed shows in `strays`.
        """
        what = f"generation {order.number} of {self._trust_domain}"
        held, keys = self._issuers(), self._keys()
        for one in held:
            if number_in(self._trust_domain, one.name) == order.number:
                return self._found(self._generation(one, order.number, keys)[0], what)
        self._clean_up(held, keys)
        parent = self._signer.fit(order.lifetime, what)
        self._rest_pointer(parent)
        subject = common_name(self._trust_domain, order.number, order.rotation_id)
        key_id, csr_pem, spki_sha256 = self._new_key(order, subject, what)
        order.announce(spki_sha256)
        request = AuthorityRequest(
            csr_pem=csr_pem,
            spki_sha256=spki_sha256,
            common_name=subject,
            trust_domain=self._trust_domain,
            lifetime=order.lifetime,
        )
        certificate, request_id = self._signer.signed(request, parent, what)
        reference = self._install(certificate, key_id, what)
        name = generation_name(self._trust_domain, order.number)
        self._session.write(
            f"{self._mount}/issuer/{reference}",
            {"issuer_name": name, "leaf_not_after_behavior": EXPIRY_BEHAVIOR},
            doing=f"naming {what}",
        )
        generation, _ = self._generation(
            _Held(reference=reference, name=name, key_id=key_id), order.number, self._keys()
        )
        if not generation.can_sign or generation.authority != authority_of(certificate):
            raise Rejected(f"{what} was installed and does not read back as it was signed")
        return PreparedAuthority(generation=generation, request_id=request_id)

    def _found(self, generation: Generation, what: str) -> PreparedAuthority:
        """Return *generation*, which an earlier try finished, if it is of use."""
        if not generation.can_sign or generation.authority.not_after <= self._clock.now():
            raise Conflict(f"{what} is there already and cannot sign")
        return PreparedAuthority(generation=generation, request_id=None)

    def _clean_up(self, held: list[_Held], keys: Mapping[str, str]) -> None:
        """Remove issuers that were never named and keys without issuer, of whatever number: tries that did not end."""
        ours = {key for key, name in keys.items() if number_in(self._trust_domain, name) is not None}
        unnamed = [one for one in held if one.key_id in ours and number_in(self._trust_domain, one.name) is None]
        for one in unnamed:
            doing = f"removing an unfinished generation of {self._trust_domain}"
            self._session.delete(f"{self._mount}/issuer/{one.reference}", doing=doing)
        in_use = {one.key_id for one in held} - {one.key_id for one in unnamed}
        for key in sorted(ours - in_use):
            self._session.delete(f"{self._mount}/key/{key}", doing=f"removing left-over key {keys[key]}")

    def _rest_pointer(self, parent: Parent) -> None:
        """Let the pointer of a mount that has none rest where nothing can be signed."""
        if self._pointer():
            return
        pem = parent.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        doing = f"resting the pointer of {self._mount}"
        imported = mapping(
            self._session.write(f"{self._mount}/issuers/import/cert", {"pem_bundle": pem}, doing=doing).body.get(
                "mapping"
            )
        )
        for reference in imported:
            body = {"default": reference, "default_follows_latest_issuer": False}
            self._session.write(f"{self._mount}/config/issuers", body, doing=doing, harmless_too=(_RESTS_WITHOUT_KEY,))

    def _new_key(self, order: AuthorityOrder, subject: str, what: str) -> tuple[str, bytes, str]:
        """Have a key made inside Vault; return its id, its signing request and its SPKI SHA-256."""
        key_type, key_bits = KEY_PARAMETERS[order.key]
        made = self._session.write(
            f"{self._mount}/issuers/generate/intermediate/internal",
            {
                "common_name": subject,
                "key_name": generation_name(self._trust_domain, order.number),
                "key_type": key_type,
                "key_bits": key_bits,
            },
            doing=f"making the key of {what}",
        )
        csr_pem, key_id = str(made.body.get("csr") or "").encode(), str(made.body.get("key_id") or "")
        try:
            return key_id, csr_pem, spki_sha256_of(x509.load_pem_x509_csr(csr_pem))
        except ValueError as e:
            raise Rejected(f"making the key of {what} gave no signing request that can be read") from e

    def _install(self, certificate: x509.Certificate, key_id: str, what: str) -> str:
        """Install *certificate* beside its key; return the new issuer's id."""
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
        reply = self._session.write(
            f"{self._mount}/intermediate/set-signed", {"certificate": pem}, doing=f"installing {what}"
        )
        for reference, key in mapping(reply.body.get("mapping")).items():
            if key == key_id:
                return str(reference)
        raise Rejected(f"installing {what} did not join it with its key")

    # --- moving and removing ----------------------------------------------------------------------------------------

    def activate(self, generation: Generation) -> str | None:
        """Move the pointer to *generation* and read it back; return the request id."""
        what = f"generation {generation.number} of {self._trust_domain}"
        held = _Held(reference=generation.reference, name="", key_id="")
        if not self._generation(held, generation.number, self._keys())[0].can_sign:
            raise Rejected(f"{what} cannot sign")
        reply = self._session.write(
            f"{self._mount}/config/issuers",
            {"default": generation.reference, "default_follows_latest_issuer": False},
            doing=f"activating {what}",
        )
        if self._pointer() != generation.reference:
            raise Conflict(f"the pointer of {self._mount} was moved elsewhere while activating {what}")
        return reply.request_id

    def retire(self, generation: Generation, *, revoke: bool) -> str | None:
        """
        Remove *generation* and its key, after revoking it at its parent if asked; return the revocation's request id.

        Raises:
            Conflict: If the pointer still names it: somebody has activated it meanwhile.
        """
        what = f"generation {generation.number} of {self._trust_domain}"
        if self._pointer() == generation.reference:
            raise Conflict(f"{what} is the active one")
        request_id = self.revoke_authority(generation.authority.serial) if revoke else None
        keys = self._keys()
        # The list knows the key also when a crash has already taken the issuer away.
        name = generation_name(self._trust_domain, generation.number)
        key_ids = {one.key_id for one in self._issuers() if one.reference == generation.reference}
        key_ids |= {key for key, key_name in keys.items() if key_name == name}
        self._session.delete(f"{self._mount}/issuer/{generation.reference}", doing=f"retiring {what}")
        for key in sorted(key_ids & set(keys)):
            self._session.delete(f"{self._mount}/key/{key}", doing=f"removing the key of {what}")
        return request_id

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id. Revoking twice is no error."""
        return self._signer.revoke_authority(serial)
