"""The platform's settings: what they mean, and what would never work."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rotator.platform.model import InCluster, MeshModel, OnMachines, Platform
from rotator.settings import load, platform_of
from tests.settings.test_load import BASE, complaints

MESH = """
  mesh.prod:
    issuer: corporate
    model: MODEL
    ca: {lifetime: 7d}
    longest_leaf: 24h
    trust_deadline: {after: 2h}
    mesh: {name: default, control_plane: {url: 'http://127.0.0.1:5681'}}
"""
PLATFORM = """
platform:
  environments:
    production: {trust_domain: mesh.prod}
    staging: {trust_domain: mesh.prod, namespace: airflow-staging}
  domains:
    finance: {owner: Finance Data}
  identities:
    scheduler: {component: scheduler}
    finance: {component: worker, queue: finance, domain: finance}
    backfill:
      component: worker
      domain: finance
      environments: [production]
      place: {machines: {addresses: [10.0.0.7]}}
  services:
    ledger:
      protocol: http
      port: 8080
      domain: finance
      places:
        production: {kubernetes: {namespace: finance}}
        staging: {kubernetes: {namespace: finance-staging}}
  permissions:
    finance-uses-its-own:
      callers: {domains: [finance]}
      may_call: {domains: [finance]}
      reason: its own books
"""


def written(tmp_path: Path, *, model: str = "identity", old: str = "", new: str = "") -> Path:
    """Write a good file with a platform in which *old* is replaced by *new*."""
    assert old in PLATFORM
    document = yaml.safe_load(BASE)
    document["trust_domains"] |= yaml.safe_load(MESH.replace("MODEL", model))
    document |= yaml.safe_load(PLATFORM.replace(old, new) if old else PLATFORM)
    path = tmp_path / "rotator.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def platform(path: Path) -> Platform:
    """Return the platform in the file at *path*."""
    found = platform_of(load(path))
    assert found is not None
    return found


def test_each_stands_in_each_of_its_environments(tmp_path: Path) -> None:
    """One entry, one identity an environment, each with the SPIFFE ID that Kuma gives it."""
    found = platform(written(tmp_path))
    assert {
        "production/scheduler": "spiffe://mesh.prod/ns/airflow/sa/airflow-scheduler",
        "staging/scheduler": "spiffe://mesh.prod/ns/airflow-staging/sa/airflow-scheduler",
        "production/finance": "spiffe://mesh.prod/ns/airflow/sa/airflow-finance",
        "staging/finance": "spiffe://mesh.prod/ns/airflow-staging/sa/airflow-finance",
        "production/backfill": "spiffe://mesh.prod/workload/backfill-production",
    } == {each.qualified: each.spiffe_id for each in found.identities}
    assert {
        "production/ledger": InCluster(namespace="finance", service_account="ledger", service="ledger"),
        "staging/ledger": InCluster(namespace="finance-staging", service_account="ledger", service="ledger"),
    } == {each.qualified: each.place for each in found.services}
    backfill = found.identity("production/backfill")
    assert backfill is not None
    assert OnMachines(workload="backfill-production", addresses=("10.0.0.7",)) == backfill.place


def test_a_permission_never_reaches_into_another_environment(tmp_path: Path) -> None:
    """Its pairs are made within each."""
    (permission,) = platform(written(tmp_path)).permissions
    assert {
        ("production/finance", "production/ledger"),
        ("production/backfill", "production/ledger"),
        ("staging/finance", "staging/ledger"),
    } == {(caller.qualified, service.qualified) for caller, service in permission.pairs()}


def test_a_mesh_with_a_provided_ca_names_services_by_their_tag(tmp_path: Path) -> None:
    """As Kuma 2.x does: ``spiffe://MESH/SERVICE``."""
    found = platform(written(tmp_path, model="provided"))
    ledger = found.service("production/ledger")
    assert ledger is not None
    assert (MeshModel.PROVIDED, "ledger_finance_svc_8080") == (ledger.environment.model, ledger.kuma_service)
    assert "spiffe://default/ledger_finance_svc_8080" == ledger.spiffe_id


def test_a_service_may_call(tmp_path: Path) -> None:
    """One workload is an identity and a service: Airflow's API server is called, and calls."""
    api = "{component: scheduler}\n    ledger: {component: other, place: {kubernetes: {namespace: finance, "
    api += "service_account: ledger}}, environments: [production]}"
    found = platform(written(tmp_path, old="{component: scheduler}", new=api))
    service, caller = found.service("production/ledger"), found.identity("production/ledger")
    assert service is not None
    assert caller is not None
    assert service.spiffe_id == caller.spiffe_id


REFUSED = {
    "a trust domain without a mesh": (
        ("trust_domain: mesh.prod}", "trust_domain: prod}"),
        "platform.environments.production.trust_domain: found prod, which has no mesh",
    ),
    "an unknown domain": (
        ("queue: finance, domain: finance}", "queue: finance, domain: fiance}"),
        "platform.identities.finance.domain: found fiance; allowed what stands under platform.domains (finance)",
    ),
    "a queue of a scheduler": (
        ("{component: scheduler}", "{component: scheduler, queue: finance}"),
        "platform.identities.scheduler.queue: found it with component scheduler",
    ),
    "two that nothing tells apart": (
        ("{component: scheduler}", "{component: scheduler, place: {kubernetes: {service_account: airflow-finance}}}"),
        "platform.identities.finance: found SPIFFE ID spiffe://mesh.prod/ns/airflow/sa/airflow-finance for production",
    ),
    "a permission for nobody": (
        ("callers: {domains: [finance]}", "callers: {domains: [finance], components: [triggerer]}"),
        "platform.permissions.finance-uses-its-own: found that it lets nobody call anything",
    ),
    "a caller that is none": (
        ("callers: {domains: [finance]}", "callers: {identities: [finanze]}"),
        "platform.permissions.finance-uses-its-own.callers.identities[0]: found finanze",
    ),
    "an environment that is none": (
        ("environments: [production]", "environments: [prod]"),
        "platform.identities.backfill.environments[0]: found prod",
    ),
    "another trust domain's SPIFFE ID": (
        ("{component: scheduler}", "{component: scheduler, spiffe_ids: {production: 'spiffe://prod/a'}}"),
        "platform.identities.scheduler.spiffe_ids.production: found trust domain prod",
    ),
    "a hostname for many": (
        ("      port: 8080", "      port: 8080\n      hostname: '*.internal'"),
        "platform.services.ledger.hostname: found *.internal; allowed one name",
    ),
    "one hostname for two": (
        (
            "    ledger:\n      protocol: http\n",
            "    rates: {protocol: tcp, port: 1, hostname: a}\n    ledger:\n      protocol: http\n      hostname: a\n",
        ),
        "platform.services.ledger.hostname: found a, which is rates's",
    ),
    "a certificate that is none": (
        ("{component: scheduler}", "{component: scheduler, certificates: {production: none-such}}"),
        "platform.identities.scheduler.certificates.production: found none-such",
    ),
}


@pytest.mark.parametrize(("change", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_work_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """With the key, what was found and what is allowed."""
    old, new = change
    lines = complaints(written(tmp_path, old=old, new=new))
    assert any(expected in line for line in lines), lines
