"""
How the file names the platform: environments, data domains, identities, services, and who may call what.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- An identity or a service is written once and stands in each of its environments.
- A permission says why it is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints

from rotator.platform.model import Component, OnDrift, Protocol
from rotator.settings.keys import Keys, OneOf
from rotator.settings.values import (
    SPIFFEID,
    DNSName,
    KubernetesKey,
    KubernetesName,
    LabelValue,
    Name,
    OpenText,
    PositiveDuration,
    TrustDomainKey,
    WebURL,
)

_MINUTE = timedelta(minutes=1)

EnvironmentVariable = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")]
EnvironmentNames = tuple[Name, ...] | Literal["all"]
Names = tuple[Name, ...] | Literal["all"]


class EnvironmentSettings(Keys):
    """One environment; several may share a mesh."""

    trust_domain: TrustDomainKey
    """The trust domain of its mesh; one with a mesh."""
    namespace: KubernetesName = "airflow"
    """Where its Airflow runs on Kubernetes."""
    zone: KubernetesName = "default"
    """The zone of the control plane that its workloads are in."""


class DataDomainSettings(Keys):
    """One data domain: the unit in which access is given."""

    owner: OpenText
    """Who answers for it, in words."""


class InClusterSettings(Keys):
    """Pods of Kubernetes."""

    namespace: KubernetesName | None = None
    """Their namespace; the environment's own if not given."""
    service_account: KubernetesName | None = None
    """Their ServiceAccount; for an identity RELEASE-NAME, for a service its name, if not given."""
    service: KubernetesName | None = None
    """The Kubernetes Service in front of them; for a service its name, if not given."""


class OnMachinesSettings(Keys):
    """Processes on machines (Kuma's Universal mode)."""

    workload: KubernetesName | None = None
    """Their label kuma.io/workload; NAME-ENVIRONMENT if not given."""
    addresses: tuple[OpenText, ...] = ()
    """Addresses of the machines; one Dataplane for each."""


class PlaceSettings(OneOf):
    """Where its workloads run."""

    kubernetes: InClusterSettings | None = None
    """Pods of Kubernetes."""
    machines: OnMachinesSettings | None = None
    """Processes on machines."""


class Named(Keys):
    """What identities and services have in common."""

    domain: Name | None = None
    """Its data domain; none if it belongs to no one."""
    environments: EnvironmentNames = "all"
    """The environments in which it is."""
    place: PlaceSettings = PlaceSettings(kubernetes=InClusterSettings())
    """Where its workloads run, in every environment that `places` does not name."""
    places: Mapping[Name, PlaceSettings] = Field(default_factory=dict)
    """Where its workloads run, by environment."""
    spiffe_ids: Mapping[Name, SPIFFEID] = Field(default_factory=dict)
    """Its SPIFFE ID by environment, where the mesh's template of paths is not Kuma's own."""
    kuma_services: Mapping[Name, OpenText] = Field(default_factory=dict)
    """Its tag kuma.io/service by environment, where it is not what Kuma makes of the Service (provided CA alone)."""


class IdentitySettings(Named):
    """Who calls: one Airflow component, queue or task group."""

    component: Component
    """What of Airflow it is."""
    queue: Name | None = None
    """Which queue's workers (component worker); the default queue's if not given."""
    task_group: Name | None = None
    """Which pods of the Kubernetes executor (component task)."""
    labels: Mapping[KubernetesKey, LabelValue] = Field(default_factory=dict)
    """Labels of its pods beside rotator's own."""
    certificates: Mapping[Name, Name] = Field(default_factory=dict)
    """The certificate that rotator issues for it beside the mesh's, by environment."""


class ServiceSettings(Named):
    """What is called."""

    protocol: Protocol
    """What it speaks."""
    port: int = Field(ge=1, le=65535, strict=True)
    """Where it listens."""
    hostname: DNSName | None = None
    """The name by which callers of every environment reach it; each gets its own environment's."""


class CallerSelection(Keys):
    """Identities: those to which everything given here applies."""

    identities: Names = "all"
    """By name."""
    domains: Names = "all"
    """By data domain; those of no domain belong to none."""
    components: tuple[Component, ...] | Literal["all"] = "all"
    """By component."""
    queues: Names = "all"
    """By queue."""


class ServiceSelection(Keys):
    """Services: those to which everything given here applies."""

    services: Names = "all"
    """By name."""
    domains: Names = "all"
    """By data domain."""


class PermissionSettings(Keys):
    """Who may call what; never from one environment into another."""

    callers: CallerSelection
    """Who may call."""
    may_call: ServiceSelection
    """What they may call."""
    environments: EnvironmentNames = "all"
    """In which environments."""
    reason: OpenText
    """Why; it stands in every change's record."""


class DriftSettings(Keys):
    """What is done when somebody else changes what rotator has rendered."""

    then: OnDrift = OnDrift.TELL
    """tell: raise an alert. put_back: also write what is wanted."""
    look_every: PositiveDuration = _MINUTE
    """How often the control plane is looked at."""


class CollectorSettings(Keys):
    """One collector for proxies and Airflow, rendered with the policies and values that make them send to it."""

    address: DNSName
    """Its host name, as proxies and Airflow reach it."""
    grpc_port: int = Field(default=4317, ge=1, le=65535, strict=True)
    """Where it takes OTLP over gRPC, from proxies."""
    http_port: int = Field(default=4318, ge=1, le=65535, strict=True)
    """Where it takes OTLP over HTTP, from Airflow and rotator."""
    named_by: Literal["backend", "endpoint"] = "backend"
    """backend: policies name a MeshOpenTelemetryBackend (Kuma 2.14 and later). endpoint: its address (before that)."""
    sampled_percent: float = Field(default=100, ge=0, le=100)
    """Share of the calls that become traces where the caller has not decided."""
    refresh: PositiveDuration = _MINUTE
    """How often proxies send their metrics."""
    sends_to: WebURL
    """OTLP/HTTP address of what keeps traces, metrics and logs; the collector sends on to it."""
    authorization_from: EnvironmentVariable | None = None
    """Environment variable of the collector that holds the Authorization header for it; none if not given."""


class PlatformSettings(Keys):
    """The platform around the rotation."""

    release: KubernetesName = "airflow"
    """Name of Airflow's Helm release, in every environment."""
    native_sidecars: StrictBool = True
    """Whether sidecars are init containers that restart (Kubernetes 1.29 and later), so that task pods can end."""
    environments: Mapping[Name, EnvironmentSettings] = Field(min_length=1)
    """Environments by name."""
    domains: Mapping[Name, DataDomainSettings] = Field(default_factory=dict)
    """Data domains by name."""
    identities: Mapping[Name, IdentitySettings] = Field(default_factory=dict)
    """Who calls, by name."""
    services: Mapping[Name, ServiceSettings] = Field(default_factory=dict)
    """What is called, by name."""
    permissions: Mapping[Name, PermissionSettings] = Field(default_factory=dict)
    """Who may call what, by name; nobody else may."""
    settle: PositiveDuration = timedelta(seconds=15)
    """How long a write may take until proxies have it and their acknowledgements show; then they are waited for."""
    drift: DriftSettings = DriftSettings()
    """What is done about changes by others."""
    telemetry: CollectorSettings | None = None
    """One trace and one log of proxies, Airflow and rotator; nothing is rendered if not given."""
