"""The engine over Secrets: drift is found, recorded and put right; ConfigMaps count; crashes are survived."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.core.event import Event, EventType, Trigger
from rotator.core.model import ManagedCertificate, SubjectKind, SubjectName, TrustDomainName
from rotator.engine.leaf_reconciler import next_drift_look
from rotator.engine.targets import CertificateTarget
from rotator.errors import Denied
from tests.core.worlds import leaf_policy
from tests.engine.accounts import everything_wrong
from tests.engine.secret_world import SERVICE, SecretWorld
from tests.engine.world import MESH, START
from tests.fakes.faults import Crash, Faults

LONG = timedelta(hours=3)
TICK = timedelta(seconds=20)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SecretWorld]:
    """Give a settled world."""
    made = SecretWorld(tmp_path)
    made.run(until=made.settled)
    yield made
    made.close()


def right(world: SecretWorld) -> bool:
    """Return whether Secret and ConfigMap are whole and level, and nothing is open."""
    view = world.engine.leaves.view(SERVICE)
    held = view.observation.publications if view is not None else ()
    return world.settled() and all(each is not None and each.problem is each.drift is None for each in held)


def found_and_mended(world: SecretWorld) -> list[Event]:
    """Run until drift is found and put right; return its records."""
    before = len(world.events(EventType.DRIFTED))
    world.run(until=lambda: len(world.events(EventType.DRIFTED)) > before, span=LONG, tick=TICK)
    world.run(until=lambda: right(world), span=LONG, tick=TICK)
    # What is found at every look until then is one effect.
    world.run(span=timedelta(minutes=10), tick=TICK)
    assert everything_wrong(world) == []
    # Nor does a copy of what was there stay beside it.
    assert [world.path("configmaps"), world.path()] == sorted(world.objects.stored)
    return world.events(EventType.DRIFTED)[before:]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"ca.crt": ""}},
        {"metadata": {"labels": None}},
        {"metadata": {"annotations": None}},
    ],
    ids=["bundle", "labels", "notes"],
)
def test_drift_beside_the_leaf_costs_no_certificate(world: SecretWorld, change: dict[str, Any]) -> None:
    """It is recorded once, with who wrote there, and the same leaf and key are published again."""
    issued, before = len(world.events(EventType.ISSUED)), world.data()
    world.objects.edit(world.path(), change)
    (drifted,) = found_and_mended(world)
    assert (SERVICE, f"kubernetes_secret:airflow/{SERVICE}") == (drifted.subject, drifted.detail["target"])
    assert "kubectl-edit (Update" in (drifted.corroboration.kubernetes or "")
    assert (issued, before["tls.key"]) == (len(world.events(EventType.ISSUED)), world.data()["tls.key"])
    assert (before["ca.crt"], True) == (world.data()["ca.crt"], world.is_level())
    assert "drifted" == world.events(EventType.DISTRIBUTED)[-1].reason


def test_a_spoiled_key_is_replaced(world: SecretWorld) -> None:
    """A key that somebody changed costs a new certificate, set off by drift."""
    world.objects.edit(world.path(), {"data": {"tls.key": base64.b64encode(b"x").decode()}})
    (drifted,) = found_and_mended(world)
    assert "tls.key" in (drifted.reason or "")
    assert (True, Trigger.DRIFT) == (world.is_pair(), world.events(EventType.ISSUED)[-1].trigger)


def test_a_deleted_secret_is_made_anew(world: SecretWorld) -> None:
    """Deletion is recorded, and the new certificate says that drift set it off."""
    del world.objects.stored[world.path()]
    (drifted,) = found_and_mended(world)
    assert ("it is not there any more", 1) == (drifted.reason, drifted.detail["publication"])
    assert (True, Trigger.DRIFT) == (world.is_pair(), world.events(EventType.ISSUED)[-1].trigger)


def test_a_deletion_while_nobody_looked_is_drift_too(world: SecretWorld) -> None:
    """After a restart nobody saw it there; the journal knows that it was, so it is no bootstrap."""
    del world.objects.stored[world.path()]
    world.restart()
    world.run(until=lambda: right(world), span=LONG, tick=TICK)
    assert Trigger.DRIFT is world.events(EventType.ISSUED)[-1].trigger


def test_an_edited_bundle_map_is_put_right(world: SecretWorld) -> None:
    """A ConfigMap that somebody changed or deleted costs no certificate either."""
    issued = len(world.events(EventType.ISSUED))
    world.objects.edit(world.path("configmaps"), {"data": {"ca.crt": "nothing"}})
    (edited,) = found_and_mended(world)
    del world.objects.stored[world.path("configmaps")]
    (deleted,) = found_and_mended(world)
    where = f"kubernetes_configmap:airflow/{SERVICE}"
    assert [where, where] == [edited.detail["target"], deleted.detail["target"]]
    assert (issued, True) == (len(world.events(EventType.ISSUED)), world.is_level())


def test_somebody_elses_secret_in_its_place_is_left(world: SecretWorld) -> None:
    """What replaced ours is not overwritten; the failure says the mend, and is over when it is deleted."""
    theirs = {"metadata": {"name": SERVICE, "uid": "theirs", "resourceVersion": "900000"}, "type": "kubernetes.io/tls"}
    world.objects.stored[world.path()] = theirs
    world.run(span=timedelta(minutes=30), tick=TICK)
    assert theirs == world.objects.stored[world.path()]
    assert "set adopt: true" in (world.events(EventType.FAILED)[-1].reason or "")
    del world.objects.stored[world.path()]
    world.run(until=lambda: world.path() in world.objects.stored and right(world), span=LONG, tick=TICK)
    assert world.is_pair()


def test_law_01_a_bundle_map_that_lags_holds_the_rotation(world: SecretWorld) -> None:
    """A new CA is not used while a ConfigMap cannot be given it; then the rotation goes on."""
    issued = len(world.events(EventType.ISSUED))

    def refuse(call: str) -> None:
        if call.startswith("apply") and "configmaps" in call:
            raise Denied(call)

    world.faults.before = refuse
    world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(span=timedelta(minutes=20), tick=TICK)
    authorities = [each for each in world.events(EventType.ISSUED)[issued:] if each.subject == MESH]
    assert (1, []) == (len(authorities), world.events(EventType.ACTIVATED)[1:])
    world.faults.clear()
    world.run(until=world.settled, span=LONG, tick=TICK)
    assert (2, True) == (len(world.events(EventType.ACTIVATED)), world.is_level())
    assert everything_wrong(world) == []


def _until_renewed(world: SecretWorld) -> None:
    world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled, span=LONG, tick=TICK)


FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": lambda faults, n: faults.refuse(n, Denied),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_law_13_every_call_of_a_rotation_may_be_the_last(tmp_path: Path, fault: str) -> None:
    """Whichever call is the last, lost or refused: a new process ends it, and no copy of an old key is left."""
    n, total = 0, 1
    while n < total:
        n += 1
        place = tmp_path / f"{fault}-{n}"
        place.mkdir()
        world = SecretWorld(place)
        try:
            world.run(until=world.settled)
            before = len(world.faults.calls)
            FAULTS[fault](world.faults, n)
            with contextlib.suppress(Crash):
                _until_renewed(world)
                total = max(total, len(world.faults.calls) - before)
            total = max(total, n + 1 if len(world.faults.calls) - before >= n else 0)
            world.restart()
            world.run(until=world.settled, span=LONG, tick=TICK)
            world.run(span=timedelta(minutes=3), tick=timedelta(seconds=30))
            world.run(until=world.settled, span=LONG)
            assert everything_wrong(world) == [], f"{fault} {n}: {world.faults.calls[-12:]}"
            assert [world.path("configmaps"), world.path()] == sorted(world.objects.stored), f"{fault} {n}"
        finally:
            world.close()
    assert total >= 9


def test_looks_for_drift_are_spread_evenly() -> None:
    """Ten thousand certificates are looked at evenly, each at its own moment of the interval, restart or not."""
    moments = []
    for number in range(10_000):
        target = CertificateTarget(
            certificate=ManagedCertificate(
                name=SubjectName(f"c-{number}"),
                trust_domain=TrustDomainName("td"),
                identity=f"spiffe://td/{number}",
                lifetime=timedelta(hours=12),
            ),
            policy=leaf_policy(),
            stores=(),
        )
        first = next_drift_look(target, START)
        assert first == next_drift_look(target, START + (first - START) / 2)
        assert timedelta(minutes=10) == next_drift_look(target, first) - first
        moments.append((first - START).total_seconds())
    for begin in range(0, 600, 60):
        assert 850 < sum(begin < each <= begin + 60 for each in moments) < 1150
