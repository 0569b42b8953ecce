"""
Who Airflow's pods are: labels, annotations, ServiceAccounts, and the pods of task groups.

Rules that must stay true here:

- One ServiceAccount for each identity: it is what the mesh knows a pod by.
- No credential stands in what is rendered: Secrets are mounted by name.
- A pod's way into the mesh is asked for at the pod; its namespace asks for nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rotator.platform.model import Component, Environment, Identity, InCluster, MeshModel, Platform, Service
from rotator.platform.permissions import callers
from rotator.platform.resources import (
    DATA_DOMAIN,
    ENVIRONMENT,
    IDENTITY,
    MANAGED_BY,
    MESH,
    ROTATOR,
    canonical_yaml,
)
from rotator.platform.routes import backend, front
from rotator.platform.telemetry_airflow import LOCAL_SETTINGS_FILE, past_the_mesh, pod_variables

INJECTION: Final = "kuma.io/sidecar-injection"
_READY_FIRST: Final = "kuma.io/wait-for-dataplane-ready"
_REACHABLE: Final = "kuma.io/reachable-backends"
_CERTIFICATE: Final = "rotator-certificate"
_CERTIFICATE_AT: Final = "/var/run/rotator/certificate"
_HOME: Final = "/opt/airflow"
TEMPLATES_AT: Final = f"{_HOME}/pod_templates/rotator"
"""Where the scheduler finds the pod templates of task groups."""


def pods_of(platform: Platform, environment: Environment, *components: Component) -> tuple[Identity, ...]:
    """Return the identities of *environment* whose pods run in its cluster, those of *components* if any are given."""
    return tuple(
        each
        for each in platform.identities
        if each.environment == environment
        and isinstance(each.place, InCluster)
        and (not components or each.component in components)
    )


def account(identity: Identity) -> str:
    """Return the ServiceAccount of an identity whose pods run in a cluster."""
    assert isinstance(identity.place, InCluster)  # noqa: S101 -- `pods_of` gives no others
    return identity.place.service_account


def pod_labels(identity: Identity) -> dict[str, str]:
    """Return the labels of an identity's pods, which its Dataplanes carry, too."""
    own = {
        INJECTION: "enabled",
        MESH: identity.environment.mesh,
        ENVIRONMENT: identity.environment.name,
        IDENTITY: identity.name,
    }
    if identity.domain is not None:
        own[DATA_DOMAIN] = identity.domain
    return dict(sorted({**identity.labels, **own}.items()))


def pod_annotations(platform: Platform, identity: Identity) -> dict[str, str]:
    """Return the annotations of an identity's pods."""
    found: dict[str, str] = {}
    backends = reachable(platform, identity)
    # Kuma 3 gives a pod no way to any service unless it names it; with a provided CA the mesh may know none by labels.
    if backends and identity.environment.model is MeshModel.IDENTITY:
        found[_REACHABLE] = canonical_yaml([{"refs": backends}]).removeprefix("---\n")
    if not platform.native_sidecars:
        found[_READY_FIRST] = "true"
    return found


def called_by(platform: Platform, identity: Identity) -> tuple[Service, ...]:
    """Return the services that *identity* may call, in the configuration's order."""
    allowed = callers(platform)
    return tuple(each for each in platform.services if identity.qualified in allowed[each.qualified])


def reachable(platform: Platform, identity: Identity) -> list[Mapping[str, Any]]:
    """Return references to the mesh's services by which *identity* reaches what it may call."""
    found: list[Mapping[str, Any]] = []
    for service in called_by(platform, identity):
        found.append(backend(service))
        if service.hostname is not None:
            found.append(front(service))
    return found


def certificate_volumes(identity: Identity) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return volumes and mounts of the certificate beside the mesh's; both empty if it has none in a Secret."""
    if identity.certificate_secret is None:
        return [], []
    volume = {"name": _CERTIFICATE, "secret": {"secretName": identity.certificate_secret}}
    return [volume], [{"name": _CERTIFICATE, "mountPath": _CERTIFICATE_AT, "readOnly": True}]


