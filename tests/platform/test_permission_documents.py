"""What MeshTrafficPermissions say of one call, in both of their forms."""

from __future__ import annotations

from typing import Any

import pytest

from rotator.platform.call import Decision
from rotator.platform.permission_documents import Destination, permitted

FINANCE = "spiffe://mesh.prod/ns/airflow/sa/airflow-finance"
TAGGED = ("spiffe://default/finance_airflow_svc", "kuma://kuma.io/service/finance_airflow_svc")
LEDGER = Destination(
    name="ledger-0.finance",
    marks={"app": "ledger", "kuma.io/service": "ledger_finance_svc_8080"},
    sections=frozenset({"8080", "main"}),
)
REFUSED = Decision(admitted=False)


def rules(name: str, target: dict[str, Any] | None = None, **said: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a permission of the newer form."""
    return {"name": name, "spec": {"targetRef": target or {"kind": "Mesh"}, "rules": [{"default": said}]}}


def older(name: str, action: str, reference: dict[str, Any], target: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a permission of the older form."""
    entry = {"targetRef": reference, "default": {"action": action}}
    return {"name": name, "spec": {"targetRef": target or {"kind": "Mesh"}, "from": [entry]}}


def who(value: str = FINANCE, kind: str = "Exact") -> dict[str, Any]:
    """Return whom a rule means."""
    return {"spiffeID": {"type": kind, "value": value}}


ALLOW = Decision(admitted=True, by=("a",))
BY_LABEL = {"kind": "Dataplane", "labels": {"app": "ledger"}}
CASES: list[tuple[str, list[dict[str, Any]], tuple[str, ...], Decision]] = [
    ("none", [], (FINANCE,), REFUSED),
    ("exact", [rules("a", allow=[who()])], (FINANCE,), ALLOW),
    ("another caller", [rules("a", allow=[who("spiffe://mesh.prod/x")])], (FINANCE,), REFUSED),
    ("prefix ends at a slash", [rules("a", allow=[who(f"{FINANCE[:-3]}", "Prefix")])], (FINANCE,), REFUSED),
    ("prefix", [rules("a", allow=[who("spiffe://mesh.prod/ns/airflow", "Prefix")])], (FINANCE,), ALLOW),
    (
        "denied",
        [rules("a", allow=[who()]), rules("d", deny=[who()])],
        (FINANCE,),
        Decision(admitted=False, by=("d",), denied=True),
    ),
    ("counted as denied", [rules("a", allowWithShadowDeny=[who()])], (FINANCE,), ALLOW),
    ("for this proxy", [rules("a", BY_LABEL, allow=[who()])], (FINANCE,), ALLOW),
    ("for another", [rules("a", {"kind": "Dataplane", "labels": {"app": "x"}}, allow=[who()])], (FINANCE,), REFUSED),
    ("for its inbound", [rules("a", {**BY_LABEL, "sectionName": "main"}, allow=[who()])], (FINANCE,), ALLOW),
    ("for another inbound", [rules("a", {**BY_LABEL, "sectionName": "x"}, allow=[who()])], (FINANCE,), REFUSED),
    ("older, no tags", [older("a", "Allow", {"kind": "Mesh"})], (FINANCE,), REFUSED),
    ("older", [older("a", "Allow", {"kind": "MeshService", "name": "finance_airflow_svc"})], TAGGED, ALLOW),
    (
        "older, the stronger wins",
        [
            older("a", "Allow", {"kind": "Mesh"}),
            older("d", "Deny", {"kind": "Mesh"}, {"kind": "MeshService", "name": "ledger_finance_svc_8080"}),
        ],
        TAGGED,
        Decision(admitted=False, by=("d",), denied=True),
    ),
]


@pytest.mark.parametrize(
    ("documents", "names", "expected"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_permissions_say_what_kuma_would(
    documents: list[dict[str, Any]], names: tuple[str, ...], expected: Decision
) -> None:
    """Absence refuses, denial wins, and the older form goes by strength and by tags alone."""
    assert expected == permitted(documents, LEDGER, names)
