"""
Spans, lines and metrics of a rotation, of a task's call and of its refusal arrive in a real collector, and join.

Rules that must stay true here:

- The way is the one that a person goes: it begins at the refused call's line and uses only what stands there.
- The collector, the Envoys, OpenBao and the daemon are real; the task's span is made by a real Airflow's own code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from deploy.grafana.calls import FILE, dashboard, text
from rotator.core.model import TrustDomainName
from rotator.core.trace import DAG, RUN, SERIAL, SPIFFE_ID, TASK
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from rotator.pki.certificates import parse_certificates, serial_of
from rotator.platform.model import Environment, MeshModel
from rotator.platform.telemetry import COUNTERS, DIRECTION, FLAGS, ISSUER, LATENCIES, STATUS
from rotator.platform.telemetry_airflow import LOCAL_SETTINGS, airflow_variables
from rotator.telemetry import Metric
from tests.e2e.installation import Installation
from tests.fixtures_openbao import new_domain
from tests.stack.collecting import CollectorProcess, ToldClient, ToldServer

pytestmark = [pytest.mark.stack, pytest.mark.external]

PATIENCE = timedelta(seconds=60)
AIRFLOW = Path(__file__).parent / "bin" / "airflow" / "bin" / "python"
HERE = Path(__file__).parent
BIN = HERE / "bin"
ALLOWED, SERVER, REFUSED = "service-0", "service-1", "service-2"

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A daemon, three services with its certificates, their proxies, and a collector that all of them tell."""

    collector: CollectorProcess
    installation: Installation
    server: ToldServer
    clients: dict[str, ToldClient]
    directory: Path

    def identity(self, name: str) -> str:
        """Return a service's SPIFFE ID."""
        return f"spiffe://{self.installation.domain}/{name}"

    def serial(self, name: str) -> str:
        """Return the serial of a service's certificate, as it is published now."""
        chain = (self.installation.directory / name / "CURRENT" / "tls.crt").read_bytes()
        return serial_of(parse_certificates(chain, source=name)[0])


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBaoServer) -> Iterator[Platform]:
    """Everything, settled."""
    directory = tmp_path_factory.mktemp("telemetry")
    with ExitStack() as started:
        collector = CollectorProcess(directory / "collector")
        collector.start()
        started.callback(collector.stop)
        installation = Installation(directory, new_domain(openbao, directory), services=3)
        installation.document["telemetry"] = {
            "otlp": {"endpoint": collector.endpoint, "export_every": "200ms", "metrics_every": "1s"}
        }
        installation.write()
        installation.start()
        started.callback(installation.daemon.stop)
        installation.wait_settled()
        domain, port = installation.domain, collector.telemetry.grpc_port
        identities = {name: f"spiffe://{domain}/{name}" for name in (ALLOWED, SERVER, REFUSED)}
        server = started.enter_context(
            ToldServer(
                directory / "server",
                certificates=installation.directory / SERVER,
                trusts=identities.values(),
                allows=[identities[ALLOWED]],
                collector=port,
            )
        )
        clients = {
            name: started.enter_context(
                ToldClient(
                    directory / name / "proxy",
                    certificates=installation.directory / name,
                    upstream_port=server.port,
                    expects=identities[SERVER],
                    name=f"proxy-{name}",
                    collector=port,
                )
            )
            for name in (ALLOWED, REFUSED)
        }
        yield Platform(
            collector=collector, installation=installation, server=server, clients=clients, directory=directory
        )


def seen(find: Callable[[], list[Json]], what: str) -> list[Json]:
    """Wait until *find* finds anything, and return it."""
    wait_until(lambda: bool(find()), within=PATIENCE, what=what, every=timedelta(seconds=0.3))
    return find()


