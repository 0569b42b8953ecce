"""What operators apply in a cluster is what the code renders, and what tests run with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rotator.adapters.kuma.manifests import manifests
from rotator.adapters.kuma.rights import rbac_rules

SHIPPED = Path(__file__).parents[2] / "deploy" / "kuma" / "rbac.yaml"


def test_the_shipped_rights_are_those_that_tests_run_with() -> None:
    """deploy/kuma/rbac.yaml is what the code renders for the example configuration."""
    rendered = manifests(["default"], "kuma-system", service_account="rotator:rotator")

    assert list(rendered) == list(yaml.safe_load_all(SHIPPED.read_text(encoding="utf-8")))


@pytest.mark.parametrize("meshes", [["default"], ["default", "batch"]], ids=["one mesh", "two meshes"])
def test_no_role_holds_more_than_the_rules_of_its_meshes(meshes: list[str]) -> None:
    """Each rule of the roles is one of a mesh's, and each of a mesh's is there once."""
    _, _, role, *_ = manifests(meshes, "kuma-system", service_account="rotator:rotator")
    rules = [rule for mesh in meshes for rule in rbac_rules(mesh, "kuma-system").namespaced]

    assert all(rule in role["rules"] for rule in rules)
    assert all(rule in rules for rule in role["rules"])
    assert all(1 == role["rules"].count(rule) for rule in rules)


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
