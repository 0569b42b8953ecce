"""The preflight of Airflow's workers: each trouble of a pod template, and its mend as a snippet of values.yaml."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import yaml

from rotator.adapters.kubernetes.airflow_chart import SAFE_TO_EVICT, Chart, Maker, chart_of
from rotator.adapters.kubernetes.worker_template import worker_template
from rotator.doctor.airflow import template_findings
from rotator.doctor.findings import Grade

LONGEST = timedelta(minutes=4)
OFFICIAL = Chart(maker=Maker.OFFICIAL, version=(1, 22))

GOOD: dict[str, Any] = {
    "metadata": {"labels": {"component": "worker"}},
    "spec": {
        "terminationGracePeriodSeconds": 600,
        "initContainers": [{"name": "kuma-sidecar", "restartPolicy": "Always"}],
        "containers": [
            {
                "name": "worker",
                "args": ["bash", "-c", "exec \\\nairflow celery worker"],
                "env": [
                    {"name": "DUMB_INIT_SETSID", "value": "0"},
                    {"name": "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS", "value": "20"},
                    {"name": "AIRFLOW__CELERY__BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "b", "key": "c"}}},
                    {"name": "A_PASSWORD", "value": "not-to-be-seen"},
                ],
                "livenessProbe": {"periodSeconds": 60, "failureThreshold": 5},
            },
            {"name": "worker-log-groomer", "args": ["bash", "/clean-logs"]},
        ],
    },
}


def changed(**words: Any) -> dict[str, Any]:
    template = copy.deepcopy(GOOD)
    worker = template["spec"]["containers"][0]
    for name, value in words.items():
        if name == "env":
            worker["env"] = [each for each in worker["env"] if each["name"] not in value]
            worker["env"] += [{"name": key, "value": text} for key, text in value.items() if text]
        elif name in worker:
            worker[name] = value
        elif name == "sidecar":
            template["spec"]["containers"].append({"name": value})
        elif name == "annotations":
            template["metadata"]["annotations"] = value
        else:
            template["spec"][name] = value
    return template


def test_the_official_charts_worker_is_fine() -> None:
    """With a native sidecar, its own defaults, and more heartbeats."""
    found = worker_template(GOOD)
    assert found is not None
    assert [Grade.FINE] == [each.grade for each in template_findings("workload w", found, LONGEST)]
    assert "not-to-be-seen" not in repr(found)


@pytest.mark.parametrize(
    ("template", "grade", "says", "mend"),
    [
        (changed(env={"DUMB_INIT_SETSID": ""}), Grade.BROKEN, "DUMB_INIT_SETSID", "DUMB_INIT_SETSID"),
        (changed(args=["bash", "-c", "airflow celery worker"]), Grade.BROKEN, "swallows TERM", "exec airflow"),
        (changed(annotations={SAFE_TO_EVICT: "true"}), Grade.WARNING, "may evict", "safeToEvict: false"),
        (changed(terminationGracePeriodSeconds=60), Grade.WARNING, "terminationGracePeriodSeconds is 60", "600"),
        (changed(sidecar="kuma-sidecar"), Grade.WARNING, "kuma-sidecar may end before", "SIDECAR_CONTAINERS"),
        (changed(annotations={"kuma.io/sidecar-injection": "enabled"}), Grade.WARNING, "Kuma injects", "native"),
        (changed(env={"AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": ""}), Grade.WARNING, "3 failed", "max_failed"),
        (changed(env={"AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False"}), Grade.BROKEN, "remote control",
         "worker_enable_remote_control: true"),
        (changed(env={"REMAP_SIGTERM": "SIGQUIT"}), Grade.BROKEN, "cold", "REMAP_SIGTERM"),
        (changed(livenessProbe={"periodSeconds": 10}), Grade.WARNING, "liveness probe", "livenessProbe"),
    ],
)  # fmt: skip
def test_each_trouble_has_its_mend(template: dict[str, Any], grade: Grade, says: str, mend: str) -> None:
    """One finding each, named, with what to write."""
    found = worker_template(template)
    assert found is not None
    (finding,) = template_findings("workload w", found, LONGEST, OFFICIAL)
    assert (grade, True, True) == (finding.grade, says in finding.what, mend in finding.mend)
    if "in values.yaml: " in finding.mend and "..." not in finding.mend:
        assert isinstance(yaml.safe_load(finding.mend.partition("in values.yaml: ")[2]), dict)


def labelled(*, template: dict[str, str] | None = None, **labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}, "spec": {"template": {"metadata": {"labels": template or {}}}}}


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (labelled(tier="airflow", component="worker", chart="airflow-1.22.0"), (Maker.OFFICIAL, (1, 22))),
        (labelled(tier="airflow", chart="airflow-1.9.0-dev"), (Maker.OFFICIAL, (1, 9))),
        (labelled(template={"tier": "airflow", "component": "worker"}), (Maker.OFFICIAL, None)),
        (labelled(app="airflow", component="worker", chart="airflow-8.9.0"), (Maker.COMMUNITY, (8, 9))),
        (labelled(app="airflow", chart="airflow-1.0.0"), (Maker.UNKNOWN, None)),
        (labelled(app="web", chart="web-8.1.0"), (Maker.UNKNOWN, None)),
        ({"metadata": {"labels": {"helm.sh/chart": "airflow-24.1.0"}}, "spec": {}}, (Maker.UNKNOWN, None)),
        ({}, (Maker.UNKNOWN, None)),
    ],
)
def test_the_chart_is_told_by_the_workloads_labels(
    workload: dict[str, Any], expected: tuple[Maker, tuple[int, int] | None]
) -> None:
    """Whose it is and which version; what names itself otherwise is not guessed."""
    found = chart_of(workload)
    assert expected == (found.maker, found.version)


@pytest.mark.parametrize(
    ("version", "below"),
    [
        ((1, 18), set()),
        ((1, 19), {"args", "livenessProbe"}),
        ((1, 20), {"args", "livenessProbe", "terminationGracePeriodSeconds"}),
        ((1, 21), {"args", "livenessProbe", "terminationGracePeriodSeconds", "safeToEvict"}),
        (None, {"args", "livenessProbe", "terminationGracePeriodSeconds", "safeToEvict"}),
        ((2, 0), {"args", "livenessProbe", "terminationGracePeriodSeconds", "safeToEvict", "env"}),
    ],
)
def test_the_official_charts_keys_are_those_of_its_version(version: tuple[int, int] | None, below: set[str]) -> None:
    """A key stands below celery from the version on that moved it there, and never before."""
    chart = replace(OFFICIAL, version=version)
    mends = (chart.command(), chart.patience(60), chart.grace(900), chart.unevictable(), chart.env("A", "b"))
    workers = [yaml.safe_load(each.removeprefix("in values.yaml: "))["workers"] for each in mends]
    moved = {key for each in workers for key in each.get("celery", {})}
    stayed = {key for each in workers for key in each} - {"celery"}
    assert (below, {"args", "livenessProbe", "terminationGracePeriodSeconds", "safeToEvict", "env"} - below) == (
        moved,
        stayed,
    )


def test_the_community_charts_keys_are_its_own() -> None:
    """As its values are named; what it offers no value for is told without one."""
    chart = Chart(maker=Maker.COMMUNITY, version=(8, 9))
    values = [
        yaml.safe_load(each.removeprefix("in values.yaml: "))
        for each in (
            chart.grace(900),
            chart.unevictable(),
            chart.env("A", "b"),
            chart.config("celery", "worker_enable_remote_control", "true"),
            chart.patience(60),
        )
    ]
    assert values == [
        {"workers": {"terminationPeriod": 900}},
        {"workers": {"safeToEvict": False}},
        {"airflow": {"extraEnv": [{"name": "A", "value": "b"}]}},
        {"airflow": {"config": {"AIRFLOW__CELERY__WORKER_ENABLE_REMOTE_CONTROL": "true"}}},
        {"workers": {"livenessProbe": {"failureThreshold": 60}}},
    ]
    assert "values.yaml" not in chart.command()


def test_what_no_known_chart_made_is_told_of_its_template() -> None:
    """No keys of a chart that may not be there."""
    found = worker_template(changed(env={"DUMB_INIT_SETSID": "", "REMAP_SIGTERM": "SIGQUIT"}, sidecar="log"))
    assert found is not None
    for each in template_findings("workload w", found, timedelta(days=1)):
        assert "values.yaml" not in each.mend
        assert each.mend


def test_a_template_without_a_worker_is_none() -> None:
    """Two containers, none of which looks like one."""
    assert worker_template({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}) is None
