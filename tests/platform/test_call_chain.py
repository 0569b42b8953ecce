"""Where a refused call breaks: each cause at its own link and no other, and what is not seen is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rotator.platform.call import Application, Call, Decision, HostUse, Side, Sidecar, Token, Verification, Way
from rotator.platform.call_chain import judge
from rotator.platform.call_verdict import Cause, Link, Mark

NOW = datetime(2030, 1, 1, tzinfo=UTC)
FINANCE = "spiffe://mesh.prod/ns/airflow/sa/airflow-finance"
LEDGER = "spiffe://mesh.prod/ns/finance/sa/ledger"
STAGED = "spiffe://mesh.prod/ns/finance-staging/sa/ledger"
RATES = "spiffe://mesh.prod/ns/finance/sa/rates"
HOST = "ledger.finance.internal"

WAY = Way(at="240.0.0.4:8080", meant=True, leads_to=(LEDGER,), clusters=("ledger",))
CALLER = Sidecar(
    name="finance-0", online=True, sent=7, names=(FINANCE,), leaf_not_after=NOW + timedelta(hours=9), ways=(WAY,)
)
CALLED = Sidecar(
    name="ledger-0",
    online=True,
    sent=7,
    names=(LEDGER,),
    leaf_not_after=NOW + timedelta(hours=9),
    held=Decision(admitted=True, by=("rotator-production-ledger",)),
    application=Application(answers=True, seen="it took 3 connections"),
)


def side(name: str, spiffe_id: str, *sidecars: Sidecar) -> Side:
    """Return one side in production."""
    return Side(
        title=f"{name} (production)",
        short=f"production/{name}",
        spiffe_id=spiffe_id,
        environment="production",
        sidecars=sidecars,
        looked_for="labels a=b",
    )


SOUND = Call(
    now=NOW,
    caller=side("finance", FINANCE, CALLER),
    service=side("ledger", LEDGER, CALLED),
    port=8080,
    hostnames=(HOST,),
    elsewhere={STAGED: "staging/ledger"},
    others={RATES: "production/rates"},
    asked_for=("finance-uses-its-own",),
    documents=Decision(admitted=True, by=("rotator-production-ledger",)),
    verifications=(
        Verification(by="finance-0", shown_by="ledger-0", problem=None),
        Verification(by="ledger-0", shown_by="finance-0", problem=None),
    ),
    host_uses=(HostUse(where="AIRFLOW_CONN_LEDGER of workload w", host=HOST, port=8080, meant=True),),
)


def with_caller(call: Call, **said: Any) -> Call:
    """Return *call* with another fact of the caller's proxy."""
    return replace(call, caller=replace(call.caller, sidecars=(replace(CALLER, **said),)))


def with_called(call: Call, **said: Any) -> Call:
    """Return *call* with another fact of the called proxy."""
    return replace(call, service=replace(call.service, sidecars=(replace(CALLED, **said),)))


def refused(call: Call, **said: Any) -> Call:
    """Return *call* whose destination lets it in neither by its rules nor by documents."""
    decision = Decision(admitted=False, **said)
    return replace(with_called(call, held=decision), documents=decision)


def test_a_sound_call_breaks_nowhere() -> None:
    """Every link of a call that is let in is good, and none is left out."""
    found = judge(SOUND)

    assert found.broken is None
    assert list(Link) == [each.link for each in found.links]
    assert {Mark.GOOD} == {each.mark for each in found.links}


