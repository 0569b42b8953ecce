"""
The Airflows that the settings name, as the adapters want them.

Rules that must stay true here:

- Nothing is called over the network, and no file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from rotator.adapters.airflow.api import AirflowAPI, Endpoint, Version
from rotator.adapters.airflow.edge import EdgeDrainer
from rotator.adapters.airflow.local import LocalDrainer
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.core.model import SubjectName
from rotator.core.order import Component, Part
from rotator.core.tasks import Paused
from rotator.engine.run_batches import RunSource
from rotator.errors import ConfigError, Rejected
from rotator.ports import Clock, Drainer, PauseBook
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


class NothingPaused:
    """`rotator.ports.PauseBook` of whoever only looks: nothing was paused, and nothing may be."""

    def paused(self, workload: SubjectName) -> Paused | None:  # noqa: ARG002 -- the port's own signature
        """Return that nothing is."""
        return None

    def write(self, workload: SubjectName, paused: Paused) -> None:
        """Refuse: pausing needs the daemon's ledger."""
        raise Rejected(f"nothing of {workload} is {paused.stage.value} but by the daemon")


def drainer_by_api(settings: Settings, name: str, clock: Clock, pauses: PauseBook | None) -> Drainer:
    """Return the drain of the workload *name* that goes through Airflow's own API."""
    workload = settings.workloads[name]
    if workload.airflow is None or workload.drain is None:
        raise ConfigError(f"workloads.{name}: its drain needs airflow")
    api = airflow_api(settings.airflow[workload.airflow.installation], clock)
    if workload.drain.edge is not None:
        processes = workload.processes
        return EdgeDrainer(
            api, None if processes is None else {each.name: each.node or each.name for each in processes}
        )
    local = workload.drain.local
    executor = (local.executor if local is not None else None) or ""
    book = pauses or NothingPaused()
    return LocalDrainer(AirflowTasks(api), book, workload=SubjectName(name), executor=executor)