def namespace(environment: Environment) -> dict[str, Any]:
    """
    Return the environment's Namespace: known to the mesh, and no pod of it drawn in unasked.

    Kuma looks only at namespaces that carry the label, whichever its value.
    """
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": environment.namespace,
            "labels": {ENVIRONMENT: environment.name, MESH: environment.mesh, INJECTION: "disabled"},
        },
    }


def service_accounts(platform: Platform, environment: Environment) -> tuple[dict[str, Any], ...]:
    """Return the ServiceAccounts that the chart does not make: those of worker sets, task groups and others."""
    return tuple(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {
                "name": account(each),
                "namespace": each.place.namespace if isinstance(each.place, InCluster) else environment.namespace,
                "labels": {
                    MANAGED_BY: ROTATOR,
                    ENVIRONMENT: each.environment.name,
                    IDENTITY: each.name,
                },
            },
        }
        for each in pods_of(platform, environment, Component.WORKER, Component.TASK, Component.OTHER)
    )


def pod_template(platform: Platform, identity: Identity, *, asks_the_database: bool = False) -> dict[str, Any]:
    """
    Return the pod in which the Kubernetes executor runs the tasks of *identity*'s group.

    Its image is the executor's own setting. *asks_the_database*: tasks of Airflow 2 do; the connection is then taken
    from the chart's Secret by name.
    """
    volumes, mounts = certificate_volumes(identity)
    env: list[dict[str, Any]] = [{"name": "AIRFLOW__CORE__EXECUTOR", "value": "LocalExecutor"}]
    if asks_the_database:
        for name, secret, key in (
            ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "metadata", "connection"),
            ("AIRFLOW__CORE__FERNET_KEY", "fernet-key", "fernet-key"),
        ):
            reference = {"name": f"{platform.release}-{secret}", "key": key}
            env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    if platform.telemetry is not None:
        env += pod_variables(identity.environment, platform.telemetry, component="task")
    metadata: dict[str, Any] = {"name": "placeholder-name", "labels": pod_labels(identity)}
    annotations = pod_annotations(platform, identity) | (
        past_the_mesh(platform.telemetry) if platform.telemetry is not None else {}
    )
    if annotations:
        metadata["annotations"] = annotations
    config = {"name": "config", "mountPath": f"{_HOME}/airflow.cfg", "subPath": "airflow.cfg", "readOnly": True}
    if platform.telemetry is not None:
        settings = {"mountPath": f"{_HOME}/config/{LOCAL_SETTINGS_FILE}", "subPath": LOCAL_SETTINGS_FILE}
        mounts = [{"name": "config", **settings, "readOnly": True}, *mounts]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": account(identity),
            "containers": [
                {
                    "name": "base",
                    "env": env,
                    "volumeMounts": [config, {"name": "logs", "mountPath": f"{_HOME}/logs"}, *mounts],
                }
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": f"{platform.release}-config"}},
                {"name": "logs", "emptyDir": {}},
                *volumes,
            ],
        },
    }


def task_groups(platform: Platform, environment: Environment) -> tuple[Identity, ...]:
    """Return the identities of task groups that have pods of their own; the one of no group is everybody else's."""
    return tuple(each for each in pods_of(platform, environment, Component.TASK) if each.task_group is not None)


def templates_name(platform: Platform) -> str:
    """Return the name of the ConfigMap that holds the pod templates."""
    return f"{platform.release}-task-groups"


def pod_templates(
    platform: Platform, environment: Environment, *, asks_the_database: bool = False
) -> dict[str, Any] | None:
    """
    Return the ConfigMap of pod templates, one key ``GROUP.yaml`` for each task group; None without any.

    A task names its template with ``executor_config={"pod_template_file": TEMPLATES_AT + "/GROUP.yaml"}``.
    """
    groups = task_groups(platform, environment)
    if not groups:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": templates_name(platform),
            "namespace": environment.namespace,
            "labels": {MANAGED_BY: ROTATOR, ENVIRONMENT: environment.name},
        },
        "data": {
            f"{each.task_group}.yaml": canonical_yaml(
                [pod_template(platform, each, asks_the_database=asks_the_database)]
            ).removeprefix("---\n")
            for each in groups
        },
    }
