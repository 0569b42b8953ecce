"""Whom the words of ``doctor --from … --to …`` mean, and what is refused because it means nobody, or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.doctor.parties import Named, named
from rotator.errors import ConfigError
from rotator.settings import load, platform_of
from tests.settings.test_platform import written


def meant(tmp_path: Path, caller: str, destination: str, environment: str | None = None) -> Named:
    """Return whom the words mean in the platform of the settings' tests."""
    path = written(tmp_path, old="protocol: http", new="protocol: http\n      hostname: ledger.finance.internal")
    settings = load(path)
    return named(settings, platform_of(settings), caller, destination, environment)


SERVICE_NAME = "ledger.finance-staging.svc.cluster.local"


@pytest.mark.parametrize(
    ("caller", "destination", "environment", "expected"),
    [
        ("production/finance", "production/ledger", None, ("production/finance", "production/ledger")),
        ("finance", "ledger", "staging", ("staging/finance", "staging/ledger")),
        ("production/finance", "ledger", None, ("production/finance", "production/ledger")),
        ("staging/finance", "ledger.finance.internal", None, ("staging/finance", "staging/ledger")),
        ("staging/finance", "ledger.finance.internal:8080", None, ("staging/finance", "staging/ledger")),
        ("staging/finance", SERVICE_NAME, None, ("staging/finance", "staging/ledger")),
        (
            "spiffe://mesh.prod/ns/airflow/sa/airflow-finance",
            "spiffe://mesh.prod/ns/finance/sa/ledger",
            None,
            ("production/finance", "production/ledger"),
        ),
        ("backfill", "ledger", None, ("production/backfill", "production/ledger")),
        ("airflow-worker-3.airflow", "production/ledger", None, ("airflow-worker-3.airflow", "production/ledger")),
    ],
)
def test_words_mean_whom_the_configuration_names(
    tmp_path: Path, caller: str, destination: str, environment: str | None, expected: tuple[str, str]
) -> None:
    """By environment and name, by name in an environment, by SPIFFE ID, by hostname, or by a Dataplane's name."""
    found = meant(tmp_path, caller, destination, environment)

    assert expected == (found.caller.short, found.service.short)
    assert found.wrong_host is None


def test_a_spiffe_id_of_nobody_is_looked_for_by_its_labels(tmp_path: Path) -> None:
    """A workload that the configuration does not know is found by what Kuma makes its SPIFFE ID of."""
    caller = meant(tmp_path, "spiffe://mesh.prod/ns/other/sa/job", "production/ledger").caller

    assert {"k8s.kuma.io/namespace": "other", "k8s.kuma.io/service-account": "job"} == caller.marks


def test_a_hostname_of_nobody_is_held_against_the_nearest_service(tmp_path: Path) -> None:
    """Whoever has a wrong name from a log gets the chain to the service that was meant, and the name as wrong."""
    found = meant(tmp_path, "production/finance", "ledger.finance.intern")

    assert ("production/ledger", "ledger.finance.intern") == (found.service.short, found.wrong_host)


@pytest.mark.parametrize(
    ("caller", "destination", "environment", "problem"),
    [
        ("finance", "production/ledger", None, "finance may be production/finance, staging/finance"),
        ("production/nobody", "production/ledger", None, "there is no identity production/nobody"),
        ("production/finance", "production/nothing", None, "there is no service production/nothing"),
        ("production/finance", "www.example.com", None, "no service has the hostname www.example.com"),
        ("finance", "ledger", "qa", "there is no environment qa: there is production, staging"),
        ("spiffe://elsewhere/x", "production/ledger", None, "is no mesh of the configuration"),
    ],
)
def test_words_that_mean_nobody_or_two_are_refused(
    tmp_path: Path, caller: str, destination: str, environment: str | None, problem: str
) -> None:
    """With what there is to choose from."""
    with pytest.raises(ConfigError, match=problem):
        meant(tmp_path, caller, destination, environment)
