"""
Whether the parts of an Airflow could be rolled without killing a task.

Rules that must stay true here:

- Nothing is changed: Airflow is read with rotator's own user, brokers are asked who listens, templates are looked at.
- Each mend of a chart is a snippet of values.yaml that can be pasted, in the keys of the chart and version that the
  workload's labels tell; of what no known chart made, the pod template is spoken of.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

from rotator.adapters.airflow.remote_control import broker_from_file
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.adapters.kubernetes.airflow_chart import Chart, Maker, chart_of
from rotator.adapters.kubernetes.worker_template import WorkerTemplate, worker_template
from rotator.bootstrap.airflow import airflow_api
from rotator.bootstrap.fleet import workload_place, workload_target
from rotator.bootstrap.sessions import Sessions
from rotator.core.long_tasks import LOOKS_BACK, length
from rotator.core.window import written
from rotator.doctor.findings import Finding, attempted, broken, fine, warning
from rotator.ports import Clock
from rotator.settings import Settings
from rotator.settings.workloads import Workload

_BROKER = "mend the broker's address, its user or its certificate files"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_ENCRYPTED = frozenset({"rediss", "amqps"})
_SECOND = timedelta(seconds=1)
_HEARTBEATS = 20
"""So many failed heartbeats survive an API server that is away for more than a minute; the default, 3, about 35 s."""


def airflow_findings(settings: Settings, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what is found of every Airflow and of the workloads that are its parts."""
    longest: dict[str, timedelta] = {}
    for name in settings.airflow:
        about = f"airflow {name}"
        look = partial(_installation, settings, name, about, clock, longest)
        yield from attempted(about, look, otherwise="mend its url, user or password")
    for name, workload in settings.workloads.items():
        about = f"workload {name}"
        if workload.drain is not None and workload.drain.celery is not None:
            yield from attempted(about, partial(_broker, settings, name, about, sessions, clock), otherwise=_BROKER)
        if workload.airflow is None:
            continue
        yield from _times(settings, name, about, workload, longest.get(workload.airflow.installation))
        if workload.in_cluster is not None and workload.airflow.component == "worker":
            template = partial(_template, settings, name, about, sessions, longest)
            yield from attempted(about, template, otherwise="let rotator read the workload")


def _installation(
    settings: Settings, name: str, about: str, clock: Clock, longest: dict[str, timedelta]
) -> Iterator[Finding]:
    api = airflow_api(settings.airflow[name], clock)
    health = api.healthy(doing="asking for its health")
    yield fine(about, f"it answers with the interface {api.version.value}")
    for component in ("metadatabase", "scheduler", "triggerer", "dag_processor"):
        state = health.get(component)
        status = state.get("status") if isinstance(state, dict) else None
        if status == "unhealthy":
            yield warning(about, f"its {component} is unhealthy", "mend it: what ails it is no part of a roll")
    tasks, now = AirflowTasks(api), clock.now()
    running = tasks.running()
    yield fine(about, f"its running tasks can be read: {len(running)} now")
    ended = list(tasks.ended(now - LOOKS_BACK, now))
    longest[name] = max((length(each, now) for each in (*running, *ended)), default=timedelta())
    said = any(certificate.task_pods for certificate in settings.certificates.values())
    if not said and any("Kubernetes" in each.executor for each in (*running, *ended)):
        yield warning(
            about,
            "its Kubernetes executor runs tasks in pods of their own, and no certificate says that such pods mount it",
            "write task_pods: true at those that they mount, or CA rotations and revocations cut running tasks off",
        )
    if settings.airflow[name].copy_runs_every is not None and ended:
        last = ended[-1]
        found = tasks.runs([(last.dag, last.run)])
        yield (
            fine(about, "who set a run off can be read")
            if found
            else warning(about, "its runs cannot be read", "give rotator's user can read on DAG Runs")
        )
    api.close()


