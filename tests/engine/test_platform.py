"""Changes of the platform's documents, and changes of others: applied, undone, found, put back, through every crash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.control import ApproveRequest
from rotator.core.approval import ApprovalPolicy, ApprovalRule, Operation
from rotator.core.event import EventType
from rotator.core.model import SubjectKind
from rotator.errors import ConfigError, Denied, JournalError, Rejected, Unavailable
from rotator.platform.changes import ChangeKind
from rotator.platform.documents import PLATFORM
from rotator.platform.drift import Drift, DriftKind
from rotator.platform.model import OnDrift
from rotator.platform.resources import ENVIRONMENT
from rotator.ports import RotationState
from tests.engine.platform_world import ALICE, BOB, LOOK_EVERY, OURS, SETTLE, PlatformWorld
from tests.fakes.faults import Crash, Faults

WRITTEN = (EventType.APPLIED, EventType.UNDONE, EventType.PUT_BACK)
RULE = ApprovalRule(
    name="two",
    kinds=frozenset({SubjectKind.PLATFORM}),
    operations=frozenset({Operation.APPLY, Operation.UNDO}),
    expires_after=timedelta(hours=1),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PlatformWorld]:
    with contextlib.closing(PlatformWorld(tmp_path)) as made:
        yield made


def test_a_configuration_that_nobody_applied_changes_nothing(world: PlatformWorld) -> None:
    """What the configuration wants is shown as to be applied, and neither written nor called drift."""
    world.look()
    assert ({}, []) == (dict(world.there()), world.drift())
    (mesh,) = world.desk().status()["platform"]["meshes"]
    assert (0, 2) == (mesh["documents"], mesh["to_apply"])


def test_an_apply_writes_what_is_configured_with_one_record_each(world: PlatformWorld) -> None:
    """Every document stands as configured; each has one record with the digests, and the change has its end."""
    change = world.applied()
    assert {each.address.name: each for each in world.wanted} == world.there()
    told = [each for each in world.events() if each.rotation_id == change]
    assert [EventType.INTENT, EventType.APPLIED, EventType.APPLIED, EventType.COMPLETED] == [each.type for each in told]
    assert all(each.requested_by == told[0].requested_by is not None for each in told)
    assert [world.permission("ledger", "finance").sha256, world.route("ledger", "a").sha256] == [
        each.detail["after_sha256"] for each in told[1:3]
    ]
    (rotation,) = world.rotations(PLATFORM)
    assert (RotationState.DONE, SubjectKind.PLATFORM) == (rotation.state, rotation.kind)


def test_an_apply_of_nothing_changes_nothing(world: PlatformWorld) -> None:
    """A second apply writes no document, opens no change, and leaves no record but its own."""
    world.applied()
    history, before = list(world.place.history), len(world.events())
    answer = world.apply()
    world.look()
    assert ([], [], True) == (answer["plan"], answer["rotations"], answer["nothing_to_do"])
    assert history == world.place.history
    (record,) = world.events()[before:]
    assert (EventType.INTENT, "nothing to do") == (record.type, record.result)


def test_what_stands_already_is_looked_after_from_its_apply_on(world: PlatformWorld) -> None:
    """Documents that stand as configured, of an installation before, are known as applied after an apply of nothing."""
    for each in world.wanted:
        world.place.put(each)
    world.apply()
    world.place.put(world.permission("ledger", "finance", "mallory"))
    world.look()
    said = "MeshTrafficPermission rotator-ledger in mesh default was changed by somebody else"
    assert [f"{said} and lets in more than was applied"] == world.drift()


def test_law_14_who_lost_the_lease_writes_no_document(world: PlatformWorld) -> None:
    """A change that is half done stays where it is until somebody holds the lease, however long that takes."""
    world.applied(world.permission("ledger", "finance"))
    world.configure(world.permission("ledger", "sales"))
    world.apply()
    widened = list(world.place.history)
    world.lease.is_held = False
    world.run(span=SETTLE + timedelta(minutes=10), tick=timedelta(seconds=30))
    assert widened == world.place.history
    world.lease.is_held = True
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert world.there()["rotator-ledger"] == world.permission("ledger", "sales")


def test_permissions_widen_before_routes_move_and_narrow_after(world: PlatformWorld) -> None:
    """Services first, then who is let in, then the route, then who is let in no more, removals last."""
    world.applied(world.permission("ledger", "finance"), world.route("ledger", "a"), world.service("old"))
    world.place.history.clear()
    planned = world.desk()
    world.configure(world.permission("ledger", "sales"), world.route("ledger", "b"), world.service("new"))
    plan = world.apply(dry_run=True)["plan"]
    assert [
        "create MeshService rotator-new-service in mesh default",
        "widen MeshTrafficPermission rotator-ledger in mesh default",
        "change MeshHTTPRoute rotator-ledger-route in mesh default",
        "narrow MeshTrafficPermission rotator-ledger in mesh default",
        "remove MeshService rotator-old-service in mesh default",
    ] == [each["what"] for each in plan]
    del planned
    world.apply()
    world.engine.sweep()
    # Whoever was let in still is, until what was widened has reached everybody.
    assert ["rotator-new-service", "rotator-ledger", "rotator-ledger-route"] == [
        name for _, name in world.place.history
    ]
    world.place.behind = ("worker-1",)
    world.run(span=SETTLE + timedelta(seconds=30))
    assert 3 == len(world.place.history)
    assert ["worker-1"] == world.desk().status()["platform"]["waiting_on"]
    world.place.behind = ()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert world.permission("ledger", "sales") == world.there()["rotator-ledger"]
    assert ("remove", "rotator-old-service") == world.place.history[-1]


def test_a_change_that_waits_is_superseded_by_one_that_cannot(world: PlatformWorld) -> None:
    """Whoever must be let in no more is shut out at once; the first change ends where it stands, recorded."""
    world.applied(world.permission("ledger", "finance", "mallory"))
    world.configure(world.permission("ledger", "finance", "mallory"), world.permission("reports", "sales"))
    world.place.behind = ("worker-1",)
    (first,) = world.apply()["rotations"]
    world.run(span=SETTLE + timedelta(seconds=30))
    assert ["worker-1"] == world.desk().status()["platform"]["waiting_on"]
    world.configure(world.permission("ledger", "finance"))
    refused = world.apply()["refused"]
    assert "is under way already: wait for it, or say --supersede" in refused[0]["why"]
    (second,) = world.apply(supersede=True)["rotations"]
    world.engine.sweep()
    assert {"rotator-ledger": world.permission("ledger", "finance")} == world.there()
    told = [each for each in world.events() if each.rotation_id == first["id"]]
    assert [EventType.INTENT, EventType.APPLIED, EventType.FAILED] == [each.type for each in told]
    states = {each.id: each.state for each in world.rotations(PLATFORM)}
    assert ("superseded", RotationState.FAILED) == (told[-1].result, states[first["id"]])
    (opened,) = [each for each in world.events(EventType.INTENT) if each.rotation_id == second["id"]]
    assert first["id"] == opened.detail["instead_of"]
    world.place.behind = ()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert RotationState.DONE == world.rotations(PLATFORM)[-1].state


def test_a_change_that_waits_is_taken_back_as_far_as_it_came(world: PlatformWorld) -> None:
    """What it has written goes, what it had not come to needs nobody's word to stay, and nothing is written twice."""
    world.applied(world.permission("ledger", "finance"))
    world.place.behind = ("worker-1",)
    world.configure(world.permission("ledger", "sales"), world.service("new"))
    (first,) = world.apply()["rotations"]
    world.run(span=SETTLE + timedelta(seconds=30))
    assert world.permission("ledger", "sales", "finance") == world.there()["rotator-ledger"]
    answer = world.undo(first["id"], supersede=True)
    assert ([], []) == (answer["refused"], answer["differs"])
    world.engine.sweep()
    assert {"rotator-ledger"} == world.there().keys()
    world.place.behind = ()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert world.permission("ledger", "finance") == world.there()["rotator-ledger"]


