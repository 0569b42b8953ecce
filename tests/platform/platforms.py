"""A platform for the tests: two environments, two data domains, callers and services of every form."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from rotator.core.model import TrustDomainName
from rotator.platform.model import (
    Component,
    DataDomain,
    Environment,
    Identity,
    InCluster,
    MeshModel,
    OnDrift,
    OnMachines,
    Permission,
    Place,
    Platform,
    Protocol,
    Service,
)

AT = TrustDomainName("mesh.prod")


def environment(name: str, *, model: MeshModel = MeshModel.IDENTITY, namespace: str = "") -> Environment:
    """Return an environment in the one mesh."""
    return Environment(
        name=name,
        trust_domain=AT,
        mesh="default",
        model=model,
        zone="default",
        namespace=namespace or f"airflow-{name}",
    )


def _place(name: str, where: Environment, machines: tuple[str, ...] | None, pods: InCluster) -> Place:
    return pods if machines is None else OnMachines(workload=f"{name}-{where.name}", addresses=machines)


def _spiffe_id(place: Place) -> str:
    if isinstance(place, OnMachines):
        return f"spiffe://{AT}/workload/{place.workload}"
    return f"spiffe://{AT}/ns/{place.namespace}/sa/{place.service_account}"


def identity(
    name: str,
    where: Environment,
    component: Component = Component.WORKER,
    *,
    domain: str | None = None,
    queue: str | None = None,
    task_group: str | None = None,
    machines: tuple[str, ...] | None = None,
    certificate: str | None = None,
) -> Identity:
    """Return an identity; on *machines* if any are given, else in the cluster."""
    pods = InCluster(namespace=where.namespace, service_account=f"airflow-{name}")
    place = _place(name, where, machines, pods)
    return Identity(
        name=name,
        environment=where,
        component=component,
        domain=domain,
        queue=queue,
        task_group=task_group,
        place=place,
        labels={"team": domain} if domain is not None else {},
        spiffe_id=_spiffe_id(place),
        kuma_service=f"{name}_{where.namespace}_svc",
        certificate=certificate,
    )


def service(
    name: str,
    where: Environment,
    *,
    domain: str | None = None,
    protocol: Protocol = Protocol.HTTP,
    machines: tuple[str, ...] | None = None,
    hostname: str | None = None,
) -> Service:
    """Return a service; on *machines* if any are given, else in the cluster."""
    pods = InCluster(namespace=f"{name}-{where.name}", service_account=name, service=name)
    place = _place(name, where, machines, pods)
    return Service(
        name=name,
        environment=where,
        domain=domain,
        place=place,
        protocol=protocol,
        port=8080,
        spiffe_id=_spiffe_id(place),
        kuma_service=f"{name}_{name}-{where.name}_svc_8080",
        hostname=hostname,
    )


def example(*, model: MeshModel = MeshModel.IDENTITY, native_sidecars: bool = True) -> Platform:
    """Return two environments in which finance and growth each may call what is theirs."""
    production, staging = environment("production", model=model), environment("staging", model=model)
    both = (production, staging)
    scheduler = tuple(identity("scheduler", each, Component.SCHEDULER) for each in both)
    api = tuple(identity("api-server", each, Component.API_SERVER) for each in both)
    finance = tuple(identity("finance", each, domain="finance", queue="finance") for each in both)
    reports = tuple(
        identity("reports", each, Component.TASK, domain="finance", task_group="reports", certificate="reports")
        for each in both
    )
    growth = (identity("growth", production, domain="growth", queue="growth", machines=("10.0.0.7", "10.0.0.8")),)
    ledger = tuple(service("ledger", each, domain="finance", hostname="ledger.finance.internal") for each in both)
    rates = tuple(
        service(
            "rates", each, domain="finance", protocol=Protocol.TCP, machines=("10.0.1.1",), hostname="rates.internal"
        )
        for each in both
    )
    clicks = (service("clicks", production, domain="growth", protocol=Protocol.GRPC),)
    vault = (service("vault", production),)
    return Platform(
        environments=both,
        domains=(DataDomain(name="finance", owner="Finance Data"), DataDomain(name="growth", owner="Growth Data")),
        identities=(*scheduler, *api, *finance, *reports, *growth),
        services=(*ledger, *rates, *clicks, *vault),
        permissions=(
            Permission(
                name="finance-uses-its-own",
                reason="its own books",
                callers=(*finance, *reports),
                services=(*ledger, *rates),
            ),
            Permission(name="growth-counts", reason="it counts clicks", callers=growth, services=(*clicks, *rates)),
        ),
        release="airflow",
        native_sidecars=native_sidecars,
        on_drift=OnDrift.TELL,
        look_every=timedelta(minutes=1),
    )


def without_permissions(platform: Platform) -> Platform:
    """Return *platform* in which nobody may call anything."""
    return replace(platform, permissions=())
