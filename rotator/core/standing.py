"""
Who still counts: which parties are live, which authorities are still needed. Read off the world, nothing else.

Rules that must stay true here:

- A party out of contact is live until the last leaf that it may use with an older bundle has expired, plus skew
  (law 1). One that never had anything published is not live: it starts with material that is right at that time.
- An authority is in use while any leaf of it may be presented: published, seen in use, or merely known to the
  ledger and never seen replaced (law 2). An expired one is never in use, and leaves the bundles (law 6).
- Everything here costs one pass over the parties for each generation; generations are a handful.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rotator.core.authority_policy import AuthorityPolicy, active_generation
from rotator.core.model import Authority, AuthoritySeen, Generation, IssuerId, RelyingParty, SubjectName


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One trust domain's world at one moment."""

    seen: AuthoritySeen
    policy: AuthorityPolicy
    now: datetime
    replaced_at: datetime | None = None
    """When the active generation took over from the others, if that is known: none of them signed any later."""

    # --- authorities ---

    @property
    def active(self) -> Generation | None:
        """Return who the signer's pointer names."""
        return active_generation(self.seen)

    @property
    def signer(self) -> Generation | None:
        """Return who may sign now: the active generation, if law 4 and law 6 let it."""
        active = self.active
        return active if active is not None and self.may_sign(active) else None

    @property
    def next_number(self) -> int:
        """Return a generation number that was never used."""
        return max((self.seen.highest_number, *(each.number for each in self.seen.generations))) + 1

    def may_sign(self, generation: Generation) -> bool:
        """Return whether *generation* may go on signing."""
        return self._usable(generation) and self.policy.may_go_on_signing(generation.authority, self.now)

    def may_begin(self, generation: Generation) -> bool:
        """Return whether *generation* has key, standing and remaining life to be activated (law 4)."""
        return self._usable(generation) and self.policy.may_begin_to_sign(generation.authority, self.now)

    def has_expired(self, generation: Generation) -> bool:
        """Return whether *generation* has ended on every clock that is within the allowed skew."""
        return self.now >= generation.authority.not_after + self.policy.skew

    def _usable(self, generation: Generation) -> bool:
        return generation.can_sign and not generation.revoked and self.now < generation.authority.not_after

    # --- who uses an authority ---

    def users(self, issuer: IssuerId) -> tuple[SubjectName, ...]:
        """Return the parties that present a leaf of *issuer*, or could by loading what is published for them."""
        return tuple(
            party.name for party in self.seen.parties if self._has_leaf_of(issuer, party) or self._serves(issuer, party)
        )

    def holders_of_leaves(self, but: IssuerId) -> tuple[SubjectName, ...]:
        """Return the parties whose published leaf lives and comes from another authority than *but*."""
        others = (
            party
            for party in self.seen.parties
            if party.leaf_issuer is not None
            and party.leaf_issuer != but
            and self._has_leaf_of(party.leaf_issuer, party)
        )
        return self._reachable_first(others)

    def unproven(self, generation: Generation, successor: IssuerId) -> tuple[SubjectName, ...]:
        """
        Return the parties that got a leaf of *successor* and have not been seen to use any.

        Each of them may still use a leaf of *generation* until its last one has ended. Where neither the ledger nor
        the journal knows when that is, the ledger knows of no such leaf, and nobody is named.
        """
        end = self._last_leaf_ends(generation.authority.id)
        if end is None or self.now >= end or self.has_expired(generation):
            return ()
        return tuple(
            party.name for party in self.seen.parties if party.leaf_issuer == successor and party.served_issuer is None
        )

    def stray_until(self, issuer: IssuerId) -> datetime | None:
        """Return until when a leaf of *issuer* that nobody has seen replaced may live, skew included; None if none."""
        until = self.seen.stray_until.get(issuer)
        return None if until is None or self.now >= until + self.policy.skew else until + self.policy.skew

    def is_in_use(self, generation: Generation) -> bool:
        """Return whether any leaf of *generation* may still be presented."""
        if self.has_expired(generation):
            return False
        issuer = generation.authority.id
        return self.stray_until(issuer) is not None or bool(self.users(issuer))

    def _has_leaf_of(self, issuer: IssuerId, party: RelyingParty) -> bool:
        # Also for a party that is down: it may come back and load what lies there (law 19).
        return party.leaf_issuer == issuer and self._has_leaf_that_lives(party)

    def _has_leaf_that_lives(self, party: RelyingParty) -> bool:
        """Return whether what is published for *party* has not ended, skew included; unknown means it may not have."""
        return party.leaf_not_after is None or self.now < party.leaf_not_after + self.policy.skew

    def _serves(self, issuer: IssuerId, party: RelyingParty) -> bool:
        if party.served_issuer != issuer:
            return False
        # A consumer that never reloads goes on serving a leaf that has ended: nobody admits that one any more.
        end = self._last_leaf_ends(issuer)
        return end is None or self.now < end

    def _last_leaf_ends(self, issuer: IssuerId) -> datetime | None:
        """Return when the last leaf of *issuer* ends, skew included: by the ledger, else by the longest leaf."""
        until = self.seen.stray_until.get(issuer)
        if until is None and self.replaced_at is not None and issuer != self.seen.active:
            until = self.replaced_at + self.policy.longest_leaf
        return None if until is None else until + self.policy.skew

    # --- who trusts an authority ---

    def is_live(self, party: RelyingParty) -> bool:
        """Return whether *party* has to be waited for: in contact, or its last leaf has not ended (law 1)."""
        return self.holds_live_leaf(party) or (party.reachable and party.published is not None)

    def holds_live_leaf(self, party: RelyingParty) -> bool:
        """Return whether the last leaf that *party* may use has not ended, skew included."""
        end = self.live_until(party)
        return end is not None and self.now < end

    def live_until(self, party: RelyingParty) -> datetime | None:
        """Return until when *party* counts as live without contact, skew included."""
        end = party.last_leaf_not_after or party.leaf_not_after
        return None if end is None else end + self.policy.skew

    def lacking(self, bundle: frozenset[IssuerId]) -> tuple[SubjectName, ...]:
        """Return the parties that were given less than *bundle*, those in contact first."""
        return self._reachable_first(
            party for party in self._published() if party.published is not None and not party.published >= bundle
        )

    def exceeding(self, bundle: frozenset[IssuerId]) -> tuple[SubjectName, ...]:
        """Return the parties that were given more than *bundle*, those in contact first."""
        return self._reachable_first(
            party for party in self._published() if party.published is not None and party.published - bundle
        )

    def given(self, issuer: IssuerId) -> tuple[SubjectName, ...]:
        """Return the parties whose published bundle holds *issuer*, those in contact first."""
        return self._reachable_first(
            party for party in self._published() if party.published is not None and issuer in party.published
        )

    def laggards(self, issuer: IssuerId) -> tuple[RelyingParty, ...]:
        """Return the live parties that have not acknowledged *issuer*."""
        return tuple(party for party in self.seen.parties if self.is_live(party) and issuer not in party.acknowledged)

    def clinging(self, issuer: IssuerId) -> tuple[SubjectName, ...]:
        """Return the parties in contact that still trust *issuer*."""
        return tuple(party.name for party in self.seen.parties if party.reachable and issuer in party.acknowledged)

    def anyone_reachable(self, names: Iterable[SubjectName]) -> bool:
        """Return whether a party among *names* is in contact."""
        wanted = frozenset(names)
        return any(party.reachable for party in self.seen.parties if party.name in wanted)

    def _published(self) -> Iterable[RelyingParty]:
        """Yield the parties whose publication matters: live, or able to come back with a leaf that lives."""
        return (
            party
            for party in self.seen.parties
            if party.published is not None
            and (self.is_live(party) or (party.leaf_not_after is not None and self._has_leaf_that_lives(party)))
        )

    @staticmethod
    def _reachable_first(parties: Iterable[RelyingParty]) -> tuple[SubjectName, ...]:
        # One that is out of contact may also be out of reach for writing: it must not hold up the rest of the wave.
        return tuple(party.name for party in sorted(parties, key=lambda party: (not party.reachable, party.name)))


def newest_first(generations: Iterable[Generation]) -> tuple[Authority, ...]:
    """Return the authorities of *generations*, each once, newest first."""
    by_number = {each.number: each.authority for each in generations}
    return tuple(by_number[number] for number in sorted(by_number, reverse=True))


def ids(bundle: Iterable[Authority]) -> frozenset[IssuerId]:
    """Return the key ids of *bundle*."""
    return frozenset(each.id for each in bundle)
