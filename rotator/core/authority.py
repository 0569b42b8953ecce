"""
A trust domain's CA: from one generation to the next without a failed handshake, back, or away from a stolen key.

Theory. Who signs is a fact at the signer (its pointer), who trusts whom is a fact at the consumers, and who still
presents what is bounded by notAfter. So the phase is computed from the world each time; the intent in the journal
only says which way to walk and since when. Every walk is one movement towards a *target* generation:

1. *gain trust*: give everyone the target beside what they have, wait until each live party has acknowledged it,
   then move the pointer (a generation too old by then is put away and replaced within the same rotation);
2. *let go*: reissue the leaves of the others in waves, wait until the last of them is seen replaced or has ended,
   publish the bundle without the others, and retire them.

Rotation moves forward to the successor, rollback is the same movement towards the generation before. Compromise is
another walk: it does not wait for trust, because what it takes away is worth less than what it stops.

======== ==========================================================================================================
phase    fact
======== ==========================================================================================================
absent   nobody can sign
steady   one generation signs and no other is on its way
prepared a successor exists; not every live party has acknowledged it
trusted  every live party has acknowledged it; the old one still signs
activated  the successor signs; leaves of the old one may still be presented
reissued no leaf of the old one can be presented; the old one is still held or trusted somewhere
retired  only the successor is held and trusted
======== ==========================================================================================================

Rules that must stay true here:

- `decide` is a function of intent, world and time: the same world gives the same step, the world after the step
  gives the next one, so every step may be lost, doubled or interrupted (law 13), and whoever joins in between is
  given what is right then and next (law 19).
- The pointer moves only to a generation that every live party has acknowledged, or without those whom the
  operator's written choice leaves behind (law 1); never to one without the life for it (law 4).
- An authority leaves the bundle last: while any leaf of it may be presented, it stays (laws 2 and 3).
- Rollback ends where retirement begins (law 7). No setting turns a rotation into a compromise (law 8).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

from rotator.core.authority_policy import AuthorityPolicy, due, next_due
from rotator.core.model import AuthorityIntent, AuthoritySeen, Generation, IntentKind, Phase
from rotator.core.movement import AuthorityDecision, Direction, Movement, Next, publish
from rotator.core.standing import Standing, ids, newest_first
from rotator.core.steps import (
    ActivateIssuer,
    Done,
    Nothing,
    PrepareIssuer,
    Refused,
    ReissueLeaves,
    RetireIssuer,
    RevokeIssuer,
    Wait,
)
from rotator.core.transitions import TRANSITIONS, Transition
from rotator.core.window import written

__all__ = ["TRANSITIONS", "AuthorityDecision", "AuthorityPolicy", "Transition", "decide", "due", "next_due"]

_BACKDATING = timedelta(minutes=1)
"""How much before a compromise was declared its successor's notBefore may lie: CAs back-date, 30 s as a rule."""


def decide(
    intent: AuthorityIntent | None, seen: AuthoritySeen, policy: AuthorityPolicy, now: datetime
) -> AuthorityDecision:
    """
    Return where the trust domain stands at *now*, what holds meanwhile for its leaves, and what comes next.

    For a rollback, *intent* keeps the generations of the rotation that it walks back. `Refused` as next means that
    the intent breaks a law; everything else in the decision is then that of the rotation going on.
    """
    # A rollback's journal knows when the successor took over, not when the old one did again.
    replaced_at = intent.activated_at if intent is not None and intent.kind is not IntentKind.ROLL_BACK else None
    world = Standing(seen=seen, policy=policy, now=now, replaced_at=replaced_at)
    if intent is None:
        return _keep(world)
    match intent.kind:
        case IntentKind.ROTATE:
            return _rotate(world, intent)
        case IntentKind.ROLL_BACK:
            return _roll_back(world, intent)
        case IntentKind.COMPROMISE:
            return _leave_compromised(world, intent)
        case other:
            assert_never(other)


# --- nobody wants anything ------------------------------------------------------------------------------------------