def _broker(settings: Settings, name: str, about: str, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what the broker's address tells of its protection, and whether pods can be drained through it."""
    workload = settings.workloads[name]
    celery = workload.drain.celery if workload.drain is not None else None
    if celery is None:
        return
    address = urlsplit(broker_from_file(celery.broker_file)())
    if address.hostname in _LOOPBACK:
        pass  # nobody but this machine reaches it
    elif not address.password and celery.tls.certificate_file is None:
        yield warning(
            about,
            "its broker takes anybody: whoever reaches it reads the tokens of tasks and can stop workers",
            "give the broker a password or client certificates, and let nobody but Airflow and rotator reach it",
        )
    elif address.scheme not in _ENCRYPTED:
        yield warning(
            about,
            "its broker is spoken to without TLS: password and the tokens of tasks travel readably",
            "use rediss:// or amqps://, or let the mesh encrypt that way",
        )
    if workload.in_cluster is None:
        return  # its members are looked at elsewhere
    place = workload_place(workload)
    owner = sessions.cluster(settings).get(place.path) if place is not None else None
    chart = chart_of(owner or {})
    target = workload_target(settings, name, clock, partial(sessions.cluster, settings))
    members = target.workloads.members()
    for each in target.drainer.inspect(members) if target.drainer is not None else ():
        if each.running and each.busy is None:
            yield warning(
                about,
                f"nobody can see what {each.name} does: {each.detail}",
                chart.config("celery", "worker_enable_remote_control", "true")
                + ", and mend its host name and queues: it could not be drained",
            )
        elif each.running:
            yield fine(about, f"{each.name} can be drained")


def _times(
    settings: Settings, name: str, about: str, workload: Workload, longest: timedelta | None
) -> Iterator[Finding]:
    """Yield whether the longest task of late fits into the drain's deadline and into what a certificate has left."""
    if longest is None or workload.drain is None:
        return
    shown = written(longest // _SECOND * _SECOND)
    if longest > workload.drain.deadline:
        yield warning(
            about,
            f"the longest task of the last day took {shown}, and the drain's deadline is "
            f"{written(workload.drain.deadline)}",
            f"lengthen drain.deadline, or expect {workload.drain.then.value} for such tasks",
        )
    for subject, certificate in settings.certificates.items():
        if name not in certificate.rolls:
            continue
        left = certificate.lifetime * (1 - certificate.renew_at)
        if longest > left:
            yield warning(
                about,
                f"the longest task of the last day took {shown}, and certificate {subject} has "
                f"{written(left // _SECOND * _SECOND)} left when its renewal opens: such a task outlives it",
                "lengthen the certificate's lifetime, renew it earlier, or split the task",
            )
    if longest <= workload.drain.deadline:
        yield fine(about, f"the longest task of the last day, {shown}, fits into the drain's deadline")


def _template(
    settings: Settings, name: str, about: str, sessions: Sessions, longest: dict[str, timedelta]
) -> Iterator[Finding]:
    workload = settings.workloads[name]
    place = workload_place(workload)
    if place is None or workload.airflow is None:
        return
    owner = sessions.cluster(settings).get(place.path)
    found = worker_template(owner["spec"]["template"]) if owner is not None else None
    if found is None:
        yield warning(about, f"{place} has no container that runs a worker", "mend component, or name the workload")
        return
    chart = chart_of(owner or {})
    if chart.maker is not Maker.UNKNOWN:
        yield fine(about, f"{place} was made by {chart}")
    yield from template_findings(about, found, longest.get(workload.airflow.installation, timedelta()), chart)


def template_findings(
    about: str, found: WorkerTemplate, longest: timedelta, chart: Chart | None = None
) -> Iterator[Finding]:
    """Yield what a worker's pod template means for its end, if tasks take as long as *longest*, in *chart*'s keys."""
    problems = _problems(about, found, longest, chart or Chart(maker=Maker.UNKNOWN))
    yield from problems
    if not problems:
        yield fine(about, "its pods end as they should: TERM reaches the worker alone, and there is time enough")


def _problems(about: str, found: WorkerTemplate, longest: timedelta, chart: Chart) -> list[Finding]:
    problems = []
    if found.settings.get("DUMB_INIT_SETSID") != "0":
        problems.append(
            broken(
                about,
                "DUMB_INIT_SETSID is not 0, so TERM goes to every task of a worker too, and kills it",
                chart.env("DUMB_INIT_SETSID", "0"),
            )
        )
    if found.is_wrapped:
        problems.append(
            broken(
                about,
                "a shell stands between the container's init and the worker, and swallows TERM: tasks are killed at "
                "the end of the grace period",
                chart.command(),
            )
        )
    if found.grace <= longest:
        seconds = max(600, int(longest.total_seconds() * 1.5))
        problems.append(
            warning(
                about,
                f"terminationGracePeriodSeconds is {int(found.grace.total_seconds())}, and the longest task of the "
                f"last day took {written(longest // _SECOND * _SECOND)}: whoever else stops a pod kills such a task",
                chart.grace(seconds),
            )
        )
    if found.may_be_evicted:
        problems.append(
            warning(
                about,
                "its pods say that node autoscalers may evict them: a node that is given up takes running tasks along "
                "at the end of the grace period",
                chart.unevictable(),
            )
        )
    if found.classic_sidecars or found.injected_mesh:
        names = ", ".join(found.classic_sidecars) or "the sidecar that Kuma injects"
        problems.append(
            warning(
                about,
                f"{names} may end before the worker has finished: its tasks then lose the Execution API and are killed "
                "after about 35 s",
                "have the control plane inject native sidecars, in its own values.yaml: "
                'kuma: {controlPlane: {envVars: {KUMA_EXPERIMENTAL_SIDECAR_CONTAINERS: "true"}}}',
            )
        )
    beats = found.settings.get("AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS", "3")
    if not beats.isdigit() or int(beats) < _HEARTBEATS:
        problems.append(
            warning(
                about,
                f"tasks kill themselves after {beats} failed heartbeats, about 35 s without an API server at 3",
                chart.config("workers", "max_failed_heartbeats", str(_HEARTBEATS)),
            )
        )
    if found.settings.get("AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL", "true").lower() in {"false", "0", "no"}:
        problems.append(
            broken(
                about,
                "remote control is off: workers cannot be drained",
                chart.config("celery", "worker_enable_remote_control", "true"),
            )
        )
    if found.settings.get("REMAP_SIGTERM"):
        problems.append(
            broken(
                about,
                "REMAP_SIGTERM turns the gentle stop into a cold one: tasks are neither finished nor repeated",
                f"take REMAP_SIGTERM out where the worker's container gets it ({chart.env('...', '...')})",
            )
        )
    if found.silence is not None and longest > found.silence:
        problems.append(
            warning(
                about,
                f"its liveness probe kills it after {written(found.silence)} without an answer, and a worker that ends "
                f"does not answer: a pod that is stopped without a drain, in place, has no longer than that",
                chart.patience(60),
            )
        )
    return problems