def test_what_is_superseded_writes_nothing_more_when_nothing_is_left_to_do(world: PlatformWorld) -> None:
    """Where everything is as configured by now, the change that was to write something else ends all the same."""
    world.applied(world.permission("ledger", "finance"))
    world.place.behind = ("worker-1",)
    world.configure(world.permission("ledger", "sales"))
    world.apply()
    world.run(span=SETTLE + timedelta(seconds=30))
    world.configure(world.permission("ledger", "sales", "finance"))
    assert world.apply(supersede=True)["nothing_to_do"]
    world.place.behind = ()
    world.restart()
    world.run(span=timedelta(minutes=1))
    assert {"rotator-ledger": world.permission("ledger", "sales", "finance")} == world.there()
    assert ("superseded", []) == (world.events(EventType.FAILED)[-1].result, world.drift())


def test_law_21_a_write_that_a_crash_left_unrecorded_is_recorded_before_it_is_superseded(world: PlatformWorld) -> None:
    """One effect, one record: also where the change that made it does not go on."""

    def crash(call: str) -> None:
        if call.startswith("write"):
            raise Crash

    world.faults.after = crash
    with pytest.raises(Crash):
        world.apply()
    (first,) = world.rotations(PLATFORM)
    assert (1, []) == (len(world.there()), world.events(EventType.APPLIED))
    world.restart()
    world.configure()
    world.apply(supersede=True)
    (record,) = world.events(EventType.APPLIED)[:1]
    assert (first.id, "rotator-ledger") == (record.rotation_id, record.detail["name"])
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert ({}, 2) == (world.there(), len(world.events(EventType.APPLIED)))