def _keep(world: Standing) -> AuthorityDecision:
    """Let the present generation sign, keep trusting what live leaves need, put away what nobody uses."""
    active = world.active
    others = tuple(each for each in world.seen.generations if active is None or each.number != active.number)
    idle = () if active is None else tuple(each for each in others if not world.is_in_use(each))
    following: Next = Nothing(next_look=next_due(world.seen, world.policy, world.policy.trust_domain))
    for each in idle:
        holding = world.given(each.authority.id)
        if holding:
            following = Wait(until=None, on=holding, why=f"to be given a bundle without generation {each.number}")
        else:
            following = RetireIssuer(
                trust_domain=world.policy.trust_domain,
                issuer=each.authority.id,
                reason="expired" if world.now >= each.authority.not_after else "left over",
            )
            break
    return _still(world, following)


def _still(world: Standing, following: Next) -> AuthorityDecision:
    """Return the decision of a domain without a successor: the present signer, and whatever live leaves need."""
    active = world.active
    bundle = newest_first(
        each
        for each in world.seen.generations
        if not world.has_expired(each) and (each is active or world.is_in_use(each))
    )
    return AuthorityDecision(
        phase=Phase.ABSENT if active is None or world.has_expired(active) else Phase.STEADY,
        signer=world.signer,
        bundle=bundle,
        accepted=ids(bundle),
        next=following,
        waiting_on=following.on if isinstance(following, Wait) else (),
    )


# --- forward --------------------------------------------------------------------------------------------------------


def _rotate(world: Standing, intent: AuthorityIntent) -> AuthorityDecision:
    target = _successor(world, intent)
    if target is None:
        return _still(world, _prepare(world, intent))
    return Movement(world=world, intent=intent, target=target, direction=Direction.FORWARD).decision()


def _successor(world: Standing, intent: AuthorityIntent) -> Generation | None:
    """
    Return the generation to move to, if one is held that law 4 lets sign; None if one has to be prepared.

    The active one if it is already a later one than the intent came from, else the one that the journal names, else
    the latest: prepared by a step whose reply was lost.
    """
    active = world.active
    fit = {
        each.number: each
        for each in world.seen.generations
        if _is_later(each, intent) and (world.may_sign(each) if each is active else world.may_begin(each))
    }
    if active is not None and active.number in fit:
        return active
    if intent.to_generation is not None and intent.to_generation in fit:
        return fit[intent.to_generation]
    return fit[max(fit)] if fit else None


def _is_later(generation: Generation, intent: AuthorityIntent) -> bool:
    if intent.from_generation is not None and generation.number <= intent.from_generation:
        return False
    if intent.kind is not IntentKind.COMPROMISE or generation.number == intent.to_generation:
        return True
    # What lay in the same signer when the key was lost is not what to flee to.
    return generation.authority.not_before + _BACKDATING >= intent.since


def _prepare(world: Standing, intent: AuthorityIntent) -> Next:
    """Return the order to make a successor, after putting away those that cannot become one."""
    policy, active = world.policy, world.active
    for each in world.seen.generations:
        if each is active or not _is_later_number(each, intent) or world.is_in_use(each):
            continue
        authority = each.authority
        life, again = authority.not_after - authority.not_before, authority.not_before + policy.trust_deadline
        if each.can_sign and life < policy.floor_to_activate and world.now < again:
            # The corporate PKI gives too little: another one now would be no better.
            return Wait(
                until=again,
                on=(f"generation {each.number}",),
                why=(
                    f"whose whole life of {written(life)} is less than the {written(policy.floor_to_activate)} "
                    "that a new authority needs to begin signing"
                ),
                alert=True,
            )
        reason = "not fit to be activated"
        if each.can_sign and not each.revoked:
            reason = f"less than {written(policy.floor_to_activate)} left: too old to be activated"
        return RetireIssuer(trust_domain=policy.trust_domain, issuer=authority.id, reason=reason)
    return PrepareIssuer(
        trust_domain=policy.trust_domain, number=world.next_number, reason=_why_prepared(intent, active)
    )


def _why_prepared(intent: AuthorityIntent, active: Generation | None) -> str:
    if active is None:
        return "first generation"
    if intent.kind is IntentKind.COMPROMISE:
        return f"to replace the compromised generation {intent.from_generation or active.number}"
    return f"to follow generation {active.number}"


def _is_later_number(generation: Generation, intent: AuthorityIntent) -> bool:
    return generation.number > (intent.from_generation or 0)


# --- back -----------------------------------------------------------------------------------------------------------


