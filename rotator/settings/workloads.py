"""
How the file names the processes that load certificates at their start.

Rules that must stay true here:

- Attributes are named as the file's keys; the sentence below each is the key's description in the JSON Schema.
- What happens at a drain's deadline is written here by the operator, never assumed (law 17).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from pydantic import Field

from rotator.core.rollout import AtDrainDeadline
from rotator.settings.airflow import PartOfAirflow
from rotator.settings.keys import Keys, OneOf
from rotator.settings.values import (
    AbsolutePath,
    DNSName,
    KubernetesName,
    KubernetesObjectName,
    Name,
    OpenText,
    PositiveDuration,
    SecretFile,
)

_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)


class ProcessSettings(Keys):
    """One member of a workload on this machine: a systemd unit, or a command that rotator starts itself."""

    name: Name
    """The member's name."""
    unit: OpenText | None = None
    """systemd unit."""
    command: tuple[OpenText, ...] | None = None
    """Program and arguments, without a shell."""
    pid_file: AbsolutePath | None = None
    """Where a command's process id is kept."""
    log_file: AbsolutePath | None = None
    """Where a command's output goes."""
    directory: AbsolutePath | None = None
    """A command's working directory."""
    environment: Mapping[str, OpenText] = Field(default_factory=dict)
    """A command's environment; no secrets."""
    environment_file: SecretFile | None = None
    """File of NAME=value lines that a command gets too, read at each start: the place for secrets."""
    node: OpenText | None = None
    """The Celery node's name, as celery@host; or the Edge worker's, where it is not the member's."""
    queues: tuple[OpenText, ...] = ()
    """Queues this one consumes, where they differ from the drain's."""
    spare: bool = Field(default=False, strict=True)
    """It runs only for the time of a roll, where surge is set: started before it, drained and stopped at its end."""


class PodsServe(Keys):
    """A TLS port of each pod, asked by the pod's IP for the certificate that it serves."""

    port: int = Field(ge=1, le=65535, strict=True)
    """The port."""
    server_name: DNSName | None = None
    """Server name to ask for; none if not given."""
    timeout: PositiveDuration = 2 * _SECOND
    """Of one handshake."""


class ClusterWorkload(Keys):
    """A workload in the Kubernetes cluster that rotator works in; its pods are evicted, its controller makes others."""

    namespace: KubernetesName
    """Its namespace."""
    name: KubernetesObjectName
    """Its name."""
    deadline: PositiveDuration = _HOUR
    """Time for replacing all pods, one wave after the other; counts against every leaf's life."""
    serves: PodsServe | None = None
    """Where each pod is seen to serve the certificate; without it, a start after the publication is the proof."""


class StatefulSetWorkload(ClusterWorkload):
    """A StatefulSet."""

    order: Literal["highest_first", "lowest_first"] = "highest_first"
    """By their numbers, which pods go first."""


class BrokerTLSSettings(Keys):
    """A broker whose URL asks for TLS (rediss, amqps): how it is verified, and what is shown to it."""

    ca_file: AbsolutePath | None = None
    """CA certificates that sign the broker's certificate; the system's if not given."""
    certificate_file: AbsolutePath | None = None
    """Client certificate with its chain, PEM; read for each conversation, so it may be one that rotator rotates."""
    key_file: SecretFile | None = None
    """Its private key, PEM."""


class CeleryDrain(Keys):
    """Draining Celery workers through their broker."""

    broker_file: SecretFile
    """File that holds the broker's URL."""
    tls: BrokerTLSSettings = BrokerTLSSettings()
    """TLS to the broker."""
    without_remote_control: Literal["wait", "stop"] | None = None
    """
    What becomes of workers whose remote control is off: stop them gently without a drain, one at a time, or wait for a
    person. Stop needs airflow. Default: stop for processes, wait for pods, whose grace period might kill them.
    """
    queues: tuple[OpenText, ...] = ()
    """Queues that the workers consume; read from their command lines if not given."""
    deadline: PositiveDuration
    """Time for draining and replacing all members, one wave after the other."""
    then: AtDrainDeadline = AtDrainDeadline.WAIT
    """At the deadline: keep waiting, give up this roll, or replace without waiting for the work."""
    single_consumer: Literal["refuse", "allow"] = "refuse"
    """Whether a queue's only consumer may be drained."""
    timeout: PositiveDuration = 5 * _SECOND
    """Longest wait for the workers' answers."""


class LocalDrain(Keys):
    """The scheduler of a Local executor: all DAGs are paused, their tasks end, and what was paused goes on."""

    deadline: PositiveDuration
    """Time for draining and replacing all members, one wave after the other."""
    then: AtDrainDeadline = AtDrainDeadline.WAIT
    """At the deadline: keep waiting, give up this roll, or replace without waiting for the work."""
    executor: OpenText | None = None
    """What tasks call the executor, where it is not the installation's first: then only those are waited for."""


class EdgeDrain(Keys):
    """Edge workers: put into maintenance, and taken out of it again."""

    deadline: PositiveDuration
    """Time for draining and replacing all members, one wave after the other."""
    then: AtDrainDeadline = AtDrainDeadline.WAIT
    """At the deadline: keep waiting, give up this roll, or replace without waiting for the work."""
    single_consumer: Literal["refuse", "allow"] = "refuse"
    """Whether a queue's only worker may be drained."""


class Drain(OneOf):
    """How work is taken away before a member is replaced."""

    celery: CeleryDrain | None = None
    """Celery workers."""
    local: LocalDrain | None = None
    """A scheduler whose executor is Local; needs airflow."""
    edge: EdgeDrain | None = None
    """Edge workers; needs airflow, and its edge3 provider."""

    @property
    def deadline(self) -> timedelta:
        """Return the time for draining and replacing all members."""
        return self._chosen.deadline

    @property
    def then(self) -> AtDrainDeadline:
        """Return the operator's word for the deadline."""
        return self._chosen.then

    @property
    def _chosen(self) -> CeleryDrain | LocalDrain | EdgeDrain:
        found: CeleryDrain | LocalDrain | EdgeDrain = getattr(self, self.chosen)
        return found


class Workload(Keys):
    """Processes that load a certificate at their start, and how they are replaced."""

    processes: tuple[ProcessSettings, ...] | None = Field(default=None, min_length=1)
    """Members on this machine."""
    statefulset: StatefulSetWorkload | None = None
    """A StatefulSet in the cluster."""
    deployment: ClusterWorkload | None = None
    """A Deployment in the cluster."""
    max_unavailable: int = Field(default=1, ge=0, strict=True)
    """Members that may be out of work at the same time; 0 needs surge."""
    surge: int = Field(default=0, ge=0, le=100, strict=True)
    """
    Members more for the time of a roll: they are ready before the first that takes work goes, and as many more may
    then be out of work. In the cluster the wanted number is raised (not beside an autoscaler); of processes, those
    marked spare are started.
    """
    stop_timeout: PositiveDuration = _MINUTE
    """From asking a process to stop to it being gone; pods have their own grace period."""
    start_timeout: PositiveDuration = _MINUTE
    """From starting a member to it being ready; one that takes longer has failed, and the roll stops."""
    drain: Drain | None = None
    """How it is drained; without it, members are stopped as they are."""
    airflow: PartOfAirflow | None = None
    """Which part of which Airflow it is; gives the drain Airflow's own account of what runs."""

    @property
    def in_cluster(self) -> ClusterWorkload | None:
        """Return the workload in the cluster, if it is one."""
        return self.statefulset or self.deployment
