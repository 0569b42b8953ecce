"""
Why a leaf has to be issued again, and which pairs of leaf and bundle would not verify.

Rules that must stay true here:

- `CHECKS` is in the order of `Reason`: what breaks now comes before what will break later.
- Several targets of one certificate are one certificate: while any of them holds good material, that is the truth
  and the others are merely behind; only where none is good is there a reason to issue.
- A place that is given the bundle alone says nothing about the leaf.
- Names are sets: their order in a certificate says nothing.
- `broken_pairs` looks at distinct pairs only (law 3), so 10,000 leaves under 10,000 bundles stay linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from rotator.core.model import CertificateWant, IssuerId, Leaf, Observation, Publication, SubjectName
from rotator.core.steps import Reason
from rotator.core.window import LeafPolicy, Window, renewal_window


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One publication (or its absence) under judgement."""

    want: CertificateWant
    publication: Publication | None
    revoked: bool
    now: datetime
    window: Window | None
    """None where there is no leaf."""

    @property
    def leaf(self) -> Leaf | None:
        """Return the published leaf, if there is a readable one."""
        return self.publication.leaf if self.publication is not None else None


def is_absent(judged: Judged) -> bool:
    """Return whether nothing was ever published."""
    return judged.publication is None


def is_unreadable(judged: Judged) -> bool:
    """Return whether what is published cannot be used as it stands."""
    return judged.publication is not None and (judged.publication.problem is not None or judged.leaf is None)


def is_key_mismatch(judged: Judged) -> bool:
    """Return whether the key beside the leaf is another one's."""
    return judged.publication is not None and judged.leaf is not None and not judged.publication.key_matches


def is_revoked(judged: Judged) -> bool:
    """Return whether the leaf stands on its issuer's CRL."""
    return judged.leaf is not None and judged.revoked


def is_chain_broken(judged: Judged) -> bool:
    """Return whether the leaf's issuer is one that nobody is asked to trust."""
    if judged.leaf is None:
        return False
    issuer = judged.leaf.issuer
    return issuer not in judged.want.accepted and all(issuer != each.id for each in judged.want.bundle)


def is_issuer_changed(judged: Judged) -> bool:
    """Return whether the leaf must come from another issuer by now."""
    return judged.leaf is not None and judged.leaf.issuer not in judged.want.accepted


def is_identity_changed(judged: Judged) -> bool:
    """Return whether another SPIFFE ID is wanted."""
    return judged.leaf is not None and judged.leaf.spiffe_id != judged.want.certificate.identity


def is_names_changed(judged: Judged) -> bool:
    """Return whether other DNS names are wanted; case does not count (RFC 4343)."""
    if judged.leaf is None:
        return False
    return {name.lower() for name in judged.leaf.dns_names} != {
        name.lower() for name in judged.want.certificate.dns_names
    }


def is_key_type_changed(judged: Judged) -> bool:
    """Return whether another key algorithm is wanted; an algorithm that cannot be configured is another one."""
    return judged.leaf is not None and judged.leaf.key_type is not judged.want.certificate.key


def is_expired(judged: Judged) -> bool:
    """Return whether the leaf, or a certificate above it, has ended."""
    return judged.window is not None and judged.now >= judged.window.closes


def is_asked_for(judged: Judged) -> bool:
    """Return whether a request still waits for its new leaf."""
    asked = judged.want.asked
    return asked is not None and judged.publication is not None and judged.publication.rotation_id != asked.rotation_id


def is_expiring(judged: Judged) -> bool:
    """Return whether the renewal window is open."""
    return judged.window is not None and judged.now >= judged.window.opens


CHECKS: tuple[tuple[Reason, Callable[[Judged], bool]], ...] = (
    (Reason.ABSENT, is_absent),
    (Reason.UNREADABLE, is_unreadable),
    (Reason.KEY_MISMATCH, is_key_mismatch),
    (Reason.REVOKED, is_revoked),
    (Reason.CHAIN_BROKEN, is_chain_broken),
    (Reason.ISSUER_CHANGED, is_issuer_changed),
    (Reason.IDENTITY_CHANGED, is_identity_changed),
    (Reason.NAMES_CHANGED, is_names_changed),
    (Reason.KEY_TYPE_CHANGED, is_key_type_changed),
    (Reason.EXPIRED, is_expired),
    (Reason.ASKED_FOR, is_asked_for),
    (Reason.EXPIRING, is_expiring),
)
"""Every reason with its question, in the order in which they are asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The publication that counts for a certificate, and what speaks against it."""

    publication: Publication | None
    window: Window | None
    reasons: tuple[Reason, ...]


def verdict(want: CertificateWant, seen: Observation, policy: LeafPolicy, now: datetime) -> Verdict:
    """
    Return the best publication of *seen* and the reasons to issue anew, ordered as `Reason`.

    Best is the one whose gravest reason is the mildest; among equals the newest leaf. Its reasons are the
    certificate's: if it has none, the other targets are behind, which is no reason to issue.
    """
    holders = [each for each in seen.publications if each is None or each.holds_leaf]
    judged = [_judge(want, each, policy, now, revoked=seen.revoked) for each in holders or (None,)]
    return max(judged, key=_standing)


def reasons(want: CertificateWant, seen: Observation, policy: LeafPolicy, now: datetime) -> tuple[Reason, ...]:
    """Return why *want* has to be issued anew, in the order of `Reason`; empty if it need not."""
    return verdict(want, seen, policy, now).reasons


_RANK = {reason: rank for rank, (reason, _) in enumerate(CHECKS)}


def _standing(each: Verdict) -> tuple[int, datetime, int]:
    gravest = _RANK[each.reasons[0]] if each.reasons else len(CHECKS)
    if each.publication is None or each.publication.leaf is None:
        return gravest, datetime.min.replace(tzinfo=UTC), 0
    return gravest, each.publication.leaf.not_after, each.publication.number


def _judge(
    want: CertificateWant, publication: Publication | None, policy: LeafPolicy, now: datetime, *, revoked: bool
) -> Verdict:
    window = None
    if publication is not None and publication.leaf is not None:
        window = renewal_window(publication.leaf, want.certificate.lifetime, policy, want.certificate.identity)
    judged = Judged(want=want, publication=publication, revoked=revoked, now=now, window=window)
    return Verdict(
        publication=publication,
        window=window,
        reasons=tuple(reason for reason, is_found in CHECKS if is_found(judged)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenPair:
    """Leaves of one issuer that a bundle does not admit."""

    issuer: IssuerId
    bundle: frozenset[IssuerId]
    presenters: tuple[SubjectName, ...]
    verifiers: tuple[SubjectName, ...]


def broken_pairs(
    leaves: Iterable[tuple[SubjectName, IssuerId]],
    bundles: Iterable[tuple[SubjectName, frozenset[IssuerId]]],
) -> tuple[BrokenPair, ...]:
    """
    Return every pair of live leaf and live bundle of one trust domain that does not verify; empty is law 3 kept.

    *leaves* are (certificate, who signed its live leaf), *bundles* (certificate, what its live bundle trusts).
    """
    presenters: dict[IssuerId, list[SubjectName]] = {}
    for name, issuer in leaves:
        presenters.setdefault(issuer, []).append(name)
    verifiers: dict[frozenset[IssuerId], list[SubjectName]] = {}
    for name, bundle in bundles:
        verifiers.setdefault(bundle, []).append(name)
    return tuple(
        BrokenPair(issuer=issuer, bundle=bundle, presenters=tuple(shown), verifiers=tuple(shown_to))
        for issuer, shown in presenters.items()
        for bundle, shown_to in verifiers.items()
        if issuer not in bundle
    )
