"""What operators apply in a cluster is what the code renders, and what tests run with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from rotator.adapters.kuma.manifests import manifests
from rotator.adapters.kuma.rights import rbac_rules
from rotator.cluster.rights import Rule

SHIPPED = Path(__file__).parents[2] / "deploy" / "kuma" / "rbac.yaml"


def test_the_shipped_rights_are_those_that_tests_run_with() -> None:
    """deploy/kuma/rbac.yaml is what the code renders for the example configuration."""
    rendered = manifests(["default"], "kuma-system", service_account="rotator:rotator")

    assert list(rendered) == list(yaml.safe_load_all(SHIPPED.read_text(encoding="utf-8")))


@pytest.mark.parametrize("meshes", [["default"], ["default", "batch"]], ids=["one mesh", "two meshes"])
def test_no_role_holds_more_than_the_rules_of_its_meshes(meshes: list[str]) -> None:
    """Each rule of the roles is one of a mesh's, and each of a mesh's is there once."""
    _, _, role, *_ = manifests(meshes, "kuma-system", service_account="rotator:rotator")
    wanted = [each for mesh in meshes for each in _single(rbac_rules(mesh, "kuma-system").namespaces["kuma-system"])]

    assert sorted(set(wanted)) == sorted(_single(role["rules"]))


def _single(rules: Iterable[Rule]) -> list[tuple[str, str, str]]:
    """Return resource, verb and name of each thing that *rules* allow."""
    return [
        (resource, verb, name)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    ]


def test_what_is_adopted_may_be_changed_and_removed_by_its_name_alone() -> None:
    """Somebody's MeshIdentity steps aside and goes with its MeshTrust: those two, and nothing else of theirs."""
    _, _, role, _, policy, _ = manifests(
        ["default"], "kuma-system", service_account="rotator:rotator", adopt=["identity"]
    )
    named = {
        name
        for rule in role["rules"]
        if rule["resources"] == ["meshtrusts"] and "delete" in rule["verbs"]
        for name in rule["resourceNames"]
    }

    assert {"rotator-default", "identity"} == named
    assert policy["spec"]["validations"][-1]["expression"].endswith(" || request.name in ['identity'])")
