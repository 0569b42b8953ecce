"""
The token in use, and when to look after it.

Rules that must stay true here:

- Pure: the moment is an argument. A token never shows itself in a ``repr``.
- Life counts from before the token was asked for, so that it is never believed to live longer than it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from rotator.errors import Rejected

RENEW_AT = 0.5
"""Fraction of a token's life after which it is renewed: half leaves time for as many tries as have been."""

SHORTEST_WAIT = timedelta(seconds=1)
"""Between two tries to renew, however short the token's remaining life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """The token in use."""

    value: str = field(repr=False)
    life: timedelta | None
    """As first given; None for one that does not end."""
    not_after: datetime | None
    look_again: datetime | None
    """When to renew or replace it."""
    renewable: bool

    def alive(self, now: datetime) -> bool:
        """Return whether it should still work at *now*."""
        return self.not_after is None or now < self.not_after


def token_of(auth: Mapping[str, Any], now: datetime) -> Token:
    """Return the token that *auth* describes, its life counted from *now*, before it was asked for."""
    try:
        value, seconds = str(auth["client_token"]), int(auth["lease_duration"])
    except (KeyError, TypeError, ValueError) as e:
        raise Rejected("Vault's answer to a login holds no token") from e
    life = timedelta(seconds=seconds) if seconds > 0 else None
    return Token(
        value=value,
        life=life,
        not_after=None if life is None else now + life,
        look_again=None if life is None else now + max(life * RENEW_AT, SHORTEST_WAIT),
        renewable=bool(auth.get("renewable", False)),
    )


def later(token: Token, now: datetime) -> Token:
    """Return *token*, to be looked at again after a quarter of what is left of it."""
    assert token.not_after is not None  # noqa: S101 -- what does not end is not looked at
    return replace(token, look_again=now + max((token.not_after - now) / 4, SHORTEST_WAIT))
