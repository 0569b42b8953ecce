"""Who may call what: the sentences, what the documents decide, and what nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.platform.check import FindingKind, Grade, check, foreign
from rotator.platform.model import Component, MeshModel, Permission, Platform
from rotator.platform.reach import reach
from rotator.platform.rendering import rendered
from rotator.platform.resources import Resource
from rotator.platform.verdict import Caller, called, documents, verdict
from tests.platform.platforms import AT, environment, example, identity, service, without_permissions


def document(kind: str, name: str, spec: Mapping[str, Any]) -> Resource:
    """Return a document that somebody else wrote."""
    return Resource(kind=kind, mesh="default", name=name, spec=spec)


def by_rules(name: str, *matches: Mapping[str, Any], key: str = "allow", target: Mapping[str, Any] = {}) -> Resource:
    """Return somebody's MeshTrafficPermission with SPIFFE IDs."""
    return document("MeshTrafficPermission", name, {"targetRef": target, "rules": [{"default": {key: list(matches)}}]})


def by_tags(name: str, action: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> Resource:
    """Return somebody's MeshTrafficPermission of the older form."""
    return document(
        "MeshTrafficPermission",
        name,
        {"targetRef": target, "from": [{"targetRef": source, "default": {"action": action}}]},
    )


def test_sentences_say_who_may_call_what_and_why() -> None:
    """Each identity with each service, refusals with their reason."""
    said = {(each.caller.qualified, each.service.qualified): each.sentence for each in reach(example())}
    assert (
        "finance (queue finance, production) may call ledger (production): finance-uses-its-own, because its own books"
        == said["production/finance", "production/ledger"]
    )
    assert (
        "growth (queue growth, production) may not call ledger (production): nobody asked for it"
        == said["production/growth", "production/ledger"]
    )
    assert (
        "finance (queue finance, staging) may not call ledger (production): "
        "no permission reaches into another environment" == said["staging/finance", "production/ledger"]
    )
    platform = example()
    assert len(platform.identities) * len(platform.services) == len(said)


@st.composite
def platforms(draw: st.DrawFn) -> Platform:
    """Return any platform: some environments, identities and services, and who may call what."""
    model = draw(st.sampled_from(MeshModel))
    environments = [environment(name, model=model) for name in draw(st.sets(st.sampled_from("abc"), min_size=1))]
    machines = st.sampled_from([None, ("10.0.0.1",)])
    identities = tuple(
        identity(f"i{number}", draw(st.sampled_from(environments)), machines=draw(machines))
        for number in range(draw(st.integers(1, 5)))
    )
    services = tuple(
        service(f"s{number}", draw(st.sampled_from(environments)), machines=draw(machines))
        for number in range(draw(st.integers(1, 4)))
    )
    permissions = tuple(
        Permission(
            name=f"p{number}",
            reason="because",
            callers=tuple(each for each in identities if draw(st.booleans())),
            services=tuple(each for each in services if draw(st.booleans())),
        )
        for number in range(draw(st.integers(0, 3)))
    )
    return replace(
        example(), environments=tuple(environments), identities=identities, services=services, permissions=permissions
    )


@given(platforms())
def test_what_is_rendered_lets_exactly_the_configured_pairs_through(platform: Platform) -> None:
    """Evaluated as Kuma does, in both forms; nobody else, and nobody from another environment."""
    policies = documents(rendered(platform, AT))
    wanted = {
        (caller.qualified, each.qualified) for permission in platform.permissions for caller, each in permission.pairs()
    }
    assert wanted == {
        (caller.qualified, each.qualified)
        for caller in platform.identities
        for each in platform.services
        if verdict(policies, Caller.of(caller), called(each), each.environment.model).admitted
    }
    stranger = Caller(spiffe_id="spiffe://mesh.prod/ns/elsewhere/sa/default", tags={"kuma.io/service": "elsewhere"})
    assert not any(
        verdict(policies, stranger, called(each), each.environment.model).admitted for each in platform.services
    )
    assert not [each for each in check(platform) if each.grade is Grade.BROKEN]


def kinds(platform: Platform, *more: Resource) -> list[tuple[str, str, str]]:
    """Return what is found where *more* stands beside what is rendered."""
    return [
        (each.kind.value, each.about, each.what) for each in foreign(platform, AT, (*rendered(platform, AT), *more))
    ]


def test_the_example_is_checked() -> None:
    """What nobody may reach, who may call nothing, and that Airflow's API server is cut off; none of it is broken."""
    found = check(example())
    assert {Grade.WARNING} == {each.grade for each in found}
    said = {(each.kind, each.about) for each in found}
    assert (FindingKind.UNREACHABLE, "production/vault") in said
    assert (FindingKind.IDLE, "staging/scheduler") in said
    assert (FindingKind.AIRFLOW_CUT_OFF, "production/api-server") in said
    assert (FindingKind.WITHOUT_HOSTNAME, "production/clicks") in said
    assert (FindingKind.HOSTNAME_UNUSED, "staging/ledger") in {
        (each.kind, each.about) for each in check(without_permissions(example()))
    }


def test_a_worker_that_may_not_call_airflow_is_found() -> None:
    """Where the API server is a service, each part that asks it has to be allowed."""
    platform = example()
    production = platform.environments[0]
    server = identity("server", production, Component.API_SERVER)
    served = replace(service("server", production), place=server.place, spiffe_id=server.spiffe_id)
    workers = tuple(each for each in platform.identities if each.qualified == "production/finance")
    asking = Permission(name="airflow", reason="tasks", callers=workers, services=(served,))
    found = check(
        replace(
            platform,
            identities=(server, *platform.identities),
            services=(*platform.services, served),
            permissions=(*platform.permissions, asking),
        )
    )
    cut_off = {each.about for each in found if each.kind is FindingKind.AIRFLOW_CUT_OFF}
    assert "production/finance" not in cut_off
    assert {"production/reports", "production/growth"} <= cut_off


LEDGER = {"kind": "Dataplane", "labels": {"k8s.kuma.io/namespace": "ledger-production"}}
OTHERS = {"spiffeID": {"type": "Prefix", "value": "spiffe://mesh.prod/ns/airflow-staging"}}
UNKNOWN = {"spiffeID": {"type": "Exact", "value": "spiffe://mesh.prod/ns/x/sa/y"}}
OPENINGS = {
    "a prefix": (by_rules("wide", OTHERS), "wide lets finance (queue finance, staging) call ledger (production)"),
    "everybody": (
        by_rules("open", {}, target={"kind": "Mesh"}),
        "open lets everybody in the mesh call vault (production)",
    ),
    "somebody unknown": (
        by_rules("odd", UNKNOWN, target=LEDGER),
        "odd lets spiffe://mesh.prod/ns/x/sa/y call ledger (production)",
    ),
    "only watched": (
        by_rules("shadow", {}, key="allowWithShadowDeny"),
        "shadow lets everybody in the mesh call clicks (production)",
    ),
    "by a label of theirs": (
        by_rules("app", {}, target={"kind": "Dataplane", "labels": {"app": "ledger"}}),
        "app lets everybody in the mesh call ledger (staging)",
    ),
}


@pytest.mark.parametrize(("policy", "expected"), OPENINGS.values(), ids=OPENINGS)
def test_what_somebody_else_opens_is_found(policy: Resource, expected: str) -> None:
    """Whatever it is called and however it is written."""
    assert any(what.startswith(expected) for _, _, what in kinds(example(), policy)), kinds(example(), policy)
    assert not kinds(example())


def test_a_policy_for_other_dataplanes_opens_nothing() -> None:
    """Where the Dataplanes were seen, their labels decide."""
    policy = by_rules("app", {}, target={"kind": "Dataplane", "labels": {"app": "ledger"}})
    platform = example()
    everybody = [
        Resource(
            kind="Dataplane",
            mesh="default",
            name=each.qualified.replace("/", "-"),
            labels={**called(each).marks, "app": "another"},
            spec={},
        )
        for each in platform.services
    ]
    seen = (*rendered(platform, AT), policy)
    assert not foreign(platform, AT, seen, dataplanes=everybody)
    other = [replace(each, labels={**each.labels, "app": "ledger"}) for each in everybody]
    assert foreign(platform, AT, seen, dataplanes=other)


def test_what_somebody_else_refuses_is_found() -> None:
    """A refusal that outweighs what was asked for, and a permission that is gone."""
    ours = {"spiffeID": {"type": "Prefix", "value": "spiffe://mesh.prod/ns/airflow-production"}}
    deny = by_rules("no", ours, key="deny", target=LEDGER)
    assert (
        "refused",
        "production/finance",
        "finance (queue finance, production) should be able to call ledger (production), and no refuses it",
    ) in kinds(example(), deny)
    less = [each for each in rendered(example(), AT) if each.name != "rotator-production-clicks"]
    (found,) = foreign(example(), AT, less)
    assert "growth (queue growth, production) should be able to call clicks (production)" in found.what


def test_in_the_older_form_a_wider_policy_opens_nothing() -> None:
    """Rotator's refusal for the service's own Dataplanes outweighs it; a narrower policy of another is found."""
    platform = example(model=MeshModel.PROVIDED)
    everybody = by_tags("allow-all", "Allow", {"kind": "Mesh"}, {"kind": "Mesh"})
    assert not kinds(platform, everybody)
    narrow = by_tags("a-hole", "Allow", {"kind": "MeshSubset", "tags": {"team": "x"}}, LEDGER)
    ((kind, about, what),) = kinds(platform, narrow)
    assert ("unasked", "production/ledger") == (kind, about)
    assert "a-hole lets whoever has the tags team=x call ledger (production)" in what


def test_a_route_that_leads_elsewhere_is_found() -> None:
    """Into another environment, and nowhere."""
    platform, documents = example(), rendered(example(), AT)
    staging = next(each for each in documents if (each.kind, each.name) == ("MeshHTTPRoute", "rotator-staging-ledger"))
    production = next(
        each for each in documents if (each.kind, each.name) == ("MeshHTTPRoute", "rotator-production-ledger")
    )
    crossed = replace(staging, spec={**staging.spec, "to": production.spec["to"]})
    found = foreign(platform, AT, [crossed if each == staging else each for each in documents])
    assert [
        "rotator-staging-ledger leads ledger.finance.internal in staging to ledger (production)",
        "no route leads ledger.finance.internal in staging to ledger (staging)",
    ] == [each.what for each in found]
    assert {Grade.BROKEN} == {each.grade for each in found}
