"""What the control planes are told: permissions, routes, and the form of both."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rotator.core.model import TrustDomainName
from rotator.errors import ConfigError
from rotator.platform.model import MeshModel
from rotator.platform.rendering import rendered
from rotator.platform.resources import (
    MANAGED_BY,
    Resource,
    canonical_yaml,
    from_kubernetes,
    from_universal,
    in_order,
    kubernetes_object,
    named,
    universal,
)
from tests.platform.platforms import AT, environment, example, service


def one(kind: str, name: str, *, model: MeshModel = MeshModel.IDENTITY) -> Resource:
    """Return the rendered resource of *kind* and *name*."""
    (found,) = [each for each in rendered(example(model=model), AT) if (each.kind, each.name) == (kind, name)]
    return found


def test_a_permission_names_exactly_who_may_call() -> None:
    """By SPIFFE ID, for the Dataplanes of the service."""
    assert universal(one("MeshTrafficPermission", "rotator-production-ledger")) == {
        "type": "MeshTrafficPermission",
        "mesh": "default",
        "name": "rotator-production-ledger",
        "labels": {
            "app.kubernetes.io/managed-by": "rotator",
            "rotator.io/environment": "production",
            "rotator.io/service": "ledger",
        },
        "spec": {
            "targetRef": {
                "kind": "Dataplane",
                "labels": {"k8s.kuma.io/namespace": "ledger-production", "k8s.kuma.io/service-account": "ledger"},
            },
            "rules": [
                {
                    "default": {
                        "allow": [
                            {
                                "spiffeID": {
                                    "type": "Exact",
                                    "value": "spiffe://mesh.prod/ns/airflow-production/sa/airflow-finance",
                                }
                            },
                            {
                                "spiffeID": {
                                    "type": "Exact",
                                    "value": "spiffe://mesh.prod/ns/airflow-production/sa/airflow-reports",
                                }
                            },
                        ]
                    }
                }
            ],
        },
    }


def test_in_a_mesh_with_a_provided_ca_a_permission_begins_with_a_refusal() -> None:
    """Whoever is not named is refused, whatever a wider permission says."""
    spec = one("MeshTrafficPermission", "rotator-production-clicks", model=MeshModel.PROVIDED).spec
    assert [
        {"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}},
        {
            "targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": "growth_airflow-production_svc"}},
            "default": {"action": "Allow"},
        },
    ] == spec["from"]
    closed = one("MeshTrafficPermission", "rotator-production-vault", model=MeshModel.PROVIDED).spec
    assert [{"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}}] == closed["from"]


def test_a_route_leads_from_one_environment_to_that_environments_service() -> None:
    """By request where the protocol has requests, else by connection."""
    spec = one("MeshHTTPRoute", "rotator-staging-ledger").spec
    assert {"kind": "Dataplane", "labels": {"rotator.io/environment": "staging"}} == spec["targetRef"]
    (to,) = spec["to"]
    assert {"rotator.io/hostname": "ledger", "rotator.io/mesh": "default"} == to["targetRef"]["labels"]
    assert [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "default": {
                "backendRefs": [
                    {
                        "kind": "MeshService",
                        "labels": {
                            "k8s.kuma.io/namespace": "ledger-staging",
                            "kuma.io/display-name": "ledger",
                            "kuma.io/zone": "default",
                        },
                        "port": 8080,
                    }
                ]
            },
        }
    ] == to["rules"]
    (to,) = one("MeshTCPRoute", "rotator-production-rates").spec["to"]
    (rule,) = to["rules"]
    labels = {"rotator.io/environment": "production", "rotator.io/service": "rates"}
    assert {"default": {"backendRefs": [{"kind": "MeshService", "labels": labels, "port": 8080}]}} == rule
    assert {"selector": {"dataplaneLabels": {"matchLabels": labels}}} == {
        "selector": one("MeshService", "rotator-production-rates").spec["selector"]
    }


def test_a_hostname_belongs_to_no_proxy() -> None:
    """Only a route leads on from it; the name itself is the same in every environment."""
    front = one("MeshService", "rotator-hostname-default-ledger")
    assert {"dataplaneLabels": {"matchLabels": {"rotator.io/hostname": "ledger", "rotator.io/mesh": "default"}}} == (
        front.spec["selector"]
    )
    generator = universal(one("HostnameGenerator", "rotator-hostname-default-ledger"))
    assert "mesh" not in generator
    assert "ledger.finance.internal" == generator["spec"]["template"]
    assert front.labels.items() >= generator["spec"]["selector"]["meshService"]["matchLabels"].items()


@pytest.mark.parametrize("model", MeshModel)
def test_rendering_twice_gives_the_same_bytes(model: MeshModel) -> None:
    """In whatever order the resources come, and in both forms."""
    once, again = rendered(example(model=model), AT), rendered(example(model=model), AT)
    assert once == in_order(reversed(again))
    for form in (universal, lambda each: kubernetes_object(each, namespace="kuma-system")):
        assert canonical_yaml([form(each) for each in once]) == canonical_yaml([form(each) for each in again])


@pytest.mark.parametrize("model", MeshModel)
def test_both_forms_say_the_same(model: MeshModel) -> None:
    """What is read back from either is what was rendered; every document is known as rotator's."""
    for each in rendered(example(model=model), AT):
        assert each == from_universal(yaml.safe_load(canonical_yaml([universal(each)])))
        back = from_kubernetes(kubernetes_object(each, namespace="kuma-system", origin=None))
        assert each == replace(back, labels={key: back.labels[key] for key in back.labels if key != "kuma.io/mesh"})
        assert each.is_rotators
        assert "rotator" == each.labels[MANAGED_BY]


def test_a_document_of_a_zone_says_so() -> None:
    """Kuma refuses objects of its own namespace without it."""
    resource = one("MeshHTTPRoute", "rotator-staging-ledger")
    metadata = kubernetes_object(resource, namespace="kuma-system")["metadata"]
    assert ("kuma-system", "zone", "default") == (
        metadata["namespace"],
        metadata["labels"]["kuma.io/origin"],
        metadata["labels"]["kuma.io/mesh"],
    )
    assert "zone" == universal(resource, origin="zone")["labels"]["kuma.io/origin"]


def test_a_control_plane_is_told_of_its_own_trust_domain_alone() -> None:
    """Nothing of another mesh is rendered for it."""
    assert not rendered(example(), TrustDomainName("elsewhere"))


_PART = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", fullmatch=True)


@given(st.sets(st.tuples(_PART, _PART), min_size=2, max_size=20))
def test_different_parts_never_give_one_name(parts: set[tuple[str, str]]) -> None:
    """And each name is a label of DNS of at most 63 characters."""
    names = {named(*each) for each in parts}
    assert len(parts) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each) for each in names)


def test_two_documents_of_one_name_are_refused() -> None:
    """Instead of one silently taking the other's place."""
    platform = example()
    clashing = service("default-ledger", environment("hostname"), machines=())
    with pytest.raises(ConfigError, match="MeshService rotator-hostname-default-ledger"):
        rendered(replace(platform, services=(*platform.services, clashing)), AT)
