"""
Who may call a proxy, by the MeshTrafficPermissions that select it.

Rules that must stay true here:

- A proxy with a certificate and without a permission takes nobody: absence is refusal.
- ``rules`` of all policies add up, and a denial wins over every permission; an identity of a MeshIdentity knows
  ``rules`` alone.
- ``from`` goes by priority: what selects fewer proxies wins over what selects more, the smaller name over the larger,
  a later entry over an earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.fakes.kuma.desired import Access, Principal, URIMatch
from tests.fakes.kuma.selecting import by_priority
from tests.fakes.kuma.store import Json, Resource

SERVICE_TAG = "kuma.io/service"


def access_of(dataplane: Resource, policies: Sequence[Resource], *, by_identity: bool, section: Json) -> Access:
    """
    Return who may call the inbound *section* of *dataplane*.

    *by_identity*: its certificate is a MeshIdentity's, which has no tags that ``from`` could match.
    """
    chosen = by_priority(dataplane, policies, section=section)
    allow: list[Principal] = []
    deny: list[Principal] = []
    shadow: list[Principal] = []
    for policy in chosen:
        for rule in policy.spec.get("rules") or []:
            default = rule.get("default") or {}
            deny += _matches(default.get("deny"))
            allow += _matches(default.get("allow"))
            shadow += _matches(default.get("allowWithShadowDeny"))
    if not by_identity:
        entries = [entry for policy in chosen for entry in _entries(policy)]
        for index, entry in enumerate(entries):
            if entry.action == "Deny":
                continue
            later = tuple(each.client for each in entries[index + 1 :] if each.action == "Deny")
            principal = Principal(every=entry.client, unless=later)
            (shadow if entry.action == "AllowWithShadowDeny" else allow).append(principal)
    return Access(deny=tuple(deny), allow=tuple(allow), shadow=tuple(shadow))


def everybody(mesh: str, trust_domain: str, *, major: int) -> tuple[Json, ...]:
    """Return the permissions that let every identity of *mesh* call everybody, in the forms that *major* has."""
    match = {"spiffeID": {"type": "Prefix", "value": f"spiffe://{trust_domain}/"}}
    forms: dict[str, Json] = {"everybody-by-identity": {"rules": [{"default": {"allow": [match]}}]}}
    if major < 3:
        forms["everybody-by-tags"] = {"from": [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]}
    return tuple(
        {"type": "MeshTrafficPermission", "mesh": mesh, "name": name, "spec": {"targetRef": {"kind": "Mesh"}, **form}}
        for name, form in forms.items()
    )


def _matches(said: Sequence[Json] | None) -> list[Principal]:
    found = []
    for match in said or []:
        spiffe_id = match.get("spiffeID")
        if spiffe_id is None:
            found.append(Principal())
            continue
        value = spiffe_id["value"]
        is_prefix = spiffe_id["type"] == "Prefix"
        value = f"{value.rstrip('/')}/" if is_prefix else value
        found.append(Principal(every=(URIMatch(value=value, is_prefix=is_prefix),)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry of a ``from``."""

    client: tuple[URIMatch, ...]
    action: str


def _entries(policy: Resource) -> list[_Entry]:
    return [
        _Entry(client=_client(policy.mesh, each["targetRef"]), action=each["default"]["action"])
        for each in policy.spec.get("from") or []
    ]


def _client(mesh: str, reference: Json) -> tuple[URIMatch, ...]:
    """Return what a client's certificate must name: its tags stand in it as URIs."""
    tags: Mapping[str, str] = reference.get("tags") or {}
    if reference["kind"] in {"MeshService", "MeshServiceSubset"}:
        tags = {SERVICE_TAG: reference["name"], **tags}
    return tuple(
        URIMatch(value=f"spiffe://{mesh}/{value}" if tag == SERVICE_TAG else f"kuma://{tag}/{value}")
        for tag, value in sorted(tags.items())
    )
