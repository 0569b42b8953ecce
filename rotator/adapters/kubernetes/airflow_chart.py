"""
Which Helm chart made a workload of Airflow's, and what that chart calls the values that matter when a worker ends.

Rules that must stay true here:

- Pure: labels in, words out. A chart that is not known is not guessed: then the pod template itself is spoken of.
- A key is spoken as the version at hand knows it: the official chart moved its workers' keys below ``celery`` one after
  the other, and refuses a key that it does not know.

Source: the release notes of the official chart 1.19 to 1.22, the values of the community chart 8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

JSON = Mapping[str, Any]
Version = tuple[int, int]

_NAMED: Final = re.compile(r"airflow-v?(\d+)\.(\d+)(?:[.+-].*)?")
"""Value of the label ``chart``."""
_COMMUNITY_FROM: Final = 5
"""The community chart has counted from 5 to 8; the official one is at 1."""
_BELOW_CELERY_SINCE: Final[Mapping[str, Version]] = {
    "args": (1, 19),
    "livenessProbe": (1, 19),
    "terminationGracePeriodSeconds": (1, 20),
    "keda": (1, 20),
    "safeToEvict": (1, 21),
    "hpa": (1, 21),
    # Not said in any release notes up to 1.22: the old key holds as long as the 1.x line does.
    "env": (2, 0),
}
"""From which version of the official chart on a key of ``workers`` stands in ``workers.celery``."""


class Maker(StrEnum):
    """Whose chart it is."""

    OFFICIAL = "the official chart"
    COMMUNITY = "the community chart"
    UNKNOWN = "no chart that is known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What a workload was made by, and how that is told what to change."""

    maker: Maker
    version: Version | None = None
    """None if it is not known: then the newest keys are spoken."""

    def __str__(self) -> str:
        """Return it in words, as ``the official chart 1.22``."""
        return f"{self.maker} {'.'.join(map(str, self.version))}" if self.version is not None else f"{self.maker}"

    def env(self, name: str, value: str) -> str:
        """Return how a variable of the worker's container is set."""
        entry = f'[{{name: {name}, value: "{value}"}}]'
        match self.maker:
            case Maker.OFFICIAL:
                return self._of_workers("env", entry)
            case Maker.COMMUNITY:
                return _values(f"airflow: {{extraEnv: {entry}}}")
            case Maker.UNKNOWN:
                return f'in the worker\'s container: env {name}="{value}"'

    def config(self, section: str, key: str, value: str) -> str:
        """Return how an option of airflow.cfg is set."""
        variable = f"AIRFLOW__{section.upper()}__{key.upper()}"
        match self.maker:
            case Maker.OFFICIAL:
                return _values(f"config: {{{section}: {{{key}: {value}}}}}")
            case Maker.COMMUNITY:
                return _values(f'airflow: {{config: {{{variable}: "{value}"}}}}')
            case Maker.UNKNOWN:
                return f'in airflow.cfg: [{section}] {key} = {value}, or env {variable}="{value}"'

    def command(self) -> str:
        """Return how the worker is made the process that TERM reaches."""
        if self.maker is Maker.OFFICIAL:
            return self._of_workers("args", '["bash", "-c", "exec airflow celery worker"]')
        return "let the container's command begin its last part with exec: exec airflow celery worker"

    def grace(self, seconds: int) -> str:
        """Return how pods are given *seconds* to end."""
        match self.maker:
            case Maker.OFFICIAL:
                return self._of_workers("terminationGracePeriodSeconds", str(seconds))
            case Maker.COMMUNITY:
                return _values(f"workers: {{terminationPeriod: {seconds}}}")
            case Maker.UNKNOWN:
                return f"in the pod template: terminationGracePeriodSeconds: {seconds}"

    def patience(self, failures: int) -> str:
        """Return how the liveness probe is let fail *failures* times."""
        match self.maker:
            case Maker.OFFICIAL:
                return self._of_workers("livenessProbe", f"{{failureThreshold: {failures}}}")
            case Maker.COMMUNITY:
                return _values(f"workers: {{livenessProbe: {{failureThreshold: {failures}}}}}")
            case Maker.UNKNOWN:
                return f"in the worker's container: livenessProbe: {{failureThreshold: {failures}}}"

    def unevictable(self) -> str:
        """Return how node autoscalers are told to leave the pods where they are."""
        match self.maker:
            case Maker.OFFICIAL:
                return self._of_workers("safeToEvict", "false")
            case Maker.COMMUNITY:
                return _values("workers: {safeToEvict: false}")
            case Maker.UNKNOWN:
                return f'in the pod template: annotation {SAFE_TO_EVICT}: "false"'

    def _of_workers(self, key: str, value: str) -> str:
        """Return the snippet for a key of the official chart's Celery workers."""
        newest = self.version is None and key != "env"
        below = newest or (self.version is not None and self.version >= _BELOW_CELERY_SINCE[key])
        return _values(f"workers: {{celery: {{{key}: {value}}}}}" if below else f"workers: {{{key}: {value}}}")


SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""Annotation by which a pod tells node autoscalers whether they may evict it."""


def chart_of(workload: JSON) -> Chart:
    """
    Return what made *workload*, a StatefulSet or Deployment, by its labels.

    The community chart's objects are labelled ``app: airflow`` or the like and never ``tier``; the official chart's
    are ``tier: airflow``. Both name themselves in ``chart``, as ``airflow-1.22.0``.
    """
    labels = {**_labels(workload.get("spec", {}).get("template", {})), **_labels(workload)}
    official = labels.get("tier") == "airflow"
    named = _NAMED.fullmatch(str(labels.get("chart", "")))
    if named is None and not official:
        return Chart(maker=Maker.UNKNOWN)
    version = (int(named[1]), int(named[2])) if named is not None else None
    if official:
        return Chart(maker=Maker.OFFICIAL, version=version)
    if version is not None and version[0] >= _COMMUNITY_FROM and "app" in labels:
        return Chart(maker=Maker.COMMUNITY, version=version)
    return Chart(maker=Maker.UNKNOWN)


def _labels(document: JSON) -> JSON:
    found: JSON = document.get("metadata", {}).get("labels") or {}
    return found


def _values(snippet: str) -> str:
    return f"in values.yaml: {snippet}"
