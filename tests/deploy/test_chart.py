"""What the chart renders, and what it refuses to render."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.deploy.charts import EXAMPLES, JSON, TOP, Refused, Rendering, of_kind

pytestmark = pytest.mark.stack

CASES = ("single", "replicas")


@pytest.fixture
def single(tmp_path: Path) -> Rendering:
    """Give the example with one replica and SQLite."""
    return _case("single", tmp_path)


@pytest.fixture
def replicas(tmp_path: Path) -> Rendering:
    """Give the example with two replicas and PostgreSQL."""
    return _case("replicas", tmp_path)


def _case(name: str, place: Path) -> Rendering:
    return Rendering(place=place, configuration=(EXAMPLES / f"cluster-{name}.yaml").read_text(), values=name)


def _changed(rendering: Rendering, *changes: tuple[str, str]) -> Rendering:
    text = rendering.configuration
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return replace(rendering, configuration=text)


def _pod(documents: list[JSON]) -> JSON:
    found: JSON = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_wrong(case: str, tmp_path: Path) -> None:
    """Helm lint --strict passes for each shipped set of values."""
    assert "0 chart(s) failed" in _case(case, tmp_path).linted()


def test_sqlite_is_one_replica_that_is_gone_before_the_next_starts(single: Rendering) -> None:
    """With SQLite: one replica, Recreate, a volume that outlives the release, no budget that blocks drains."""
    documents = single.documents()
    deployment = of_kind(documents, "Deployment")
    volume = of_kind(documents, "PersistentVolumeClaim")

    assert (1, {"type": "Recreate"}) == (deployment["spec"]["replicas"], deployment["spec"]["strategy"])
    assert "keep" == volume["metadata"]["annotations"]["helm.sh/resource-policy"]
    assert "PodDisruptionBudget" not in {each["kind"] for each in documents}


def test_more_replicas_than_can_agree_are_refused(single: Rendering, replicas: Rendering) -> None:
    """A second process on one SQLite file, or without a Lease, is refused before anything is applied."""
    with pytest.raises(Refused, match=r"replicas is 2, but the configuration's store is SQLite.*use PostgreSQL"):
        single.documents("--set", "replicas=2")
    alone = _changed(replicas, (", lease: {}", ""))
    with pytest.raises(Refused, match=r"replicas is 2, but the configuration has no cluster\.lease"):
        alone.documents("--set", "replicas=2")

    deployment = of_kind(alone.documents(), "Deployment")["spec"]
    assert (1, "Recreate") == (deployment["replicas"], deployment["strategy"]["type"])


def test_postgresql_is_two_replicas_apart(replicas: Rendering) -> None:
    """With PostgreSQL: two replicas, one always there, apart by node and zone, and no volume of their own."""
    documents = replicas.documents()
    deployment = of_kind(documents, "Deployment")
    budget = of_kind(documents, "PodDisruptionBudget")

    assert 2 == deployment["spec"]["replicas"]
    assert {"maxUnavailable": 0, "maxSurge": 1} == deployment["spec"]["strategy"]["rollingUpdate"]
    assert 1 == budget["spec"]["maxUnavailable"]
    (spread,) = _pod(documents)["topologySpreadConstraints"]
    (rather,) = _pod(documents)["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert ("kubernetes.io/hostname", "topology.kubernetes.io/zone") == (
        spread["topologyKey"],
        rather["podAffinityTerm"]["topologyKey"],
    )
    assert "PersistentVolumeClaim" not in {each["kind"] for each in documents}


@pytest.mark.parametrize("case", CASES)
def test_the_chart_holds_no_secret(case: str, tmp_path: Path) -> None:
    """Secrets are mounted by name; none is made, and none stands in the configuration."""
    documents = _case(case, tmp_path).documents()

    assert "Secret" not in {each["kind"] for each in documents}
    mounted = {each["secret"]["secretName"] for each in _pod(documents)["volumes"] if "secret" in each}
    assert "rotator-ledger" in mounted
    assert {0o440} == {each["secret"]["defaultMode"] for each in _pod(documents)["volumes"] if "secret" in each}


@pytest.mark.parametrize("case", CASES)
def test_the_rights_are_those_of_the_configuration(case: str, tmp_path: Path) -> None:
    """Every object of config rbac is rendered as it is, but for labels, and no other role or policy is."""
    rendering = _case(case, tmp_path)
    rights = list(yaml.safe_load_all(rendering.rights()))
    peoples = {f"rotator-{role}" for role in ("requester", "emergency", "approver", "reader")}
    rendered = [
        each
        for each in rendering.documents()
        if each["kind"] in {right["kind"] for right in rights}
        # Who may ask is said by the values, not by the configuration.
        and not (each["kind"] == "RoleBinding" and each["roleRef"]["name"] in peoples)
    ]

    def key(each: JSON) -> tuple[str, str, str]:
        return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]

    for each in rendered:
        each["metadata"].pop("labels")
    assert sorted(rights, key=key) == sorted(rendered, key=key)


def test_rights_from_another_configuration_are_refused(single: Rendering) -> None:
    """A configuration that changed without its rights is refused: they cannot drift apart."""
    changed = _changed(single, ("name: airflow-worker-tls", "name: another-tls"))

    with pytest.raises(Refused, match=r"made from another configuration.*rotator config rbac"):
        changed.documents(rights=single.rights())
    with pytest.raises(Refused, match=r"rbac\.manifest is empty"):
        single.documents(rights="")
    with pytest.raises(Refused, match="is for the account rotator/other"):
        single.documents(rights=replace(single, account="other").rights())


def test_rights_may_be_somebody_elses(single: Rendering) -> None:
    """With rbac.create=false nothing of them is rendered, and the account is the one named."""
    documents = single.documents("--set", "rbac.create=false,serviceAccount.name=theirs", rights="")

    assert set() == {"ServiceAccount", "Role", "ClusterRole"} & {each["kind"] for each in documents}
    assert "theirs" == _pod(documents)["serviceAccountName"]


@pytest.mark.parametrize("case", CASES)
def test_the_pod_has_no_more_than_restricted_pods_have(case: str, tmp_path: Path) -> None:
    """Not root, no capability, no escalation, a seccomp profile, a read-only root."""
    pod = _pod(_case(case, tmp_path).documents())
    (container,) = pod["containers"]

    assert (True, 10001, "RuntimeDefault") == (
        pod["securityContext"]["runAsNonRoot"],
        pod["securityContext"]["runAsUser"],
        pod["securityContext"]["seccompProfile"]["type"],
    )
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    assert {"requests", "limits"} == set(container["resources"])


@pytest.mark.parametrize(("within", "grace"), [("25s", 45), ("90s", 110), ("1m30s", 110), ("1500ms", 22), ("2h", 7220)])
def test_the_pod_gets_longer_to_stop_than_the_daemon_takes(single: Rendering, within: str, grace: int) -> None:
    """TerminationGracePeriodSeconds follows limits.stop_within, with time to spare."""
    changed = _changed(single, ("version: 1", f"version: 1\nlimits: {{stop_within: {within}}}"))

    assert grace == _pod(changed.documents())["terminationGracePeriodSeconds"]


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (('http: {listen: "0.0.0.0:8443", certificate: rotator}', ""), "http.listen is missing"),
        (("0.0.0.0:8443", "127.0.0.1:8443"), "which no probe can reach"),
        (("sqlite:////var/lib/rotator/", "sqlite:////data/"), "must lie below /var/lib/rotator"),
        (("path: /var/lib/rotator/ledger", "path: /data/ledger"), "ledger.path must lie below"),
        (("/run/rotator/control.sock", "/run/control.sock"), "socket must lie below"),
        (("cluster: {namespace: rotator}", "cluster: {namespace: other}"), "cluster.namespace is other"),
        (("rotator.io/ledger/", "rotator.io/forgotten/"), "neither secrets nor configMaps mounts forgotten"),
        (("directory: /var/lib/rotator/http", "directory: /etc/tls"), "which no pod shares with rotator"),
        (("version: 1", "version: [1"), "config is no YAML mapping"),
    ],
)
def test_what_would_not_work_is_refused(single: Rendering, change: tuple[str, str], refusal: str) -> None:
    """A configuration that cannot work in a pod is refused in one line, before anything is applied."""
    changed = _changed(single, change)

    with pytest.raises(Refused, match=re.escape(refusal)):
        changed.documents("--set", "rbac.create=false", rights="")


@pytest.mark.parametrize(
    "word", ["replica=2", "image.repo=x", "secrets[0].secret=A", "replicas=-1", "rbac.create=maybe"]
)
def test_values_that_nobody_knows_are_refused(single: Rendering, word: str) -> None:
    """The schema of the values knows every key."""
    with pytest.raises(Refused, match=r"(?i)values don't meet the specifications"):
        single.documents("--set", word)


def test_the_network_is_closed_but_for_what_the_configuration_names(replicas: Rendering) -> None:
    """DNS, the API server, and the ports of Vault, database and probes; inwards the HTTP service alone."""
    policy = of_kind(replicas.documents(), "NetworkPolicy")["spec"]
    ports = {each["port"] for rule in policy["egress"] for each in rule["ports"]}

    assert {53, 443, 6443, 8200, 5432, 8443} == ports
    assert [8443] == [each["port"] for rule in policy["ingress"] for each in rule["ports"]]
    assert ["Ingress", "Egress"] == policy["policyTypes"]


def test_only_what_cannot_change_under_the_daemon_starts_it_anew(single: Rendering) -> None:
    """A new certificate changes the ConfigMap alone; another database changes the pod."""

    def template(rendering: Rendering) -> JSON:
        found: JSON = of_kind(rendering.documents(), "Deployment")["spec"]["template"]
        return found

    before = template(single)
    assert before == template(_changed(single, ("longest_leaf: 12h", "longest_leaf: 13h")))
    assert before != template(_changed(single, ("state.db", "other.db")))


def test_the_pod_has_a_token_for_vault_alone(single: Rendering) -> None:
    """Where the configuration logs in with it, a token of another audience is projected beside the API server's."""
    pod = _pod(single.documents())
    (source,) = [
        each["projected"]["sources"][0]["serviceAccountToken"]
        for each in pod["volumes"]
        if each["name"] == "vault-token"
    ]

    assert ("vault", "token") == (source["audience"], source["path"])
    elsewhere = _changed(
        single, ("kubernetes: {role: rotator, token_file: /var/run/secrets/rotator.io/vault-token/token}",
                 "token: {token_file: /var/run/secrets/rotator.io/ledger/token}")
    )  # fmt: skip
    assert "vault-token" not in {each["name"] for each in _pod(elsewhere.documents())["volumes"]}


