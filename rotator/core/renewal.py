"""
What to do about one certificate now: issue, publish again, wait for something named, or nothing.

Rules that must stay true here:

- A leaf is never cut short to fit its issuer: where the signer's remaining life does not cover it, it is not
  issued, and the signer is named (law 4).
- What is broken now is mended now. What is merely due may be put off by windows, freezes and holds, and by them
  only up to the safety line (law 12), unless a person has said in words that a hold may let it expire.
- The next look is never later than the safety line (law 15); past it every look is a try.
- Only what is seen decides, so a restart, a doubled step or a clock that jumps back issues nothing twice (law 20).
- A bundle that lacks an authority is mended at once, held or not: missing trust is an outage, and growing is safe.
"""

from __future__ import annotations

from datetime import datetime

from rotator.core.checks import Verdict, verdict
from rotator.core.model import Authority, CertificateWant, Observation, Publication, SubjectName
from rotator.core.steps import IssueLeaf, Nothing, Reason, Republish, RepublishReason, Wait
from rotator.core.window import LeafPolicy, written

Decision = IssueLeaf | Republish | Wait | Nothing

BROKEN_NOW = frozenset(
    {
        Reason.ABSENT,
        Reason.UNREADABLE,
        Reason.KEY_MISMATCH,
        Reason.REVOKED,
        Reason.CHAIN_BROKEN,
    }
)
"""Reasons that no window, freeze or hold delays."""


def decide(
    want: CertificateWant,
    seen: Observation,
    policy: LeafPolicy,
    now: datetime,
    *,
    held_until: datetime | None,
    hold_past_safety_line: bool = False,
) -> Decision:
    """
    Return what to do about *want* at *now*.

    Args:
        want: What the certificate should be in the phase its trust domains are in.
        seen: What is published and in use.
        policy: Window, budget and calendar.
        now: Aware UTC.
        held_until: End of a person's pause of this subject, None for none.
        hold_past_safety_line: That person has said in words that the pause may let the certificate expire.

    """
    found = verdict(want, seen, policy, now)
    if not found.reasons and found.publication is not None:
        return _spread(want, seen, found.publication, found, now, held_until=held_until, policy=policy)
    signer = want.signer
    if signer is None:
        return _mend_trust(want, seen, found.publication) or _nobody_signs(want, found, now)
    waiting = _cannot_cover(signer, want, found, policy, now) or put_off(
        want.certificate.name,
        found.reasons,
        _line(found),
        policy,
        now,
        emergency=want.asked is not None and want.asked.emergency,
        held_until=held_until,
        hold_past_safety_line=hold_past_safety_line,
    )
    if waiting is not None:
        # A leaf that waits must not starve its bundle.
        return _mend_trust(want, seen, found.publication) or waiting
    return IssueLeaf(
        certificate=want.certificate.name,
        signer=signer,
        reasons=found.reasons,
        safety_line=_line(found),
    )


# --- issuing --------------------------------------------------------------------------------------------------------


def _nobody_signs(want: CertificateWant, found: Verdict, now: datetime) -> Wait:
    alert = _is_urgent(found, now)
    until = _line(found) if not alert else None
    return Wait(until=until, on=(want.certificate.trust_domain,), why="where no authority may sign now", alert=alert)


def _cannot_cover(
    signer: Authority, want: CertificateWant, found: Verdict, policy: LeafPolicy, now: datetime
) -> Wait | None:
    """Return the wait for a signer that can cover the whole leaf; None if the present one can (law 4)."""
    alert = _is_urgent(found, now)
    until = _line(found) if not alert else None
    lifetime = want.certificate.lifetime
    if now + policy.skew < signer.not_before:
        return Wait(until=signer.not_before, on=(signer.subject,), why="which is not valid yet", alert=alert)
    left, needed = signer.not_after - now, lifetime + policy.skew
    if left < needed:
        why = (
            f"which lives {written(left)} more, while a leaf of {written(lifetime)} and skew {written(policy.skew)} "
            f"need {written(needed)}"
        )
        return Wait(until=until, on=(signer.subject,), why=why, alert=alert)
    return None