def test_a_removal_is_not_recorded_for_a_mesh_that_is_configured_no_more(world: PlatformWorld) -> None:
    """A change that is superseded after its mesh has left the configuration claims no write that it did not make."""
    world.applied(world.permission("ledger", "finance"), world.service("old"))
    world.place.behind = ("worker-1",)
    world.configure(world.permission("ledger", "finance", "sales"))
    world.apply()
    known = len(world.events(EventType.APPLIED))
    platform = world.fleet().platform
    assert platform is not None
    world.engine.fleet = replace(world.fleet(), platform=replace(platform, wanted={}, places={}))
    world.apply(supersede=True)
    assert "rotator-old-service" in world.there()
    assert known == len(world.events(EventType.APPLIED))


def test_a_plan_that_is_no_longer_true_is_refused(world: PlatformWorld) -> None:
    """What was shown is what is applied: another configuration or another hand in between refuses it, recorded."""
    digest = world.apply(dry_run=True)["digest"]
    world.configure(world.permission("ledger", "finance", "sales"))
    answer = world.apply(plan=digest)
    assert "the plan has changed" in answer["refused"][0]["why"]
    digest = world.apply(dry_run=True)["digest"]
    world.place.put(world.service("by-hand"))
    assert "the plan has changed" in world.apply(plan=digest)["refused"][0]["why"]
    assert (2, [], set()) == (len(world.events(EventType.REFUSED)), world.place.history, set(world.rotations(PLATFORM)))


def test_four_eyes_approve_exactly_what_is_applied(world: PlatformWorld) -> None:
    """A second person's word carries out the plan that was asked for; a stale one is refused at the last word."""
    world.policy = ApprovalPolicy(rules=(RULE,))
    waiting = world.apply()["request"]
    assert ([], world.apply(dry_run=True)["digest"]) == (world.place.history, waiting["plan"])
    with pytest.raises(Denied, match="own request"):
        world.desk().approve(ApproveRequest(id=waiting["id"]), ALICE)
    world.desk().approve(ApproveRequest(id=waiting["id"], reason="seen"), BOB)
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    applied = world.events(EventType.APPLIED)
    assert (2, {1}) == (len(applied), {len(each.approved_by) for each in applied})
    world.configure(world.permission("ledger", "sales"))
    waiting = world.apply()["request"]
    world.configure(world.permission("ledger", "mallory"))
    answer = world.desk().approve(ApproveRequest(id=waiting["id"]), BOB)
    assert "the plan has changed" in answer["refused"][0]["why"]
    assert "refused" == world.desk().request(waiting["id"])["state"]
    assert world.permission("ledger", "finance") == world.there()["rotator-ledger"]


