"""
What one trust domain's CA must keep to, the arithmetic of law 4, and when a rotation falls due.

Rules that must stay true here:

- A CA starts signing, or by rollback resumes, only with remaining life >= ``floor_to_activate``: its successor
  always has time. It stops signing before ``stop_signing_before_end`` is left: no leaf outlives it.
- `AuthorityPolicy.complaints` refuses at load every configuration that cannot keep this, with the numbers shown.
- `due` opens rotations and nothing else does but a person; a calendar delays it only up to the last safe moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rotator.core.model import AtDeadline, Authority, AuthoritySeen, Generation, TrustDomainName
from rotator.core.window import Calendar, hash_fraction, written

LEAVES_IN_A_CA = 6
"""A CA's whole lifetime is at least this many longest leaves (law 4)."""
JITTER = 0.1
"""The name's hash moves a CA's renewal earlier by up to this part of its lifetime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityPolicy:
    """How one trust domain's CA is kept."""

    trust_domain: TrustDomainName
    longest_leaf: timedelta
    lifetime: timedelta
    """Of one generation."""
    renew_at: float
    """Fraction of the lifetime after which a rotation opens."""
    trust_deadline: timedelta
    """How long a rotation may wait for acknowledgements."""
    at_deadline: AtDeadline = AtDeadline.HOLD
    at_most_left_behind: int = 0
    """With `AtDeadline.PROCEED`: at most so many named parties are left behind."""
    skew: timedelta
    propagation: timedelta
    retry_budget: timedelta
    minimum_overlap: timedelta = timedelta()
    """From publishing {old, new} to publishing {new}, at least; never delays activation."""
    wave: int = 50
    """Consumers in one step."""
    calendar: Calendar = field(default_factory=Calendar)

    @property
    def floor_to_activate(self) -> timedelta:
        """Return the remaining life with which a generation may begin to sign (law 4)."""
        return 2 * self.longest_leaf + 2 * self.trust_deadline + self.skew + self.retry_budget

    @property
    def stop_signing_before_end(self) -> timedelta:
        """Return the remaining life with which a generation has stopped signing (law 4)."""
        return self.longest_leaf + self.propagation + self.skew

    @property
    def longest_rotation(self) -> timedelta:
        """Return how long a rotation may take: trust, last old leaf or overlap, and forgetting the old one."""
        trusting = self.trust_deadline + self.longest_leaf + self.skew
        return max(trusting, self.minimum_overlap) + self.trust_deadline + self.retry_budget

    def complaints(self) -> tuple[str, ...]:
        """Return what in this policy breaks law 4, each with its arithmetic; empty if all is well."""
        found = []
        if self.lifetime < LEAVES_IN_A_CA * self.longest_leaf:
            found.append(
                f"lifetime {written(self.lifetime)} is less than {LEAVES_IN_A_CA} x longest_leaf "
                f"{written(self.longest_leaf)} = {written(LEAVES_IN_A_CA * self.longest_leaf)}"
            )
        if not JITTER < self.renew_at < 1:
            found.append(
                f"renew_at {self.renew_at:.0%} must lie between {JITTER:.0%} (the jitter may move it so much earlier) "
                "and 100 %"
            )
        left, needed = self.lifetime * (1 - self.renew_at), self._left_at_renewal
        if left < needed:
            found.append(
                f"when a renewal opens at {self.renew_at:.0%} of {written(self.lifetime)}, {written(left)} are left, "
                f"but trust_deadline {written(self.trust_deadline)} + retry_budget {written(self.retry_budget)} + "
                f"{self._stop_sum} = {written(needed)} are needed"
            )
        waiting = self.trust_deadline + self.retry_budget
        fresh = self.lifetime - waiting
        if fresh < self.floor_to_activate:
            found.append(
                f"a new CA has lifetime {written(self.lifetime)} - trust_deadline {written(self.trust_deadline)} - "
                f"retry_budget {written(self.retry_budget)} = {written(fresh)} left when it may begin to sign, but "
                f"2 x longest_leaf {written(self.longest_leaf)} + 2 x trust_deadline {written(self.trust_deadline)} + "
                f"skew {written(self.skew)} + retry_budget {written(self.retry_budget)} = "
                f"{written(self.floor_to_activate)} are needed"
            )
        earliest = self.lifetime * max(0.0, self.renew_at - JITTER)
        if earliest < self.longest_rotation:
            found.append(
                f"the next renewal opens {written(earliest)} after a CA's issue (renew_at {self.renew_at:.0%} - "
                f"{JITTER:.0%} of {written(self.lifetime)}), but one rotation may take "
                f"max(trust_deadline {written(self.trust_deadline)} + longest_leaf {written(self.longest_leaf)} + skew "
                f"{written(self.skew)}, minimum_overlap {written(self.minimum_overlap)}) + trust_deadline "
                f"{written(self.trust_deadline)} + retry_budget {written(self.retry_budget)} = "
                f"{written(self.longest_rotation)}"
            )
        if self.wave < 1:
            found.append(f"wave {self.wave} must be at least 1")
        return tuple(found)

    def may_begin_to_sign(self, authority: Authority, now: datetime) -> bool:
        """Return whether *authority* has the life left to be activated, or to resume (law 4)."""
        return authority.not_after - now >= self.floor_to_activate

    def may_go_on_signing(self, authority: Authority, now: datetime) -> bool:
        """Return whether *authority* may still sign the longest leaf (law 4)."""
        return authority.not_after - now > self.stop_signing_before_end

    def stops_signing(self, authority: Authority) -> datetime:
        """Return the moment at which *authority* has stopped signing."""
        return authority.not_after - self.stop_signing_before_end

    def renewal_opens(self, authority: Authority, name: str) -> datetime:
        """Return when the rotation away from *authority* falls due, in whole seconds; *name* is what is hashed."""
        life = authority.not_after - authority.not_before
        part = self.renew_at - JITTER * hash_fraction(name)
        return (authority.not_before + life * part).replace(microsecond=0)

    def last_safe_moment(self, authority: Authority) -> datetime:
        """Return until when a calendar may put off the rotation away from *authority*."""
        return authority.not_after - self._left_at_renewal

    @property
    def _left_at_renewal(self) -> timedelta:
        return self.trust_deadline + self.retry_budget + self.stop_signing_before_end

    @property
    def _stop_sum(self) -> str:
        return (
            f"longest_leaf {written(self.longest_leaf)} + propagation {written(self.propagation)} + "
            f"skew {written(self.skew)}"
        )


