"""
The nouns of the platform: environments, data domains, identities, services and who may call what.

Rules that must stay true here:

- An identity or a service belongs to exactly one environment; ``ENVIRONMENT/NAME`` names it everywhere.
- A permission never reaches from one environment into another: its pairs are made within each.
- Whom nobody permits may not call: absence is refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from rotator.core.model import TrustDomainName


class MeshModel(StrEnum):
    """How a mesh gives identities, which decides the form of its permissions."""

    IDENTITY = "identity"
    """MeshIdentity: permissions are ``rules`` with SPIFFE IDs (Kuma 2.13 and later, the only form of 3.x)."""
    PROVIDED = "provided"
    """A provided CA of ``Mesh.mtls`` (Kuma 2.x): permissions are ``from`` with the tag ``kuma.io/service``."""


class Component(StrEnum):
    """What of an Airflow an identity is for."""

    API_SERVER = "api_server"
    SCHEDULER = "scheduler"
    DAG_PROCESSOR = "dag_processor"
    TRIGGERER = "triggerer"
    WORKER = "worker"
    """The Celery workers of one queue."""
    TASK = "task"
    """The pods in which the Kubernetes executor runs the tasks of one task group."""
    OTHER = "other"
    """Something beside Airflow that calls services."""


class Protocol(StrEnum):
    """What a service speaks."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TCP = "tcp"

    @property
    def routed_by_request(self) -> bool:
        """Return whether single requests can be routed (MeshHTTPRoute), not connections alone (MeshTCPRoute)."""
        return self is not Protocol.TCP


class OnDrift(StrEnum):
    """What is done about a document that somebody else has changed."""

    TELL = "tell"
    PUT_BACK = "put_back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """One environment: production, staging. Several may share a mesh."""

    name: str
    trust_domain: TrustDomainName
    mesh: str
    """Name of the Kuma mesh."""
    model: MeshModel
    zone: str
    """The zone of the control plane that its workloads are in; Kuma's own word is ``default``."""
    namespace: str
    """Where its Airflow runs on Kubernetes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataDomain:
    """One data domain: the unit in which access is given."""

    name: str
    owner: str
    """Who answers for it, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InCluster:
    """Pods of Kubernetes: whom their ServiceAccount makes them."""

    namespace: str
    service_account: str
    service: str | None = None
    """Name of the Kubernetes Service in front of them, if there is one."""

    def labels(self) -> Mapping[str, str]:
        """Return the labels that Kuma puts on their Dataplanes."""
        return {"k8s.kuma.io/namespace": self.namespace, "k8s.kuma.io/service-account": self.service_account}


@dataclass(frozen=True, kw_only=True, slots=True)
class OnMachines:
    """Processes on machines (Kuma's Universal mode): whom their workload label makes them."""

    workload: str
    addresses: tuple[str, ...] = ()
    """Addresses of the machines; one Dataplane for each."""

    def labels(self) -> Mapping[str, str]:
        """Return the labels that their Dataplanes carry."""
        return {"kuma.io/workload": self.workload}


Place = InCluster | OnMachines


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Who calls: one Airflow component, queue or task group in one environment."""

    name: str
    environment: Environment
    component: Component
    domain: str | None
    """Name of its data domain; None: it belongs to no one (the scheduler)."""
    queue: str | None
    task_group: str | None
    place: Place
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the configuration beside rotator's own."""
    spiffe_id: str
    kuma_service: str
    """Its tag ``kuma.io/service``, which names it in a mesh with a provided CA."""
    certificate: str | None
    """Name of the certificate that rotator issues for it beside the mesh's, if any."""
    certificate_secret: str | None = None
    """Name of the Secret in its own namespace in which that certificate stands, if it does."""

    @property
    def qualified(self) -> str:
        """Return ``ENVIRONMENT/NAME``."""
        return f"{self.environment.name}/{self.name}"

    @property
    def in_words(self) -> str:
        """Return who it is, for a sentence: ``finance (queue finance, production)``."""
        what = self.component.value.replace("_", " ")
        if self.queue is not None:
            what = f"queue {self.queue}"
        elif self.task_group is not None:
            what = f"task group {self.task_group}"
        return f"{self.name} ({what}, {self.environment.name})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What is called: one service in one environment."""

    name: str
    environment: Environment
    domain: str | None
    place: Place
    protocol: Protocol
    port: int
    spiffe_id: str
    kuma_service: str
    hostname: str | None
    """The name by which callers of every environment reach it; each gets its own environment's."""

    @property
    def qualified(self) -> str:
        """Return ``ENVIRONMENT/NAME``."""
        return f"{self.environment.name}/{self.name}"

    @property
    def in_words(self) -> str:
        """Return what it is, for a sentence: ``ledger (production)``."""
        return f"{self.name} ({self.environment.name})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Permission:
    """Who may call what, as somebody asked for it."""

    name: str
    reason: str
    """Why, in the configuration's words."""
    callers: tuple[Identity, ...]
    services: tuple[Service, ...]

    def pairs(self) -> Iterator[tuple[Identity, Service]]:
        """Yield whom it lets call what: within each environment, never across."""
        for service in self.services:
            for caller in self.callers:
                if caller.environment == service.environment:
                    yield caller, service


@dataclass(frozen=True, kw_only=True, slots=True)
class Telemetry:
    """One collector for the proxies, for Airflow, and where it sends on what it joined."""

    address: str
    """Host name or address of the collector, as proxies and Airflow reach it."""
    grpc_port: int
    """Where it takes OTLP over gRPC: the proxies' access logs and traces."""
    http_port: int
    """Where it takes OTLP over HTTP: Airflow's and rotator's own."""
    by_reference: bool
    """Whether policies name one MeshOpenTelemetryBackend (Kuma 2.14 and later) instead of the address each."""
    sampled_percent: float
    """Share of the calls that no caller has decided about which become traces."""
    refresh: timedelta
    """How often proxies send their metrics."""
    sends_to: str
    """OTLP/HTTP address of whatever keeps traces, metrics and logs."""
    authorization_from: str | None
    """Environment variable of the collector that holds the Authorization header for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """Everything that the configuration says about the platform."""

    environments: tuple[Environment, ...]
    domains: tuple[DataDomain, ...]
    identities: tuple[Identity, ...]
    services: tuple[Service, ...]
    permissions: tuple[Permission, ...]
    release: str
    """Name of Airflow's Helm release, in every environment."""
    native_sidecars: bool
    """Whether the cluster runs sidecars as init containers that restart (Kubernetes 1.29 and later)."""
    on_drift: OnDrift
    look_every: timedelta
    """How often what stands on the control planes is compared with what is wanted."""
    telemetry: Telemetry | None = None
    """None: nothing is rendered of it."""

    def meshes(self) -> tuple[tuple[TrustDomainName, str], ...]:
        """Return each trust domain with the name of its mesh, once, in order."""
        return tuple(dict.fromkeys((each.trust_domain, each.mesh) for each in self.environments))

    def identity(self, qualified: str) -> Identity | None:
        """Return the identity that ``ENVIRONMENT/NAME`` names, or a SPIFFE ID."""
        return next((each for each in self.identities if qualified in {each.qualified, each.spiffe_id}), None)

    def service(self, qualified: str) -> Service | None:
        """Return the service that ``ENVIRONMENT/NAME`` names, or a SPIFFE ID."""
        return next((each for each in self.services if qualified in {each.qualified, each.spiffe_id}), None)
