"""
Who may call, as Envoy's role-based access control takes it.

Rules that must stay true here:

- What is denied is denied first; what nobody allows is refused: an empty list of permissions lets nobody in.
- HTTP is refused with 403 and the words ``RBAC: access denied``, a connection of anything else is closed.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.fakes.kuma.desired import Access, Principal, URIMatch
from tests.fakes.kuma.store import Json

TYPE = "@type"
_ROOT = "type.googleapis.com/envoy.extensions.filters"
_POLICY = "MeshTrafficPermission"


def http_filters(access: Access) -> list[Json]:
    """Return the HTTP filters that enforce *access*."""
    return [
        {"name": f"envoy.filters.http.{name}", "typed_config": {TYPE: f"{_ROOT}.http.rbac.v3.RBAC", **rules}}
        for name, rules in _rules(access)
    ]


def network_filters(access: Access, *, stat_prefix: str) -> list[Json]:
    """Return the network filters that enforce *access*."""
    return [
        {
            "name": f"envoy.filters.network.{name}",
            "typed_config": {TYPE: f"{_ROOT}.network.rbac.v3.RBAC", "stat_prefix": f"{stat_prefix}.", **rules},
        }
        for name, rules in _rules(access)
    ]


def _rules(access: Access) -> list[tuple[str, Json]]:
    allowed: Json = {"rules": _named("ALLOW", (*access.allow, *access.shadow))}
    if access.shadow:
        allowed["shadow_rules"] = _named("DENY", access.shadow)
    denied = [("rbac.deny", {"rules": _named("DENY", access.deny)})] if access.deny else []
    return [*denied, ("rbac", allowed)]


def _named(action: str, principals: Iterable[Principal]) -> Json:
    found = [_principal(each) for each in principals]
    policies = {_POLICY: {"permissions": [{"any": True}], "principals": found}} if found else {}
    return {"action": action, "policies": policies}


def _principal(principal: Principal) -> Json:
    ids = [_authenticated(each) for each in principal.every]
    ids += [{"not_id": _all([_authenticated(one) for one in each])} for each in principal.unless]
    return _all(ids)


def _all(ids: list[Json]) -> Json:
    if not ids:
        return {"any": True}
    return ids[0] if len(ids) == 1 else {"and_ids": {"ids": ids}}


def _authenticated(match: URIMatch) -> Json:
    kind = "prefix" if match.is_prefix else "exact"
    return {"authenticated": {"principal_name": {kind: match.value}}}
