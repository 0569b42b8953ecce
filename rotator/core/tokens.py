"""
What to do about one token now: issue, publish again, wait, or nothing; and the same of the keys that sign tokens.

Rules that must stay true here:

- The arithmetic is that of leaves: the same window, jitter, safety line and calendar (laws 12, 15 and 20).
- What somebody revoked, or whose signing key is gone, is broken now and mended now.
- Several targets of one token are one token: while any of them holds a good one, the others are merely behind.
- A signing key goes last: not before every token that is known to need it has another, and not before the longest life
  that the operator named for tokens of others is over (law 18).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rotator.core.model import (
    ManagedToken,
    Observation,
    Publication,
    SigningKey,
    SubjectName,
    Token,
    TokenGrant,
    TokenKind,
    TokenWant,
)
from rotator.core.renewal import put_off
from rotator.core.steps import (
    AddSigningKey,
    IssueToken,
    Nothing,
    Reason,
    RemoveSigningKey,
    RepublishReason,
    RepublishToken,
    TrustSigningKey,
    Wait,
)
from rotator.core.window import Calendar, LeafPolicy, Window, hash_fraction, renewal_window

_JITTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One publication of a token (or its absence) under judgement."""

    want: TokenWant
    publication: Publication | None
    revoked: bool
    now: datetime
    window: Window | None

    @property
    def token(self) -> Token | None:
        """Return the published token, if there is a readable one."""
        return self.publication.token if self.publication is not None else None


def _is_unreadable(judged: Judged) -> bool:
    return judged.publication is not None and (judged.publication.problem is not None or judged.token is None)


def _is_key_gone(judged: Judged) -> bool:
    keys = judged.want.keys
    if judged.token is None or not keys:
        return False
    # A key newer than all that were seen was added since somebody looked.
    return judged.token.key not in keys and judged.token.key < max(keys)


def _is_asked_for(judged: Judged) -> bool:
    asked = judged.want.asked
    return asked is not None and judged.publication is not None and judged.publication.rotation_id != asked.rotation_id


_CHECKS: tuple[tuple[Reason, Callable[[Judged], bool]], ...] = (
    (Reason.ABSENT, lambda judged: judged.publication is None),
    (Reason.UNREADABLE, _is_unreadable),
    (Reason.REVOKED, lambda judged: judged.token is not None and judged.revoked),
    (Reason.CHAIN_BROKEN, _is_key_gone),
    (Reason.ISSUER_CHANGED, lambda judged: judged.token is not None and judged.token.key < judged.want.key_at_least),
    (
        Reason.IDENTITY_CHANGED,
        lambda judged: judged.token is not None and judged.token.grant != judged.want.token.grant,
    ),
    (Reason.EXPIRED, lambda judged: judged.window is not None and judged.now >= judged.window.closes),
    (Reason.ASKED_FOR, _is_asked_for),
    (Reason.EXPIRING, lambda judged: judged.window is not None and judged.now >= judged.window.opens),
)
"""Every reason with its question, in the order of `Reason`."""

