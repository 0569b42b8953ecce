"""
One movement of a trust domain's authority towards a target generation: gain trust, then let go of the others.

Rules that must stay true here:

- Before the pointer moves, every live party holds and has acknowledged the target (law 1).
- While a leaf of another generation may be presented, that generation stays in every bundle (laws 2 and 3).
- Steps carry waves; parties out of contact come last in a wave, so that they never hold up the others.
- Whoever is waited for is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from rotator.core.model import (
    AtDeadline,
    Authority,
    AuthorityIntent,
    Generation,
    IssuerId,
    Phase,
    RelyingParty,
    SubjectName,
)
from rotator.core.standing import Standing, ids, newest_first
from rotator.core.steps import (
    ActivateIssuer,
    AuthorityStep,
    Done,
    Nothing,
    PublishBundle,
    Refused,
    ReissueLeaves,
    RetireIssuer,
    Wait,
)
from rotator.core.window import written

Next = AuthorityStep | Wait | Nothing | Done | Refused
"""What a decision can end in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityDecision:
    """What holds for a trust domain now, and what comes next."""

    phase: Phase
    signer: Generation | None
    """Who signs leaves now; None: nobody may."""
    bundle: tuple[Authority, ...]
    """What should be published now, newest first."""
    accepted: frozenset[IssuerId]
    """Authorities under which a present leaf may stay."""
    next: Next
    waiting_on: tuple[str, ...] = ()


