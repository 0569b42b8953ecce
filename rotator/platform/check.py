"""
What is wrong with the platform: by the configuration, and by what stands on a control plane.

Rules that must stay true here:

- What is judged are documents, rotator's rendered ones or those that were seen: a pair that the configuration refuses
  and the documents let through is found whoever wrote them.
- Broken is what lets somebody in who should not, or keeps somebody out who should; everything else is a warning.
- The same platform and the same documents give the same findings in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from rotator.core.model import TrustDomainName
from rotator.platform.model import Component, Platform, Service
from rotator.platform.permission_documents import Destination, selects
from rotator.platform.permissions import callers
from rotator.platform.reach import Reach, reach
from rotator.platform.rendering import rendered
from rotator.platform.resources import (
    DATAPLANE,
    ENVIRONMENT,
    MESH_HTTP_ROUTE,
    MESH_TCP_ROUTE,
    Resource,
)
from rotator.platform.routes import backend, front
from rotator.platform.verdict import SERVICE_TAG, Caller, called, documents, entries, seen, verdict

_ASKS_THE_API_SERVER: Final = frozenset(
    {Component.WORKER, Component.TASK, Component.DAG_PROCESSOR, Component.TRIGGERER}
)
Documents = tuple[Mapping[str, Any], ...]

_STRANGER: Final = "rotator-stranger"
"""Whom no configuration names: stands for everybody else."""


class FindingKind(StrEnum):
    """What was found."""

    UNREACHABLE = "unreachable"
    """A service that nobody may call."""
    IDLE = "idle"
    """An identity that may call nothing."""
    AIRFLOW_CUT_OFF = "airflow_cut_off"
    """A part of Airflow that may not call Airflow's API server."""
    HOSTNAME_UNUSED = "hostname_unused"
    """A hostname that leads to a service which nobody may call."""
    WITHOUT_HOSTNAME = "without_hostname"
    """A service that is called by an address of its own, which no route keeps within an environment."""
    LEAK = "leak"
    """A call from one environment into another that the documents let through."""
    UNASKED = "unasked"
    """A call that the documents let through and nobody asked for."""
    REFUSED = "refused"
    """A call that somebody asked for and the documents refuse."""
    MISROUTED = "misrouted"
    """A hostname that leads into another environment, or nowhere."""


class Grade(StrEnum):
    """How bad it is."""

    WARNING = "warning"
    BROKEN = "broken"


