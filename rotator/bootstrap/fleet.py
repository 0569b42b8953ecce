"""
What the settings ask rotator to look after, as targets with the adapters that reach them.

Rules that must stay true here:

- Nothing is called over the network, and no file is opened.
- What the settings leave out has been refused when they were loaded; what is missing here all the same is named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rotator.adapters.airflow.celery import CeleryDrainer, CeleryNode, PodNodes, SecondOpinion, queues_of_command
from rotator.adapters.airflow.remote_control import BrokerTLS, RemoteControl, broker_from_file
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.adapters.directory import Access, DirectoryStore
from rotator.adapters.kubernetes.bundles import BundleStore
from rotator.adapters.kubernetes.notes import Dress
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.adapters.kubernetes.workloads import Kind, Order, Pods, WorkloadPlace
from rotator.adapters.probes import EnvoyAdminProbe, ReadBackProbe, ReportProbe, TLSProbe
from rotator.adapters.processes import CommandMember, Processes, UnitMember
from rotator.adapters.vault.authorities import CorporateIssuer, NameConstraints, VaultAuthorities
from rotator.adapters.vault.issuer import VaultIssuer
from rotator.bootstrap.airflow import airflow_api, airflow_part, drainer_by_api
from rotator.bootstrap.meshes import mesh_target
from rotator.bootstrap.platform import platform_target
from rotator.bootstrap.sessions import Sessions
from rotator.bootstrap.tokens import signing_key_targets, token_targets
from rotator.cluster.objects import ObjectAPI
from rotator.core.model import Serial, SubjectName, TrustDomainName
from rotator.engine.targets import CertificateTarget, DomainTarget, Fleet, WorkloadTarget
from rotator.errors import ConfigError
from rotator.ports import Clock, Drainer, LeafStore, PauseBook, Probe
from rotator.settings import (
    Settings,
    authority_policy,
    leaf_policy,
    managed_certificate,
    policy_sha256,
    rollout_policy,
)
from rotator.settings.trust import CertificateSettings, ProbeSettings, PublishTarget
from rotator.settings.workloads import Workload


def build_fleet(settings: Settings, sessions: Sessions, clock: Clock) -> Fleet:
    """Return everything that *settings* ask rotator to look after."""
    cluster = partial(sessions.cluster, settings)
    return Fleet(
        environment=settings.environment,
        policy_sha256=policy_sha256(settings),
        domains={TrustDomainName(name): _domain(settings, name, sessions, clock) for name in settings.trust_domains},
        certificates={
            SubjectName(name): certificate_target(settings, name, clock, cluster) for name in settings.certificates
        },
        workloads={
            SubjectName(name): workload_target(settings, name, clock, cluster, sessions.pauses)
            for name in settings.workloads
        },
        platform=platform_target(settings, clock),
        tokens=token_targets(settings, clock, cluster),
        signing_keys=signing_key_targets(settings, clock),
    )


def _domain(settings: Settings, name: str, sessions: Sessions, clock: Clock) -> DomainTarget:
    """Return one trust domain with its signer."""
    domain = settings.trust_domains[name]
    vault = settings.issuers[domain.issuer].vault
    if vault is None:
        raise ConfigError(f"issuers.{domain.issuer} names no Vault")
    session = sessions.of(domain.issuer, vault)
    if domain.mesh is not None:
        return mesh_target(settings, name, domain.mesh, vault, session, clock)
    if domain.ca.mount is None or domain.ca.role is None:
        raise ConfigError(f"trust_domains.{name}.ca names no mount or no role")
    trust_domain = TrustDomainName(name)
    skew = settings.timing.skew
    authorities = VaultAuthorities(
        session,
        clock=clock,
        trust_domain=trust_domain,
        mount=domain.ca.mount,
        corporate=CorporateIssuer(mount=vault.mount, issuer=vault.issuer),
        skew=skew,
        name_constraints=NameConstraints(permitted_dns_domains=domain.ca.name_constraints.permitted_dns),
    )
    return DomainTarget(
        name=trust_domain,
        policy=authority_policy(settings, name),
        issuer=VaultIssuer(
            session,
            clock=clock,
            trust_domain=trust_domain,
            mount=domain.ca.mount,
            role=domain.ca.role,
            skew=skew,
        ),
        authorities=authorities,
        parent=authorities,
        key=domain.ca.key,
        crl_interval=domain.ca.crl_interval,
        issuer_label=domain.issuer,
    )


def certificate_target(
    settings: Settings, name: str, clock: Clock, cluster: Callable[[], ObjectAPI]
) -> CertificateTarget:
    """Return one certificate with its places and its proofs; *cluster* is asked for where one of them is in it."""
    wanted = settings.certificates[name]
    stores = tuple(_store(each, SubjectName(name), settings, clock, cluster) for each in wanted.publish)
    return CertificateTarget(
        certificate=managed_certificate(settings, name),
        policy=leaf_policy(settings, name),
        stores=stores,
        probes=tuple(_probe(each, wanted, stores, clock) for each in wanted.probes),
    )


def _store(
    target: PublishTarget, subject: SubjectName, settings: Settings, clock: Clock, cluster: Callable[[], ObjectAPI]
) -> LeafStore:
    """Return one place to publish at."""
    if target.directory is not None:
        directory = target.directory
        access = Access(owner=directory.owner, group=directory.group, key_mode=directory.key_mode)
        return DirectoryStore(directory.path, access=access)
    patience = settings.timing.publish
    if target.kubernetes_secret is not None:
        secret = target.kubernetes_secret
        return SecretStore(
            cluster(),
            namespace=secret.namespace,
            name=secret.name,
            subject=subject,
            clock=clock,
            dress=Dress(labels=secret.labels, annotations=secret.annotations),
            adopt=secret.adopt,
            patience=patience,
        )
    bundle = target.kubernetes_configmap
    if bundle is None:
        raise ConfigError(f"certificates.{subject}: a place to publish at names none")
    return BundleStore(
        cluster(),
        namespace=bundle.namespace,
        name=bundle.name,
        key=bundle.key,
        subject=subject,
        clock=clock,
        dress=Dress(labels=bundle.labels, annotations=bundle.annotations),
        adopt=bundle.adopt,
        patience=patience,
    )


def _probe(probe: ProbeSettings, wanted: CertificateSettings, stores: tuple[LeafStore, ...], clock: Clock) -> Probe:
    """Return one way to see what the consumer uses."""
    if probe.envoy_admin is not None:
        return EnvoyAdminProbe(
            str(probe.envoy_admin.url), clock=clock, identity=wanted.identity, timeout=probe.envoy_admin.timeout
        )
    if probe.tls is not None:
        return TLSProbe(
            probe.tls.address,
            clock=clock,
            server_name=probe.tls.server_name,
            presents=probe.tls.presents,
            expects=wanted.identity,
            timeout=probe.tls.timeout,
        )
    if probe.report is not None:
        return ReportProbe(probe.report.path, clock=clock)
    holder = next((each for each in stores if not isinstance(each, BundleStore)), stores[0])
    return ReadBackProbe(holder.just_read if isinstance(holder, SecretStore) else holder, clock=clock)


def workload_target(
    settings: Settings,
    name: str,
    clock: Clock,
    cluster: Callable[[], ObjectAPI],
    pauses: PauseBook | None = None,
) -> WorkloadTarget:
    """
    Return one workload with its members and how they are drained.

    *cluster* is asked for where it is in it; *pauses* remembers what is paused, None for whoever only looks.
    """
    workload = settings.workloads[name]
    place = workload_place(workload)
    if place is not None:
        timing = settings.timing
        # A pod that was made while the material was still being written may have mounted what was there before.
        uncertainty = timing.skew + timing.publish
        pods = Pods(
            cluster(),
            place,
            workload=SubjectName(name),
            uncertainty=uncertainty,
            shown_at=_shown_at(workload, clock),
        )
        return WorkloadTarget(
            name=SubjectName(name),
            policy=rollout_policy(workload),
            workloads=pods,
            surging=pods,
            drainer=_drainer(settings, name, clock, pauses),
            history=_history(settings, workload, clock),
            part=airflow_part(workload),
            ready_within=workload.start_timeout,
        )
    members: list[CommandMember | UnitMember] = []
    for each in workload.processes or ():
        if each.unit is not None:
            members.append(UnitMember(name=each.name, unit=each.unit, spare=each.spare))
        elif each.command is not None and each.pid_file is not None and each.log_file is not None:
            members.append(
                CommandMember(
                    name=each.name,
                    command=each.command,
                    pid_file=each.pid_file,
                    log_file=each.log_file,
                    directory=each.directory,
                    environment=each.environment,
                    environment_file=each.environment_file,
                    spare=each.spare,
                )
            )
        else:
            raise ConfigError(f"workloads.{name}: {each.name} needs a unit, or a command with pid_file and log_file")
    processes = Processes(
        SubjectName(name),
        members,
        clock=clock,
        stop_timeout=workload.stop_timeout,
        start_timeout=workload.start_timeout,
        drained=workload.drain is not None,
    )
    return WorkloadTarget(
        name=SubjectName(name),
        policy=rollout_policy(workload),
        workloads=processes,
        surging=processes if any(each.spare for each in members) else None,
        drainer=_drainer(settings, name, clock, pauses),
        history=_history(settings, workload, clock),
        part=airflow_part(workload),
        ready_within=workload.start_timeout,
        keep_running=all(isinstance(each, CommandMember) for each in members),
    )


def _history(settings: Settings, workload: Workload, clock: Clock) -> AirflowTasks | None:
    """Return whoever knows how long the tasks of *workload* take, if something drains them and Airflow is named."""
    if workload.airflow is None or workload.drain is None:
        return None
    return AirflowTasks(airflow_api(settings.airflow[workload.airflow.installation], clock))


def _shown_at(workload: Workload, clock: Clock) -> Callable[[str], Serial | None] | None:
    """Return how a pod of *workload* is asked for the certificate that it serves, None if it is not."""
    serves = workload.in_cluster.serves if workload.in_cluster is not None else None
    if serves is None:
        return None

    def shown(address: str) -> Serial | None:
        host = f"[{address}]" if ":" in address else address
        place = f"{host}:{serves.port}"
        return TLSProbe(place, clock=clock, server_name=serves.server_name, timeout=serves.timeout).look().serial

    return shown


def workload_place(workload: Workload) -> WorkloadPlace | None:
    """Return where *workload* is in the cluster, None if it is made of processes."""
    if workload.statefulset is not None:
        found = workload.statefulset
        return WorkloadPlace(
            kind=Kind.STATEFULSET, namespace=found.namespace, name=found.name, order=Order(found.order)
        )
    if workload.deployment is not None:
        return WorkloadPlace(
            kind=Kind.DEPLOYMENT, namespace=workload.deployment.namespace, name=workload.deployment.name
        )
    return None


def _drainer(settings: Settings, name: str, clock: Clock, pauses: PauseBook | None) -> Drainer | None:
    """Return how work is taken away from the members of the workload *name*, if it is."""
    workload = settings.workloads[name]
    if workload.drain is None:
        return None
    if workload.drain.local is not None or workload.drain.edge is not None:
        return drainer_by_api(settings, name, clock, pauses)
    celery = workload.drain.celery
    if celery is None:
        return None
    tls = BrokerTLS(
        ca_file=celery.tls.ca_file, certificate_file=celery.tls.certificate_file, key_file=celery.tls.key_file
    )
    control = RemoteControl(broker_from_file(celery.broker_file), clock=clock, timeout=celery.timeout, tls=tls)
    if workload.in_cluster is not None:
        pods = PodNodes(queues=frozenset(celery.queues))
        return CeleryDrainer(control, pods, _opinion(settings, workload, clock))
    nodes = {}
    for each in workload.processes or ():
        queues = frozenset(each.queues or celery.queues) or queues_of_command(each.command or ())
        nodes[each.name] = CeleryNode(node=each.node or f"celery@{each.name}", queues=queues)
    return CeleryDrainer(control, nodes, _opinion(settings, workload, clock))


def _opinion(settings: Settings, workload: Workload, clock: Clock) -> SecondOpinion | None:
    """Return Airflow's own account of what the members of *workload* do, if it is named."""
    celery = workload.drain.celery if workload.drain is not None else None
    if workload.airflow is None or celery is None:
        return None
    # Whoever rotator stops itself is never killed by it; a pod's grace period may end.
    otherwise = "stop" if workload.processes else "wait"
    return SecondOpinion(
        tasks=AirflowTasks(airflow_api(settings.airflow[workload.airflow.installation], clock)),
        clock=clock,
        starts_within=workload.start_timeout,
        stop_deaf=(celery.without_remote_control or otherwise) == "stop",
    )
