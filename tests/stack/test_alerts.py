"""
An expiring certificate, managed or not, seen through to a firing and then a resolved alert in the real Alertmanager.

Rules that must stay true here:

- Everything is real: OpenBao, the daemon as a process, Debian's Alertmanager, and whoever it calls in turn.
- What people would see is asserted: what Alertmanager shows and sends on, and what the ledger says of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import wait_until
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.store.sql import SQLStore
from tests.contract.receiving import Sink
from tests.e2e.installation import Installation
from tests.fakes.certificate_authority import FakeCA
from tests.fixtures_openbao import new_domain
from tests.stack.alertmanager import AlertmanagerServer

pytestmark = [pytest.mark.stack, pytest.mark.external, pytest.mark.timeout(600)]

PATIENCE = timedelta(seconds=120)


@pytest.fixture
def pager() -> Iterator[Sink]:
    """Whom Alertmanager calls."""
    with Sink() as made:
        yield made


@pytest.fixture
def alertmanager(tmp_path: Path, pager: Sink) -> Iterator[AlertmanagerServer]:
    """The real one, which calls the pager."""
    with AlertmanagerServer(tmp_path, webhook=f"{pager.url}/page") as server:
        yield server


@pytest.fixture
def hook() -> Iterator[Sink]:
    """Whom rotator calls itself; away at first."""
    with Sink() as made:
        made.status = 500
        yield made


def foreign(file: Path, *, lives: timedelta) -> None:
    """Put a certificate of somebody else's CA into *file*, as one replacement."""
    now = datetime.now(tz=UTC)
    root = FakeCA("Somebody", "elsewhere", now - timedelta(days=1), now + timedelta(days=1))
    draft = file.with_suffix(".new")
    draft.write_bytes(root.material("spiffe://elsewhere/web", lives, now).chain_pem)
    draft.replace(file)


@pytest.fixture
def installation(
    tmp_path: Path, openbao: OpenBaoServer, alertmanager: AlertmanagerServer, hook: Sink
) -> Iterator[Installation]:
    """A daemon with leaves of half a minute, that tells Alertmanager and the hook and watches a foreign file."""
    site = tmp_path / "site.pem"
    foreign(site, lives=timedelta(minutes=10))
    made = Installation(tmp_path, new_domain(openbao, tmp_path), services=2, leaf="40s")
    made.document["timing"]["retry_budget"] = "5s"
    made.document["alerts"] = {
        "links": {"runbooks": "https://docs.example/runbooks"},
        "notify": [
            {"name": "pager", "alertmanager": {"urls": [alertmanager.url]}, "repeat_every": "5s"},
            {"name": "hook", "webhook": {"url": f"{hook.url}/alerts"}, "minimum_severity": "critical"},
        ],
    }
    made.document["watch"] = {"site": {"file": str(site), "every": "2m"}}
    made.write()
    made.start()
    made.wait_settled()
    yield made
    made.daemon.stop()


def told(installation: Installation, subject: str) -> list[Record]:
    """Return the records of alerts of *subject*, in order."""
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        kinds = {EventType.ALERT_RAISED, EventType.ALERT_CLEARED}
        return [each for each in records(store) if each.event.type in kinds and each.event.subject == subject]


def paged(pager: Sink, subject: str, alert: str) -> list[str]:
    """Return what Alertmanager has told the pager of one alert, in order, each state once in a row."""
    states: list[str] = []
    for request in pager.requests:
        for each in request.document["alerts"]:
            if (each["labels"]["subject"], each["labels"]["alertname"]) == (subject, alert) and (
                not states or states[-1] != each["status"]
            ):
                states.append(each["status"])
    return states


def firing(alertmanager: AlertmanagerServer, subject: str) -> dict[str, Any]:
    """Return what fires of *subject*, by name."""
    return {each["labels"]["alertname"]: each for each in alertmanager.active(subject)}