ENDED = NOW - timedelta(minutes=1)
AWAY = {"online": False, "away_since": ENDED, "names": (), "ways": (), "unread": "it is out of contact"}
OTHER_DOMAIN = ("spiffe://other.prod/ns/airflow/sa/airflow-finance",)
BREAKS: list[tuple[Call, Link, Cause]] = [
    (replace(SOUND, caller=side("finance", FINANCE)), Link.SIDECAR, Cause.NO_PROXY),
    (with_caller(SOUND, **AWAY), Link.SIDECAR, Cause.PROXY_OFFLINE),
    (with_caller(SOUND, unanswered=2), Link.SIDECAR, Cause.NOT_ACKNOWLEDGED),
    (with_caller(SOUND, rejected=1), Link.SIDECAR, Cause.REJECTED),
    (with_called(SOUND, unanswered=2, held=Decision(admitted=False)), Link.SIDECAR, Cause.NOT_ACKNOWLEDGED),
    (
        with_called(SOUND, held=Decision(admitted=False), intended=Decision(admitted=True, by=("p",))),
        Link.SIDECAR,
        Cause.DIFFERS,
    ),
    (with_caller(SOUND, **AWAY, token=Token(name="tokens.f", not_after=ENDED)), Link.IDENTITY, Cause.TOKEN_EXPIRED),
    (
        with_caller(SOUND, **AWAY, token=Token(name="tokens.f", not_after=NOW + timedelta(days=1), revoked_by="list")),
        Link.IDENTITY,
        Cause.TOKEN_REVOKED,
    ),
    (with_caller(SOUND, names=()), Link.IDENTITY, Cause.NO_CERTIFICATE),
    (with_caller(SOUND, names=OTHER_DOMAIN), Link.IDENTITY, Cause.WRONG_TRUST_DOMAIN),
    (with_caller(SOUND, names=(STAGED,)), Link.IDENTITY, Cause.WRONG_IDENTITY),
    (with_called(SOUND, leaf_not_after=ENDED), Link.IDENTITY, Cause.LEAF_EXPIRED),
    (
        replace(SOUND, verifications=(Verification(by="ledger-0", shown_by="finance-0", problem="nobody it trusts"),)),
        Link.TRUST,
        Cause.NOT_TRUSTED,
    ),
    (refused(SOUND), Link.PERMISSION, Cause.MISSING_PERMISSION),
    (refused(SOUND, denied=True, by=("deny-all",)), Link.PERMISSION, Cause.DENIED),
    (with_caller(SOUND, ways=()), Link.ROUTE, Cause.NO_ROUTE),
    (with_caller(SOUND, ways=(replace(WAY, leads_to=()),)), Link.ROUTE, Cause.NO_ROUTE),
    (with_caller(SOUND, ways=(replace(WAY, leads_to=(RATES,)),)), Link.ROUTE, Cause.NO_ROUTE),
    (with_caller(SOUND, ways=(replace(WAY, leads_to=(STAGED,)),)), Link.ROUTE, Cause.WRONG_ENVIRONMENT),
    (with_caller(SOUND, ways=(replace(WAY, leads_to=(LEDGER, STAGED)),)), Link.ROUTE, Cause.WRONG_ENVIRONMENT),
    (replace(SOUND, service=side("ledger", LEDGER)), Link.DESTINATION, Cause.NO_DESTINATION),
    (with_called(SOUND, **{**AWAY, "held": None, "application": None}), Link.DESTINATION, Cause.DESTINATION_OFFLINE),
    (with_called(SOUND, not_ready="its inbound is NotReady"), Link.DESTINATION, Cause.NOT_READY),
    (
        with_called(SOUND, application=Application(answers=False, seen="nobody listens")),
        Link.DESTINATION,
        Cause.APPLICATION_DOWN,
    ),
    (
        replace(SOUND, host_uses=(HostUse(where="AIRFLOW_CONN_LEDGER", host="ledger.old", port=8080, meant=True),)),
        Link.AIRFLOW,
        Cause.WRONG_HOSTNAME,
    ),
    (
        replace(SOUND, host_uses=(HostUse(where="AIRFLOW_CONN_LEDGER", host=HOST, port=80, meant=True),)),
        Link.AIRFLOW,
        Cause.WRONG_HOSTNAME,
    ),
]


@pytest.mark.parametrize(("call", "link", "cause"), BREAKS, ids=lambda each: str(each) if isinstance(each, str) else "")
def test_each_break_is_found_at_its_link_and_nowhere_else(call: Call, link: Link, cause: Cause) -> None:
    """One cause, one broken link, with a mend; everything else is good, or said to follow or not to be seen."""
    found = judge(call)

    assert [link] == [each.link for each in found.links if each.mark is Mark.BROKEN]
    assert found.point is not None
    assert cause is found.point.cause
    assert found.point.mend
    assert all(point.mend for each in found.links for point in each.points if point.mark is Mark.DOUBTFUL)


