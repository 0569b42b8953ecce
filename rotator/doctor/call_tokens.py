"""
The tokens by which proxies say who they are, as they lie where rotator has published them.

Rules that must stay true here:

- Of a token its claims alone are kept; it is never shown, sent or compared.
- Whose token it is, is what the token itself grants, and a token that grants nothing in particular is nobody's.
- That it ended or was revoked explains a proxy that is away; it ends no connection that is open.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rotator.adapters.kuma.calls import ProxySeen
from rotator.bootstrap.sessions import Sessions
from rotator.cluster.paths import path_of
from rotator.core.model import Token as Claims
from rotator.core.model import TokenKind
from rotator.errors import RotatorError
from rotator.pki.token import TOKEN, parse_token
from rotator.platform.call import Token
from rotator.settings import Settings
from rotator.settings.tokens import TokenPublishTarget

_WORKLOAD = "kuma.io/workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldToken:
    """One published token of proxies."""

    name: str
    """As the configuration names it."""
    claims: Claims


def held_tokens(settings: Settings, sessions: Sessions) -> tuple[HeldToken, ...]:
    """Return the tokens of proxies that are published where they can be read from here; the others are left out."""
    return tuple(
        HeldToken(name=name, claims=claims)
        for name, token in settings.tokens.items()
        if token.dataplane is not None
        for place in token.publish
        for claims in _published(settings, sessions, place)
    )


def _published(settings: Settings, sessions: Sessions, place: TokenPublishTarget) -> Iterator[Claims]:
    try:
        text = _text(settings, sessions, place)
        if text:
            yield parse_token(text, source="a published token")
    except (RotatorError, OSError, ValueError, binascii.Error):
        return


def _text(settings: Settings, sessions: Sessions, place: TokenPublishTarget) -> str | None:
    if place.directory is not None:
        return (place.directory.path / "CURRENT" / TOKEN).read_text(encoding="ascii")
    secret = place.kubernetes_secret
    if secret is None:
        return None
    found = sessions.cluster(settings).get(path_of("v1", "secrets", namespace=secret.namespace, name=secret.name))
    coded = {} if found is None else found.get("data") or {}
    return base64.b64decode(coded.get(TOKEN, ""), validate=True).decode("ascii")


def token_of(
    proxy: ProxySeen, tokens: Sequence[HeldToken], mesh: str, revoked: tuple[str, frozenset[str]] | None
) -> Token | None:
    """Return the token of *proxy*, the one that lives longest of several; None if none that is known is its."""
    its = [each for each in tokens if _is_for(each.claims, proxy, mesh)]
    if not its:
        return None
    found = max(its, key=lambda each: each.claims.not_after)
    by = revoked[0] if revoked is not None and found.claims.id in revoked[1] else None
    return Token(name=f"tokens.{found.name}", not_after=found.claims.not_after, revoked_by=by, subject=found.name)


def _is_for(claims: Claims, proxy: ProxySeen, mesh: str) -> bool:
    grant = claims.grant
    if grant.kind is not TokenKind.DATAPLANE or grant.mesh != mesh or not (grant.name or grant.workload or grant.tags):
        return False
    if grant.name and grant.name != proxy.report.name:
        return False
    if grant.workload and grant.workload != proxy.marks.get(_WORKLOAD):
        return False
    return all(proxy.marks.get(tag) in values for tag, values in grant.tags)