def called(platform: Platform, name: str, task: str) -> Json:
    """Return what a task of a real Airflow got that called the server through the proxy of *name*."""
    settings = platform.directory / "airflow_local_settings.py"
    settings.write_text(LOCAL_SETTINGS)
    environment = Environment(
        name="production", trust_domain=TrustDomainName(platform.installation.domain), mesh="default",
        model=MeshModel.IDENTITY, zone="default", namespace="airflow",
    )  # fmt: skip
    filled = {"POD_NAMESPACE": "airflow", "POD_SERVICE_ACCOUNT": name, "POD_NAME": "worker-0", "POD_UID": "u-1"}
    filled["AIRFLOW_COMPONENT"] = "worker"
    variables = airflow_variables(environment, platform.collector.telemetry)
    for field, known in filled.items():
        variables = {key: value.replace(f"$({field})", known) for key, value in variables.items()}
    home = platform.directory / "airflow"
    done = subprocess.run(
        [AIRFLOW, HERE / "airflow" / "task_calls.py", settings, platform.clients[name].url, task],
        env={**os.environ, **variables, "AIRFLOW_HOME": str(home), "AIRFLOW__TRACES__OTEL_ON": "True"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: Json = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_rotation_arrives_as_a_trace_with_lines_and_metrics(platform: Platform) -> None:
    """The trace is found by the id that status shows; its steps are below its root, its lines name its spans."""
    collector = platform.collector
    rotation = platform.installation.rotate(ALLOWED)

    def of_rotation() -> list[Json]:
        return [each for each in collector.spans() if each["traceId"] == rotation]

    wait_until(
        lambda: "rotation" in {each["name"] for each in of_rotation()},
        within=PATIENCE, what="the root of the trace", every=timedelta(seconds=0.3),
    )  # fmt: skip
    spans = {each["name"]: each for each in of_rotation()}
    assert {"rotation", "issue_leaf", "sign", "publish", "prove"} <= set(spans)
    root = spans["rotation"]["spanId"]
    assert {root} == {spans[name]["parentSpanId"] for name in ("issue_leaf", "prove")}
    assert spans["issue_leaf"]["spanId"] == spans["sign"]["parentSpanId"]
    assert (platform.identity(ALLOWED), platform.serial(ALLOWED)) == (
        spans["issue_leaf"]["attributes"][SPIFFE_ID],
        spans["issue_leaf"]["attributes"][SERIAL],
    )
    assert "rotator" == spans["rotation"]["resource"]["service.name"]
    lines = seen(
        lambda: [each for each in collector.lines() if each.get("traceId") == rotation], "a line of the rotation"
    )
    assert {each["spanId"] for each in lines} <= {each["spanId"] for each in spans.values()}
    counted = seen(
        lambda: [each for each in collector.metrics() if each["name"] == "rotator_rotations_total"], "the metrics"
    )
    assert counted[-1]["sum"]["isMonotonic"]


def test_from_a_refused_call_to_the_task_the_certificate_and_the_last_rotation(platform: Platform) -> None:
    """A line of a refusal names the caller, its certificate and the trace; each leads on, down to the rotation."""
    collector = platform.collector
    answer = called(platform, REFUSED, "copy_books")
    assert 403 == answer["status"]
    # Nothing is known but that somebody was refused. Of the refusals that this module makes it is this task's.
    (line,) = seen(
        lambda: [
            each
            for each in collector.lines()
            if each["attributes"].get("mesh.refused")
            and each["attributes"][DIRECTION] == "inbound"
            and each.get("traceId") == answer["trace_id"]
        ],
        "the refusal's line",
    )
    said = line["attributes"]
    assert (403, "WARN") == (said[STATUS], line["severityText"])
    # The proxy and the identity.
    assert (platform.identity(REFUSED), platform.identity(SERVER)) == (said[SPIFFE_ID], said["spiffe.own_id"])
    # The task, by the trace.
    (task,) = seen(
        lambda: [
            each for each in collector.spans() if each["traceId"] == line["traceId"] and DAG in each["attributes"]
        ],
        "the task's span",
    )
    assert ("books", "manual__2030", "copy_books") == tuple(task["attributes"][key] for key in (DAG, RUN, TASK))
    assert ("airflow-worker", "u-1") == (task["resource"]["service.name"], task["resource"]["k8s.pod.uid"])
    # The certificate and what was last done to it, by its serial.
    assert platform.serial(REFUSED) == said[SERIAL]
    told = platform.installation.run("explain", "--json", "--serial", said[SERIAL], "--issuer", said[ISSUER])
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (REFUSED, "serial") == (found["subject"], found["met"]["by"])
    # And its rotation's own trace.
    steps = [each["name"] for each in collector.spans() if each["traceId"] == found["met"]["last_rotation"]]
    assert {"rotation", "issue_leaf"} <= set(steps)


def test_a_leaf_that_nobody_recorded_leads_to_its_cas_rotation(platform: Platform) -> None:
    """The name of the CA in the line is enough: leaves that a control plane signs have no record of their own."""
    urllib3.request("GET", platform.clients[ALLOWED].url, retries=False)
    (line, *_) = seen(
        lambda: [each for each in platform.collector.lines() if ISSUER in each["attributes"]], "a line of a call"
    )
    told = platform.installation.run("explain", "--json", "--serial", "0123", "--issuer", line["attributes"][ISSUER])
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (platform.installation.domain, "issuer") == (found["subject"], found["met"]["by"])


def test_a_call_that_is_let_in_is_one_trace_through_both_proxies(platform: Platform) -> None:
    """Task, the caller's proxy and the called one's stand in one trace; both lines name it."""
    collector = platform.collector
    answer = called(platform, ALLOWED, "read_books")
    assert 200 == answer["status"]

    def services() -> set[str]:
        spans = [each for each in collector.spans() if each["traceId"] == answer["trace_id"]]
        return {str(each["resource"]["service.name"]) for each in spans}

    wanted = {"airflow-worker", f"proxy-{ALLOWED}", "told-server"}
    wait_until(lambda: services() >= wanted, within=PATIENCE, what="all three", every=timedelta(seconds=0.3))
    directions = seen(
        lambda: [each for each in collector.lines() if each.get("traceId") == answer["trace_id"]], "the lines"
    )
    assert {"inbound", "outbound"} >= {each["attributes"][DIRECTION] for each in directions}
    assert all(FLAGS not in each["attributes"] for each in directions)


def test_what_the_dashboard_shows_envoy_really_has(platform: Platform) -> None:
    """Every name that MeshMetric asks for, and the dashboard draws, begins a name of a real Envoy's."""
    known = ""
    for proxy in (platform.server, *platform.clients.values()):
        known += urllib3.request("GET", f"{proxy.admin_url}/stats/prometheus", retries=False).data.decode()
    names = {line.split("{")[0].split(" ")[0] for line in known.splitlines() if not line.startswith("#")}
    assert [] == [each for each in (*LATENCIES, *COUNTERS) if not any(name.startswith(each) for name in names)]


def test_a_real_prometheus_answers_every_query_of_the_dashboard(platform: Platform, tmp_path: Path) -> None:
    """It scrapes real Envoys, and every panel but the rotations' shows something after a call and a refusal."""
    port = free_port()
    proxies = [platform.server, *platform.clients.values()]
    scraped = [each.admin_url.removeprefix("http://") for each in proxies]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {
                "job_name": "envoys",
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": scraped}],
            }
        ],
    }
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    listens = f"{LOOPBACK}:{port}"
    arguments = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={listens}"]
    with ServerProcess("prometheus", [BIN / "prometheus", *arguments], log=tmp_path / "prometheus.log") as prometheus:
        prometheus.start(ready=lambda: answers(f"http://{listens}/-/ready"), within=PATIENCE)

        def empty() -> set[str]:
            for client in platform.clients.values():
                urllib3.request("GET", client.url, retries=False)
            return {
                panel["title"]
                for panel in dashboard()["panels"]
                if panel["type"] == "timeseries"
                for target in panel["targets"]
                if not asked(listens, target["expr"])
            }

        wait_until(
            lambda: empty() <= {"Rotations ended"}, within=PATIENCE, what="every panel", every=timedelta(seconds=1)
        )


