"""
What the settings say of the platform, as `rotator.platform.model` has it.

Rules that must stay true here:

- The one place where keys of ``platform`` become the platform's nouns; names that nobody gave are made here, and only
  here.
- Pure: settings in, frozen objects out. References that lead nowhere are `rotator.settings.platform_checks`' to refuse.
"""

from __future__ import annotations

from typing import Final

from rotator.core.model import TrustDomainName
from rotator.platform.model import (
    DataDomain,
    Environment,
    Identity,
    InCluster,
    MeshModel,
    OnMachines,
    Permission,
    Place,
    Platform,
    Service,
    Telemetry,
)
from rotator.settings.model import Settings
from rotator.settings.platform import (
    CallerSelection,
    EnvironmentNames,
    IdentitySettings,
    InClusterSettings,
    Named,
    PlatformSettings,
    ServiceSelection,
    ServiceSettings,
)

_NO_MESH: Final = ""


def platform_of(settings: Settings) -> Platform | None:
    """Return the platform that *settings* describe, in the file's order; None if they describe none."""
    wanted = settings.platform
    if wanted is None:
        return None
    environments = {name: _environment(settings, wanted, name) for name in wanted.environments}
    identities = tuple(
        _identity(settings, wanted, environments[environment], name)
        for name, one in wanted.identities.items()
        for environment in in_environments(one.environments, wanted)
    )
    services = tuple(
        _service(wanted, environments[environment], name)
        for name, one in wanted.services.items()
        for environment in in_environments(one.environments, wanted)
    )
    return Platform(
        environments=tuple(environments.values()),
        domains=tuple(DataDomain(name=name, owner=one.owner) for name, one in wanted.domains.items()),
        identities=identities,
        services=services,
        permissions=tuple(
            Permission(
                name=name,
                reason=one.reason,
                callers=tuple(
                    each
                    for each in identities
                    if each.environment.name in in_environments(one.environments, wanted) and _calls(one.callers, each)
                ),
                services=tuple(
                    each
                    for each in services
                    if each.environment.name in in_environments(one.environments, wanted)
                    and _called(one.may_call, each)
                ),
            )
            for name, one in wanted.permissions.items()
        ),
        release=wanted.release,
        native_sidecars=wanted.native_sidecars,
        on_drift=wanted.drift.then,
        look_every=wanted.drift.look_every,
        telemetry=_telemetry(wanted),
    )


def _telemetry(wanted: PlatformSettings) -> Telemetry | None:
    one = wanted.telemetry
    if one is None:
        return None
    return Telemetry(
        address=one.address,
        grpc_port=one.grpc_port,
        http_port=one.http_port,
        by_reference=one.named_by == "backend",
        sampled_percent=one.sampled_percent,
        refresh=one.refresh,
        sends_to=one.sends_to.rstrip("/"),
        authorization_from=one.authorization_from,
    )


def in_environments(named: EnvironmentNames, wanted: PlatformSettings) -> tuple[str, ...]:
    """Return the environments that *named* means, in the file's order; unknown ones are left out."""
    return tuple(name for name in wanted.environments if named == "all" or name in named)


def _environment(settings: Settings, wanted: PlatformSettings, name: str) -> Environment:
    one = wanted.environments[name]
    domain = settings.trust_domains.get(one.trust_domain)
    return Environment(
        name=name,
        trust_domain=TrustDomainName(one.trust_domain),
        mesh=domain.mesh.name if domain is not None and domain.mesh is not None else _NO_MESH,
        model=MeshModel.PROVIDED if domain is not None and domain.model == "provided" else MeshModel.IDENTITY,
        zone=one.zone,
        namespace=one.namespace,
    )


def _place(one: Named, name: str, environment: Environment, *, account: str, service: str | None) -> Place:
    chosen = one.places.get(environment.name, one.place)
    if chosen.machines is not None:
        workload = chosen.machines.workload or f"{name}-{environment.name}".lower()
        return OnMachines(workload=workload, addresses=chosen.machines.addresses)
    pods = chosen.kubernetes or InClusterSettings()
    return InCluster(
        namespace=pods.namespace or environment.namespace,
        service_account=pods.service_account or account,
        service=pods.service or service,
    )


