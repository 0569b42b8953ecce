"""
The HTTP service as a cluster meets it: the real daemon, a real API server that knows readers, a real Prometheus.

Rules that must stay true here:

- The daemon is rotator's own ServiceAccount with exactly what ``rotator config rbac`` gives for its configuration.
- Its certificate is issued by a real OpenBao, published, shown and proven by a handshake, like any other.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from cryptography import x509

from deploy.grafana.dashboard import FILE, dashboard, text
from rotator.adapters.kubernetes.reviews import READER_ROLE
from rotator.bootstrap.rights import rights_objects
from rotator.cluster.rbac import Account
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from rotator.evidence.verify import verify
from rotator.settings import load
from rotator.telemetry import Metric
from tests.e2e.installation import Installation
from tests.fixtures_openbao import new_domain
from tests.stack.cluster import BIN, Cluster
from tests.web.callers import Answer, ask, shown_by

NAME = "rotator.example.test"
SERVICE = "rotator-http"
PATIENCE = timedelta(seconds=90)
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


RIGHTLY_EMPTY = frozenset(
    {"Overdue renewals", "Waiting for", "Drains and tasks", "Notices", "Failing", "How long rotations take"}
)
"""Nothing is overdue, waited for, drained, told of or failing here."""


def everywhere(expression: str) -> str:
    """Return *expression* with the dashboard's variables as their "All" has them."""
    return expression.replace("$job", ".*").replace("$namespace", ".*")


class Served:
    """One daemon with its HTTP service, in one namespace of a cluster."""

    def __init__(self, directory: Path, openbao: OpenBaoServer, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.port = free_port()
        domain = new_domain(openbao, directory, allowed_domains=("example.test",))
        self.installation = Installation(directory, domain, services=1)
        self.place = directory / SERVICE
        kubeconfig = directory / "rotator.kubeconfig"
        document = self.installation.document
        document["cluster"] = {"namespace": namespace, "kubeconfig_file": str(kubeconfig)}
        document["http"] = {"listen": f"{LOOPBACK}:{self.port}", "certificate": SERVICE}
        document["timing"]["proof"] = "5s"
        document["certificates"][SERVICE] = {
            "trust_domain": domain.trust_domain,
            "identity": f"spiffe://{domain.trust_domain}/rotator",
            "dns_names": [NAME],
            "lifetime": "30m",
            "publish": [{"directory": str(self.place)}],
            "probes": [{"tls": {"address": f"{LOOPBACK}:{self.port}", "server_name": NAME}}, {"read_back": {}}],
        }
        self.installation.write()
        cluster.namespace(namespace)
        account = Account(namespace=namespace)
        for each in rights_objects(load(self.installation.configuration), account):
            cluster.apply(each)
        token = cluster.service_account(namespace, account.name)
        cluster.kubeconfig_for(token, namespace, kubeconfig)

    @property
    def bundle(self) -> Path:
        """Return what verifies the service's certificate."""
        return self.place / "CURRENT" / "ca.crt"

    def trusting(self) -> ssl.SSLContext:
        """Return a client that verifies the service by its own bundle; Prometheus looks at the name, too."""
        context = ssl.create_default_context(cafile=str(self.bundle))
        context.check_hostname = False
        # The bundle ends at the trust domain's own CA, which the corporate PKI has signed.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def ask(self, path: str, token: str | None = None) -> Answer:
        """Ask over a verified connection, showing *token*."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return ask(self.port, path, headers=headers, tls=self.trusting())

    def token(self, name: str, *, audience: str | None = "rotator.io", may: bool = False) -> str:
        """Return a token of the account *name*, bound to the readers' Role if it *may*."""
        plain = self.cluster.service_account(self.namespace, name)
        if may:
            self.cluster.apply(
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": f"{name}-reads", "namespace": self.namespace},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": READER_ROLE},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
                }
            )
        if audience is None:
            return plain
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600, "audiences": [audience]},
        }
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{name}/token"
        made: str = self.cluster.call("POST", path, request)["status"]["token"]
        return made

    def serial(self) -> str:
        """Return the serial that the status says is in use."""
        status = self.installation.status()
        assert status is not None
        found: str = next(row["serial"] for row in status["subjects"] if row["name"] == SERVICE)
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBaoServer, cluster: Cluster) -> Iterator[Served]:
    """Give a daemon whose service shows the certificate that it has issued for it."""
    served = Served(tmp_path_factory.mktemp("served"), openbao, cluster, "rotator-http")
    try:
        served.installation.start()
        served.installation.wait_settled()
        checkpoint = Path(served.installation.document["ledger"]["path"]) / "checkpoint"
        wait_until(checkpoint.exists, within=PATIENCE, what="the log's first checkpoint")
        yield served
    finally:
        served.installation.daemon.stop()


def serial_of(certificate: x509.Certificate) -> str:
    """Return the serial as rotator writes it."""
    return f"{certificate.serial_number:x}"


def test_it_rotates_its_own_certificate_under_requests(served: Served) -> None:
    """Three rotations: each handshake after one sees the new serial, and no request fails meanwhile."""
    ended, answered, failed = threading.Event(), [0], list[str]()

    def keep_asking() -> None:
        while not ended.is_set():
            try:
                code = ask(served.port, "/healthz", tls=served.trusting()).code
            except OSError as error:
                failed.append(repr(error))
            else:
                answered[0] += 1
                if code != HTTPStatus.OK:
                    failed.append(str(code))

    asking = threading.Thread(target=keep_asking)
    seen = [serial_of(shown_by(served.port, served.trusting()))]
    asking.start()
    try:
        for number in range(3):
            done = served.installation.run("rotate-now", SERVICE, "--reason", f"round {number}", "--wait")
            assert done.returncode == 0, done.stdout + done.stderr
            seen.append(serial_of(shown_by(served.port, served.trusting())))
            assert served.serial() == seen[-1]
    finally:
        ended.set()
        asking.join()
    assert (4, []) == (len(set(seen)), failed)
    assert answered[0] > 0
    print(f"{answered[0]} requests over 3 rotations, 0 failed")  # noqa: T201 -- a figure that the log should show


