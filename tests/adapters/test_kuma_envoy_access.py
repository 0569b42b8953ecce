"""What Envoy's access control says of a caller, in both forms that Kuma writes."""

from __future__ import annotations

from typing import Any

import pytest

from rotator.adapters.kuma.envoy_access import decision, rbac_filters
from rotator.platform.call import Decision

FINANCE = "spiffe://mesh.prod/ns/airflow/sa/airflow-finance"
GROWTH = "spiffe://mesh.prod/ns/airflow/sa/airflow-growth"
RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
URI = {"typedConfig": {"@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"}}
REFUSED = Decision(admitted=False)


def by_uri(**value_match: str) -> dict[str, Any]:
    """Return a predicate over a caller's URI, as an older control plane passes it on."""
    return {"singlePredicate": {"input": URI, "valueMatch": value_match}}


def action(said: str, name: str) -> dict[str, Any]:
    """Return what a matcher does when it hits."""
    allowed = {} if said == "ALLOW" else {"action": said}
    return {
        "action": {"name": "rbac", "typedConfig": {"@type": "envoy.config.rbac.v3.Action", "name": name, **allowed}}
    }


def matcher(*rules: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """Return a filter of *rules*, and a refusal where none hits."""
    listed = [{"predicate": predicate, "onMatch": then} for predicate, then in rules]
    tree = {"matcherList": {"matchers": listed}} if listed else {}
    return {"@type": RBAC, "matcher": {**tree, "onNoMatch": action("DENY", "default")}}


def rules(said: str, *principals: dict[str, Any]) -> dict[str, Any]:
    """Return a filter of the older form."""
    policies = {"mtp": {"permissions": [{"any": True}], "principals": list(principals)}} if principals else {}
    return {"@type": RBAC, "rules": {"action": said, "policies": policies}}


def principal(**match: str) -> dict[str, Any]:
    """Return whom a rule of the older form means."""
    return {"authenticated": {"principal_name": match}}


SNI = {"single_predicate": {"input": {"typed_config": {"@type": "x.ServerNameInput"}}, "value_match": {"exact": "a"}}}
BY_NAMESPACE = {"orMatcher": {"predicate": [by_uri(prefix="spiffe://mesh.prod/ns/airflow/"), by_uri(exact="x")]}}

CASES: list[tuple[str, list[dict[str, Any]], Decision | None]] = [
    ("nobody", [matcher()], REFUSED),
    ("named", [matcher((by_uri(exact=FINANCE), action("ALLOW", "kri_mtp")))], Decision(admitted=True, by=("kri_mtp",))),
    ("another", [matcher((by_uri(exact=GROWTH), action("ALLOW", "kri_mtp")))], REFUSED),
    ("prefix", [matcher((BY_NAMESPACE, action("ALLOW", "p")))], Decision(admitted=True, by=("p",))),
    (
        "denial first",
        [matcher((by_uri(exact=FINANCE), action("DENY", "d")), (BY_NAMESPACE, action("ALLOW", "p")))],
        Decision(admitted=False, by=("d",), denied=True),
    ),
    ("not understood", [matcher((SNI, action("ALLOW", "p")))], None),
    ("no rules at all", [{"@type": RBAC, "rules": {}}], REFUSED),
    ("rules", [rules("ALLOW", principal(exact=FINANCE))], Decision(admitted=True, by=("mtp",))),
    ("rules of another", [rules("ALLOW", principal(exact=GROWTH))], REFUSED),
    (
        "rules of two filters",
        [rules("DENY", principal(prefix="spiffe://mesh.prod/")), rules("ALLOW", {"any": True})],
        Decision(admitted=False, by=("mtp",), denied=True),
    ),
    (
        "rules with an exception",
        [rules("ALLOW", {"and_ids": {"ids": [{"any": True}, {"not_id": principal(exact=FINANCE)}]}})],
        REFUSED,
    ),
    ("rules not understood", [rules("ALLOW", {"metadata": {}})], None),
    ("none", [], None),
]


@pytest.mark.parametrize(("filters", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_caller_is_let_in_as_envoy_would(filters: list[dict[str, Any]], expected: Decision | None) -> None:
    """By its certificate's URI, denials first, and never where the rules are not understood."""
    assert expected == decision(filters, [FINANCE])


def test_filters_for_requests_and_for_connections_are_both_found() -> None:
    """Kuma writes the one for HTTP and the other for everything else."""
    network = {"@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "rules": {}}
    http = {"@type": RBAC, "rules": {}}
    chain = {
        "filters": [
            {"typed_config": network},
            {"typedConfig": {"@type": "x.HttpConnectionManager", "httpFilters": [{"typedConfig": http}]}},
        ]
    }

    assert [network, http] == rbac_filters(chain)