def _kuma_service(one: Named, environment: Environment, place: Place, port: int | None) -> str:
    given = one.kuma_services.get(environment.name)
    if given is not None:
        return given
    if isinstance(place, OnMachines):
        return place.workload
    if place.service is not None and port is not None:
        return f"{place.service}_{place.namespace}_svc_{port}"
    return f"{place.service or place.service_account}_{place.namespace}_svc"


def _spiffe_id(one: Named, environment: Environment, place: Place, kuma_service: str) -> str:
    given = one.spiffe_ids.get(environment.name)
    if given is not None:
        return given
    if environment.model is MeshModel.PROVIDED:
        return f"spiffe://{environment.mesh}/{kuma_service}"
    if isinstance(place, OnMachines):
        return f"spiffe://{environment.trust_domain}/workload/{place.workload}"
    return f"spiffe://{environment.trust_domain}/ns/{place.namespace}/sa/{place.service_account}"


def _identity(settings: Settings, wanted: PlatformSettings, environment: Environment, name: str) -> Identity:
    one: IdentitySettings = wanted.identities[name]
    place = _place(one, name, environment, account=f"{wanted.release}-{name}".lower(), service=None)
    kuma_service = _kuma_service(one, environment, place, None)
    return Identity(
        name=name,
        environment=environment,
        component=one.component,
        domain=one.domain,
        queue=one.queue,
        task_group=one.task_group,
        place=place,
        labels=dict(one.labels),
        spiffe_id=_spiffe_id(one, environment, place, kuma_service),
        kuma_service=kuma_service,
        certificate=one.certificates.get(environment.name),
        certificate_secret=_secret(settings, one.certificates.get(environment.name), place),
    )


def _secret(settings: Settings, certificate: str | None, place: Place) -> str | None:
    managed = settings.certificates.get(certificate) if certificate is not None else None
    if managed is None or not isinstance(place, InCluster):
        return None
    targets = (each.kubernetes_secret for each in managed.publish)
    return next((each.name for each in targets if each is not None and each.namespace == place.namespace), None)


def _service(wanted: PlatformSettings, environment: Environment, name: str) -> Service:
    one: ServiceSettings = wanted.services[name]
    place = _place(one, name, environment, account=name.lower(), service=name.lower())
    kuma_service = _kuma_service(one, environment, place, one.port)
    return Service(
        name=name,
        environment=environment,
        domain=one.domain,
        place=place,
        protocol=one.protocol,
        port=one.port,
        spiffe_id=_spiffe_id(one, environment, place, kuma_service),
        kuma_service=kuma_service,
        hostname=one.hostname,
    )


def _chosen(one: str | None, names: tuple[str, ...] | str) -> bool:
    return names == "all" or one in names


def _calls(selection: CallerSelection, one: Identity) -> bool:
    return (
        _chosen(one.name, selection.identities)
        and _chosen(one.domain, selection.domains)
        and _chosen(one.component, selection.components)
        and _chosen(one.queue, selection.queues)
    )


def _called(selection: ServiceSelection, one: Service) -> bool:
    return _chosen(one.name, selection.services) and _chosen(one.domain, selection.domains)


def same_identity(platform: Platform) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """
    Return ``identities`` or ``services``, the SPIFFE ID and the qualified names of those who share one.

    One identity and one service may: what is called may call (Airflow's API server).
    """
    found: list[tuple[str, str, tuple[str, ...]]] = []
    kinds: dict[str, tuple[Identity | Service, ...]] = {
        "identities": platform.identities,
        "services": platform.services,
    }
    for kind, everybody in kinds.items():
        names: dict[str, list[str]] = {}
        for each in everybody:
            names.setdefault(each.spiffe_id, []).append(each.qualified)
        found += [(kind, spiffe_id, tuple(those)) for spiffe_id, those in names.items() if len(those) > 1]
    return tuple(found)