def test_the_dashboard_is_what_its_code_writes() -> None:
    """``calls.json`` is generated, draws what proxies are asked to send, and its data sources name lines' fields."""
    assert text() == FILE.read_text()
    panels = json.loads(FILE.read_text())["panels"]
    drawn = " ".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    of_envoy = set(re.findall(r"\benvoy_(?:cluster|http|listener)_[a-z_]+", drawn)) - {"envoy_cluster_name"}
    assert {each for each in of_envoy if each.startswith((*LATENCIES, *COUNTERS))} == of_envoy != set()
    assert set(re.findall(r"\brotator_[a-z_]+", drawn)) <= {metric.value for metric in Metric}
    sources = yaml.safe_load(FILE.with_name("datasources.yaml").read_text())["datasources"]
    assert {"prometheus", "loki", "tempo"} == {each["uid"] for each in sources}


def answers(url: str) -> bool:
    """Return whether *url* answers well."""
    try:
        return urllib3.request("GET", url, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def asked(listens: str, expression: str) -> list[Any]:
    """Return what Prometheus answers to *expression* with every variable of the dashboard at its default."""
    for variable, value in (("$destination", ".*"), ("$by", "instance"), ("$__rate_interval", "15s")):
        expression = expression.replace(variable, value)
    answer = urllib3.request("GET", f"http://{listens}/api/v1/query", fields={"query": expression}, retries=False)
    assert answer.status == 200, answer.data
    found: list[Any] = answer.json()["data"]["result"]
    return found