def put_off(
    name: SubjectName,
    reasons: tuple[Reason, ...],
    line: datetime | None,
    policy: LeafPolicy,
    now: datetime,
    *,
    emergency: bool,
    held_until: datetime | None,
    hold_past_safety_line: bool,
) -> Wait | None:
    """
    Return the wait for a hold, window or freeze; None if nothing may put the issue of *name* off any longer.

    *line* is the safety line, None without anything to lose; *emergency* says that whoever asked skips windows.
    """
    if BROKEN_NOW & set(reasons):
        return None
    is_past = line is None or now >= line
    if held_until is not None and now < held_until and (hold_past_safety_line or not is_past):
        until = held_until if hold_past_safety_line or line is None else min(held_until, line)
        return Wait(until=until, on=(f"pause of {name}",), why="which a person asked for", alert=is_past)
    is_emergency = emergency and Reason.ASKED_FOR in reasons
    if is_past or is_emergency or policy.calendar.allows(now):
        return None
    opens = policy.calendar.next_allowed(now)
    moments = [each for each in (opens, line) if each is not None]
    return Wait(until=min(moments, default=None), on=("maintenance window",), why=f"in which {name} may be issued")


def _line(found: Verdict) -> datetime | None:
    return found.window.safety_line if found.window is not None else None


def _is_urgent(found: Verdict, now: datetime) -> bool:
    """Return whether the safety line is passed, or there is no leaf to lose."""
    line = _line(found)
    return line is None or now >= line


# --- publishing again -------------------------------------------------------------------------------------------------


def _spread(
    want: CertificateWant,
    seen: Observation,
    good: Publication,
    found: Verdict,
    now: datetime,
    *,
    held_until: datetime | None,
    policy: LeafPolicy,
) -> Decision:
    """Return the publication that brings every target to the good leaf and the wanted bundle, or Nothing."""
    name = want.certificate.name
    opens = found.window.opens if found.window is not None else None
    if any(not _is_level(each, good) for each in seen.publications):
        return Republish(certificate=name, reason=RepublishReason.TARGET_BEHIND)
    if any(each is not None and each.drift is not None for each in seen.publications):
        return Republish(certificate=name, reason=RepublishReason.DRIFTED)
    mending = _mend_trust(want, seen, good)
    if mending is not None:
        return mending
    if any(each is not None and each.outdated for each in seen.publications):
        return Republish(certificate=name, reason=RepublishReason.SETTINGS_CHANGED)
    wanted = _fingerprints(want)
    if all(each is None or _bundle(each) == wanted for each in seen.publications):
        return Nothing(next_look=opens)
    # Something to take away: that can wait for a person or a window.
    if held_until is not None and now < held_until:
        return Wait(until=_earlier(held_until, opens), on=(f"pause of {name}",), why="which a person asked for")
    if not policy.calendar.allows(now):
        until = _earlier(policy.calendar.next_allowed(now), opens)
        return Wait(until=until, on=("maintenance window",), why=f"in which {name} may be published")
    return Republish(certificate=name, reason=RepublishReason.BUNDLE_CHANGED)


def _mend_trust(want: CertificateWant, seen: Observation, good: Publication | None) -> Republish | None:
    """Return the publication that gives back an authority which a published bundle lacks, None if none lacks any."""
    if good is None or good.leaf is None or good.problem is not None or not good.key_matches or not want.bundle:
        return None
    wanted = _fingerprints(want)
    if all(each is None or wanted <= _bundle(each) for each in seen.publications):
        return None
    return Republish(certificate=want.certificate.name, reason=RepublishReason.BUNDLE_CHANGED)


def _is_level(each: Publication | None, good: Publication) -> bool:
    """Return whether *each* holds the *good* leaf, or is a place for the bundle alone and holds one."""
    if each is not None and not each.holds_leaf:
        return each.problem is None
    if each is None or each.leaf is None or each.problem is not None or not each.key_matches:
        return False
    return good.leaf is not None and each.leaf.sha256 == good.leaf.sha256


def _fingerprints(want: CertificateWant) -> frozenset[str]:
    return frozenset(each.sha256 for each in want.bundle)


def _bundle(publication: Publication) -> frozenset[str]:
    return frozenset(each.sha256 for each in publication.bundle)


def _earlier(first: datetime | None, second: datetime | None) -> datetime | None:
    return min((each for each in (first, second) if each is not None), default=None)
