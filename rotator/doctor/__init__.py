"""
The doctor: every connection and right that rotator will need, looked at before it is needed; and one refused call.

Rules that must stay true here:

- Nothing is changed: rights are asked about and places looked at, nothing is written, signed or rotated.
- Proxies that are out of step come first, before anything about Vault or Airflow: what does not follow its control
  plane now will not follow a rotation.
- Whatever one check finds, the others are made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rotator.bootstrap import Sessions
from rotator.doctor.airflow import airflow_findings
from rotator.doctor.call import CallReport, examine_call
from rotator.doctor.cluster import cluster_findings
from rotator.doctor.findings import Finding, Grade
from rotator.doctor.issuers import issuer_findings
from rotator.doctor.machine import machine_findings
from rotator.doctor.meshes import mesh_findings
from rotator.doctor.places import place_findings
from rotator.doctor.platform import platform_findings
from rotator.doctor.service import service_findings
from rotator.doctor.telemetry import telemetry_findings
from rotator.doctor.tokens import token_findings
from rotator.ports import Clock
from rotator.settings import Settings

__all__ = ["CallReport", "Finding", "Grade", "examine", "examine_call"]


def examine(settings: Settings, *, clock: Clock) -> Iterator[Finding]:
    """Yield what is found in the installation that *settings* describe, meshes first, as it is found."""
    with contextlib.closing(Sessions(clock, 1, {})) as sessions:
        yield from mesh_findings(settings, sessions, clock)
        yield from platform_findings(settings, clock)
        yield from cluster_findings(settings)
        yield from issuer_findings(settings, sessions, clock)
        yield from airflow_findings(settings, sessions, clock)
        yield from place_findings(settings, sessions, clock)
        yield from token_findings(settings, sessions, clock)
        yield from machine_findings(settings)
        yield from service_findings(settings)
        yield from telemetry_findings(settings, clock)
