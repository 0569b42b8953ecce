"""
Tokens that a control plane issues, and the lists of those that are revoked.

Rules that must stay true here:

- What comes back is compared with what was asked for: for whom, for what, and for how long (law 11).
- A revocation list is merged, never overwritten blindly: names that rotator did not put there stay.
- One thread at a time changes a control plane's lists: of two that read the same one each would lose the other's name.
- Of dataplane tokens every list is written that may count: over HTTP the Secret of the mesh, which Kuma documents, and
  the GlobalSecret of the same name, which its code reads (2.12 to 3.0); on Kubernetes, where only one can be, that one.
- A list is read when somebody connects and never again: a connection that is open lives on.
- A token, and what refuses one, is never quoted (law 10).
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Final

from rotator.adapters.kuma.api import ControlPlaneAPI, Json
from rotator.adapters.kuma.token_secrets import HTTPShelves, NamedSecret, Shelf, Shelves
from rotator.core.model import Serial, TokenGrant, TokenKind
from rotator.core.tokens import described
from rotator.core.window import written
from rotator.errors import Rejected, Unavailable
from rotator.pki.token import parse_token
from rotator.ports import Clock, IssuedToken

SLACK: Final = timedelta(minutes=1)
"""Kuma adds some seconds at both ends of a token's life, other versions other ones."""


class KumaTokens:
    """`TokenIssuer` at one control plane: issued over its HTTP API, revoked where its secrets are."""

    def __init__(
        self,
        api: ControlPlaneAPI,
        *,
        clock: Clock,
        skew: timedelta,
        shelves: Shelves | None = None,
        changing: threading.Lock | None = None,
    ) -> None:
        """
        Ask *api*; *skew* is how far its clock may be off, *shelves* where its secrets are, if not there.

        *changing* is held while a list is changed: one for all who change lists of this control plane.
        """
        self._api = api
        self._shelves = shelves if shelves is not None else HTTPShelves(api)
        self._clock = clock
        self._skew = skew
        self._changing = changing or threading.Lock()

    def issue(self, grant: TokenGrant, lifetime: timedelta) -> IssuedToken:
        """Have a token issued that lives for *lifetime*. Raises `Rejected` if what came back is not that."""
        asked_at = self._clock.now()
        who = described(grant)
        text = self._api.issued(f"/tokens/{grant.kind}", _order(grant, lifetime), doing=f"issuing a token for {who}")
        token = parse_token(text, source="the control plane's answer")
        if token.grant != grant:
            raise Rejected(f"the control plane issued a token for {described(token.grant)}, asked was {who}")
        latest = self._clock.now() + lifetime + SLACK + self._skew
        earliest = asked_at + lifetime - SLACK - self._skew
        if not earliest <= token.not_after <= latest:
            raise Rejected(
                f"the control plane issued a token that ends at {token.not_after:%Y-%m-%dT%H:%M:%SZ}, asked was a life "
                f"of {written(lifetime)}: see that the clocks agree"
            )
        return IssuedToken(text=text, token=token)

    def revoked(self, grant: TokenGrant) -> frozenset[Serial]:
        """Return the names on every list that might count for tokens like *grant*."""
        name = list_name(grant)
        found: frozenset[Serial] = frozenset()
        for shelf in self._lists(grant):
            found |= frozenset(_names_in(shelf, shelf.read(name), name))
        return found

    def revoke(self, grant: TokenGrant, *, add: frozenset[Serial], drop: frozenset[Serial]) -> None:
        """Put *add* on the lists and take *drop* off; each list is read right before it is written, and read back."""
        # Nobody's turn takes longer than a few calls, unless the control plane does not answer.
        if not self._changing.acquire(timeout=self._api.endpoint.timeout.total_seconds()):
            raise Unavailable("the revocation lists are being changed for another token")
        try:
            self._revoke(grant, add, drop)
        finally:
            self._changing.release()

    def _revoke(self, grant: TokenGrant, add: frozenset[Serial], drop: frozenset[Serial]) -> None:
        name = list_name(grant)
        for shelf in self._lists(grant):
            seen = shelf.read(name)
            present = _names_in(shelf, seen, name)
            wanted = [each for each in present if each not in drop - add]
            wanted += sorted(add - frozenset(present))
            if wanted == present:
                continue
            if wanted:
                shelf.write(name, ",".join(wanted).encode("ascii"), seen=seen)
            else:
                # A secret is never empty: the last name leaves with its list.
                shelf.remove(name, seen=seen)

    def _lists(self, grant: TokenGrant) -> tuple[Shelf, ...]:
        if grant.kind is TokenKind.DATAPLANE:
            return self._shelves.lists_of(grant.mesh)
        return (self._shelves.everywhere(),)


def _names_in(shelf: Shelf, found: NamedSecret | None, name: str) -> list[Serial]:
    """Return the names on a list as it was *found*, none without one."""
    if found is None:
        return []
    try:
        text = found.value.decode("utf-8")
    except UnicodeDecodeError as e:
        raise Rejected(f"{shelf.title} {name} holds no list of tokens: somebody else put it there") from e
    # People write such a list by hand: every blank is passed over.
    return [Serial(each.strip()) for each in text.replace("\n", ",").split(",") if each.strip()]


def list_name(grant: TokenGrant) -> str:
    """Return the name of the secret that lists what is revoked of tokens like *grant*."""
    return revocations(grant.kind, grant.mesh)


def revocations(kind: TokenKind, mesh: str) -> str:
    """Return the name of the secret that lists revoked tokens of *kind*, of dataplane tokens those of *mesh*."""
    return f"{kind}-token-revocations" + (f"-{mesh}" if kind is TokenKind.DATAPLANE else "")


def _order(grant: TokenGrant, lifetime: timedelta) -> Json:
    """Return what is asked for, as the API spells it."""
    valid_for = f"{int(lifetime.total_seconds())}s"
    match grant.kind:
        case TokenKind.DATAPLANE:
            return {
                "name": grant.name,
                "mesh": grant.mesh,
                "tags": {tag: list(values) for tag, values in grant.tags},
                "type": grant.proxy_type,
                "workload": grant.workload,
                "validFor": valid_for,
            }
        case TokenKind.ZONE:
            return {"zone": grant.zone, "scope": list(grant.scope), "validFor": valid_for}
        case TokenKind.USER:
            return {"name": grant.name, "groups": list(grant.groups), "validFor": valid_for}
