"""
The corporate PKI's issuer that signs the trust domains' CAs, and what it is asked to put into them.

Rules that must stay true here:

- It is the one that the configuration names, by name or id of its mount, and none stands in for it (law 6).
- It is fit to sign by its own dates and flags, read anew each time, and outlives what it signs (laws 4 and 6): Vault
  itself would sign with an expired one, and past its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from rotator.adapters.vault.chains import parents_of
from rotator.adapters.vault.listing import certificate_in
from rotator.adapters.vault.session import VaultSession
from rotator.errors import InvariantBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class CorporateIssuer:
    """Who signs the CAs: one pinned issuer, by name or id, of one mount."""

    mount: str
    issuer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NameConstraints:
    """Which names leaves below a CA may carry; nothing said about a kind of name means no limit."""

    permitted_dns_domains: tuple[str, ...] = ()
    permitted_uri_domains: tuple[str, ...] = ()
    """Only where every URI of every leaf lies in them (not Kuma 2.x), and where the server knows them: one that does
    not (OpenBao 2.7) says so, and the order is refused."""

    def parameters(self) -> dict[str, object]:
        """Return what is sent to Vault."""
        kinds = {
            "permitted_dns_domains": self.permitted_dns_domains,
            "permitted_uri_domains": self.permitted_uri_domains,
        }
        return {kind: ",".join(domains) for kind, domains in kinds.items() if domains}

    def extension(self) -> x509.NameConstraints | None:
        """Return what must come back, None for no constraint."""
        permitted: list[x509.GeneralName] = [x509.DNSName(domain) for domain in self.permitted_dns_domains]
        permitted += [x509.UniformResourceIdentifier(domain) for domain in self.permitted_uri_domains]
        return x509.NameConstraints(permitted, None) if permitted else None


UNCONSTRAINED = NameConstraints()
"""No name constraints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The pinned corporate issuer, found fit to sign."""

    certificate: x509.Certificate
    above: tuple[x509.Certificate, ...]


def fit_parent(
    session: VaultSession,
    corporate: CorporateIssuer,
    *,
    what: str,
    lifetime: timedelta,
    skew: timedelta,
    now: datetime,
) -> Parent:
    """
    Return the pinned corporate issuer if it may sign *what* (an authority living for *lifetime*) at *now*.

    Raises:
        InvariantBroken: If it is absent, revoked, expired or not yet valid (law 6), or would be outlived (law 4).
    """
    who = f"the corporate issuer {corporate.issuer} of {corporate.mount}"
    reply = session.read(f"{corporate.mount}/issuer/{corporate.issuer}", doing=f"reading {who}")
    if reply is None:
        raise InvariantBroken(6, f"{who} is not there")
    certificate = certificate_in(reply, who)
    above = tuple(parents_of(certificate, reply.body.get("ca_chain")))
    ends = min(one.not_valid_after_utc for one in (certificate, *above))
    begins = max(one.not_valid_before_utc for one in (certificate, *above))
    if reply.body.get("revoked"):
        raise InvariantBroken(6, f"{who} is revoked")
    if now < begins:
        raise InvariantBroken(6, f"{who} is not valid before {begins:%Y-%m-%dT%H:%M:%SZ}")
    if now >= ends:
        raise InvariantBroken(6, f"{who} ended at {ends:%Y-%m-%dT%H:%M:%SZ}")
    if now + lifetime + skew > ends:
        raise InvariantBroken(
            4, f"{what} would live for {lifetime} and outlive {who}, which ends at {ends:%Y-%m-%dT%H:%M:%SZ}"
        )
    return Parent(certificate=certificate, above=above)
