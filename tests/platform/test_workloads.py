"""What Airflow is told: chart values of every age, pods of task groups, proxies on machines."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from rotator.errors import ConfigError
from rotator.platform.chart import NEWEST, chart_version, values
from rotator.platform.files import Form, files
from rotator.platform.machines import dataplanes, tokens
from rotator.platform.model import Component, MeshModel, Platform
from rotator.platform.resources import universal
from rotator.platform.workloads import namespace, pod_templates, service_accounts
from tests.platform.platforms import AT, example, identity, service

PRODUCTION, STAGING = example().environments
LABELS = {
    "kuma.io/mesh": "default",
    "kuma.io/sidecar-injection": "enabled",
    "rotator.io/data-domain": "finance",
    "rotator.io/environment": "production",
    "rotator.io/identity": "finance",
    "team": "finance",
}


def with_certificate(platform: Platform) -> Platform:
    """Return *platform* in which what has a certificate has it in a Secret."""
    return replace(
        platform,
        identities=tuple(
            replace(each, certificate_secret="reports-tls" if each.certificate is not None else None)
            for each in platform.identities
        ),
    )


def test_each_queue_has_workers_and_an_account_of_its_own() -> None:
    """With their labels, and the way to what they may call and to nothing else."""
    workers = values(example(), PRODUCTION, NEWEST)["workers"]["celery"]
    assert workers["enableDefault"] is False
    (finance,) = workers["sets"]
    assert ("finance", "finance", {"create": False, "name": "airflow-finance"}) == (
        finance["name"],
        finance["queue"],
        finance["serviceAccount"],
    )
    assert LABELS == finance["labels"]
    reachable = yaml.safe_load(finance["podAnnotations"]["kuma.io/reachable-backends"])
    ledger = {"k8s.kuma.io/namespace": "ledger-production", "kuma.io/display-name": "ledger", "kuma.io/zone": "default"}
    assert [
        ledger,
        {"rotator.io/hostname": "ledger", "rotator.io/mesh": "default"},
        {"rotator.io/environment": "production", "rotator.io/service": "rates"},
        {"rotator.io/hostname": "rates", "rotator.io/mesh": "default"},
    ] == [each["labels"] for each in reachable["refs"]]
    assert "airflow-finance" in {each["metadata"]["name"] for each in service_accounts(example(), PRODUCTION)}


def test_an_older_chart_has_the_older_keys() -> None:
    """The webserver instead of the API server, and one kind of worker below ``workers``."""
    old = values(example(), PRODUCTION, chart_version("1.15"))
    assert {"scheduler", "webserver", "workers"} == set(old)
    assert {"create": True, "name": "airflow-api-server"} == old["webserver"]["serviceAccount"]
    assert {"create": False, "name": "airflow-finance"} == old["workers"]["serviceAccount"]
    assert ["bash", "-c", "exec airflow celery worker --queues finance"] == old["workers"]["args"]
    assert {"scheduler", "apiServer", "webserver", "workers"} == set(values(example(), PRODUCTION, NEWEST))


def more(*others: Any) -> Platform:
    """Return the example with *others* among the identities."""
    platform = example()
    return replace(platform, identities=(*platform.identities, *others))


REFUSED = {
    "two queues in an old chart": (
        more(identity("growth-queue", PRODUCTION, queue="growth")),
        "1.15",
        "chart 1.15 runs one kind of worker: found finance, growth-queue in production; take chart 1.20 or newer",
    ),
    "two schedulers": (
        more(identity("second", PRODUCTION, Component.SCHEDULER)),
        "1.22",
        "the chart has one scheduler in an Airflow: found scheduler, second in production",
    ),
    "another namespace": (
        more(replace(identity("far", PRODUCTION), place=identity("far", STAGING).place)),
        "1.22",
        "found airflow-staging for far (worker, production), and airflow-production for production",
    ),
}


@pytest.mark.parametrize(("platform", "chart", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_a_chart_cannot_say_is_refused(platform: Platform, chart: str, expected: str) -> None:
    """Instead of rendering pods that the mesh takes for somebody else."""
    with pytest.raises(ConfigError, match=re.escape(expected)):
        values(platform, PRODUCTION, chart_version(chart))


@pytest.mark.parametrize("text", ["2.0", "newest", "1"])
def test_only_versions_of_the_official_chart_are_taken(text: str) -> None:
    """Others have other keys."""
    with pytest.raises(ConfigError, match="--chart: found"):
        chart_version(text)


def test_a_task_group_has_a_pod_of_its_own() -> None:
    """Its own account and labels; the certificate by the name of its Secret; the scheduler finds the template."""
    platform = with_certificate(example())
    templates = pod_templates(platform, PRODUCTION)
    assert templates is not None
    assert ("airflow-task-groups", ["reports.yaml"]) == (templates["metadata"]["name"], list(templates["data"]))
    pod = yaml.safe_load(templates["data"]["reports.yaml"])
    assert "airflow-reports" == pod["spec"]["serviceAccountName"]
    assert LABELS | {"rotator.io/identity": "reports"} == pod["metadata"]["labels"]
    assert {"name": "rotator-certificate", "secret": {"secretName": "reports-tls"}} in pod["spec"]["volumes"]
    (base,) = pod["spec"]["containers"]
    assert [{"name": "AIRFLOW__CORE__EXECUTOR", "value": "LocalExecutor"}] == base["env"]
    scheduler = values(platform, PRODUCTION, NEWEST)["scheduler"]
    assert {"name": "rotator-task-groups", "configMap": {"name": "airflow-task-groups"}} in scheduler["extraVolumes"]


def test_tasks_of_airflow_2_are_given_the_database_by_the_name_of_its_secret() -> None:
    """No connection stands in the template."""
    templates = pod_templates(example(), PRODUCTION, asks_the_database=True)
    assert templates is not None
    (base,) = yaml.safe_load(templates["data"]["reports.yaml"])["spec"]["containers"]
    assert {
        "name": "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "valueFrom": {"secretKeyRef": {"name": "airflow-metadata", "key": "connection"}},
    } in base["env"]


def test_pods_without_a_group_take_the_charts_own_template() -> None:
    """Which the chart takes as text."""
    platform = more(identity("tasks", PRODUCTION, Component.TASK))
    pod = yaml.safe_load(values(platform, PRODUCTION, NEWEST)["podTemplate"])
    assert "airflow-tasks" == pod["spec"]["serviceAccountName"]


def test_a_namespace_draws_nobody_in_unasked() -> None:
    """Pods ask for their sidecar themselves; without native sidecars they wait for it."""
    assert "disabled" == namespace(PRODUCTION)["metadata"]["labels"]["kuma.io/sidecar-injection"]
    waiting = values(example(native_sidecars=False), PRODUCTION, NEWEST)["scheduler"]["podAnnotations"]
    assert {"kuma.io/wait-for-dataplane-ready": "true"} == waiting
    assert "podAnnotations" not in values(example(), PRODUCTION, NEWEST)["scheduler"]


def test_a_machine_is_described_once_for_each_address() -> None:
    """A caller finds what it may call on this machine, by the same port in every environment."""
    first, second, rates = dataplanes(example(), PRODUCTION)
    assert ["10.0.0.7", "10.0.0.8", "10.0.1.1"] == [
        each.spec["networking"]["address"] for each in (first, second, rates)
    ]
    assert {"address": "10.0.0.7", "labels": "growth-production"} == {
        "address": universal(first)["networking"]["address"],
        "labels": first.labels["kuma.io/workload"],
    }
    outbound = first.spec["networking"]["outbound"]
    assert [("127.0.0.1", 20002, "rates"), ("127.0.0.1", 20003, "clicks")] == [
        (
            each["address"],
            each["port"],
            each["backendRef"]["labels"].get("rotator.io/hostname")
            or each["backendRef"]["labels"]["kuma.io/display-name"],
        )
        for each in outbound
    ]
    (inbound,) = rates.spec["networking"]["inbound"]
    assert ("main", 8080, "tcp") == (inbound["name"], inbound["port"], inbound["protocol"])
    assert "outbound" not in rates.spec["networking"]


def test_who_calls_and_is_called_is_one_proxy() -> None:
    """One Dataplane, with both its sides."""
    platform = example()
    caller = identity("api", PRODUCTION, machines=("10.0.2.1",))
    called = replace(service("api", PRODUCTION, machines=("10.0.2.1",)), place=caller.place)
    both = replace(platform, identities=(caller,), services=(called,), permissions=())
    (one,) = dataplanes(both, PRODUCTION)
    assert ("api", "api", "main") == (
        one.labels["rotator.io/identity"],
        one.labels["rotator.io/service"],
        one.spec["networking"]["inbound"][0]["name"],
    )


@pytest.mark.parametrize("model", MeshModel)
def test_a_proxy_needs_a_token_that_is_for_it_alone(model: MeshModel) -> None:
    """By workload, or by tags in a mesh with a provided CA."""
    platform = example(model=model)
    environment = platform.environments[0]
    found = tokens(platform, environment)
    first = dataplanes(platform, environment)[0]
    expected: dict[str, object] = {"workload": "growth-production"}
    if model is MeshModel.PROVIDED:
        expected = {"tags": {"kuma.io/service": ["growth_airflow-production_svc"]}}
    assert {"name": first.name, **expected} == found[first.name]["dataplane"]


def test_no_credential_stands_in_any_file() -> None:
    """Whatever the form and chart: no value of a Secret, only names."""
    for chart in ("1.15", "1.22"):
        for form in Form:
            platform = with_certificate(example())
            written = files(platform, {AT: (form, "kuma-system")}, chart=chart_version(chart))
            assert written == files(platform, {AT: (form, "kuma-system")}, chart=chart_version(chart))
            assert {
                "production/airflow-values.yaml",
                "production/kubernetes.yaml",
                "production/tokens.yaml",
                "mesh.prod/routes.yaml",
            } <= set(written)
            for text in written.values():
                documents = json.dumps(list(yaml.safe_load_all(text)))
                assert not re.search(r'"kind": "Secret"|stringData|password|PRIVATE KEY', documents)