class Direction(Enum):
    """Which way a movement goes."""

    FORWARD = "forward"
    BACK = "back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A rotation or a rollback, seen from where the world stands now."""

    world: Standing
    intent: AuthorityIntent
    target: Generation
    direction: Direction

    def decision(self) -> AuthorityDecision:
        """Return phase, signer, bundle and the next step of this movement."""
        bundle = newest_first((self.target, *self._kept()))
        following = self._let_go(bundle) if self._is_activated else self._gain_trust(bundle)
        accepted = ids(bundle)
        if not self._is_activated and self.direction is Direction.FORWARD:
            # a leaf of a generation that has not been activated is not ours
            accepted -= {self.target.authority.id}
        return AuthorityDecision(
            phase=self._phase(following),
            signer=self.world.signer,
            bundle=bundle,
            accepted=accepted,
            next=following,
            waiting_on=following.on if isinstance(following, Wait) else (),
        )

    # --- facts ---

    @property
    def _is_activated(self) -> bool:
        return self.world.seen.active == self.target.authority.id

    @property
    def _others(self) -> tuple[Generation, ...]:
        return tuple(each for each in self.world.seen.generations if each.number != self.target.number)

    def _kept(self) -> tuple[Generation, ...]:
        """Return the other generations that everyone still has to trust."""
        world = self.world
        return tuple(
            each
            for each in self._others
            if not world.has_expired(each)
            and (
                each.authority.id == world.seen.active
                or world.is_in_use(each)
                or self._is_overlapping(each)
                or bool(self._unproven(each))
            )
        )

    def _is_left(self, generation: Generation) -> bool:
        """Return whether *generation* is the one that this movement leads away from."""
        left = self.intent.from_generation if self.direction is Direction.FORWARD else self.intent.to_generation
        return generation.number == left

    def _is_overlapping(self, generation: Generation) -> bool:
        overlapping = self.direction is Direction.FORWARD and self._is_left(generation)
        return overlapping and self.world.now < self._overlap_ends

    def _unproven(self, generation: Generation) -> tuple[SubjectName, ...]:
        """Return who may still use an old leaf of *generation* because nobody has seen what they use."""
        if not self._is_activated or not self._is_left(generation):
            return ()
        return self.world.unproven(generation, self.target.authority.id)

    @property
    def _overlap_ends(self) -> datetime:
        begun = self.intent.trust_published_at or self.intent.activated_at or self.intent.since
        return begun + self.world.policy.minimum_overlap

    @property
    def _deadline(self) -> datetime:
        """
        Return until when acknowledgements are waited for without an alert.

        It counts from when the bundle of *this* target stood everywhere: an earlier successor's moment, or one that
        never came because some publication could not be made, gives way to twice the time from the target's birth.
        """
        policy, published_at = self.world.policy, self.intent.trust_published_at
        born = self.target.authority.not_before
        if self.direction is Direction.FORWARD and published_at is not None and published_at + policy.skew >= born:
            return published_at + policy.trust_deadline
        return max(self.intent.since, born) + 2 * policy.trust_deadline

    @property
    def _forgotten_by(self) -> datetime:
        """Return until when the bundles' shrinking is waited for; later it is only tidying (and goes on by itself)."""
        world, known = self.world, [self.intent.since]
        strays = (world.seen.stray_until.get(each.authority.id) for each in self._others)
        known += [until + world.policy.skew for until in strays if until is not None]
        if self.intent.activated_at is not None:
            known.append(self.intent.activated_at)
        if self.direction is Direction.FORWARD:
            known.append(self._overlap_ends)
        return max(known) + world.policy.trust_deadline

    def _phase(self, following: Next) -> Phase:
        if self.direction is Direction.BACK:
            return self._phase_back()
        if not self._is_activated:
            return Phase.TRUSTED if isinstance(following, ActivateIssuer) else Phase.PREPARED
        if any(self.world.is_in_use(each) or self._unproven(each) for each in self._others):
            return Phase.ACTIVATED
        return Phase.RETIRED if isinstance(following, Done) else Phase.REISSUED

    def _phase_back(self) -> Phase:
        """Return the same facts seen from the other side: the generation left is the successor."""
        if not self._is_activated:
            in_use = self.world.is_in_use(self.target) or self._unproven(self.target)
            return Phase.ACTIVATED if in_use else Phase.REISSUED
        left = [each for each in self._others if each.number > self.target.number]
        if not left:
            return Phase.STEADY
        successor = left[-1].authority.id
        if self.world.lacking(frozenset({successor})) or self.world.laggards(successor):
            return Phase.PREPARED
        return Phase.TRUSTED

    # --- gain trust ---

    def _gain_trust(self, bundle: tuple[Authority, ...]) -> Next:
        world, target = self.world, self.target.authority
        in_time = world.now < self._deadline
        lacking = world.lacking(ids(bundle))
        if lacking and (in_time or world.anyone_reachable(lacking)):
            return self._publish(bundle, lacking, shrink=False)
        laggards = world.laggards(target.id)
        if laggards and in_time:
            return Wait(
                until=_earliest((self._deadline, *_ends(world, laggards))),
                on=tuple(each.name for each in laggards),
                why=f"to acknowledge generation {self.target.number}",
            )
        # Past the deadline a party in contact whose last leaf has ended no longer counts: it has nothing to lose.
        blocking = tuple(each for each in laggards if world.holds_live_leaf(each))
        if blocking and not self._may_leave_behind(blocking):
            return self._hold(blocking)
        if world.now + world.policy.skew < target.not_before:
            return Wait(until=target.not_before, on=(target.subject,), why="which is not valid yet")
        return ActivateIssuer(
            trust_domain=world.policy.trust_domain,
            issuer=target.id,
            without=tuple(each.name for each in laggards),
            back=self.direction is Direction.BACK,
        )

    def _may_leave_behind(self, blocking: tuple[RelyingParty, ...]) -> bool:
        policy = self.world.policy
        return (
            self.direction is Direction.FORWARD
            and policy.at_deadline is AtDeadline.PROCEED
            and len(blocking) <= policy.at_most_left_behind
        )

    def _hold(self, blocking: tuple[RelyingParty, ...]) -> Wait:
        world, policy = self.world, self.world.policy
        rule = "hold"
        if policy.at_deadline is AtDeadline.PROCEED:
            rule = f"{len(blocking)} parties are more than the {policy.at_most_left_behind} that may be left behind"
        return Wait(
            until=_earliest((self.target.authority.not_after - policy.floor_to_activate, *_ends(world, blocking))),
            on=tuple(each.name for each in blocking),
            why=(
                f"to acknowledge generation {self.target.number}, past the trust deadline of "
                f"{written(policy.trust_deadline)} ({rule}); {darkness(world)}"
            ),
            alert=True,
        )

    # --- let go ---

    def _let_go(self, bundle: tuple[Authority, ...]) -> Next:
        world, policy = self.world, self.world.policy
        lacking = world.lacking(ids(bundle))
        if lacking:
            return self._publish(bundle, lacking, shrink=False)
        holders = world.holders_of_leaves(self.target.authority.id)
        if holders:
            if world.signer is None:
                return Wait(until=None, on=holders, why="to be reissued, but the new authority cannot sign", alert=True)
            return ReissueLeaves(
                trust_domain=policy.trust_domain, signer=self.target.authority.id, consumers=holders[: policy.wave]
            )
        kept = self._kept()
        if kept:
            return self._wait_for_leaves(kept)
        in_time = world.now < self._forgotten_by
        exceeding = world.exceeding(ids(bundle))
        if exceeding and (in_time or world.anyone_reachable(exceeding)):
            return self._publish(bundle, exceeding, shrink=True)
        for other in self._others:
            clinging = world.clinging(other.authority.id)
            if clinging and in_time:
                return Wait(until=self._forgotten_by, on=clinging, why=f"to stop trusting generation {other.number}")
        for other in self._others:
            return RetireIssuer(
                trust_domain=policy.trust_domain, issuer=other.authority.id, reason=self._why_retired(other)
            )
        return Done(rolled_back=self.direction is Direction.BACK)

    def _wait_for_leaves(self, kept: tuple[Generation, ...]) -> Wait:
        world = self.world
        users = sorted({name for each in kept for name in (*world.users(each.authority.id), *self._unproven(each))})
        strays = [world.stray_until(each.authority.id) for each in kept]
        parties = [each for each in world.seen.parties if each.name in users]
        overlap = [self._overlap_ends] if any(self._is_overlapping(each) for each in kept) else []
        numbers = ", ".join(str(each.number) for each in kept)
        if users:
            why = f"to be seen using another leaf than one of generation {numbers}"
        elif any(strays):
            why = f"for the last leaf of generation {numbers} that nobody has seen replaced to end"
        else:
            why = "for the minimum overlap to pass"
        coming = [each for each in (*strays, *overlap, *_ends(world, parties)) if each is not None and each > world.now]
        return Wait(until=_earliest(coming), on=tuple(users) or (f"generation {numbers}",), why=why)

    def _why_retired(self, generation: Generation) -> str:
        if self.world.now >= generation.authority.not_after:
            return "expired"
        if self.direction is Direction.BACK:
            return "rolled back"
        if generation.number > self.target.number:
            return "left over"
        return f"superseded by generation {self.target.number}"

    def _publish(self, bundle: tuple[Authority, ...], names: tuple[SubjectName, ...], *, shrink: bool) -> PublishBundle:
        return publish(self.world, bundle, names, shrink=shrink)


def publish(
    world: Standing, bundle: tuple[Authority, ...], names: tuple[SubjectName, ...], *, shrink: bool
) -> PublishBundle:
    """Return the step that gives *bundle* to the first wave of *names*."""
    wave = frozenset(names[: world.policy.wave])
    return PublishBundle(
        trust_domain=world.policy.trust_domain,
        bundle=tuple(each.id for each in bundle),
        consumers=tuple(each.name for each in world.seen.parties if each.name in wave),
        shrink=shrink,
    )


def darkness(world: Standing) -> str:
    """Return in words until when the present authority carries the mesh."""
    active = world.active
    if active is None:
        return "nobody signs meanwhile"
    stops, ends = world.policy.stops_signing(active.authority), active.authority.not_after
    return f"the present authority stops signing at {_moment(stops)} and the mesh goes dark by {_moment(ends)}"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _ends(world: Standing, parties: Iterable[RelyingParty]) -> tuple[datetime, ...]:
    """Return when those of *parties* that are out of contact stop counting."""
    ends = (world.live_until(each) for each in parties if not each.reachable)
    return tuple(end for end in ends if end is not None and end > world.now)


def _earliest(moments: Iterable[datetime]) -> datetime | None:
    return min(moments, default=None)
