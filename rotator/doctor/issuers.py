"""
The corporate PKIs: can rotator log in, has it every right, may the pinned issuer sign, is the clock right.

Rules that must stay true here:

- A right is asked about, not tried; only where that may not be asked is nothing said of rights.
- Every trust domain is looked at with its own mount and names: one session may serve several.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial

from rotator.adapters.vault.corporate import CorporateIssuer, fit_parent
from rotator.adapters.vault.examination import clock_offset, missing_rights, offset_in_words
from rotator.adapters.vault.policies import DomainRights, MeshRights
from rotator.adapters.vault.session import VaultSession
from rotator.bootstrap.sessions import Sessions
from rotator.core.model import TrustDomainName
from rotator.core.window import written
from rotator.doctor.findings import Finding, attempted, broken, fine, warning
from rotator.errors import Denied
from rotator.ports import Clock
from rotator.settings import Settings
from rotator.settings.issuers import VaultIssuer

_POLICY = "give its policy what deploy/vault shows"


def issuer_findings(settings: Settings, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what is found at each issuer, then at each trust domain's place there."""
    for name, issuer in settings.issuers.items():
        if issuer.vault is None:
            continue
        about, session = f"issuer {name}", sessions.of(name, issuer.vault)
        yield from attempted(about, partial(_clock, about, session, settings, clock), otherwise="mend its auth")
        if not session.is_logged_in:
            continue
        for domain in (each for each, wanted in settings.trust_domains.items() if wanted.issuer == name):
            yield from _domain(settings, domain, issuer.vault, session, clock)


def _clock(about: str, session: VaultSession, settings: Settings, clock: Clock) -> Iterator[Finding]:
    offset = clock_offset(session, clock)
    if offset is None:
        yield fine(about, "logged in; its token has no end and tells no time")
    elif abs(offset) > settings.timing.skew:
        yield broken(
            about,
            f"its clock is {offset_in_words(offset)} ours, more than timing.skew {written(settings.timing.skew)}",
            "set the clocks right, or widen timing.skew",
        )
    else:
        yield fine(about, f"logged in; its clock is within {written(max(abs(offset), timedelta(seconds=1)))} of ours")


def _domain(
    settings: Settings, name: str, vault: VaultIssuer, session: VaultSession, clock: Clock
) -> Iterator[Finding]:
    about = f"trust_domain {name}"
    yield from attempted(about, partial(_parent, about, settings, name, vault, session, clock), otherwise=_POLICY)
    yield from attempted(about, partial(_rights, about, settings, name, vault, session), otherwise=_POLICY)


def _parent(
    about: str, settings: Settings, name: str, vault: VaultIssuer, session: VaultSession, clock: Clock
) -> Iterator[Finding]:
    parent = fit_parent(
        session,
        CorporateIssuer(mount=vault.mount, issuer=vault.issuer),
        what=f"the next CA of {name}",
        lifetime=settings.trust_domains[name].ca.lifetime,
        skew=settings.timing.skew,
        now=clock.now(),
    )
    ends = min(each.not_valid_after_utc for each in (parent.certificate, *parent.above))
    yield fine(about, f"its parent {vault.issuer} of {vault.mount} may sign, and ends at {ends:%Y-%m-%dT%H:%M:%SZ}")


def _rights(about: str, settings: Settings, name: str, vault: VaultIssuer, session: VaultSession) -> Iterator[Finding]:
    domain = settings.trust_domains[name]
    rights = MeshRights(
        trust_domain=TrustDomainName(name),
        lifetimes=(domain.ca.lifetime,),
        corporate_mount=vault.mount,
        corporate_issuer=vault.issuer,
    )
    if domain.ca.mount is not None and domain.ca.role is not None:
        rights = DomainRights(
            trust_domain=rights.trust_domain,
            lifetimes=rights.lifetimes,
            corporate_mount=rights.corporate_mount,
            corporate_issuer=rights.corporate_issuer,
            mount=domain.ca.mount,
            role=domain.ca.role,
            key=domain.ca.key,
        )
    try:
        missing = missing_rights(session, rights)
    except Denied:
        yield warning(
            about,
            "its token may not ask which rights it has, so nothing can be said of them",
            "give its policy update on sys/capabilities-self, as deploy/vault shows",
        )
        return
    for each in missing:
        yield broken(about, f"its token lacks {', '.join(each.capabilities)} on {each.path}", _POLICY)
    if not missing:
        yield fine(about, "its token has every right at the issuer")