def test_a_blocked_renewal_fires_and_resolves(
    installation: Installation, alertmanager: AlertmanagerServer, pager: Sink, hook: Sink
) -> None:
    """Overdue, past its line, over a restart of the daemon, and over once it was renewed; each recorded once."""
    blocked, aside = installation.directory / "service-0", installation.directory / "aside"
    blocked.rename(aside)
    blocked.write_text("in the way")
    wait_until(
        lambda: "RotatorSafetyLine" in firing(alertmanager, "service-0"), within=PATIENCE, what="the line to be passed"
    )
    wait_until(
        lambda: (
            firing(alertmanager, "service-0")["RotatorSafetyLine"]["labels"]["severity"] == "critical"
            and len(firing(alertmanager, "service-0")) == len(alertmanager.active("service-0"))
        ),
        within=PATIENCE,
        what="it to be critical, and the warning to be over",
    )
    before = firing(alertmanager, "service-0")["RotatorSafetyLine"]
    assert "https://docs.example/runbooks/renewal-overdue.md" == before["annotations"]["runbook_url"]
    assert {} == firing(alertmanager, "service-1")
    hook_tries = len(hook.requests)
    installation.daemon.kill()
    installation.start()
    hook.status = 200
    wait_until(
        lambda: any(
            "service-0/safety_line" in {one["key"] for one in each.document["notices"] if not one["repeated"]}
            for each in hook.requests[hook_tries:]
        ),
        within=PATIENCE,
        what="the hook to hear as news, from the next process, what it missed",
    )
    assert before["startsAt"] == firing(alertmanager, "service-0")["RotatorSafetyLine"]["startsAt"]
    blocked.unlink()
    aside.rename(blocked)
    wait_until(lambda: not alertmanager.active("service-0"), within=PATIENCE, what="everything to be resolved")
    wait_until(
        lambda: ["firing", "resolved"] == paged(pager, "service-0", "RotatorSafetyLine"),
        within=PATIENCE,
        what=f"the pager to hear of both, not {paged(pager, 'service-0', 'RotatorSafetyLine')}",
    )
    of_line = [
        (each.event.type.value, each.event.result)
        for each in told(installation, "service-0")
        if each.event.detail["alert"] == "safety_line"
    ]
    assert [("alert_raised", "critical"), ("alert_cleared", "ok")] == of_line[-2:]
    assert len(of_line) == len(set(of_line))
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        heard = {each.event.detail["receiver"] for each in records(store) if each.event.type is EventType.NOTIFIED}
    assert {"pager", "hook"} == heard


def test_a_watched_certificate_that_ends_fires_and_resolves(
    installation: Installation, alertmanager: AlertmanagerServer, pager: Sink
) -> None:
    """Somebody else's certificate ends, is named with its end, and is no more told of once it was replaced."""
    site = installation.directory / "site.pem"
    foreign(site, lives=timedelta(seconds=15))
    # The entry's place has not changed, so a reload alone would keep what is known of it until the next look.
    installation.daemon.kill()
    installation.start()
    wait_until(
        lambda: {"RotatorWatchedEnding", "RotatorWatchedExpired"} <= set(firing(alertmanager, "site")),
        within=PATIENCE,
        what="the end to be told of",
    )
    status = installation.status()
    assert status is not None
    rows = {each["name"]: each for each in status["watched"]}
    assert ("file", 1, "Somebody") == tuple(rows["site"][each] for each in ("kind", "count", "issuer"))
    assert {"corporate", "site"} == set(rows)
    foreign(site, lives=timedelta(hours=1))
    wait_until(lambda: not alertmanager.active("site"), within=PATIENCE, what="it to be resolved")
    wait_until(
        lambda: ["firing", "resolved"] == paged(pager, "site", "RotatorWatchedExpired"),
        within=PATIENCE,
        what="the pager to hear of both",
    )
    kinds = [(each.event.type.value, each.event.detail["alert"]) for each in told(installation, "site")]
    assert [("alert_raised", "watched_expired"), ("alert_cleared", "watched_expired")] == [
        each for each in kinds if each[1] == "watched_expired"
    ]
