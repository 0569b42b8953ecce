"""
Airflow's side of one trace: values for its chart that make every component and every task tell the collector.

Rules that must stay true here:

- No DAG is changed for it: what a task sends is instrumented in its process, and the trace goes along in its calls.
- What says who it is (pod, component, SPIFFE ID) comes from the pod itself, so that one text fits every component.
- Spans leave by HTTP: the exporter that Airflow would choose by itself speaks gRPC.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

from rotator.core.trace import SPIFFE_ID
from rotator.platform.model import Environment, MeshModel, Telemetry

LOCAL_SETTINGS: Final = """\
# Calls of tasks carry their trace: with an instrumentation in the image, and no change to any DAG.
import importlib

for _module, _name in (
    ("opentelemetry.instrumentation.requests", "RequestsInstrumentor"),
    ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor"),
    ("opentelemetry.instrumentation.urllib3", "URLLib3Instrumentor"),
):
    try:
        _instrumentor = getattr(importlib.import_module(_module), _name)()
    except ImportError:
        continue
    if not _instrumentor.is_instrumented_by_opentelemetry:
        _instrumentor.instrument()
"""
"""Airflow reads it in every process, those of tasks too."""
LOCAL_SETTINGS_FILE: Final = "airflow_local_settings.py"
"""What the chart calls it, in its ConfigMap and in Airflow's directory of settings."""

_COMPONENT: Final = "AIRFLOW_COMPONENT"
_EXCLUDED: Final = "traffic.kuma.io/exclude-outbound-ports"
_FIELDS: Final = {
    "POD_NAME": "metadata.name",
    "POD_UID": "metadata.uid",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_SERVICE_ACCOUNT": "spec.serviceAccountName",
    _COMPONENT: "metadata.labels['component']",
}


def airflow_variables(environment: Environment, telemetry: Telemetry) -> dict[str, str]:
    """Return the environment variables of every Airflow process; ``$(NAME)`` is what Kubernetes fills in."""
    about = {
        "deployment.environment.name": environment.name,
        "mesh.name": environment.mesh,
        "k8s.namespace.name": "$(POD_NAMESPACE)",
        "k8s.pod.name": "$(POD_NAME)",
        "k8s.pod.uid": "$(POD_UID)",
    }
    if environment.model is MeshModel.IDENTITY:
        about[SPIFFE_ID] = f"spiffe://{environment.trust_domain}/ns/$(POD_NAMESPACE)/sa/$(POD_SERVICE_ACCOUNT)"
    return {
        "OTEL_SERVICE_NAME": "airflow-$(AIRFLOW_COMPONENT)",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(f"{key}={value}" for key, value in about.items()),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{telemetry.address}:{telemetry.http_port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_PROPAGATORS": "tracecontext",
    }


def pod_variables(
    environment: Environment, telemetry: Telemetry, *, component: str | None = None
) -> list[dict[str, Any]]:
    """
    Return the same as a pod's ``env``, what is used before what uses it.

    *component* is what it is where no label of the pod says so: a pod of the Kubernetes executor has none.
    """
    known: list[dict[str, Any]] = [
        {"name": name, "value": component}
        if component is not None and name == _COMPONENT
        else {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in _FIELDS.items()
    ]
    return known + [{"name": name, "value": value} for name, value in airflow_variables(environment, telemetry).items()]


def past_the_mesh(telemetry: Telemetry) -> dict[str, str]:
    """Return the annotation by which a pod reaches the collector directly: a broken mesh must not silence it."""
    return {_EXCLUDED: str(telemetry.http_port)}


def airflow_values(environment: Environment, telemetry: Telemetry) -> dict[str, Any]:
    """Return values for Airflow's official chart, to be given after all others (``-f``)."""
    # Airflow before 3.2 reads where to send from its own keys; later ones prefer the variables.
    where = {"otel_on": "True", "otel_host": telemetry.address, "otel_port": str(telemetry.http_port)}
    return {
        "config": {"traces": where, "metrics": where},
        # A text by the chart's own rule; Kubernetes fills in $(NAME) from the variables before it.
        "extraEnv": str(yaml.safe_dump(pod_variables(environment, telemetry), sort_keys=False, width=1000)),
        "airflowLocalSettings": LOCAL_SETTINGS,
        "airflowPodAnnotations": past_the_mesh(telemetry),
    }