def active_generation(seen: AuthoritySeen) -> Generation | None:
    """Return the generation that the signer's pointer names, if it is held."""
    return next((each for each in seen.generations if each.authority.id == seen.active), None)


def next_due(seen: AuthoritySeen, policy: AuthorityPolicy, name: str) -> datetime | None:
    """Return when the next scheduled rotation opens, calendar aside; None if no generation is active."""
    active = active_generation(seen)
    return None if active is None else policy.renewal_opens(active.authority, name)


def due(seen: AuthoritySeen, policy: AuthorityPolicy, now: datetime, name: str) -> str | None:
    """
    Return why a rotation of the trust domain *name* should be opened now, in words; None if none should.

    What cannot sign is replaced whatever the calendar says; what merely grows old waits for it, but never past the
    last moment from which a rotation can still end before the present authority has to stop signing.
    """
    active = active_generation(seen)
    if active is None:
        return "no authority signs yet"
    authority = active.authority
    if now >= authority.not_after:
        return f"generation {active.number} has expired"
    if active.revoked:
        return f"generation {active.number} is revoked"
    if not active.can_sign:
        return f"generation {active.number} cannot sign"
    if not policy.may_go_on_signing(authority, now):
        return f"generation {active.number} has to stop signing"
    if now < policy.renewal_opens(authority, name):
        return None
    if policy.calendar.allows(now) or now >= policy.last_safe_moment(authority):
        return f"generation {active.number} is due for renewal"
    return None