_RANK = {reason: rank for rank, (reason, _) in enumerate(_CHECKS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVerdict:
    """The publication that counts for a token, and what speaks against it."""

    publication: Publication | None
    window: Window | None
    reasons: tuple[Reason, ...]

    @property
    def safety_line(self) -> datetime | None:
        """Return the moment past which nothing puts the renewal off; None without a token to lose."""
        return self.window.safety_line if self.window is not None else None


def token_window(token: Token, want: ManagedToken, policy: LeafPolicy) -> Window:
    """Return when *token* may be renewed, must be, and ends."""
    return renewal_window(token, want.lifetime, policy, token_identity(want))


def token_identity(want: ManagedToken) -> str:
    """Return what the jitter of a token is a hash of."""
    return f"token:{want.trust_domain}:{want.name}"


def token_verdict(want: TokenWant, seen: Observation, policy: LeafPolicy, now: datetime) -> TokenVerdict:
    """Return the best publication of *seen* and the reasons to issue anew; its reasons are the token's."""
    return max((_judge(want, each, policy, now, revoked=seen.revoked) for each in seen.publications), key=_standing)


def decide_token(
    want: TokenWant,
    seen: Observation,
    policy: LeafPolicy,
    now: datetime,
    *,
    held_until: datetime | None,
    hold_past_safety_line: bool = False,
) -> IssueToken | RepublishToken | Wait | Nothing:
    """Return what to do about *want* at *now*; *held_until* and *hold_past_safety_line* as for a certificate."""
    found = token_verdict(want, seen, policy, now)
    name = want.token.name
    if not found.reasons and found.publication is not None:
        return _spread(name, seen, found.publication, found.window)
    waiting = put_off(
        name,
        found.reasons,
        found.safety_line,
        policy,
        now,
        emergency=want.asked is not None and want.asked.emergency,
        held_until=held_until,
        hold_past_safety_line=hold_past_safety_line,
    )
    return waiting or IssueToken(token=name, reasons=found.reasons)


def holds_token(each: Publication | None, good: Publication) -> bool:
    """Return whether *each* holds the *good* token, whole."""
    if each is None or each.token is None or each.problem is not None or good.token is None:
        return False
    return each.token.sha256 == good.token.sha256


def _spread(name: SubjectName, seen: Observation, good: Publication, window: Window | None) -> RepublishToken | Nothing:
    if any(not holds_token(each, good) for each in seen.publications):
        return RepublishToken(token=name, reason=RepublishReason.TARGET_BEHIND)
    if any(each is not None and each.drift is not None for each in seen.publications):
        return RepublishToken(token=name, reason=RepublishReason.DRIFTED)
    if any(each is not None and each.outdated for each in seen.publications):
        return RepublishToken(token=name, reason=RepublishReason.SETTINGS_CHANGED)
    return Nothing(next_look=window.opens if window is not None else None)


def _standing(each: TokenVerdict) -> tuple[int, datetime, int]:
    gravest = _RANK[each.reasons[0]] if each.reasons else len(_CHECKS)
    if each.publication is None or each.publication.token is None:
        return gravest, datetime.min.replace(tzinfo=UTC), 0
    return gravest, each.publication.token.not_after, each.publication.number


def _judge(
    want: TokenWant, publication: Publication | None, policy: LeafPolicy, now: datetime, *, revoked: bool
) -> TokenVerdict:
    window = None
    if publication is not None and publication.token is not None:
        window = token_window(publication.token, want.token, policy)
    judged = Judged(want=want, publication=publication, revoked=revoked, now=now, window=window)
    return TokenVerdict(
        publication=publication,
        window=window,
        reasons=tuple(reason for reason, is_found in _CHECKS if is_found(judged)),
    )


def described(grant: TokenGrant) -> str:
    """Return for whom *grant* speaks, as people read it."""
    match grant.kind:
        case TokenKind.DATAPLANE:
            limits = [f"named {grant.name}"] if grant.name else []
            limits += [f"with {tag} {'|'.join(values)}" for tag, values in grant.tags]
            limits += [f"of workload {grant.workload}"] if grant.workload else []
            return f"a proxy of mesh {grant.mesh} {' '.join(limits)}".strip()
        case TokenKind.ZONE:
            return f"zone {grant.zone} ({', '.join(grant.scope) or 'every part'})"
        case TokenKind.USER:
            return f"user {grant.name} ({', '.join(grant.groups) or 'no group'})"


# --- signing keys ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyPolicy:
    """How the keys that sign one kind of tokens are kept fresh."""

    rotate_every: timedelta
    known_after: timedelta
    """How long a new key takes to be known wherever tokens are checked."""
    others_live: timedelta
    """The operator's word: no token that rotator does not manage lives longer than this; zero: there is none."""
    skew: timedelta
    calendar: Calendar

    def opens(self, newest: SigningKey, name: str) -> datetime | None:
        """Return when the next rotation may begin; None if nobody knows how old the key is."""
        if newest.created_at is None:
            return None
        earlier = self.rotate_every * _JITTER * hash_fraction(f"signing-key:{name}")
        return (newest.created_at + self.rotate_every - earlier).replace(microsecond=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRotation:
    """A rotation of a signing key that is under way."""

    old: int
    new: int
    added_at: datetime | None = None
    """When the new key was first seen to be there."""
    trusted_at: datetime | None = None
    """From when on tokens are issued anew."""


def decide_signing_key(
    name: SubjectName,
    keys: tuple[SigningKey, ...],
    rotation: KeyRotation,
    policy: SigningKeyPolicy,
    now: datetime,
    *,
    needed_by: tuple[str, ...],
) -> AddSigningKey | TrustSigningKey | RemoveSigningKey | Wait | None:
    """
    Return the next step of *rotation*, or whom it waits for; None once the old key is gone.

    *keys* are those that are there; *needed_by* names every token that is known to need a key before the new one.
    """
    serials = {each.serial for each in keys}
    if rotation.new not in serials:
        return AddSigningKey(name=name, serial=rotation.new)
    if rotation.trusted_at is None:
        known_at = (rotation.added_at or now) + policy.known_after
        if now < known_at:
            return Wait(until=known_at, on=(f"signing key {rotation.new}",), why="to be known wherever tokens are read")
        return TrustSigningKey(name=name, serial=rotation.new)
    if rotation.old not in serials:
        return None
    if needed_by:
        return Wait(until=None, on=needed_by, why=f"which still need signing key {rotation.old}")
    over = rotation.trusted_at + policy.others_live + policy.skew if policy.others_live else rotation.trusted_at
    if now < over:
        return Wait(until=over, on=("tokens of others",), why=f"which signing key {rotation.old} may have signed")
    return RemoveSigningKey(name=name, serial=rotation.old)