_WARNINGS: Final = frozenset(
    {
        FindingKind.UNREACHABLE,
        FindingKind.IDLE,
        FindingKind.AIRFLOW_CUT_OFF,
        FindingKind.HOSTNAME_UNUSED,
        FindingKind.WITHOUT_HOSTNAME,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong, and what to do."""

    kind: FindingKind
    about: str
    """``ENVIRONMENT/NAME`` of whom it is about."""
    what: str
    mend: str

    @property
    def grade(self) -> Grade:
        """Return how bad it is."""
        return Grade.WARNING if self.kind in _WARNINGS else Grade.BROKEN


def check(platform: Platform) -> tuple[Finding, ...]:
    """Return what is wrong by the configuration alone, the documents that it renders among it."""
    found: list[Finding] = [*_nobody(platform), *_airflow(platform)]
    for at, _ in platform.meshes():
        found += _judged(platform, at, rendered(platform, at), ())
    return tuple(found)


def foreign(
    platform: Platform, at: TrustDomainName, seen: Sequence[Resource], *, dataplanes: Sequence[Resource] = ()
) -> tuple[Finding, ...]:
    """
    Return what the documents *seen* on the control plane of *at* do that nobody asked for, or keep from being done.

    *seen* are all of its MeshTrafficPermissions and routes, rotator's own among them; *dataplanes* its Dataplanes, by
    whose labels it is decided whom a policy selects. Without those of a service, a policy that might select it counts.
    """
    return tuple(_judged(platform, at, seen, dataplanes))


def _nobody(platform: Platform) -> Iterator[Finding]:
    pairs = [each for each in reach(platform) if each.allowed]
    called = {each.service.qualified for each in pairs}
    calling = {each.caller.qualified for each in pairs}
    for service in platform.services:
        if service.qualified not in called:
            yield Finding(
                kind=FindingKind.UNREACHABLE,
                about=service.qualified,
                what=f"nobody may call {service.in_words}",
                mend="name it in a permission, or take it out",
            )
            if service.hostname is not None:
                yield Finding(
                    kind=FindingKind.HOSTNAME_UNUSED,
                    about=service.qualified,
                    what=f"{service.hostname} leads to {service.in_words}, which nobody may call",
                    mend="name it in a permission, or take the hostname out",
                )
        elif service.hostname is None and len(platform.environments) > 1:
            yield Finding(
                kind=FindingKind.WITHOUT_HOSTNAME,
                about=service.qualified,
                what=f"{service.in_words} has no hostname: its callers need an address that differs by environment",
                mend="give it a hostname, which leads every caller to its own environment's",
            )
    for identity in platform.identities:
        if identity.qualified not in calling:
            yield Finding(
                kind=FindingKind.IDLE,
                about=identity.qualified,
                what=f"{identity.in_words} may call nothing",
                mend="name it in a permission if it is to call something",
            )


def _airflow(platform: Platform) -> Iterator[Finding]:
    """Airflow 3's tasks are lost without its API server, and in a mesh nobody may call it whom nothing allows."""
    allowed = callers(platform)
    for server in platform.identities:
        if server.component is not Component.API_SERVER:
            continue
        service = next((each for each in platform.services if each.spiffe_id == server.spiffe_id), None)
        if service is None:
            yield Finding(
                kind=FindingKind.AIRFLOW_CUT_OFF,
                about=server.qualified,
                what=f"{server.in_words} is no service: nobody may call it, and with Airflow 3 no task could run",
                mend="describe it under services with the same ServiceAccount, and permit Airflow's parts to call it",
            )
            continue
        for identity in platform.identities:
            if (
                identity.environment == server.environment
                and identity.component in _ASKS_THE_API_SERVER
                and identity.qualified not in allowed[service.qualified]
            ):
                yield Finding(
                    kind=FindingKind.AIRFLOW_CUT_OFF,
                    about=identity.qualified,
                    what=f"{identity.in_words} may not call {service.in_words}, Airflow's API server",
                    mend="name both in a permission: without it the tasks of Airflow 3 end after half a minute",
                )


def _judged(
    platform: Platform, at: TrustDomainName, found: Sequence[Resource], dataplanes: Sequence[Resource]
) -> Iterator[Finding]:
    """Yield where the documents *found* and the configuration differ in what they let through, and where they lead."""
    services = [each for each in platform.services if each.environment.trust_domain == at]
    judged = {
        mesh: documents(each for each in found if each.mesh == mesh)
        for mesh in dict.fromkeys(each.environment.mesh for each in services)
    }
    proxies = {each.qualified: _proxies(each, dataplanes) for each in services}
    for pair in reach(platform):
        mesh = pair.service.environment.mesh
        if pair.service.qualified in proxies and pair.caller.environment.mesh == mesh:
            yield from _pair(pair, judged[mesh], proxies[pair.service.qualified])
    for service in services:
        yield from _strangers(platform, service, judged[service.environment.mesh], proxies[service.qualified])
        yield from _misrouted(service, services, found)


def _proxies(service: Service, dataplanes: Sequence[Resource]) -> tuple[Destination, ...]:
    found = tuple(
        seen(service, each)
        for each in dataplanes
        if each.kind == DATAPLANE
        and each.mesh == service.environment.mesh
        and service.place.labels().items() <= each.labels.items()
    )
    return found or (called(service),)


def _pair(pair: Reach, judged: Documents, proxies: Sequence[Destination]) -> Iterator[Finding]:
    caller, model = Caller.of(pair.caller), pair.service.environment.model
    said = [verdict(judged, caller, each, model) for each in proxies]
    through = next((each for each in said if each.admitted), None)
    refused = next((each for each in said if not each.admitted), None)
    who, what = pair.caller.in_words, pair.service.in_words
    if pair.allowed and refused is not None:
        by = f"{refused.by[0]} refuses it" if refused.by else "no permission lets it"
        yield Finding(
            kind=FindingKind.REFUSED,
            about=pair.caller.qualified,
            what=f"{who} should be able to call {what}, and {by}",
            mend="apply the platform, or take out what refuses it",
        )
    if not pair.allowed and through is not None:
        leaks = pair.caller.environment != pair.service.environment
        asked = "nobody asked for it" + (", and it reaches into another environment" if leaks else "")
        yield Finding(
            kind=FindingKind.LEAK if leaks else FindingKind.UNASKED,
            about=pair.service.qualified,
            what=f"{through.by[0]} lets {who} call {what}: {asked}",
            mend=f"take MeshTrafficPermission {through.by[0]} out or narrow it, or ask for it in a permission",
        )


def _strangers(
    platform: Platform, service: Service, judged: Documents, proxies: Sequence[Destination]
) -> Iterator[Finding]:
    """Yield who is let in that is no identity of the platform."""
    ids = {each.spiffe_id for each in platform.identities}
    tags = {each.kuma_service for each in platform.identities}
    told: set[str] = set()
    for document in judged:
        name = document["name"]
        if not any(selects(document, each) for each in proxies):
            continue
        for entry in entries(document):
            caller, words = _sample(entry, service)
            if caller.spiffe_id in ids or caller.tags.get(SERVICE_TAG) in tags or words in told:
                continue
            if any(verdict(judged, caller, each, service.environment.model).admitted for each in proxies):
                told.add(words)
                yield Finding(
                    kind=FindingKind.UNASKED,
                    about=service.qualified,
                    what=f"{name} lets {words} call {service.in_words}: nobody asked for it",
                    mend=f"take MeshTrafficPermission {name} out or narrow it, or describe who it is for",
                )


def _sample(entry: Mapping[str, Any], service: Service) -> tuple[Caller, str]:
    """Return somebody whom *entry* lets in, nobody of the platform if it can be, and whom it lets in in words."""
    stranger = f"spiffe://{service.environment.trust_domain}/{_STRANGER}"
    spiffe_id = entry.get("spiffeID") or {}
    value = str(spiffe_id.get("value", ""))
    if spiffe_id.get("type") == "Prefix":
        whoever = Caller(spiffe_id=f"{value.rstrip('/')}/{_STRANGER}", tags={SERVICE_TAG: _STRANGER})
        return whoever, f"whoever's SPIFFE ID begins with {value}"
    if value:
        return Caller(spiffe_id=value, tags={SERVICE_TAG: _STRANGER}), value
    tags = {str(key): str(each) for key, each in (entry.get("tags") or {}).items()}
    if entry.get("kind") in {"MeshService", "MeshServiceSubset"}:
        tags[SERVICE_TAG] = str(entry.get("name"))
    if tags:
        words = ", ".join(f"{key}={each}" for key, each in sorted(tags.items()))
        return Caller(spiffe_id=stranger, tags={SERVICE_TAG: _STRANGER} | tags), f"whoever has the tags {words}"
    return Caller(spiffe_id=stranger, tags={SERVICE_TAG: _STRANGER}), "everybody in the mesh"


def _misrouted(service: Service, services: Sequence[Service], found: Iterable[Resource]) -> Iterator[Finding]:
    """Yield where *service*'s hostname leads in its environment, if not to it."""
    if service.hostname is None:
        return
    kind = MESH_HTTP_ROUTE if service.protocol.routed_by_request else MESH_TCP_ROUTE
    led = False
    for route in found:
        if route.kind not in {MESH_HTTP_ROUTE, MESH_TCP_ROUTE} or route.mesh != service.environment.mesh:
            continue
        labels = (route.spec.get("targetRef") or {}).get("labels") or {}
        if labels.get(ENVIRONMENT) not in {None, service.environment.name}:
            continue
        for to in route.spec.get("to") or ():
            if (to.get("targetRef") or {}).get("labels") != front(service)["labels"]:
                continue
            for reference in (
                each for rule in to.get("rules") or () for each in (rule.get("default") or {}).get("backendRefs") or ()
            ):
                if _same(reference, backend(service)) and route.kind == kind:
                    led = True
                    continue
                other = next((each for each in services if _same(reference, backend(each))), None)
                where = "somewhere that the configuration does not know" if other is None else other.in_words
                yield Finding(
                    kind=FindingKind.MISROUTED,
                    about=service.qualified,
                    what=f"{route.name} leads {service.hostname} in {service.environment.name} to {where}",
                    mend=f"take {route.kind} {route.name} out, or apply the platform",
                )
    if not led:
        yield Finding(
            kind=FindingKind.MISROUTED,
            about=service.qualified,
            what=f"no route leads {service.hostname} in {service.environment.name} to {service.in_words}",
            mend="apply the platform",
        )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other[key] for key in ("labels", "port"))
