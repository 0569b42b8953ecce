"""
The tokens by which proxies say who they are, as they lie where rotator has published them.

Rules that must stay true here:

- Of a token its claims alone are read and kept; it is never shown, sent or compared.
- Whose token it is, is what the token itself grants, and a token that grants nothing in particular is nobody's.
- That it ended or was revoked explains a proxy that is away; it ends no connection that is open.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rotator.adapters.kuma.calls import ProxySeen
from rotator.platform.call import Token

_WORKLOAD = "kuma.io/workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldToken:
    """One published token."""

    name: str
    """As the configuration names it."""
    mesh: str
    proxy: str = ""
    """The one Dataplane that may use it; empty: any."""
    workload: str = ""
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    id: str = ""
    not_after: datetime | None = None


def held_token(name: str, text: str) -> HeldToken | None:
    """Return what the token *text* grants; None if it is none of a proxy's."""
    try:
        _, claims, _ = text.strip().split(".")
        said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        ends = said.get("exp")
        return HeldToken(
            name=name,
            mesh=str(said["Mesh"]),
            proxy=str(said.get("Name") or ""),
            workload=str(said.get("Workload") or ""),
            tags={str(tag): tuple(map(str, values)) for tag, values in (said.get("Tags") or {}).items()},
            id=str(said.get("jti") or ""),
            not_after=None if ends is None else datetime.fromtimestamp(int(ends), UTC),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, binascii.Error):
        return None


def token_of(
    proxy: ProxySeen, tokens: Sequence[HeldToken], mesh: str, revoked: tuple[str, frozenset[str]] | None
) -> Token | None:
    """Return the token of *proxy*, the one that lives longest of several; None if none that is known is its."""
    its = [each for each in tokens if each.mesh == mesh and _is_for(each, proxy)]
    if not its:
        return None
    found = max(its, key=lambda each: (each.not_after is None, each.not_after or datetime.min.replace(tzinfo=UTC)))
    by = revoked[0] if revoked is not None and found.id in revoked[1] else None
    return Token(name=f"tokens.{found.name}", not_after=found.not_after, revoked_by=by, subject=found.name)


def _is_for(token: HeldToken, proxy: ProxySeen) -> bool:
    if not (token.proxy or token.workload or token.tags):
        return False
    if token.proxy and token.proxy != proxy.report.name:
        return False
    if token.workload and token.workload != proxy.marks.get(_WORKLOAD):
        return False
    return all(proxy.marks.get(tag) in values for tag, values in token.tags.items())
