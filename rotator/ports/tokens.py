"""
Who issues tokens and revokes them, where their signing keys are, and where tokens are published.

Rules that must stay true here: those of `rotator.ports`, and:

- A token is a secret: it never shows in a ``repr``, and leaves this process only into a place that it is published at.
- Nobody can choose a token's name, nor list what was issued: an order whose answer is lost can only lapse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from rotator.core.model import Publication, Serial, SigningKey, Token, TokenGrant
from rotator.ports.publishing import Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A token that came back and was compared with the order (law 11)."""

    text: str = field(repr=False)
    token: Token


class TokenIssuer(Protocol):
    """Issues the tokens of one control plane, and keeps the list of those that it revoked."""

    def issue(self, grant: TokenGrant, lifetime: timedelta) -> IssuedToken:
        """Have a token issued. Raises `Rejected` if what came back is not what was asked for."""
        ...

    def revoked(self, grant: TokenGrant) -> frozenset[Serial]:
        """Return the names on every list that might count for tokens like *grant*; somebody else's too."""
        ...

    def revoke(self, grant: TokenGrant, *, add: frozenset[Serial], drop: frozenset[Serial]) -> None:
        """
        Put *add* on every list that might count, take *drop* off, leave everybody else's there, and read it back.

        Doing it twice changes nothing. Raises `Conflict` if somebody else wrote at the same time.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownToken:
    """A token that rotator does not manage and knows of."""

    name: str
    """As people name it."""
    key: int
    not_after: datetime


class SigningKeys(Protocol):
    """The keys that sign one kind of tokens of one control plane."""

    @property
    def place(self) -> str:
        """Return what tells these keys from any others, as people name them."""
        ...

    def held(self) -> tuple[SigningKey, ...]:
        """Return the keys that are there, ascending by serial."""
        ...

    def add(self, serial: int) -> None:
        """Make a key and keep it under *serial*, read back; one that is there already is left alone."""
        ...

    def remove(self, serial: int) -> None:
        """Remove one key, read back; gone already is no error. The newest one is `Rejected`."""
        ...

    def known_tokens(self) -> tuple[KnownToken, ...]:
        """Return the tokens that are known to be signed by these keys beside those that rotator publishes."""
        ...


class TokenStore(Protocol):
    """One place where one token is published, switched by one reference (law 9)."""

    @property
    def target(self) -> str:
        """Return the place as people name it: ``directory:/etc/kuma/token``."""
        ...

    def read(self) -> Publication | None:
        """Return what is published now; None if nothing ever was. What is unreadable is a `Publication.problem`."""
        ...

    def text(self) -> str:
        """Return the token that is published now, to publish it again elsewhere."""
        ...

    def put_token(self, text: str, *, expected: int, stamp: Stamp) -> Publication:
        """Publish *text* as the publication after *expected* and read it back; `Conflict` if another is current."""
        ...

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove publications that are neither current nor in *keep*."""
        ...
