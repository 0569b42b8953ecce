"""
What the pod template of Airflow's workers says about how they end.

Rules that must stay true here:

- Pure: a template in, facts out. Only names and numbers of its environment are looked at, never a value that may be
  a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from rotator.adapters.kubernetes.airflow_chart import SAFE_TO_EVICT

JSON = Mapping[str, Any]

_READ: Final = frozenset(
    {
        "DUMB_INIT_SETSID",
        "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS",
        "AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL",
        "REMAP_SIGTERM",
    }
)
"""The only variables whose values are looked at."""

_SIDECARS: Final = frozenset({"kuma-sidecar", "istio-proxy", "linkerd-proxy"})
_SHELLS: Final = frozenset({"sh", "bash", "/bin/sh", "/bin/bash"})
_GRACE_SECONDS: Final = 30
_PERIOD_SECONDS, _FAILURES = 10, 3
"""Kubernetes' own defaults of a probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTemplate:
    """What matters of a worker's pod when it ends."""

    container: str
    """The one that runs the worker."""
    settings: Mapping[str, str]
    """Those of its environment's values that are looked at."""
    command: tuple[str, ...]
    """Command and arguments; empty if the image's own."""
    grace: timedelta
    """terminationGracePeriodSeconds."""
    silence: timedelta | None
    """How long its liveness probe may fail before it is killed; None without a probe."""
    classic_sidecars: tuple[str, ...]
    """Mesh proxies that end together with the worker instead of after it."""
    may_be_evicted: bool
    """It tells node autoscalers that they may evict it whatever it does."""
    injected_mesh: bool
    """It asks Kuma for a sidecar, which the template does not show."""

    @property
    def is_wrapped(self) -> bool:
        """Return whether a shell stands between the container's init and the worker."""
        words = [word for word in self.command if "dumb-init" not in word and word != "--"]
        if not words or words[0] not in _SHELLS:
            return False
        script = " ".join(words[1:])
        return "airflow" in script and "exec " not in script


def worker_template(template: JSON) -> WorkerTemplate | None:
    """Return what the pod *template* says; None if no container of it looks like a worker's."""
    spec = template.get("spec", {})
    containers = list(spec.get("containers", ()))
    proxies = tuple(each["name"] for each in containers if each.get("name") in _SIDECARS)
    ours = [each for each in containers if each.get("name") not in _SIDECARS]
    worker = next((each for each in ours if _runs_worker(each)), ours[0] if len(ours) == 1 else None)
    if worker is None:
        return None
    probe = worker.get("livenessProbe")
    metadata = template.get("metadata", {})
    marks = {**(metadata.get("annotations") or {}), **(metadata.get("labels") or {})}
    return WorkerTemplate(
        container=worker.get("name", ""),
        settings=dict(_settings(worker)),
        command=tuple(map(str, (*worker.get("command", ()), *worker.get("args", ())))),
        grace=timedelta(seconds=int(spec.get("terminationGracePeriodSeconds", _GRACE_SECONDS))),
        silence=None
        if probe is None
        else timedelta(
            seconds=int(probe.get("periodSeconds", _PERIOD_SECONDS)) * int(probe.get("failureThreshold", _FAILURES))
        ),
        classic_sidecars=proxies,
        may_be_evicted=str((metadata.get("annotations") or {}).get(SAFE_TO_EVICT, "")).lower() == "true",
        injected_mesh=str(marks.get("kuma.io/sidecar-injection", "")).lower() in {"enabled", "true"},
    )


def _runs_worker(container: JSON) -> bool:
    words = " ".join(map(str, (*container.get("command", ()), *container.get("args", ()))))
    return "worker" in container.get("name", "") or "celery worker" in words


def _settings(container: JSON) -> Iterator[tuple[str, str]]:
    for each in container.get("env", ()):
        if each.get("name") in _READ and isinstance(each.get("value"), str):
            yield each["name"], each["value"]
