"""
The corporate PKI as the signer of CAs: a request made elsewhere goes in, a CA certificate comes out and is compared.

Rules that must stay true here:

- The issuer is the configured one, fit to sign by its own dates and flags (law 6), and outlives what it signs: Vault
  itself would sign past it (law 4).
- What comes back is compared with the request before anybody sees it (law 11).
- Only the request travels: whoever asks has the key, and it is never seen here (law 10).
- A CA of this trust domain is known by its subject *and* its SPIFFE name: the mesh root in the same mount has the
  SPIFFE name too, and is none of rotator's.
"""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from rotator.adapters.vault.corporate import UNCONSTRAINED, CorporateIssuer, NameConstraints, Parent, fit_parent
from rotator.adapters.vault.listing import certificate_in, colons, mapping, revoked_at, stored
from rotator.adapters.vault.naming import BACKDATE, PATH_LENGTH, ttl
from rotator.adapters.vault.session import VaultSession, names
from rotator.core.model import Serial, TrustDomainName
from rotator.errors import Rejected
from rotator.pki.authority_name import common_name_stem
from rotator.pki.certificates import uri_names
from rotator.pki.returned import check_authority
from rotator.ports import AuthorityRequest, Clock, IssuedCertificate, SignedAuthority


class VaultAuthoritySigner:
    """Has the CAs of one trust domain signed by the corporate PKI, and revoked there; an `AuthoritySigner`."""

    def __init__(
        self,
        session: VaultSession,
        *,
        clock: Clock,
        trust_domain: TrustDomainName,
        corporate: CorporateIssuer,
        skew: timedelta,
        name_constraints: NameConstraints = UNCONSTRAINED,
    ) -> None:
        """Have *trust_domain*'s CAs signed by *corporate*; *skew* is how far Vault's clock may be from ours."""
        self._session = session
        self._clock = clock
        self._trust_domain = trust_domain
        self._corporate = corporate
        self._skew = skew
        self._constraints = name_constraints

    def sign_authority(self, request: AuthorityRequest) -> SignedAuthority:
        """
        Have *request* signed.

        Raises:
            InvariantBroken: If the corporate issuer may not sign it (laws 4 and 6); nothing was changed.
            Rejected: If it refused or the certificate came back wrong; one that was signed shows in `strays`.
        """
        if request.trust_domain != self._trust_domain:
            raise Rejected(f"a CA for {request.trust_domain} is not asked for where those of {self._trust_domain} are")
        what = f"{request.common_name} of {self._trust_domain}"
        parent = self.fit(request.lifetime, what)
        certificate, request_id = self.signed(request, parent, what)
        return SignedAuthority(
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
            above_pem=tuple(
                each.public_bytes(serialization.Encoding.PEM) for each in (parent.certificate, *parent.above)
            ),
            request_id=request_id,
        )

    def fit(self, lifetime: timedelta, what: str) -> Parent:
        """Return the pinned corporate issuer if it may sign *what* now. Raises `InvariantBroken` otherwise."""
        return fit_parent(
            self._session, self._corporate, what=what, lifetime=lifetime, skew=self._skew, now=self._clock.now()
        )

    def signed(self, request: AuthorityRequest, parent: Parent, what: str) -> tuple[x509.Certificate, str | None]:
        """Return the certificate that *parent* made of *request*, compared with it, and the request id."""
        asked_at = self._clock.now()
        reply = self._session.write(
            f"{self._corporate.mount}/issuer/{self._corporate.issuer}/sign-intermediate",
            {
                "csr": request.csr_pem.decode("ascii"),
                "common_name": request.common_name,
                "max_path_length": PATH_LENGTH,
                "ttl": ttl(request.lifetime),
                "uri_sans": f"spiffe://{self._trust_domain}",
                "use_csr_values": False,
                "exclude_cn_from_sans": True,
                "not_before_duration": BACKDATE,
                **self._constraints.parameters(),
            },
            doing=f"having {what} signed",
        )
        certificate = certificate_in(reply, f"the certificate of {what}")
        check_authority(
            certificate,
            spki_sha256=request.spki_sha256,
            common_name=request.common_name,
            trust_domain=self._trust_domain,
            lifetime=request.lifetime,
            parent=parent.certificate,
            above=parent.above,
            asked_at=asked_at,
            received_at=self._clock.now(),
            skew=self._skew,
            name_constraints=self._constraints.extension(),
        )
        return certificate, reply.request_id

    def strays(self, known: frozenset[Serial] = frozenset()) -> tuple[IssuedCertificate, ...]:
        """Return CA certificates that the corporate PKI signed for this trust domain, but for *known* serials."""
        mine, stem = f"spiffe://{self._trust_domain}", common_name_stem(self._trust_domain)
        found = stored(self._session, self._corporate.mount, self._candidates(), known)
        return tuple(
            line
            for certificate, line in found
            if line.is_authority and mine in uri_names(certificate) and _common_name(certificate).startswith(stem)
        )

    def is_revoked(self, serial: Serial) -> bool:
        """Return whether the corporate PKI has revoked *serial*; what it no longer stores has ended."""
        path = f"{self._corporate.mount}/cert/{colons(serial).replace(':', '-')}"
        reply = self._session.read(path, doing=f"asking whether {serial} of {self._trust_domain} is revoked")
        return reply is not None and revoked_at(reply) is not None

    def revoke_authority(self, serial: Serial) -> str | None:
        """Revoke *serial* at the corporate PKI; return the request id. Revoking twice is no error."""
        doing = f"revoking authority {serial} of {self._trust_domain}"
        body = {"serial_number": colons(serial)}
        return self._session.write(f"{self._corporate.mount}/revoke", body, doing=doing).request_id

    def _candidates(self) -> list[str]:
        """Return the serials at the corporate mount that may be ours, as Vault spells them."""
        mount = self._corporate.mount
        detailed = self._session.list(f"{mount}/certs/detailed", doing=f"listing the certificates of {mount}")
        if detailed is not None:
            lines = mapping(detailed.body.get("key_info"))
            stem = common_name_stem(self._trust_domain)
            # The policy lets no CA of ours be signed under another name.
            return [s for s in names(detailed) if str(mapping(lines.get(s)).get("common_name", stem)).startswith(stem)]
        # HashiCorp's server has no detailed list: every certificate there has to be looked at.
        return list(names(self._session.list(f"{mount}/certs", doing=f"listing the certificates of {mount}")))


def _common_name(certificate: x509.Certificate) -> str:
    """Return the subject's common name, empty for none."""
    return next((str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)), "")
