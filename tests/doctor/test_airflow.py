"""The preflight of Airflow's workers: each trouble of a pod template, and its mend as a snippet of values.yaml."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
import yaml

from rotator.adapters.kubernetes.worker_template import worker_template
from rotator.doctor.airflow import template_findings
from rotator.doctor.findings import Grade

LONGEST = timedelta(minutes=4)

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
    (finding,) = template_findings("workload w", found, LONGEST)
    assert (grade, True, True) == (finding.grade, says in finding.what, mend in finding.mend)
    if "in values.yaml: " in finding.mend and "..." not in finding.mend:
        assert isinstance(yaml.safe_load(finding.mend.partition("in values.yaml: ")[2]), dict)


def test_a_template_without_a_worker_is_none() -> None:
    """Two containers, none of which looks like one."""
    assert worker_template({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}) is None