def test_the_first_break_is_the_finding() -> None:
    """Of two breaks the one that comes first on the way is named; the other stays in sight."""
    found = judge(refused(with_caller(SOUND, unanswered=1)))

    assert found.broken is not None
    assert Link.SIDECAR is found.broken.link
    assert [Link.SIDECAR, Link.PERMISSION] == [each.link for each in found.links if each.mark is Mark.BROKEN]


@pytest.mark.parametrize(
    ("asked_for", "mend"),
    [
        (("finance-uses-its-own",), "rotator platform apply"),
        ((), "platform.permissions"),
        (None, "write a MeshTrafficPermission"),
    ],
)
def test_the_mend_of_a_missing_permission_says_where_it_is_missing(
    asked_for: tuple[str, ...] | None, mend: str
) -> None:
    """Configured and not in force, not configured, or no platform at all: three mends."""
    point = judge(replace(refused(SOUND), asked_for=asked_for)).point

    assert point is not None
    assert mend in point.mend


def test_a_call_into_another_environment_is_no_missing_permission() -> None:
    """No permission reaches into another environment, so none is offered as the mend."""
    point = judge(refused(replace(SOUND, caller=replace(SOUND.caller, environment="staging"), asked_for=()))).point

    assert point is not None
    assert Cause.MISSING_PERMISSION is point.cause
    assert "own environment" in point.mend
    assert "platform.permissions" not in point.mend


def test_what_one_of_several_lacks_is_a_doubt() -> None:
    """While another proxy of the same side is sound, what one lacks breaks some calls only."""
    away = replace(CALLER, name="finance-1", online=False, away_since=ENDED)
    down = replace(CALLED, name="ledger-1", application=Application(answers=False, seen="nobody listens"))
    found = judge(
        replace(
            SOUND,
            caller=replace(SOUND.caller, sidecars=(CALLER, away)),
            service=replace(SOUND.service, sidecars=(CALLED, down)),
        )
    )

    assert found.broken is None
    assert [Link.SIDECAR, Link.DESTINATION] == [each.link for each in found.links if each.mark is Mark.DOUBTFUL]


def test_what_may_not_be_seen_is_neither_good_nor_broken() -> None:
    """Without the right to see configurations, each link that hangs on them says so and is not broken."""
    blind = {"unread": "rotator's user may not see proxies' configurations", "names": (), "ways": (), "held": None}
    call = replace(with_called(with_caller(SOUND, **blind), **blind), verifications=(), documents=None)
    found = {each.link: each.mark for each in judge(call).links}

    assert Mark.BROKEN not in found.values()
    unseen = {Link.IDENTITY, Link.TRUST, Link.PERMISSION, Link.ROUTE}
    assert unseen == {link for link, mark in found.items() if mark is Mark.NOT_SEEN}


def test_a_token_that_ended_under_an_open_connection_is_a_doubt() -> None:
    """Kuma looks at a token when somebody comes with it: an open connection stays."""
    found = judge(with_caller(SOUND, token=Token(name="tokens.f", not_after=ENDED, subject="f")))

    assert found.broken is None
    points = [point for each in found.links for point in each.points if point.mark is Mark.DOUBTFUL]
    assert [Cause.TOKEN_EXPIRED] == [each.cause for each in points]
    assert "rotator rotate-now f" in points[0].mend


def test_a_machine_calls_its_own_outbound() -> None:
    """On machines the address of the way itself is right, whatever the hostname is."""
    way = replace(WAY, at="127.0.0.1:10080")
    use = HostUse(where="AIRFLOW_CONN_LEDGER", host="localhost", port=10080, meant=True)
    found = judge(replace(with_caller(SOUND, ways=(way,)), host_uses=(use,)))

    assert found.broken is None
