"""What rotator's account may do is what the configuration names, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rotator.adapters.kubernetes.rolling_rights import rolling_rights
from rotator.adapters.kubernetes.workloads import Kind, WorkloadPlace
from rotator.bootstrap import rights
from rotator.bootstrap.rights import Lent, cluster_rights, mesh_rights, only_mesh, rights_objects
from rotator.cli import app
from rotator.cluster.rbac import Account, confinement
from rotator.cluster.rights import rule as rule_of
from rotator.errors import ConfigError
from rotator.settings import Settings, load
from tests.settings.test_tokens import written as with_tokens

EXAMPLES = Path(__file__).parents[2] / "config" / "examples"
ACCOUNT = Account(namespace="rotator")

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "environment": "test",
    "store": "sqlite:////var/lib/rotator/state.db",
    "socket": "/run/rotator/control.sock",
    "ledger": {"path": "/var/lib/rotator/ledger", "origin": "example/test", "signing_key_file": "/etc/rotator/key"},
    "cluster": {"namespace": "rotator"},
    "issuers": {
        "corporate": {
            "vault": {
                "address": "https://vault.example:8200",
                "auth": {"token": {"token_file": "/run/token"}},
                "mount": "pki_int",
                "issuer": "corp",
            }
        }
    },
    "trust_domains": {
        "airflow.prod": {
            "issuer": "corporate",
            "ca": {"mount": "pki_airflow", "role": "workload", "lifetime": "7d"},
            "longest_leaf": "12h",
            "trust_deadline": {"after": "2h"},
        },
        "mesh.prod": {
            "issuer": "corporate",
            "ca": {"lifetime": "30d"},
            "longest_leaf": "24h",
            "trust_deadline": {"after": "2h"},
            "mesh": {"name": "default", "control_plane": {"kubernetes": {"namespace": "kuma-system"}}},
        },
    },
    "certificates": {
        name: {
            "trust_domain": "airflow.prod",
            "identity": f"spiffe://airflow.prod/{name}",
            "lifetime": "12h",
            "publish": [{"kubernetes_secret": {"namespace": namespace, "name": f"{name}-tls"}}],
            "rolls": [name],
        }
        for name, namespace in (("worker", "airflow"), ("gateway", "edge"), ("extra", "airflow"))
    },
    "workloads": {
        "worker": {"statefulset": {"namespace": "airflow", "name": "airflow-worker"}},
        "gateway": {"deployment": {"namespace": "edge", "name": "gateway"}},
    },
}
SETTINGS = Settings.model_validate(DOCUMENT)


def _roles(objects: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if each["kind"] in {"Role", "ClusterRole"}:
            for rule in each["rules"]:
                yield each["metadata"].get("namespace", ""), rule


def test_no_role_reads_or_lists_a_secret_that_the_configuration_does_not_name() -> None:
    """Secrets are read and written by name, in the namespaces named, and listed nowhere."""
    found = {
        (namespace, verb, name)
        for namespace, rule in _roles(rights_objects(SETTINGS, ACCOUNT))
        if "secrets" in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }

    assert {(namespace, "create", "*") for namespace in ("airflow", "edge", "kuma-system")} >= {
        each for each in found if each[2] == "*"
    }
    assert {"worker-tls", "extra-tls", "worker-tls-previous", "extra-tls-previous"} == {
        name for where, _, name in found if where == "airflow"
    } - {"*"}
    assert {"gateway-tls", "gateway-tls-previous"} == {name for where, _, name in found if where == "edge"} - {"*"}
    assert {"gateway-tls-previous"} == {name for where, verb, name in found if (where, verb) == ("edge", "delete")}
    assert set() == {each for each in found if each[1] in {"list", "watch", "deletecollection"}}
    assert "" not in {namespace for namespace, *_ in found}


def test_no_rule_is_a_wildcard_and_none_gives_rights() -> None:
    """Neither stars, nor roles, policies, impersonation, exec or node access are asked for."""
    for _, rule in _roles(rights_objects(SETTINGS, ACCOUNT)):
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", ())}
        assert set() == words & {"*", "escalate", "bind", "impersonate", "approve", "sign", "pods/exec", "nodes"}
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
        if "admissionregistration.k8s.io" in rule["apiGroups"]:
            # Whether people's names are bound to them is looked at, and nothing else there.
            assert (["get"], ["rotator-people-rotator"]) == (rule["verbs"], rule["resourceNames"])


def test_every_create_of_secrets_is_confined_to_names() -> None:
    """Where a role may create Secrets, the policy names every one of them with its type."""
    objects = rights_objects(SETTINGS, ACCOUNT)
    policy = next(each for each in objects if each["kind"] == "ValidatingAdmissionPolicy")
    expressions = [each["expression"] for each in policy["spec"]["validations"]]
    secrets = [each for each in expressions if "'secrets'" in each]

    assert secrets[0].endswith("|| request.namespace in ['airflow', 'edge', 'kuma-system']")
    assert "(request.name in ['extra-tls', 'worker-tls'] && object.type == 'kubernetes.io/tls')" in secrets[1]
    assert "(request.name in ['gateway-tls'] && object.type == 'kubernetes.io/tls')" in secrets[2]
    assert "(request.name in ['gateway-tls-previous'] && object.type == 'rotator.io/previous')" in secrets[2]
    assert "'rotator-default-cert-0'" in secrets[3]
    assert "Fail" == policy["spec"]["failurePolicy"]


def test_only_with_surge_is_a_workload_changed_and_only_its_number() -> None:
    """One right to patch, by name, and a policy that keeps the template; without surge neither."""
    place = WorkloadPlace(kind=Kind.STATEFULSET, namespace="airflow", name="worker")
    plain, surging = rolling_rights(place), rolling_rights(place, surge=True)
    patches = [each for each in surging.namespaces["airflow"] if "patch" in each["verbs"]]
    assert [rule_of("statefulsets", "patch", group="apps", names=("worker",))] == patches
    assert not [each for each in plain.namespaces["airflow"] if "patch" in each["verbs"]]
    assert {"pods/eviction"} == {each.resource for each in plain.confined}
    (kept,) = (each for each in confinement(surging.confined, ACCOUNT, name="rotator") if "validations" in each["spec"])
    expressions = [each["expression"] for each in kept["spec"]["validations"] if "'statefulsets'" in each["expression"]]
    assert "object.?spec.?template == oldObject.?spec.?template" in expressions[-1]


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    """What is printed can be kept beside the configuration and compared, white space at its end left out."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    text = (EXAMPLES / "kuma-kubernetes-identity.yaml").read_text()
    first.write_text(text)
    second.write_text(text + "\n\n")
    runs = [CliRunner().invoke(app, ["--config", str(each), "config", "rbac"]) for each in (first, first, second)]

    assert [0, 0, 0] == [each.exit_code for each in runs]
    assert 1 == len({each.stdout for each in runs})