def test_readers_are_whom_the_api_server_says(served: Served) -> None:
    """The right and the audience open status and log; one without the other does not, and neither does no token."""
    reader = served.token("reader", may=True)
    paths = ("/api/v1/status", "/log/checkpoint", "/")
    assert [200] * 3 == [served.ask(path, reader).code for path in paths]
    assert [403] * 3 == [served.ask(path, served.token("stranger")).code for path in paths]
    assert [401] * 3 == [served.ask(path, served.token("reader", audience=None)).code for path in paths]
    assert [401] * 3 == [served.ask(path, served.token("reader", audience="vault")).code for path in paths]
    assert [401] * 3 == [served.ask(path).code for path in paths]
    assert [401] * 3 == [served.ask(path, reader[:-4] + "AAAA").code for path in paths]
    assert [200] * 3 == [served.ask(path).code for path in ("/healthz", "/readyz", "/metrics")]


def test_status_is_what_the_command_prints(served: Served) -> None:
    """What HTTP gives is ``rotator --json status``, but for what moves between two questions."""
    got = json.loads(served.ask("/api/v1/status", served.token("reader", may=True)).body)
    printed = json.loads(served.installation.run("--json", "status").stdout)
    moving = {"ledger", "workloads", "alerts", "watched"}
    assert got.keys() == printed.keys()
    assert {key: got[key] for key in got.keys() - moving} == {key: printed[key] for key in printed.keys() - moving}


def test_the_log_that_is_served_verifies(served: Served, tmp_path: Path) -> None:
    """A copy made over HTTP is the log: whole and signed, as far as its checkpoint says."""
    token = served.token("auditor", may=True)
    checkpoint = served.ask("/log/checkpoint", token).body
    source = Path(served.installation.document["ledger"]["path"])
    (tmp_path / "checkpoint").write_bytes(checkpoint)
    for file in sorted((source / "tile").rglob("*")):
        if file.is_file():
            name = str(file.relative_to(source))
            answer = served.ask(f"/log/{name}", token)
            if answer.code == HTTPStatus.OK:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(answer.body)
    found = verify(tmp_path, served.installation.verifier_key.read_text().strip())
    assert int(checkpoint.splitlines()[1]) == found.size


def test_a_real_prometheus_takes_metrics_rules_and_every_query_of_the_dashboard(served: Served, tmp_path: Path) -> None:
    """It scrapes over verified TLS, evaluates every rule without an error and none fires, and answers every panel."""
    port = free_port()
    labels = {"job": "rotator", "namespace": "ops"}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy" / "prometheus" / "rotator.rules.yaml")],
        "scrape_configs": [
            {
                "job_name": "rotator",
                "scheme": "https",
                "tls_config": {"ca_file": str(served.bundle), "server_name": NAME},
                "static_configs": [{"targets": [f"{LOOPBACK}:{served.port}"], "labels": labels}],
            }
        ],
    }
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    prometheus = ServerProcess(
        "prometheus",
        [
            BIN / "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            "--log.level=warn",
        ],
        log=tmp_path / "prometheus.log",
    )

    def asked(path: str, **query: str) -> Any:
        answer = ask(port, f"{path}?{urlencode(query)}" if query else path)
        assert answer.code == HTTPStatus.OK, answer
        return json.loads(answer.body)["data"]

    def ready() -> bool:
        try:
            return ask(port, "/-/ready").code == HTTPStatus.OK
        except OSError:
            return False

    prometheus.start(ready=ready, within=PATIENCE)
    try:
        wait_until(
            lambda: bool(asked("/api/v1/query", query=f'{Metric.LEADER}{{job="rotator"}} == 1')["result"]),
            within=PATIENCE,
            what="a scrape of a leader",
        )
        wait_until(
            lambda: all(
                rule["health"] == "ok" for group in asked("/api/v1/rules")["groups"] for rule in group["rules"]
            ),
            within=PATIENCE,
            what="every rule to be evaluated",
        )
        firing = [
            each["labels"]["alertname"] for each in asked("/api/v1/alerts")["alerts"] if each["state"] == "firing"
        ]
        assert [] == firing

        def empty() -> set[str]:
            return {
                panel["title"]
                for panel in dashboard()["panels"]
                for target in panel["targets"]
                if not asked("/api/v1/query", query=everywhere(target["expr"]))["result"]
            }

        # Rates take a second scrape.
        wait_until(lambda: empty() <= RIGHTLY_EMPTY, within=PATIENCE, what=f"every panel to show something: {empty()}")
    finally:
        prometheus.stop()


def test_the_dashboard_is_what_its_code_writes_and_knows_the_catalogue() -> None:
    """``rotator.json`` is generated, and no panel asks for a metric that does not exist."""
    assert text() == FILE.read_text()
    named = set(re.findall(r"\brotator_[a-z_]+", FILE.read_text()))
    known = {metric.value for metric in Metric}
    known |= {f"{Metric.ROTATION_SECONDS}_bucket", f"{Metric.DRAIN_SECONDS}_bucket"}
    assert set() == named - known
