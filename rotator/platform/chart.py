"""
Values for the official Airflow chart: who each of its components is in the mesh.

Rules that must stay true here:

- The keys are those of the version that is asked for; a version that cannot say what is wanted is refused.
- Values, not the chart: what is not about identity is left to whoever runs Airflow.

Source: the values and release notes of the official chart, 1.15 to 1.22.
"""

from __future__ import annotations

import re
from typing import Any, Final

from rotator.errors import ConfigError
from rotator.platform.model import Component, Environment, Identity, InCluster, Platform
from rotator.platform.resources import canonical_yaml
from rotator.platform.workloads import (
    TEMPLATES_AT,
    account,
    certificate_volumes,
    pod_annotations,
    pod_labels,
    pod_template,
    pods_of,
    task_groups,
    templates_name,
)

Version = tuple[int, int]
NEWEST: Final[Version] = (1, 22)
_WORKER_SETS_SINCE: Final[Version] = (1, 20)
"""Several kinds of Celery workers in one release, under ``workers.celery.sets``."""
AIRFLOW_3_SINCE: Final[Version] = (1, 17)
"""The first that knows an API server, and tasks that ask it instead of the database."""
_NAMED: Final = re.compile(r"(\d+)\.(\d+)(?:\.\d+)?")
_DEFAULT_QUEUE: Final = "default"
_KEYS: Final = {
    Component.SCHEDULER: ("scheduler",),
    Component.DAG_PROCESSOR: ("dagProcessor",),
    Component.TRIGGERER: ("triggerer",),
}


def chart_version(text: str | None) -> Version:
    """Return the version that *text* names, as ``1.22`` or ``1.15.0``; the newest known if it is None."""
    if text is None:
        return NEWEST
    found = _NAMED.fullmatch(text)
    if found is None or int(found[1]) != 1:
        raise ConfigError(f"--chart: found {text}; allowed a version of the official chart, as 1.15 or {_said(NEWEST)}")
    return int(found[1]), int(found[2])


def values(platform: Platform, environment: Environment, version: Version) -> dict[str, Any]:
    """
    Return the chart's values for *environment*.

    Raises:
        ConfigError: If that version of the chart cannot give each identity pods of its own.
    """
    found: dict[str, Any] = {}
    for component, keys in (*_KEYS.items(), (Component.API_SERVER, _server_keys(version))):
        identity = _only(platform, environment, component)
        if identity is not None:
            for key in keys:
                found[key] = _section(platform, identity, makes_account=True)
    workers = pods_of(platform, environment, Component.WORKER)
    if workers:
        found["workers"] = _workers(platform, environment, workers, version)
    others = [each for each in pods_of(platform, environment, Component.TASK) if each.task_group is None]
    if len(others) > 1:
        raise ConfigError(_too_many(environment, "kind of task pod without a task group", others))
    if others:
        found["podTemplate"] = canonical_yaml(
            [pod_template(platform, others[0], asks_the_database=version < AIRFLOW_3_SINCE)]
        ).removeprefix("---\n")
    if task_groups(platform, environment):
        scheduler = found.setdefault("scheduler", {})
        volume = {"name": "rotator-task-groups", "configMap": {"name": templates_name(platform)}}
        mount = {"name": "rotator-task-groups", "mountPath": TEMPLATES_AT, "readOnly": True}
        scheduler["extraVolumes"] = [*scheduler.get("extraVolumes", ()), volume]
        scheduler["extraVolumeMounts"] = [*scheduler.get("extraVolumeMounts", ()), mount]
    return found


def _server_keys(version: Version) -> tuple[str, ...]:
    # Which of the two there is depends on Airflow's version, and the chart passes over the other.
    return ("apiServer", "webserver") if version >= AIRFLOW_3_SINCE else ("webserver",)


def _only(platform: Platform, environment: Environment, component: Component) -> Identity | None:
    found = pods_of(platform, environment, component)
    if len(found) > 1:
        raise ConfigError(_too_many(environment, component.value.replace("_", " "), found))
    return found[0] if found else None


def _too_many(environment: Environment, what: str, found: tuple[Identity, ...] | list[Identity]) -> str:
    names = ", ".join(each.name for each in found)
    return f"the chart has one {what} in an Airflow: found {names} in {environment.name}; make one identity of them"


def _section(platform: Platform, identity: Identity, *, makes_account: bool) -> dict[str, Any]:
    if isinstance(identity.place, InCluster) and identity.place.namespace != identity.environment.namespace:
        raise ConfigError(
            f"the chart runs all of an Airflow in one namespace: found {identity.place.namespace} for "
            f"{identity.in_words}, and {identity.environment.namespace} for {identity.environment.name}; name one"
        )
    found: dict[str, Any] = {
        "serviceAccount": {"create": makes_account, "name": account(identity)},
        "labels": pod_labels(identity),
    }
    annotations = pod_annotations(platform, identity)
    if annotations:
        found["podAnnotations"] = annotations
    volumes, mounts = certificate_volumes(identity)
    if volumes:
        found |= {"extraVolumes": volumes, "extraVolumeMounts": mounts}
    return found


def _workers(
    platform: Platform, environment: Environment, workers: tuple[Identity, ...], version: Version
) -> dict[str, Any]:
    if version >= _WORKER_SETS_SINCE:
        sets = [
            {
                "name": re.sub(r"[^a-z0-9-]", "-", each.name.lower()),
                "queue": each.queue or _DEFAULT_QUEUE,
                **_section(platform, each, makes_account=False),
            }
            for each in workers
        ]
        return {"celery": {"enableDefault": False, "sets": sets}}
    if len(workers) > 1:
        raise ConfigError(
            f"chart {_said(version)} runs one kind of worker: found "
            f"{', '.join(each.name for each in workers)} in {environment.name}; take chart {_said(_WORKER_SETS_SINCE)} "
            "or newer, or give each queue an environment of its own"
        )
    (only,) = workers
    found = _section(platform, only, makes_account=False)
    if only.queue is not None:
        # exec: the worker itself has to get the signal that ends its pod.
        found["args"] = ["bash", "-c", f"exec airflow celery worker --queues {only.queue}"]
    return found


def _said(version: Version) -> str:
    return ".".join(map(str, version))