def test_json_and_yaml_say_the_same() -> None:
    """--output json is the same objects as one List."""
    command = ["--config", str(EXAMPLES / "kuma-kubernetes-identity.yaml"), "config", "rbac"]
    printed = CliRunner().invoke(app, command)
    as_json = CliRunner().invoke(app, [*command, "--output", "json"])

    assert json.loads(as_json.stdout)["items"] == list(yaml.safe_load_all(printed.stdout))


def test_a_mesh_in_another_cluster_is_left_out_and_said() -> None:
    """Rights for another cluster's API server are printed for that cluster alone."""
    document = json.loads(json.dumps(DOCUMENT))
    document["trust_domains"]["mesh.prod"]["mesh"]["control_plane"]["kubernetes"]["kubeconfig_file"] = "/etc/other"
    settings = Settings.model_validate(document)

    assert ("mesh.prod",) == rights.meshes_elsewhere(settings)
    assert {} == mesh_rights(settings).namespaces
    assert ["kuma-system"] == list(mesh_rights(rights.only_mesh(settings, "mesh.prod")).namespaces)
    assert {} == cluster_rights(rights.only_mesh(settings, "mesh.prod")).namespaces


def test_what_is_lent_for_an_adoption_is_read_and_no_more() -> None:
    """A Secret of a CA that is adopted may be read by its name."""
    lent = rights.lent_for(SETTINGS, secrets=["mesh.prod=old-ca"], objects=["mesh.prod=old-identity"])

    assert {"mesh.prod": Lent(secrets=("old-ca",), objects=("old-identity",))} == lent
    found = [
        rule["verbs"]
        for _, rule in _roles(rights_objects(SETTINGS, ACCOUNT, lent=lent))
        if "old-ca" in rule.get("resourceNames", ())
    ]
    assert [["get"]] == found


@pytest.mark.parametrize("given", ["airflow.prod=x", "mesh.prod", "=x", "mesh.prod="])
def test_what_is_lent_names_a_mesh(given: str) -> None:
    """A loan that could be meant for nothing is refused."""
    with pytest.raises(ConfigError, match="DOMAIN=NAME"):
        rights.lent_for(SETTINGS, secrets=[given], objects=[])


