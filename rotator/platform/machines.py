"""
Proxies on machines: a Dataplane for each address, and the token that it needs.

Rules that must stay true here:

- One Dataplane for each workload and address, whether it calls, is called, or both.
- What it calls stands at the same local port in every environment: a program needs no word for where it runs.
- A token lets in the one Dataplane and workload it is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rotator.platform.model import Environment, Identity, MeshModel, OnMachines, Platform, Service
from rotator.platform.resources import (
    DATA_DOMAIN,
    DATAPLANE,
    ENVIRONMENT,
    IDENTITY,
    SERVICE,
    Resource,
    named,
    own,
)
from rotator.platform.routes import SECTION, backend, front
from rotator.platform.workloads import called_by

_FIRST_LOCAL_PORT: Final = 20001
"""On 127.0.0.1: service after service in the configuration's order. Append services, and no port moves."""
_CALLED_BY_NOBODY: Final = 20000
"""Kuma wants a port of every proxy; no permission lets anybody call this one."""


def local_ports(platform: Platform) -> Mapping[str, int]:
    """Return for each name of a service the port at which callers on machines find it on 127.0.0.1."""
    names = dict.fromkeys(each.name for each in platform.services)
    return {name: _FIRST_LOCAL_PORT + number for number, name in enumerate(names)}


def dataplanes(platform: Platform, environment: Environment) -> tuple[Resource, ...]:
    """Return the Dataplane of each workload and address in *environment*, in the configuration's order."""
    found: dict[str, Resource] = {}
    everybody: tuple[Identity | Service, ...] = (*platform.identities, *platform.services)
    for one in everybody:
        if one.environment != environment or not isinstance(one.place, OnMachines):
            continue
        for address in one.place.addresses:
            resource = _dataplane(platform, one.place, environment, address)
            found.setdefault(resource.name, resource)
    return tuple(found.values())


def tokens(platform: Platform, environment: Environment) -> Mapping[str, Any]:
    """
    Return the entries of ``tokens`` in rotator's own configuration that the proxies of *environment* need.

    How long each lives and where it is put are for a person to change; they are written as is usual.
    """
    found: dict[str, Any] = {}
    for each in dataplanes(platform, environment):
        lets_in: dict[str, Any] = {"name": each.name}
        if environment.model is MeshModel.IDENTITY:
            lets_in["workload"] = each.labels["kuma.io/workload"]
        else:
            names = sorted({one["tags"]["kuma.io/service"] for one in each.spec["networking"]["inbound"]})
            lets_in["tags"] = {"kuma.io/service": names}
        found[each.name] = {
            "trust_domain": str(environment.trust_domain),
            "dataplane": lets_in,
            "lifetime": "24h",
            "publish": [{"directory": f"/etc/kuma/{each.name}"}],
        }
    return found


def _dataplane(platform: Platform, place: OnMachines, environment: Environment, address: str) -> Resource:
    def there(one: Identity | Service) -> bool:
        if one.environment != environment or not isinstance(one.place, OnMachines):
            return False
        return one.place.workload == place.workload and address in one.place.addresses

    callers = [each for each in platform.identities if there(each)]
    called = [each for each in platform.services if there(each)]
    labels = {**place.labels(), ENVIRONMENT: environment.name}
    for caller in callers:
        labels |= {**caller.labels, IDENTITY: caller.name}
    for service in called:
        labels |= {SERVICE: service.name}
    everybody: tuple[Identity | Service, ...] = (*callers, *called)
    domain = next((each.domain for each in everybody if each.domain is not None), None)
    if domain is not None:
        labels[DATA_DOMAIN] = domain
    inbound = [_inbound(SECTION, each.port, each.protocol.value, each.kuma_service) for each in called]
    if not inbound:
        inbound = [_inbound("none", _CALLED_BY_NOBODY, "tcp", callers[0].kuma_service)]
    networking: dict[str, Any] = {"address": address, "inbound": inbound}
    outbound = _outbound(platform, callers)
    if outbound:
        networking["outbound"] = outbound
    return own(
        DATAPLANE,
        environment.mesh,
        named(environment.name, f"{place.workload}-{address}".replace(".", "-").replace(":", "-")),
        {"networking": networking},
        labels=labels,
    )


def _inbound(name: str, port: int, protocol: str, service: str) -> dict[str, Any]:
    return {
        "name": name,
        "port": port,
        # Kuma 3 reads this, 2.x the tags.
        "protocol": protocol,
        "tags": {"kuma.io/service": service, "kuma.io/protocol": protocol},
    }


def _outbound(platform: Platform, callers: list[Identity]) -> list[dict[str, Any]]:
    ports = local_ports(platform)
    found: dict[str, dict[str, Any]] = {}
    for caller in callers:
        for service in called_by(platform, caller):
            reference = backend(service) if service.hostname is None else front(service)
            found[service.name] = {
                "address": "127.0.0.1",
                "port": ports[service.name],
                "backendRef": dict(reference),
            }
    return [found[name] for name in ports if name in found]
