"""
What proxies report and show, made into relying parties: who has acknowledged what, and who lags.

Rules that must stay true here:

- Acknowledged is what the proxy's own configuration holds, never what was sent, nor that an identity was issued since
  (law 1).
- Whose leaf cannot be seen may hold any generation's until its last leaf has ended: `Seen.stray_until`. Which
  generation it is, is never taken from the control plane's word.
- A proxy that was seen to hold nothing of the mesh relies on nothing; one that is merely silent relies on everything.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.adapters.kuma.config_dump import PLAIN
from rotator.adapters.kuma.control_plane import ProxyReport, ProxyView
from rotator.core.model import Generation, IssuerId, RelyingParty, SubjectName, TrustDomainName

PLAIN_TRUST = PLAIN
"""The *domain* of `parties` for the provided model, whose validators know no trust domains."""


class Lag(StrEnum):
    """How a proxy is out of step with its control plane."""

    NEVER_CONNECTED = "never_connected"
    OFFLINE = "offline"
    REJECTING = "rejecting"
    BEHIND = "behind"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One proxy that is out of step, in words for people."""

    proxy: str
    zone: str
    lag: Lag
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A mesh's relying parties at one moment."""

    parties: tuple[RelyingParty, ...]
    """The mesh itself, then its proxies by name."""
    stray_until: Mapping[IssuerId, datetime] = field(default_factory=dict)


def parties(
    *,
    mesh: str,
    domain: TrustDomainName,
    reports: Sequence[ProxyReport],
    views: Mapping[str, ProxyView | None] | None,
    held: Sequence[Generation],
    active: IssuerId | None,
    given: frozenset[IssuerId] | None,
    longest_leaf: timedelta,
    now: datetime,
) -> Seen:
    """
    Return the relying parties of *mesh*.

    Args:
        mesh: The mesh's name; it is the first party, ``mesh:<name>``.
        domain: Whose entry of `ProxyView.bundles` counts: the SPIFFE trust domain, or `PLAIN_TRUST`.
        reports: Every proxy's report.
        views: What proxies showed, None for one that could not be asked; None altogether if nobody was asked.
        held: The generations whose certificates count.
        active: Who signs now: no stray leaf is reckoned for it.
        given: The held generations in the bundle that the mesh gives now, None if it has no CA at all.
        longest_leaf: Bounds the last leaf of a proxy of which the control plane knows no expiry.
        now: When the reports were taken.
    """
    by_sha256 = {each.authority.sha256: each.authority.id for each in held}
    found = [RelyingParty(name=SubjectName(f"mesh:{mesh}"), published=given, acknowledged=given or frozenset())]
    strays: list[datetime] = []
    for report in sorted(reports, key=lambda each: each.name):
        view = None if views is None else views.get(report.name)
        name = SubjectName(report.name)
        if view is not None and not view.relies:
            # It starts with what the mesh gives at that time, like any other that joins.
            found.append(RelyingParty(name=name, published=None, acknowledged=frozenset()))
            continue
        trusted = frozenset[str]() if view is None else view.bundles.get(domain, frozenset())
        issuer = None if view is None else view.leaf_issuer
        ends = _last_leaf_ends(report, view, now + longest_leaf, longest_leaf)
        if issuer is None and ends is not None:
            strays.append(ends)
        party = RelyingParty(
            name=name,
            published=given,
            acknowledged=frozenset(by_sha256[each] for each in trusted if each in by_sha256),
            reachable=report.online and (views is None or view is not None),
            served_issuer=issuer if issuer in by_sha256.values() else None,
            last_leaf_not_after=ends,
        )
        found.append(party)
    until = {each.authority.id: max(strays) for each in held if strays and each.authority.id != active}
    return Seen(parties=tuple(found), stray_until=until)


def out_of_sync(
    reports: Iterable[ProxyReport], views: Mapping[str, ProxyView | None] | None = None
) -> tuple[Finding, ...]:
    """
    Return the proxies that are out of step, by name.

    One look may catch a proxy while a change is on its way: only what two looks some ten seconds apart both find is
    worth a person's time (control planes write insights down every ten seconds).
    """
    findings = []
    for report in sorted(reports, key=lambda each: each.name):
        found = _lag(report, asked=views is not None, view=(views or {}).get(report.name))
        if found is not None:
            lag, detail = found
            findings.append(Finding(proxy=report.name, zone=report.zone, lag=lag, detail=detail))
    return tuple(findings)


def _last_leaf_ends(
    report: ProxyReport, view: ProxyView | None, newest_ends: datetime, longest_leaf: timedelta
) -> datetime | None:
    """
    Return when the last leaf ends that the proxy may hold; None if it never had one.

    Nobody reports an end for a zone egress, nor perhaps for a proxy that left: such a leaf is as young as can be.
    *newest_ends* is when one would end that is issued right now.
    """
    known = [report.certificate_not_after, None if view is None else view.leaf_not_after]
    ends = [each for each in known if each is not None]
    if ends:
        return max(ends)
    if report.online:
        return newest_ends
    return None if report.disconnected_at is None else report.disconnected_at + longest_leaf


def _lag(report: ProxyReport, *, asked: bool, view: ProxyView | None) -> tuple[Lag, str] | None:
    """Return how *report*'s proxy is out of step, None if it is not."""
    unanswered = report.responses_sent - report.responses_acknowledged - report.responses_rejected
    if not report.online:
        if not report.connection:
            return Lag.NEVER_CONNECTED, "it has never connected to a control plane"
        since = "" if report.disconnected_at is None else f" since {report.disconnected_at:%Y-%m-%dT%H:%M:%SZ}"
        return Lag.OFFLINE, f"it has been out of contact{since}"
    if report.responses_rejected:
        return Lag.REJECTING, f"it has rejected {report.responses_rejected} of {report.responses_sent} configurations"
    if unanswered > 0:
        return Lag.BEHIND, f"it has not acknowledged {unanswered} of {report.responses_sent} configurations"
    if asked and view is None:
        return Lag.UNREADABLE, "it is online and cannot be asked what it trusts"
    return None