def test_the_namespace_is_the_configured_one() -> None:
    """A namespace on the command line that contradicts the configuration is refused."""
    assert "rotator" == rights.account_of(SETTINGS, namespace=None, name="rotator").namespace
    with pytest.raises(ConfigError, match=r"cluster\.namespace rotator, not other"):
        rights.account_of(SETTINGS, namespace="other", name="rotator")


def test_a_leaf_in_the_control_planes_namespace_is_left_to_its_own_policy() -> None:
    """The policy of a mesh does not refuse a leaf's Secret beside the mesh's slots: the other one names it."""
    document = json.loads(json.dumps(DOCUMENT))
    document["certificates"]["worker"]["publish"] = [
        {"kubernetes_secret": {"namespace": "kuma-system", "name": "kuma-tls-cert"}}
    ]
    objects = rights_objects(Settings.model_validate(document), ACCOUNT)
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"].endswith("AdmissionPolicy")}

    expression = policies["rotator-rotator-kuma-system"]["matchConditions"][1]["expression"]
    assert "['kuma-tls-cert', 'kuma-tls-cert-previous']" in expression
    validations = policies["rotator-rotator"]["validations"]
    assert any("['kuma-tls-cert'] && object.type == 'kubernetes.io/tls'" in each["expression"] for each in validations)


def test_a_platform_takes_its_own_kinds_and_no_other_name() -> None:
    """With a platform its kinds are written where the control plane is, under rotator's names alone; none without."""
    wanted = {**DOCUMENT, "platform": {"environments": {"production": {"trust_domain": "mesh.prod"}}}}
    before = {json.dumps(each) for each in _roles(rights_objects(SETTINGS, ACCOUNT))}
    objects = rights_objects(Settings.model_validate(wanted), ACCOUNT)
    added = [each for each in _roles(objects) if json.dumps(each) not in before]
    # Permissions of others are seen in every namespace; nothing is written outside the control plane's own.
    assert [("", ["meshtrafficpermissions"], ["list"])] == [
        (where, rule["resources"], rule["verbs"]) for where, rule in added if where != "kuma-system"
    ]
    written = {resource for where, rule in added if where == "kuma-system" for resource in rule["resources"]}
    assert {"meshtrafficpermissions", "meshhttproutes", "meshtcproutes", "meshservices"} <= written
    assert {"kuma.io"} == {group for _, rule in added for group in rule["apiGroups"]}
    expressions = [
        each["expression"]
        for one in objects
        if one["kind"] == "ValidatingAdmissionPolicy"
        for each in one["spec"]["validations"]
    ]
    for resource in written:
        assert any(resource in each and "request.name.matches('^(rotator-" in each for each in expressions), resource


def test_lists_and_keys_are_named_for_the_cluster_of_their_control_plane(tmp_path: Path) -> None:
    """For a mesh elsewhere too: its lists and the row of its keys, and no Secret that tokens are published to here."""
    plane = '{url: "https://kuma.example:5682", kubernetes: {kubeconfig_file: /etc/elsewhere, namespace: kuma}}'
    settings = load(
        with_tokens(
            tmp_path,
            ('{url: "https://kuma.example:5682"}', plane),
            ("{directory: /etc/kuma/web}", "{kubernetes_secret: {namespace: apps, name: web}}"),
            ("others_live: 30d}", "others_live: 30d, first_serial: 9}"),
            ("signing_keys:\n", "cluster: {namespace: rotator}\nsigning_keys:\n"),
        )
    )
    found = {
        (namespace, verb, name)
        for namespace, rule in _roles(rights_objects(only_mesh(settings, "mesh"), ACCOUNT))
        if "secrets" in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ())
    }
    assert {"kuma"} == {namespace for namespace, _, _ in found}
    lists = {"dataplane-token-revocations-airflow", "zone-token-revocations"}
    assert {(each, verb) for each in lists for verb in ("get", "update", "delete")} <= {(n, v) for _, v, n in found}
    keys = {name for _, _, name in found if "signing-key" in name}
    assert {f"dataplane-token-signing-key-airflow-{serial}" for serial in range(9, 9 + 64)} == keys
    assert set() == {verb for _, verb, name in found if name in keys} - {"get", "delete"}
    here = rights_objects(settings, ACCOUNT)
    assert "dataplane-token-revocations-airflow" not in json.dumps(here)
    assert "web" in {name for _, rule in _roles(here) for name in rule.get("resourceNames", ())}
