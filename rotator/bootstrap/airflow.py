"""
The Airflows that the settings name, as the adapters want them.

Rules that must stay true here:

- Nothing is called over the network, and no file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from rotator.adapters.airflow.api import AirflowAPI, Endpoint, Version
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.core.model import SubjectName
from rotator.core.order import Component, Part
from rotator.engine.run_batches import RunSource
from rotator.ports import Clock
from rotator.settings import Settings
from rotator.settings.airflow import AirflowInstallation
from rotator.settings.workloads import Workload


def airflow_api(one: AirflowInstallation, clock: Clock) -> AirflowAPI:
    """Return the REST API of *one*."""
    return AirflowAPI(
        Endpoint(
            url=one.url,
            ca_file=one.ca_file,
            client_certificate_file=one.client_certificate_file,
            client_key_file=one.client_key_file,
            username=one.username or "",
            password_file=one.password_file,
            token_file=one.token_file,
            version=None if one.api == "auto" else Version(one.api),
            timeout=one.timeout,
        ),
        clock=clock,
    )


def airflow_part(workload: Workload) -> Part | None:
    """Return which part of which Airflow *workload* is, None if it is none."""
    if workload.airflow is None:
        return None
    return Part(installation=workload.airflow.installation, component=Component(workload.airflow.component))


def run_sources(settings: Settings, clock: Clock) -> Iterator[tuple[timedelta, RunSource]]:
    """Yield each Airflow whose history is copied, and how often."""
    for name, one in settings.airflow.items():
        if one.copy_runs_every is None:
            continue
        workloads = frozenset(
            SubjectName(each)
            for each, workload in settings.workloads.items()
            if workload.airflow is not None and workload.airflow.installation == name
        )
        history = AirflowTasks(airflow_api(one, clock))
        yield one.copy_runs_every, RunSource(airflow=name, history=history, workloads=workloads)
