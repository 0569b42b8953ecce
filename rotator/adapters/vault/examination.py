"""
What can be said of a Vault before anything is asked of it: rights that are missing, and how far its clock is from ours.

Rules that must stay true here:

- Nothing is changed: a right is asked about, not tried.
- What is asked for is what the shipped policy gives, word for word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rotator.adapters.vault.policies import OWN_RIGHTS, MeshRights, needed
from rotator.adapters.vault.session import VaultSession
from rotator.core.window import written
from rotator.errors import Rejected
from rotator.ports import Clock

_SAMPLE = "rotator-doctor"
"""Stands where the policy allows any one part of a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRight:
    """One thing that the token may not do."""

    path: str
    capabilities: tuple[str, ...]


def missing_rights(session: VaultSession, rights: MeshRights) -> tuple[MissingRight, ...]:
    """
    Return what the session's token lacks of *rights*, by path.

    Raises:
        Denied: If the token may not even ask.
    """
    wanted = {path.replace("+", _SAMPLE): capabilities for path, capabilities in needed(rights).items()}
    reply = session.write(OWN_RIGHTS, {"paths": sorted(wanted)}, doing="asking which rights the token has")
    found = []
    for path, capabilities in sorted(wanted.items()):
        has = _words(reply.body, path)
        lacking = () if "root" in has else tuple(each for each in capabilities if each not in has)
        if lacking:
            found.append(MissingRight(path=path.replace(_SAMPLE, "+"), capabilities=lacking))
    return tuple(found)


def clock_offset(session: VaultSession, clock: Clock) -> timedelta | None:
    """
    Return how far Vault's clock is ahead of ours, in whole seconds; None for a token without an end, which tells none.

    A token's end less its remaining life is Vault's present moment, cut to seconds.
    """
    before = clock.now()
    reply = session.read("auth/token/lookup-self", doing="looking at the token's own end")
    after = clock.now()
    ends, left = (None, None) if reply is None else (reply.body.get("expire_time"), reply.body.get("ttl"))
    if not isinstance(ends, str) or not isinstance(left, int):
        return None
    try:
        moment = datetime.fromisoformat(ends)
    except ValueError as e:
        raise Rejected(f"Vault says {ends!r} for the end of a token") from e
    theirs = moment - timedelta(seconds=left)
    second = timedelta(seconds=1)
    if before - second <= theirs <= after + second:
        return timedelta()
    return (theirs - before) // second * second


def offset_in_words(offset: timedelta) -> str:
    """Return *offset* as people say it: ``12s ahead of``."""
    return f"{written(abs(offset))} {'ahead of' if offset > timedelta() else 'behind'}"


def _words(body: Mapping[str, object], path: str) -> frozenset[str]:
    said = body.get(path)
    return frozenset(map(str, said)) if isinstance(said, list) else frozenset()
