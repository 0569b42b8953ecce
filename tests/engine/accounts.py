"""
What must be true of a world whatever happened to it: the accounts that a test closes.

Rules that must stay true here:

- Judged from the world and the ledger alone, never from what the engine believes.
"""

from __future__ import annotations

from collections import Counter

from rotator.core.event import EventType
from rotator.core.model import IssuerId
from rotator.pki.certificates import key_matches
from rotator.ports import IssuanceKind, IssuanceState
from tests.engine.world import MESH, World

ENDED = frozenset({IssuanceState.SUPERSEDED, IssuanceState.REVOKED, IssuanceState.LAPSED, IssuanceState.NEVER})


def mismatched_pairs(world: World) -> list[str]:
    """Return the targets whose published key does not belong to their leaf."""
    wrong = []
    for name, target in world.certificates.items():
        for store in target.stores:
            published = store.read()
            if published is not None and not published.holds_leaf:
                continue
            material = store.material()
            if not key_matches(material.key_pem, material.chain_pem):
                wrong.append(f"{name} at {store.target}")
    return wrong


def orphans(world: World) -> list[str]:
    """Return certificates on the CA's own lists that are neither published nor accounted for in the journal."""
    states = {
        each.serial: each.state
        for each in world.store.issuances(states=frozenset(IssuanceState))
        if each.serial is not None
    }
    published = {
        leaf.serial
        for target in world.certificates.values()
        for store in target.stores
        if (found := store.read()) is not None and (leaf := found.leaf) is not None
    }
    held = {each.authority.serial for each in world.vault.authorities(MESH).observe().generations}
    listed = [
        *world.vault.issuer(MESH).issued(),
        *(each for each in world.vault.authorities(MESH).strays() if each.serial not in held),
    ]
    return [
        f"{each.serial} {each.subject} {states.get(each.serial)}"
        for each in listed
        if each.serial not in published and each.serial not in held and states.get(each.serial) not in ENDED
    ]


def unfinished_orders(world: World) -> list[str]:
    """Return orders that were asked for and have neither a certificate in use nor an end."""
    open_orders = world.store.issuances(states=frozenset({IssuanceState.ASKED, IssuanceState.ISSUED}))
    return [f"{each.subject} {each.state} {each.spki_sha256[:12]}" for each in open_orders]


def missing_records(world: World) -> list[str]:
    """Return certificates that the CA lists and no ``issued`` record names, and rotations without an outcome."""
    events = world.events()
    issued = Counter(each.new.serial for each in events if each.type is EventType.ISSUED and each.new is not None)
    listed = [*world.vault.issuer(MESH).issued(), *world.vault.authorities(MESH).strays()]
    wrong = [
        f"{each.serial} of {each.subject} has {issued[each.serial]} issued records"
        for each in listed
        if issued[each.serial] != 1
    ]
    outcomes = {EventType.COMPLETED, EventType.ROLLED_BACK, EventType.REFUSED}
    begun = {each.rotation_id for each in events if each.type is EventType.INTENT}
    ended = {each.rotation_id for each in events if each.type in outcomes}
    return wrong + [f"rotation {each} has no outcome" for each in begun - ended]


def double_issues(world: World) -> list[str]:
    """Return subjects with more than one leaf that is live, unrevoked and not accounted for as ended."""
    live = [
        each
        for each in world.store.issuances(states=frozenset({IssuanceState.PUBLISHED}))
        if each.kind is IssuanceKind.LEAF
    ]
    return [subject for subject, count in Counter(each.subject for each in live).items() if count > 1]


def broken_pairs(world: World) -> list[str]:
    """Return pairs of consumers of which one presents a leaf that the other, live, does not trust (law 3)."""
    wrong = []
    for one in world.consumers.values():
        for other in world.consumers.values():
            if one.loaded is None or other.loaded is None or one.loaded.leaf is None:
                continue
            trusted: set[IssuerId] = {each.id for each in other.loaded.bundle}
            live = one.alive and other.alive and one.loaded.leaf.not_after > world.clock.now()
            if live and one.loaded.leaf.issuer not in trusted:
                wrong.append(f"{other.name} does not trust {one.name}")
    return wrong


def everything_wrong(world: World) -> list[str]:
    """Return every account that does not close."""
    return [
        *mismatched_pairs(world),
        *orphans(world),
        *unfinished_orders(world),
        *missing_records(world),
        *double_issues(world),
        *broken_pairs(world),
    ]