def _roll_back(world: Standing, intent: AuthorityIntent) -> AuthorityDecision:
    target = next((each for each in world.seen.generations if each.number == intent.from_generation), None)
    refusal = _refusal(world, intent, target)
    if target is None or refusal is not None:
        return _refused(world, intent, refusal or "there is nothing to go back to")
    return Movement(world=world, intent=intent, target=target, direction=Direction.BACK).decision()


def _refusal(world: Standing, intent: AuthorityIntent, target: Generation | None) -> str | None:
    """Return why there is no way back to *target*, in words; None if there is one (laws 4 and 7)."""
    if intent.from_generation is None:
        return "there was no generation before this one"
    if target is None:
        return f"generation {intent.from_generation} is retired: only a new rotation leads on"
    if target.authority.id == world.seen.active:
        return None if world.may_sign(target) else f"generation {target.number} can no longer sign"
    if not world.may_begin(target):
        left, needed = target.authority.not_after - world.now, world.policy.floor_to_activate
        return (
            f"generation {target.number} has {written(left)} left and needs {written(needed)} to sign again"
            if left < needed
            else f"generation {target.number} can no longer sign"
        )
    bundles = [each.published for each in world.seen.parties if each.published is not None and world.is_live(each)]
    if bundles and not any(target.authority.id in each for each in bundles):
        return f"no bundle holds generation {target.number} any more: only a new rotation leads on"
    return None


def _refused(world: Standing, intent: AuthorityIntent, reason: str) -> AuthorityDecision:
    """Return the decision of the rotation that goes on, with the refusal as what comes next."""
    onward = _rotate(world, intent)
    return AuthorityDecision(
        phase=onward.phase,
        signer=onward.signer,
        bundle=onward.bundle,
        accepted=onward.accepted,
        next=Refused(reason=reason),
    )


# --- away -----------------------------------------------------------------------------------------------------------


def _leave_compromised(world: Standing, intent: AuthorityIntent) -> AuthorityDecision:
    """
    Replace every generation at once: prepare, revoke, activate, reissue, forget, retire; no acknowledgement waited for.

    The successor is made before the revocation: revoking stops nobody who holds the key from presenting leaves
    (few read CRLs), it only stops us; what takes the stolen key's power is the bundle without it, and that needs the
    successor.
    """
    target = _successor(world, intent)
    if target is None:
        return _still(world, _prepare(world, intent))
    policy, others = world.policy, [each for each in world.seen.generations if each.number != target.number]
    is_activated = world.seen.active == target.authority.id
    bundle = newest_first((target,))
    if not is_activated:
        kept = (
            each for each in others if not world.has_expired(each) and (each is world.active or world.is_in_use(each))
        )
        bundle = newest_first((target, *kept))
    holders = world.holders_of_leaves(target.authority.id)
    unlike = tuple(dict.fromkeys((*world.lacking(ids(bundle)), *world.exceeding(ids(bundle)))))
    # Generation 0, found in a mesh, was signed by nobody whom we could ask to revoke it.
    lost = next((each for each in others if each.number == (intent.from_generation or -1) and not each.revoked), None)
    following: Next
    if lost is not None and not world.has_expired(lost):
        following = RevokeIssuer(trust_domain=policy.trust_domain, issuer=lost.authority.id)
    elif not is_activated:
        following = ActivateIssuer(
            trust_domain=policy.trust_domain,
            issuer=target.authority.id,
            without=tuple(each.name for each in world.laggards(target.authority.id)),
        )
    elif holders:
        # one write gives a consumer its new leaf and takes the old authority away from it (law 9)
        following = ReissueLeaves(
            trust_domain=policy.trust_domain, signer=target.authority.id, consumers=holders[: policy.wave]
        )
    elif unlike:
        following = publish(world, bundle, unlike, shrink=True)
    elif others:
        following = RetireIssuer(trust_domain=policy.trust_domain, issuer=others[0].authority.id, reason="compromised")
    else:
        following = Done()
    return AuthorityDecision(
        phase=_phase_away(world, others, following, is_activated=is_activated),
        signer=world.signer,
        bundle=bundle,
        accepted=ids(bundle) if is_activated else ids(bundle) - {target.authority.id},
        next=following,
    )


def _phase_away(world: Standing, others: list[Generation], following: Next, *, is_activated: bool) -> Phase:
    if not is_activated:
        return Phase.PREPARED
    if any(world.users(each.authority.id) for each in others):
        return Phase.ACTIVATED
    return Phase.RETIRED if isinstance(following, Done) else Phase.REISSUED
