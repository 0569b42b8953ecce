"""
An expiring certificate, managed or not, seen through to a firing and then a resolved alert in the real Alertmanager.

Rules that must stay true here:

- Everything is real: OpenBao, the daemon as a process, Debian's Alertmanager and whoever it calls in turn, and Debian's
  Prometheus, which scrapes the daemon and judges by the rules that rotator ships.
- What people would see is asserted: what Alertmanager shows and sends on, and what the ledger says of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.notify.wording import camel
from rotator.core.alert_kinds import AlertKind
from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import free_port, wait_until
from rotator.evidence.ledger import records
from rotator.evidence.record import Record
from rotator.store.sql import SQLStore
from tests.contract.receiving import Sink
from tests.e2e.installation import Installation
from tests.fakes.certificate_authority import FakeCA
from tests.fixtures_openbao import new_domain
from tests.stack.alertmanager import AlertmanagerServer, PrometheusServer

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
    """A daemon with one leaf of less than a minute, that tells Alertmanager and the hook and watches a foreign file."""
    site = tmp_path / "site.pem"
    foreign(site, lives=timedelta(minutes=10))
    made = Installation(tmp_path, new_domain(openbao, tmp_path), services=2, leaf="30m")
    # The other one lives long: how fast this machine renews is no part of the claim.
    made.document["certificates"]["service-0"]["lifetime"] = "40s"
    made.document["timing"]["retry_budget"] = "5s"
    made.document["alerts"] = {
        "links": {"runbooks": "https://docs.example/runbooks"},
        "notify": [
            {"name": "pager", "alertmanager": {"urls": [alertmanager.url]}, "repeat_every": "5s"},
            {"name": "hook", "webhook": {"url": f"{hook.url}/alerts"}, "minimum_severity": "critical"},
        ],
    }
    listen = f"127.0.0.1:{free_port()}"
    made.document["http"] = {"listen": listen}
    made.document["watch"] = {"site": {"file": str(site), "every": "2m"}}
    made.write()
    made.start()
    made.wait_settled()
    with PrometheusServer(tmp_path, target=listen, alertmanager=alertmanager):
        yield made
    made.daemon.stop()


def told(installation: Installation, subject: str) -> list[Record]:
    """Return the records of alerts of *subject*, in order."""
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        kinds = {EventType.ALERT_RAISED, EventType.ALERT_CLEARED}
        return [each for each in records(store) if each.event.type in kinds and each.event.subject == subject]


def paged(pager: Sink, subject: str, kind: AlertKind) -> list[str]:
    """Return what Alertmanager has told the pager of rotator's own alert, in order, each state once in a row."""
    states: list[str] = []
    for request in pager.requests:
        for each in request.document["alerts"]:
            labels = each["labels"]
            wanted = (subject, f"Rotator{camel(kind)}", "rotator", "critical")
            if (*(labels.get(name) for name in ("subject", "alertname", "source", "severity")),) == wanted and (
                not states or states[-1] != each["status"]
            ):
                states.append(each["status"])
    return states


def firing(alertmanager: AlertmanagerServer, subject: str, *, source: str = "rotator") -> dict[str, Any]:
    """Return what fires of *subject*, by name: told by rotator itself, or with an empty *source* by Prometheus."""
    return {each["labels"]["alertname"]: each for each in alertmanager.active(subject, source=source)}


def has(alertmanager: AlertmanagerServer, subject: str, *names: str, source: str = "rotator") -> bool:
    """Return whether all of *names* fire of *subject*, and none of them twice."""
    return set(names) <= set(firing(alertmanager, subject, source=source)) and (
        len(firing(alertmanager, subject)) == len(alertmanager.active(subject))
    )


def await_(condition: Callable[[], bool], what: str) -> None:
    """Wait until *condition* holds."""
    wait_until(condition, within=PATIENCE, what=what, every=timedelta(milliseconds=250))