def test_a_change_is_undone(world: PlatformWorld) -> None:
    """Undoing writes what was there before, in the safe order, with its own records; undoing that does it again."""
    world.applied()
    change = world.applied(world.permission("ledger", "sales"))
    (opened,) = world.undo(change)["rotations"]
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    before = (world.permission("ledger", "finance"), world.route("ledger", "a"))
    assert {each.address.name: each for each in before} == world.there()
    undone = world.events(EventType.UNDONE)
    assert {opened["id"]} == {each.rotation_id for each in undone}
    first = world.store.platform_change(opened["id"])
    assert first is not None
    assert (ChangeKind.UNDO, change) == (first.kind, first.undoes)
    world.undo(opened["id"])
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert {"rotator-ledger": world.permission("ledger", "sales")} == world.there()


def test_an_undo_restores_exactly_what_was_there(world: PlatformWorld) -> None:
    """Every label and every field of what was there, whatever a document says of its environment and its owner."""
    labels = {**OURS, ENVIRONMENT: "production", "team.example/owner": "finance"}
    before = replace(world.permission("ledger", "finance"), labels=labels)
    world.applied(before)
    change = world.applied(world.permission("ledger", "sales"))
    assert {"rotator-ledger": OURS} == {name: dict(each.labels) for name, each in world.there().items()}
    world.undo(change)
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert {"rotator-ledger": (labels, before.spec)} == {
        name: (dict(each.labels), each.spec) for name, each in world.there().items()
    }


def test_what_was_changed_since_is_not_undone_by_accident(world: PlatformWorld) -> None:
    """Where a document is not as the change left it, undoing is refused unless somebody says that it may go."""
    change = world.applied()
    world.applied(world.permission("ledger", "finance", "sales"), world.route("ledger", "a"))
    answer = world.undo(change)
    assert ["MeshTrafficPermission rotator-ledger in mesh default"] == answer["differs"]
    assert "not as that change left it" in answer["refused"][0]["why"]
    world.undo(change, overwrite=True)
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert {} == world.there()


def test_unknown_changes_and_no_platform_are_refused(world: PlatformWorld) -> None:
    """An id that no change has, and a configuration without a platform, are answered in words."""
    with pytest.raises(Rejected, match="no change of the platform"):
        world.undo("nothing")
    world.engine.use(replace(world.fleet(), platform=None))
    with pytest.raises(ConfigError, match="nothing under platform"):
        world.apply()


def test_an_edit_by_hand_is_found_told_and_recorded_once(world: PlatformWorld) -> None:
    """An edited document raises one alert and one record however often it is seen; put right, it is cleared."""
    world.applied()
    world.place.put(world.route("ledger", "elsewhere"))
    for _ in range(3):
        world.look()
    assert {"platform_drifted": "warning"} == world.alerts()
    (record,) = world.events(EventType.DRIFTED)
    assert ("edited", False) == (record.result, record.detail["opens"])
    world.restart()
    world.look()
    assert 1 == len(world.events(EventType.DRIFTED))
    world.place.put(world.route("ledger", "a"))
    world.look()
    world.run(span=timedelta(minutes=1))
    assert ({}, []) == (world.alerts(), world.drift())


def test_a_permission_that_lets_in_more_is_critical(world: PlatformWorld) -> None:
    """An edit that lets somebody in who was not, and a permission of others that opens a service, are critical."""
    world.applied()
    world.place.put(world.permission("ledger", "finance", "mallory"))
    world.look()
    assert {"platform_drifted": "critical"} == world.alerts()
    world.place.put(world.permission("ledger", "finance"))
    world.look()
    world.run(span=timedelta(minutes=1))
    other = world.place.document("MeshTrafficPermission", "allow-all", {"rules": []}, {})
    world.foreign = (
        Drift(kind=DriftKind.FOREIGN, address=other.address, applied=None, found=other, says="opens everything"),
    )
    world.on_drift = OnDrift.PUT_BACK
    world.engine.use(world.fleet())
    world.place.put(other)
    world.look()
    assert {"platform_drifted": "critical"} == world.alerts()
    assert "foreign" == world.events(EventType.DRIFTED)[-1].result
    assert ([], other.address in world.place.there) == (world.events(EventType.PUT_BACK), True)


