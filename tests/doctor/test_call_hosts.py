"""Which hosts Airflow's settings name, and that nothing else of them is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rotator.adapters.kuma.calls import HostSeen, hosts_of
from rotator.bootstrap.sessions import Sessions
from rotator.clock import SystemClock
from rotator.doctor.call_hosts import host_uses
from rotator.doctor.parties import named
from rotator.platform.call import HostUse
from rotator.settings import load, platform_of
from tests.settings.test_platform import written

SECRET = "not-to-be-told"  # noqa: S105 -- to be looked for in what is kept


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (f"http://user:{SECRET}@ledger.finance.internal:8080/?key={SECRET}", ("ledger.finance.internal", 8080)),
        ("https://ledger.finance.internal", ("ledger.finance.internal", 443)),
        ("postgres://u@10.0.0.1/books", ("10.0.0.1", None)),
        (f'{{"conn_type": "http", "host": "ledger.old", "port": 80, "password": "{SECRET}"}}', ("ledger.old", 80)),
        ('{"conn_type": "http", "host": "https://ledger.old"}', ("ledger.old", 443)),
    ],
)
def test_a_connection_is_held_against_the_service_that_it_is_named_for(
    tmp_path: Path, connection: str, expected: tuple[str, int | None]
) -> None:
    """By host and port alone: user, password and everything else of a connection is dropped."""
    path = written(tmp_path)
    document = yaml.safe_load(path.read_text())
    variables = tmp_path / "variables"
    variables.write_text(f"# of the worker\nAIRFLOW_CONN_LEDGER='{connection}'\nOTHER={SECRET}\n")
    home = tmp_path / "home"
    home.mkdir()
    (home / "airflow.cfg").write_text(
        f"[core]\nfernet_key = {SECRET}\nexecution_api_server_url = http://api.airflow:8080/execution/\n"
    )
    worker = document["workloads"]["workers"]
    document["airflow"] = {"main": {"url": "https://a.example", "username": "u", "password_file": "/p"}}
    worker["airflow"] = "main"
    worker["processes"] = [worker["processes"][1]]
    worker["processes"][0] |= {"environment_file": str(variables), "environment": {"AIRFLOW_HOME": str(home)}}
    document["platform"]["identities"]["finance"]["place"] = {"machines": {"addresses": ["10.0.0.7"]}}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    settings = load(path)
    sides = named(settings, platform_of(settings), "production/finance", "production/ledger", None)

    found, unseen = host_uses(settings, Sessions(SystemClock(), 1, {}), sides.caller, sides.service)

    assert "" == unseen
    where = "two of workload workers"
    assert [
        HostUse(where=f"AIRFLOW_CONN_LEDGER of {where}", host=expected[0], port=expected[1], meant=True),
        HostUse(
            where=f"AIRFLOW__CORE__EXECUTION_API_SERVER_URL of {where}", host="api.airflow", port=8080, meant=False
        ),
    ] == list(found)
    assert SECRET not in repr(found)


def test_what_became_of_connections_is_read_off_envoys_own_list() -> None:
    """Of each host of a cluster: healthy or not, how many connections were tried, how many failed."""
    text = """localhost_8080::default_priority::max_connections::1024
localhost_8080::127.0.0.1:8080::cx_connect_fail::3
localhost_8080::127.0.0.1:8080::cx_total::5
localhost_8080::127.0.0.1:8080::health_flags::healthy
ledger::10.0.0.3:8080::health_flags::/failed_active_hc
"""

    assert (
        HostSeen(cluster="localhost_8080", host="127.0.0.1:8080", healthy=True, connections=5, failed=3),
        HostSeen(cluster="ledger", host="10.0.0.3:8080", healthy=False, connections=0, failed=0),
    ) == hosts_of(text)