def test_probes_ask_the_http_service(single: Rendering) -> None:
    """Startup, liveness and readiness go to the port that the configuration listens at, over TLS."""
    (container,) = _pod(_changed(single, ("0.0.0.0:8443", "0.0.0.0:9443")).documents())["containers"]

    assert [{"name": "https", "containerPort": 9443, "protocol": "TCP"}] == container["ports"]
    assert {("/healthz", "HTTPS"), ("/readyz", "HTTPS")} == {
        (container[probe]["httpGet"]["path"], container[probe]["httpGet"]["scheme"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }


def test_people_get_the_roles_that_the_values_name(replicas: Rendering) -> None:
    """Each role is bound to those subjects and nobody else; without any, nobody may ask."""
    bound = {
        each["roleRef"]["name"]: [subject["name"] for subject in each["subjects"]]
        for each in replicas.documents()
        if each["kind"] == "RoleBinding" and each["roleRef"]["name"] != "rotator-rotator"
    }

    assert {
        "rotator-requester": ["airflow-operators"],
        "rotator-emergency": ["platform-on-call"],
        "rotator-approver": ["platform"],
        "rotator-reader": ["auditors"],
    } == bound


@pytest.mark.parametrize("case", CASES)
def test_the_plain_manifests_are_what_the_chart_renders(case: str, tmp_path: Path) -> None:
    """deploy/manifests holds the rendered chart; deploy/manifests/render makes it again."""
    shipped = (TOP / "deploy" / "manifests" / f"{case}.yaml").read_text()

    assert list(yaml.safe_load_all(shipped)) == _case(case, tmp_path).documents()


def test_what_the_chart_carries_is_what_its_rooms_ship(replicas: Rendering) -> None:
    """Definitions, alert rules and dashboards are links to what is shipped beside, and Helm follows them."""
    files = TOP / "deploy" / "helm" / "rotator" / "files"
    shipped = {
        "definitions.yaml": TOP / "deploy" / "people" / "definitions.yaml",
        "rotator.rules.yaml": TOP / "deploy" / "prometheus" / "rotator.rules.yaml",
        "rotator-dashboard.json": TOP / "deploy" / "grafana" / "rotator.json",
        "calls-dashboard.json": TOP / "deploy" / "grafana" / "calls.json",
    }
    documents = replicas.documents("--set", "prometheusRule.runbooks=https://wiki.example/runbooks")
    rules = of_kind(documents, "PrometheusRule")["spec"]["groups"]
    dashboard = next(each for each in documents if each["metadata"]["name"] == "rotator-dashboard")

    assert shipped == {each.name: each.resolve() for each in files.iterdir()}
    text = shipped["rotator.rules.yaml"].read_text()
    moved = text.replace("https://rotator.example/runbooks", "https://wiki.example/runbooks")
    assert yaml.safe_load(moved)["groups"] == rules
    assert {
        "rotator.json": shipped["rotator-dashboard.json"].read_text(),
        "rotator-calls.json": shipped["calls-dashboard.json"].read_text(),
    } == dashboard["data"]
    # Grafana takes the later of two dashboards with one identity for a new edition of the first.
    boards = [json.loads(text) for text in dashboard["data"].values()]
    assert len(boards) == len({each["uid"] for each in boards}) == len({each["title"] for each in boards})
    definitions = list(yaml.safe_load_all(shipped["definitions.yaml"].read_text()))
    rendered = [each for each in documents if each["kind"] == "CustomResourceDefinition"]
    assert [each["spec"] for each in definitions] == [each["spec"] for each in rendered]


def test_the_schema_of_the_values_describes_every_default() -> None:
    """values.yaml and values.schema.json name the same keys."""
    chart = TOP / "deploy" / "helm" / "rotator"
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())

    assert set(defaults) == set(schema["properties"]) - {"global"}
    for key, value in defaults.items():
        known = schema["properties"][key].get("properties")
        if isinstance(value, dict) and known is not None:
            assert set(value) == set(known), key
