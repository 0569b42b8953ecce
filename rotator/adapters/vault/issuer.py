"""
The leaves of one trust domain: signed, revoked and listed at Vault.

Rules that must stay true here:

- Signing goes to the generation's own path (law 6): Vault ignores an issuer named in the body, and its ``sign/<role>``
  means whatever is default at the moment.
- What comes back is compared with the order before anybody sees it (law 11). When it differs, the certificate exists
  all the same: it is found on the list by its key and revoked.
- The signer's certificate is read from Vault and must be the one that the order names; it never changes, so it is
  read once for each generation. Nothing else is remembered between calls.
"""

from __future__ import annotations

import threading
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from rotator.adapters.vault.chains import parents_of
from rotator.adapters.vault.listing import certificate_in, colons, serials, stored
from rotator.adapters.vault.naming import ttl
from rotator.adapters.vault.session import VaultSession
from rotator.core.model import Generation, Serial, TrustDomainName
from rotator.errors import Rejected
from rotator.pki.certificates import sha256_of
from rotator.pki.returned import check_leaf
from rotator.ports import Clock, IssuedCertificate, IssuedLeaf, LeafOrder

_REMEMBERED = 8
"""Generations whose certificates are kept; more than are ever live at once."""

_Chain = tuple[x509.Certificate, ...]


class VaultIssuer:
    """Signs for one trust domain through the role of its mount."""

    def __init__(
        self,
        session: VaultSession,
        *,
        clock: Clock,
        trust_domain: TrustDomainName,
        mount: str,
        role: str,
        skew: timedelta,
    ) -> None:
        """Sign at *mount* through *role*; *skew* is how far Vault's clock may be from ours."""
        self._session = session
        self._clock = clock
        self._trust_domain = trust_domain
        self._mount = mount
        self._role = role
        self._skew = skew
        self._signers: dict[str, _Chain] = {}
        self._lock = threading.Lock()

    def sign(self, order: LeafOrder) -> IssuedLeaf:
        """Have *order* signed by its own generation. Raises `Rejected` if what came back is not what was asked."""
        signer, *above = self._chain_of(order.signer)
        asked_at = self._clock.now()
        reply = self._session.write(
            f"{self._mount}/issuer/{order.signer.reference}/sign/{self._role}",
            {"csr": order.csr_pem.decode("ascii"), "ttl": ttl(order.lifetime)},
            doing=f"signing a leaf for {order.identity}",
        )
        certificate = certificate_in(reply, f"the certificate for {order.identity}")
        leaf = check_leaf(
            [certificate],
            spki_sha256=order.spki_sha256,
            identity=order.identity,
            dns_names=order.dns_names,
            lifetime=order.lifetime,
            signer=signer,
            above=above,
            asked_at=asked_at,
            received_at=self._clock.now(),
            skew=self._skew,
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        return IssuedLeaf(chain_pem=pem, leaf=leaf, request_id=reply.request_id)

    def revoke(self, serial: Serial) -> str | None:
        """Revoke one leaf that this issuer signed; return the request id. Revoking twice is no error."""
        doing = f"revoking leaf {serial} of {self._trust_domain}"
        return self._session.write(f"{self._mount}/revoke", {"serial_number": colons(serial)}, doing=doing).request_id

    def revoked(self, signer: Generation) -> frozenset[Serial]:
        """
        Return the serials on *signer*'s current CRL, whose signature is checked.

        A CRL past its next update is taken as it is: by default Vault makes a new one only when something is revoked.
        """
        authority, *_ = self._chain_of(signer)
        doing = f"reading the CRL of generation {signer.number} of {self._trust_domain}"
        reply = self._session.read(f"{self._mount}/issuer/{signer.reference}/crl", doing=doing)
        text = None if reply is None else reply.body.get("crl")
        try:
            crl = x509.load_pem_x509_crl(str(text or "").encode())
            signed = crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type] # a CA's key can verify
        except (ValueError, TypeError) as e:
            raise Rejected(f"{doing} gave none that can be read") from e
        if not signed or crl.issuer != authority.subject:
            raise Rejected(f"{doing} gave one that another authority signed")
        return frozenset(Serial(f"{entry.serial_number:x}") for entry in crl)

    def issued(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return the leaves on the mount's own list, without reading those whose serial is *known*."""
        found = stored(self._session, self._mount, serials(self._session, self._mount), known)
        return tuple(line for _, line in found if not line.is_authority)

    def _chain_of(self, generation: Generation) -> _Chain:
        """Return *generation*'s certificate and those above it. Raises `Rejected` if Vault holds another one there."""
        with self._lock:
            chain = self._signers.get(generation.reference)
        if chain is None:
            doing = f"reading generation {generation.number} of {self._trust_domain}"
            reply = self._session.read(f"{self._mount}/issuer/{generation.reference}", doing=doing)
            if reply is None:
                raise Rejected(f"generation {generation.number} of {self._trust_domain} is not at {self._mount}")
            own = certificate_in(reply, f"generation {generation.number} of {self._trust_domain}")
            chain = (own, *parents_of(own, reply.body.get("ca_chain")))
            with self._lock:
                while len(self._signers) >= _REMEMBERED:
                    del self._signers[next(iter(self._signers))]
                self._signers[generation.reference] = chain
        if sha256_of(chain[0]) != generation.authority.sha256:
            raise Rejected(
                f"the issuer behind generation {generation.number} of {self._trust_domain} has another certificate"
            )
        return chain