def test_a_name_that_looks_like_a_secret_hides_nothing(world: PlatformWorld) -> None:
    """Whatever somebody else calls a document, its drift is told and recorded, with the name taken out."""
    world.applied()
    secret = "hvs." + "a" * 40
    other = world.place.document("MeshTrafficPermission", secret, {"rules": []}, {})
    world.foreign = (
        Drift(kind=DriftKind.FOREIGN, address=other.address, applied=None, found=other, says="opens everything"),
    )
    world.look()
    (record,) = world.events(EventType.DRIFTED)
    assert ("critical", False) == (world.alerts().get("platform_drifted"), secret in str(record))


def test_drift_is_told_also_while_the_ledger_cannot_be_written(world: PlatformWorld) -> None:
    """Without a journal the alert is raised all the same; its record follows, once."""
    world.applied()
    world.place.put(world.route("ledger", "elsewhere"))

    def away(call: str) -> None:
        if call == "journal.commit":
            raise JournalError("the disk is full")

    world.faults.before = away
    world.look()
    assert {"platform_drifted": "warning"} == world.alerts()
    world.faults.clear()
    world.run(span=timedelta(minutes=10), tick=timedelta(seconds=10))
    assert 1 == len(world.events(EventType.DRIFTED))


@pytest.mark.parametrize("what", ["edited", "removed", "added"])
def test_drift_is_put_back_where_that_is_configured(tmp_path: Path, what: str) -> None:
    """What was applied last stands again, also beside a configuration that nobody applied; who did what is recorded."""
    with contextlib.closing(PlatformWorld(tmp_path, on_drift=OnDrift.PUT_BACK)) as world:
        world.applied()
        applied = dict(world.there())
        world.configure(world.permission("ledger", "not-applied-yet"))
        if what == "edited":
            world.place.put(world.route("ledger", "elsewhere"))
        elif what == "removed":
            world.place.take(world.route("ledger", "a").address)
        else:
            world.place.put(world.permission("door", "mallory"))
        world.look()
        world.run(span=LOOK_EVERY)
        assert (applied, []) == (world.there(), world.drift())
        (drifted,) = world.events(EventType.DRIFTED)
        put_back = world.events(EventType.PUT_BACK)
        assert (what, 1) == (drifted.result, len(put_back))
        assert "drift" == put_back[0].trigger
        world.run(span=timedelta(minutes=1))
        assert {} == world.alerts()


def test_putting_back_has_an_end(tmp_path: Path) -> None:
    """What somebody changes again and again is put back five times within an hour, then only told of."""
    with contextlib.closing(PlatformWorld(tmp_path, on_drift=OnDrift.PUT_BACK)) as world:
        world.applied()
        for number in range(8):
            world.place.put(world.route("ledger", f"elsewhere-{number}"))
            world.look()
            world.run(span=SETTLE)
        assert (5, 8) == (len(world.events(EventType.PUT_BACK)), len(world.events(EventType.DRIFTED)))
        assert {"platform_drifted": "warning"} == world.alerts()


def test_what_a_control_plane_adds_is_no_drift(world: PlatformWorld) -> None:
    """Fields that the control plane adds to what it is given are neither drift nor anything to apply."""
    world.place.adds = {"added": "by the control plane"}
    world.applied()
    world.look()
    assert ([], []) == (world.drift(), world.apply(dry_run=True)["plan"])
    world.restart()
    world.look()
    assert ([], []) == (world.drift(), world.apply(dry_run=True)["plan"])