def test_expiries_are_seen_through_to_the_pager_and_back(
    installation: Installation, alertmanager: AlertmanagerServer, pager: Sink, hook: Sink
) -> None:
    """
    A renewal that is blocked, and somebody else's certificate that ends.

    Both fire at Alertmanager, told by rotator itself and by Prometheus with the shipped rules; over a kill and a new
    start of the daemon; both resolve once they are mended. Whoever was away hears from the next process what it missed,
    and the ledger has each raise and each end once.
    """
    blocked, aside, site = (installation.directory / name for name in ("service-0", "aside", "site.pem"))
    blocked.rename(aside)
    blocked.write_text("in the way")
    await_(lambda: has(alertmanager, "service-0", "RotatorSafetyLine"), "the line to be passed")
    await_(
        lambda: (
            firing(alertmanager, "service-0")["RotatorSafetyLine"]["labels"]["severity"] == "critical"
            and has(alertmanager, "service-0", "RotatorSafetyLine")
        ),
        "it to be critical, and the warning to be over",
    )
    await_(lambda: has(alertmanager, "service-0", "RotatorSafetyLinePassed", source=""), "Prometheus to say so too")
    before = firing(alertmanager, "service-0")["RotatorSafetyLine"]
    assert "https://docs.example/runbooks/renewal-overdue.md" == before["annotations"]["runbook_url"]
    assert ({}, {}) == (firing(alertmanager, "service-1"), firing(alertmanager, "service-1", source=""))

    hook_tries = len(hook.requests)
    installation.daemon.kill()
    foreign(site, lives=timedelta(seconds=15))
    installation.start()
    hook.status = 200
    await_(
        lambda: any(
            "service-0/safety_line" in {one["key"] for one in each.document["notices"] if not one["repeated"]}
            for each in hook.requests[hook_tries:]
        ),
        "the hook to hear as news, from the next process, what it missed",
    )
    assert before["startsAt"] == firing(alertmanager, "service-0")["RotatorSafetyLine"]["startsAt"]
    await_(lambda: has(alertmanager, "site", "RotatorWatchedEnding", "RotatorWatchedExpired"), "the end to be told of")
    await_(lambda: has(alertmanager, "site", "RotatorWatchedEnding", source=""), "Prometheus to say so too")
    status = installation.status()
    assert status is not None
    rows = {each["name"]: each for each in status["watched"]}
    assert ("file", 1, "Somebody") == tuple(rows["site"][each] for each in ("kind", "count", "issuer"))
    assert {"corporate", "site"} == set(rows)

    blocked.unlink()
    aside.rename(blocked)
    foreign(site, lives=timedelta(hours=1))
    for subject, kind, rule in (
        ("service-0", AlertKind.SAFETY_LINE, "RotatorSafetyLinePassed"),
        ("site", AlertKind.WATCHED_EXPIRED, "RotatorWatchedEnding"),
    ):
        await_(lambda subject=subject: not alertmanager.active(subject), f"{subject} to be resolved")  # type: ignore[misc] # bound to this turn
        await_(
            lambda subject=subject, rule=rule: rule not in firing(alertmanager, subject, source=""),  # type: ignore[misc] # as above
            f"Prometheus' alert of {subject} to be resolved",
        )
        await_(
            lambda subject=subject, kind=kind: ["firing", "resolved"] == paged(pager, subject, kind),  # type: ignore[misc] # as above
            f"the pager to hear of both, not {paged(pager, subject, kind)}",
        )
        of_it = [
            (each.event.type.value, each.event.result)
            for each in told(installation, subject)
            if each.event.detail["alert"] == kind
        ]
        assert [("alert_raised", "critical"), ("alert_cleared", "ok")] == of_it[-2:]
        assert len(of_it) == len(set(of_it))
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        heard = {each.event.detail["receiver"] for each in records(store) if each.event.type is EventType.NOTIFIED}
    assert {"pager", "hook"} == heard
