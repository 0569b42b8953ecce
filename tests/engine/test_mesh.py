"""The laws for a mesh, whose control plane signs and whose proxies follow: each with a test that fails without it."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import timedelta

import pytest

from rotator.control import RotateRequest
from rotator.core.event import EventType
from rotator.core.model import AtDeadline, Phase
from rotator.ports import RotationState
from tests.engine.mesh_world import ALICE, HOUR, SUBJECT, Make

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


def test_a_mesh_is_adopted_and_rotated_twice_and_back(make: Make) -> None:
    """From no CA to generation 1, 2 and 3 and back to 3 from 4: no pair breaks, and no secret is left over."""
    world = make()
    world.adopted()
    assert 1 == world.number
    for number in (2, 3):
        world.rotate()
        world.finish()
        assert number == world.number
    world.rotate()
    world.run(until=lambda: world.number == 4, span=HOUR)
    world.roll_back()
    world.finish()
    assert (3, ["g3-cert", "g3-key"]) == (world.number, world.mesh.secrets())


def test_law_01_a_proxy_that_lags_holds_activation_and_is_named(make: Make) -> None:
    """While one proxy does not show the new CA, the old one signs, and status names the proxy."""
    world = make()
    world.adopted()
    world.mesh.proxies["proxy-1"].lag = 10 * MINUTE
    world.rotate()
    world.run(span=5 * MINUTE)
    assert (1, ["proxy-1"]) == (world.number, world.row()["waiting_on"])
    world.finish()
    assert 2 == world.number


@pytest.mark.parametrize("readable", [True, False])
def test_law_01_a_proxy_out_of_contact_counts_until_its_last_leaf_has_ended(make: Make, *, readable: bool) -> None:
    """A proxy that is off, or cannot be asked, holds the rotation until its leaf has ended, or it answers again."""
    world = make()
    world.adopted()
    proxy = world.mesh.proxies["proxy-2"]
    ends = proxy.not_after
    assert ends is not None
    proxy.online, proxy.readable = not readable, readable
    if readable:
        proxy.online = False
    world.rotate()
    world.run(span=10 * MINUTE, tick=5 * SECOND)
    assert (1, ["proxy-2"]) == (world.number, world.row()["waiting_on"])
    if not readable:
        proxy.online = proxy.readable = True
        world.run(until=lambda: world.number == 2, span=MINUTE)
        return
    world.run(until=lambda: world.number == 2, span=2 * HOUR, tick=5 * SECOND)
    assert ends <= world.clock.now() <= ends + MINUTE
    world.finish()


def test_law_01_the_deadline_holds_with_an_alert_that_names_the_proxy(make: Make) -> None:
    """Past the trust deadline with `hold` the rotation waits on, and the alert names who is waited for."""
    world = make()
    world.adopted()
    world.mesh.proxies["proxy-0"].lag = 3 * HOUR
    world.rotate()
    world.run(span=40 * MINUTE, tick=10 * SECOND)
    told = [each.summary for each in world.engine.alerting.raised() if each.subject == SUBJECT]
    assert 1 == world.number
    assert ["proxy-0" in each for each in told] == [True]


def test_law_01_the_deadline_leaves_behind_whom_the_operator_said(make: Make) -> None:
    """With `proceed` and room for one, one proxy is left behind by name, as an exception."""
    world = make()
    world.authority_policy = replace(
        world.authority_policy, at_deadline=AtDeadline.PROCEED, at_most_left_behind=1, longest_leaf=HOUR
    )
    world.restart()
    world.adopted()
    world.mesh.proxies["proxy-0"].lag = 3 * HOUR
    world.judged = False
    world.rotate()
    world.run(until=lambda: world.number == 2, span=HOUR, tick=10 * SECOND)
    reasons = [each.reason for each in world.events(EventType.EXCEPTION_OPENED)]
    assert ["activated without acknowledgement of proxy-0"] == reasons


def test_law_02_both_are_trusted_while_a_leaf_of_the_old_one_is_used(make: Make) -> None:
    """A proxy whose control plane is slow to give it the new leaf keeps the old CA in every bundle."""
    world = make()
    world.adopted()
    old = world.mesh.told.signer
    world.rotate()
    world.run(until=lambda: world.number == 2, span=HOUR)
    slow = world.mesh.proxies["proxy-1"]
    slow.lag, slow.follows, slow.issuer = 25 * MINUTE, slow.follows or world.mesh.told, old
    slow.noticed = (world.mesh.told, world.clock.now())
    slow.follows = replace(world.mesh.told, signer=old)
    world.run(span=20 * MINUTE, tick=5 * SECOND)
    assert (old, True) == (slow.issuer, old in world.mesh.told.bundle)
    world.finish()
    assert old not in world.mesh.told.bundle


def test_law_02_who_left_with_an_old_leaf_keeps_its_ca_trusted(make: Make) -> None:
    """A proxy that lost contact before it got the new leaf may be talking with the old one until that has ended."""
    world = make()
    world.adopted()
    old = world.mesh.told.signer
    world.rotate()
    world.run(until=lambda: world.number == 2, span=HOUR)
    away = world.mesh.proxies["proxy-2"]
    away.online, ends = False, away.not_after
    assert ends is not None
    assert old == away.issuer
    world.run(until=lambda: old not in world.mesh.told.bundle, span=3 * HOUR, tick=10 * SECOND)
    assert ends <= world.clock.now() <= ends + MINUTE
    world.finish()


def test_law_05_a_second_request_is_refused(make: Make) -> None:
    """Who asks for what is under way is told so."""
    world = make()
    world.adopted()
    world.mesh.proxies["proxy-1"].lag = 10 * MINUTE
    first = world.rotate()
    again = world.desk.rotate(RotateRequest(subjects=(SUBJECT,), reason="again"), ALICE)
    assert [True] == [first in each["why"] for each in again["refused"]]


@pytest.mark.parametrize("after", [0, 30, 45, 300])
def test_law_07_the_way_back_breaks_no_pair(make: Make, after: int) -> None:
    """A rollback asked for at any time of a rotation ends where it began, or with the rotation, never in between."""
    world = make()
    world.adopted()
    world.rotate()
    world.run(span=after * SECOND + SECOND)
    world.roll_back()
    world.finish()
    assert (1, ["g1-cert", "g1-key"]) == (world.number, world.mesh.secrets())
    assert [RotationState.DONE, RotationState.ROLLED_BACK] == [each.state for each in world.rotations()]


def test_law_08_a_stolen_key_is_left_at_once(make: Make) -> None:
    """A compromise waits for nobody: the old CA is revoked at its parent, out of the bundle and gone."""
    world = make()
    world.adopted()
    (old,) = world.held()
    world.mesh.proxies["proxy-0"].lag = 10 * MINUTE
    world.judged = False
    world.rotate(compromised=True)
    world.run(span=MINUTE)
    assert (2, ["g2-cert", "g2-key"]) == (world.number, world.mesh.secrets())
    assert [old.authority.serial] == [each.old.serial for each in world.events(EventType.REVOKED) if each.old]
    world.finish()
    world.judged = True
    world.rotate()
    world.finish()
    assert 3 == world.number


PHASES = [Phase.PREPARED, Phase.ACTIVATED, Phase.REISSUED, Phase.STEADY]


@pytest.mark.parametrize("phase", PHASES)
def test_law_19_joiners_are_safe(make: Make, phase: Phase) -> None:
    """A proxy that starts in any phase, and one that comes back in it, is understood by all and understands all."""
    world = make()
    world.adopted()
    away = world.mesh.proxies["proxy-2"]
    world.rotate()
    if phase is Phase.PREPARED:
        # Somebody has to hold it there.
        world.mesh.proxies["proxy-1"].lag = 2 * MINUTE
    world.run(until=lambda: world.state.decision.phase is phase or world.settled(), span=HOUR)
    away.online = False
    joined = world.mesh.join("joiner")
    world.run(span=MINUTE)
    away.online = True
    world.finish()
    assert (2, world.mesh.told.signer) == (world.number, joined.issuer)


def test_law_12_what_a_mesh_refuses_holds_every_step_until_it_is_mended(make: Make) -> None:
    """In every phase a refusal stops the rotation where it is, is named, and lets it go on once it is gone."""
    world = make()
    world.adopted()
    steps = 0
    world.rotate()
    while not world.settled():
        revision, secrets = world.mesh.revision, world.mesh.secrets()
        world.mesh.refusals.append("spec.mtls is written by argocd too: take it out of the application")
        world.run(span=20 * SECOND)
        assert (revision, secrets) == (world.mesh.revision, world.mesh.secrets())
        assert list(world.mesh.refusals) == world.row()["waiting_on"]
        assert [True] == ["argocd" in each.summary for each in world.engine.alerting.raised()]
        world.mesh.refusals.clear()
        world.run(until=functools.partial(world.moved_on, revision), span=3 * HOUR)
        steps += 1
    assert (2, ["g2-cert", "g2-key"]) == (world.number, world.mesh.secrets())
    assert steps >= 3


def test_a_request_is_refused_with_what_the_mesh_refuses(make: Make) -> None:
    """rotate-now and rollback answer with the reason, and the ledger has it."""
    world = make()
    world.adopted()
    world.mesh.refusals.append("the mesh has no meshServices.mode Exclusive: set it")
    world.run(span=2 * MINUTE)
    answer = world.desk.rotate(RotateRequest(subjects=(SUBJECT,), reason="now"), ALICE)
    why = "the mesh has no meshServices.mode Exclusive: set it"
    assert ([], [why]) == (answer["rotations"], [each["why"] for each in answer["refused"]])
    assert [why] == [each.reason for each in world.events(EventType.REFUSED)]


def test_law_13_a_settled_mesh_is_left_alone(make: Make) -> None:
    """Restarts and looks without a reason write nothing, ask no proxy, and are no more than one a minute."""
    world = make()
    world.adopted()
    world.run(span=MINUTE)
    calls, events = world.mesh.revision, len(world.events())
    world.mesh.looks.clear()
    for _ in range(3):
        world.restart()
        world.run(span=2 * MINUTE)
    assert (calls, events) == (world.mesh.revision, len(world.events()))
    assert [False] * len(world.mesh.looks) == world.mesh.looks
    assert 10 > len(world.mesh.looks)


def test_law_14_without_the_lease_nothing_is_written(make: Make) -> None:
    """A process that lost its lease in the middle writes nothing more into the mesh."""
    world = make()
    world.adopted()
    world.mesh.proxies["proxy-1"].lag = MINUTE
    world.rotate()
    world.lease.is_held = False
    revision = world.mesh.revision
    world.run(span=10 * MINUTE, tick=5 * SECOND)
    assert revision == world.mesh.revision
    world.lease.is_held = True
    world.finish()
    assert 2 == world.number


def test_law_21_what_the_mesh_was_given_is_recorded_once(make: Make) -> None:
    """Each bundle and each activation has one record, with the control plane's revision and who acknowledged."""
    world = make()
    world.adopted()
    before = len(world.events(EventType.DISTRIBUTED))
    world.rotate()
    world.finish()
    given = world.events(EventType.DISTRIBUTED)[before:]
    assert ["grow", "shrink"] == [each.reason for each in given]
    assert all(each.corroboration.kubernetes and each.detail["bundle_sha256"] for each in given)
    last = world.events(EventType.ACTIVATED)[-1]
    assert {"proxy-0", "proxy-1", "proxy-2"} <= set(last.corroboration.dataplanes)
