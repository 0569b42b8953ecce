"""One trace and one log: what proxies, Airflow and the collector are told, and what they never tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from rotator.core.trace import SERIAL, SPIFFE_ID
from rotator.platform.files import Form, files
from rotator.platform.model import MeshModel, Platform, Telemetry
from rotator.platform.rendering import rendered
from rotator.platform.telemetry import ISSUER, call_attributes
from rotator.platform.telemetry_airflow import LOCAL_SETTINGS, airflow_values
from rotator.platform.telemetry_collector import collector_configuration
from rotator.platform.workloads import pod_template
from tests.fakes.kuma.policy_admission import policy_violations
from tests.platform.platforms import AT, environment, example

COLLECTOR = Telemetry(
    address="collector.observability.svc",
    grpc_port=4317,
    http_port=4318,
    by_reference=True,
    sampled_percent=12.5,
    refresh=timedelta(seconds=30),
    sends_to="https://telemetry.example/otlp",
    authorization_from="TELEMETRY_AUTHORIZATION",
)
OF_TELEMETRY = {"MeshAccessLog", "MeshMetric", "MeshOpenTelemetryBackend", "MeshTrace"}


def told(model: MeshModel = MeshModel.IDENTITY, *, by_reference: bool = True) -> Platform:
    """Return the example with a collector."""
    return replace(example(model=model), telemetry=replace(COLLECTOR, by_reference=by_reference))


@pytest.mark.parametrize(
    ("model", "by_reference", "majors"),
    [
        (MeshModel.IDENTITY, True, (2, 3)),
        (MeshModel.IDENTITY, False, (2,)),
        (MeshModel.PROVIDED, True, (2,)),
        (MeshModel.PROVIDED, False, (2,)),
    ],
)
def test_every_version_takes_what_is_rendered_for_it(
    model: MeshModel, majors: tuple[int, ...], *, by_reference: bool
) -> None:
    """The control plane's own validation finds nothing, in the form that each version has."""
    found = [each for each in rendered(told(model, by_reference=by_reference), AT) if each.kind in OF_TELEMETRY]
    assert OF_TELEMETRY - ({"MeshOpenTelemetryBackend"} if not by_reference else set()) == {each.kind for each in found}
    assert [] == [
        (each.kind, violation)
        for each in found
        for major in majors
        for violation in policy_violations(each.kind, each.name, dict(each.spec), major=major)
    ]


def test_the_backend_is_there_before_the_policies_that_name_it() -> None:
    """It comes first, and they name it by its name."""
    found = rendered(told(), AT)
    assert "MeshOpenTelemetryBackend" == found[0].kind
    (trace,) = (each for each in found if each.kind == "MeshTrace")
    reference = trace.spec["default"]["backends"][0]["openTelemetry"]["backendRef"]
    assert {"kind": "MeshOpenTelemetryBackend", "name": found[0].name} == reference


def test_a_line_of_a_call_says_who_called_and_why_it_was_refused() -> None:
    """Caller, certificate, its CA, trace and refusal stand in every line, and one name means one fact everywhere."""
    (line,) = (each for each in rendered(told(), AT) if each.name == "rotator-calls-in")
    backend = line.spec["rules"][0]["default"]["backends"][0]["openTelemetry"]
    said = {each["key"]: each["value"] for each in backend["attributes"]}
    assert said == dict(call_attributes("default", "inbound"))
    assert {
        SPIFFE_ID: "%DOWNSTREAM_PEER_URI_SAN%",
        SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
        ISSUER: "%DOWNSTREAM_PEER_ISSUER%",
        "trace_id": "%TRACE_ID%",
        "envoy.response_flags": "%RESPONSE_FLAGS%",
        "envoy.response_code_details": "%RESPONSE_CODE_DETAILS%",
    }.items() <= said.items()


def test_law_10_a_line_of_a_call_holds_nothing_of_the_request() -> None:
    """No path, no header but the method, no body: they may hold secrets and people."""
    text = yaml.safe_dump([dict(each.spec) for each in rendered(told(), AT) if each.kind in OF_TELEMETRY])
    assert "%REQ(:METHOD)%" in text
    assert [] == [each for each in ("%REQ(:PATH", "%PATH", "%REQUEST_BODY", "AUTHORITY") if each in text]
    assert text.count("%REQ(") == text.count("%REQ(:METHOD)%")


def test_nothing_is_rendered_without_a_collector() -> None:
    """A platform that names none gets no policy, no values and no configuration."""
    assert [] == [each.kind for each in rendered(example(), AT) if each.kind in OF_TELEMETRY]
    assert [] == [each for each in written(example()) if "telemetry" in each or "collector" in each]


def written(platform: Platform) -> dict[str, str]:
    """Return every rendered file."""
    return dict(files(platform, {AT: (Form.UNIVERSAL, "kuma-system")}))


def test_the_same_platform_gives_the_same_files() -> None:
    """Policies, values and configuration are written, twice with the same bytes."""
    once = written(told())
    assert {"collector.yaml", "production/airflow-telemetry.yaml", f"{AT}/telemetry.yaml"} <= set(once)
    assert once == written(told())


def test_a_pod_of_airflow_says_itself_who_it_is() -> None:
    """One text for every component: Kubernetes fills in the pod, and its account makes the SPIFFE ID."""
    variables = yaml.safe_load(airflow_values(environment("production"), COLLECTOR)["extraEnv"])
    names = [each["name"] for each in variables]
    about = next(each["value"] for each in variables if each["name"] == "OTEL_RESOURCE_ATTRIBUTES")
    assert "spiffe.id=spiffe://mesh.prod/ns/$(POD_NAMESPACE)/sa/$(POD_SERVICE_ACCOUNT)" in about.split(",")
    used = {each for each in names if f"$({each})" in about}
    assert all(names.index(each) < names.index("OTEL_RESOURCE_ATTRIBUTES") for each in used)
    assert {"POD_NAME", "POD_UID", "POD_NAMESPACE", "POD_SERVICE_ACCOUNT"} == used


def test_a_task_groups_pods_tell_too() -> None:
    """The pod of a task group says it is a task, mounts the local settings, and reaches the collector directly."""
    platform = told()
    reports = next(each for each in platform.identities if each.name == "reports")
    pod = pod_template(platform, reports)
    (base,) = pod["spec"]["containers"]
    env = {each["name"]: each.get("value") for each in base["env"]}
    assert ("task", "airflow-$(AIRFLOW_COMPONENT)") == (env["AIRFLOW_COMPONENT"], env["OTEL_SERVICE_NAME"])
    assert "airflow_local_settings.py" in {each.get("subPath") for each in base["volumeMounts"]}
    assert "4318" == pod["metadata"]["annotations"]["traffic.kuma.io/exclude-outbound-ports"]


def test_what_airflow_reads_in_every_process_is_python_that_needs_no_instrumentation() -> None:
    """Without an instrumentation in the image nothing happens: tasks run as before."""
    compile(LOCAL_SETTINGS, "airflow_local_settings.py", "exec")
    exec(LOCAL_SETTINGS, {})  # noqa: S102 -- what is rendered is run here as Airflow runs it


def test_the_collector_holds_no_secret() -> None:
    """The store's authorization is named, not written."""
    assert {"Authorization": "${env:TELEMETRY_AUTHORIZATION}"} == collector_configuration(COLLECTOR)["exporters"][
        "otlphttp/store"
    ]["headers"]