def test_a_hand_in_the_middle_ends_the_change(world: PlatformWorld) -> None:
    """A document that is neither as the plan saw it nor as it leaves it ends the change, which says what is left."""
    world.applied()
    world.configure(world.permission("ledger", "sales"), world.route("ledger", "b"))
    world.apply()
    world.engine.sweep()
    world.place.put(world.permission("ledger", "mallory"))
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    last = world.rotations(PLATFORM)[-1]
    assert RotationState.FAILED is last.state
    assert "2 of 3 writes were made" in last.outcome or "1 of 3 writes were made" in last.outcome
    assert "rotator-ledger" in last.outcome
    assert world.permission("ledger", "mallory") == world.there()["rotator-ledger"]


def test_a_refused_document_ends_the_change(world: PlatformWorld) -> None:
    """What the control plane refuses is said, the rest stands, and the next plan has what is left."""

    def refuse(call: str) -> None:
        if call == "write rotator-ledger-route":
            raise Rejected("no such service")

    world.faults.before = refuse
    world.apply()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    assert RotationState.FAILED is world.rotations(PLATFORM)[-1].state
    assert 1 == len(world.apply(dry_run=True)["plan"])


def test_a_change_that_does_not_end_is_told_of(world: PlatformWorld) -> None:
    """A change whose proxies do not acknowledge waits for them by name, and after a while a person is told."""
    world.place.behind = ("worker-1",)
    world.apply()
    world.run(span=timedelta(minutes=16), tick=timedelta(seconds=10))
    assert {"platform_held": "warning"} == world.alerts()
    world.place.behind = ()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    world.run(span=timedelta(minutes=1))
    assert {} == world.alerts()


# --- crashes ----------------------------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "away": lambda faults, n: faults.refuse(n, Unavailable),
}


def _changed(directory: Path) -> PlatformWorld:
    """Return a world in which a change is about to be asked for that widens, moves, narrows and removes."""
    directory.mkdir()
    world = PlatformWorld(directory)
    world.applied(world.permission("ledger", "finance"), world.route("ledger", "a"), world.service("old"))
    world.configure(world.permission("ledger", "sales"), world.route("ledger", "b"), world.service("new"))
    return world


def _asked(world: PlatformWorld) -> None:
    world.apply()
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None, tick=timedelta(seconds=5))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("crash before", marks=pytest.mark.soak),
        "crash after",
        "reply lost",
        pytest.param("away", marks=pytest.mark.soak),
    ],
)
def test_law_13_every_call_may_be_the_last(tmp_path: Path, fault: str) -> None:
    """Whichever call is the last or lost, a fresh engine ends the change: every document as wanted, one record each."""
    with contextlib.closing(_changed(tmp_path / "clean")) as clean:
        before = len(clean.faults.calls)
        _asked(clean)
        total = len(clean.faults.calls) - before
    assert total >= 10
    for n in range(1, total + 1):
        with contextlib.closing(_changed(tmp_path / str(n))) as world:
            FAULTS[fault](world.faults, n)
            with contextlib.suppress(Crash, Unavailable):
                _asked(world)
            world.restart()
            world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None, tick=timedelta(seconds=5))
            if len(world.rotations(PLATFORM)) < 2:
                # The request itself was lost: whoever asked asks again.
                _asked(world)
            world.run(span=LOOK_EVERY, tick=timedelta(seconds=20))
            assert {each.address.name: each for each in world.wanted} == world.there(), f"{fault} {n}"
            records = [each.detail["what"] for each in world.events(*WRITTEN)]
            # Three of the first change and five of the second: none twice, none missing.
            assert 8 == len(records), f"{fault} {n}: {records}"
            assert 2 == len(world.events(EventType.COMPLETED)), f"{fault} {n}"
            assert [RotationState.DONE] * 2 == [each.state for each in world.rotations(PLATFORM)]
            assert ([], []) == (world.drift(), world.apply(dry_run=True)["plan"])
            assert OURS.items() <= world.there()["rotator-ledger"].labels.items()
    print(f"{fault}: each of {total} calls")  # noqa: T201 -- the full count is part of the answer
