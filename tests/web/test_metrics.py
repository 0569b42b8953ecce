"""Metrics: the catalogue's names, what the world is, and each committed effect once."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from rotator.core.event import Event, EventType
from rotator.core.model import SubjectKind, SubjectName
from rotator.daemon.life import Role
from rotator.ports import Hold, RotationState
from rotator.telemetry import METRICS, Metric
from rotator.web.metrics import Metrics, Tallies, platform_families, subject_families
from tests.engine.platform_world import PlatformWorld
from tests.engine.token_world import KEYS, WEB, TokenWorld
from tests.engine.world import MESH, World
from tests.fixtures_kuma import NewStandIn
from tests.web.house import House

SERVICE = SubjectName("service-0")
ROTATED = {"kind": "certificate", "result": RotationState.DONE.value}


class Scraped:
    """One scrape, parsed."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Return one sample; None if there is none."""
        found = [each.value for each in self.samples if each.name == name and each.labels == labels]
        assert len(found) <= 1, f"{name} {labels} is there {len(found)} times"
        return found[0] if found else None


def scraped(house: House, tallies: Tallies | None = None) -> Scraped:
    """Return what *house* shows now."""
    tallies = tallies or Tallies(house.world.clock)
    return Scraped(Metrics(house.life, tallies).exposition().decode())


def test_a_certificate_is_shown_as_it_is(house: House) -> None:
    """End, used share, opening and safety line are those of the published certificate."""
    view = house.world.engine.leaves.view(SERVICE)
    assert view is not None
    assert view.window is not None
    seen, window = scraped(house), view.window
    assert {
        Metric.CERTIFICATE_NOT_AFTER: window.closes.timestamp(),
        Metric.CERTIFICATE_LIFETIME_USED: window.used(house.world.clock.now()),
        Metric.RENEWAL_OPENS: window.opens.timestamp(),
        Metric.SAFETY_LINE: window.safety_line.timestamp(),
        Metric.RENEWAL_OVERDUE: 0.0,
    } == {
        name: seen.value(name, subject=SERVICE)
        for name in (
            Metric.CERTIFICATE_NOT_AFTER,
            Metric.CERTIFICATE_LIFETIME_USED,
            Metric.RENEWAL_OPENS,
            Metric.SAFETY_LINE,
            Metric.RENEWAL_OVERDUE,
        )
    }


def test_a_trust_domain_is_shown_as_it_is(house: House) -> None:
    """Phase, generation and end are those that the signer has."""
    (generation,) = house.world.held()
    seen = scraped(house)
    number = str(generation.number)
    # A first generation that was never rotated stands in its first phase, whatever that is called.
    phases = [each.labels["phase"] for each in seen.samples if each.name == Metric.TRUST_DOMAIN_PHASE]
    state = house.world.engine.domains.get(MESH)
    assert state is not None
    assert [state.decision.phase.value] == phases
    assert generation.authority.not_after.timestamp() == seen.value(
        Metric.ISSUER_NOT_AFTER, trust_domain=MESH, generation=number
    )
    assert seen.value(Metric.ISSUER_SIGNING, trust_domain=MESH, generation=number) == 1.0


def test_a_renewal_that_is_held_is_overdue_only_after_the_hold(house: House) -> None:
    """A person's pause is no overdue renewal; from its end on the seconds count, and past the safety line anyway."""
    view = house.world.engine.leaves.view(SERVICE)
    assert view is not None
    assert view.window is not None
    window = view.window
    until = window.opens + timedelta(minutes=5)
    house.world.engine.memory.apply([Hold(subject=SERVICE, until=until)])
    overdue = []
    for at in (until, until + timedelta(minutes=2)):
        house.world.clock.set(at)
        overdue.append(scraped(house).value(Metric.RENEWAL_OVERDUE, subject=SERVICE))
    assert [0.0, 120.0] == overdue


def test_every_sample_is_in_the_catalogue(house: House) -> None:
    """Names, types and labels are those of docs/telemetry.md, but for the process's own."""
    tallies = Tallies(house.world.clock)
    tallies.answered("/metrics", 200)
    house.sign()
    strays = []
    for family in scraped(house, tallies).families.values():
        if family.name.startswith("process_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind, labels, _ = METRICS[Metric(name)]
        strays += [each for each in family.samples if set(each.labels) - {"le"} != set(labels)]
        assert kind == family.type, name
    assert [] == strays


def test_a_standby_shows_no_subject(house: House) -> None:
    """What the leader tells of is told once: a standby says that it is none, that it lives, and no more."""
    house.life.role = Role.STANDBY
    seen = scraped(house)
    assert (0.0, None, None) == (
        seen.value(Metric.LEADER),
        seen.value(Metric.CERTIFICATE_NOT_AFTER, subject=SERVICE),
        seen.value(Metric.LEDGER_SIZE),
    )
    assert [] == [each for each in seen.samples if {"subject", "trust_domain"} & set(each.labels)]


def test_each_ended_rotation_counts_once(house: House) -> None:
    """A restart, a journal read again and a write that is made twice count nothing."""
    world, tallies = house.world, Tallies(house.world.clock)
    world.engine.memory.tell(tallies.rotation_ended)
    rotation = world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)
    (ended,) = [each for each in world.rotations(SERVICE) if each.id == rotation.id]
    world.engine.memory.apply([ended])
    world.engine.memory.load(world.store)
    seen = scraped(house, tallies)
    assert (1.0, 1.0) == (
        seen.value(Metric.ROTATIONS, **ROTATED),
        seen.value(f"{Metric.ROTATION_SECONDS}_count", kind="certificate"),
    )


def test_a_rotation_whose_last_reply_was_lost_counts_once(house: House) -> None:
    """The commit that ended it took and nobody heard: it is counted when the journal is read again."""
    world, tallies = house.world, Tallies(house.world.clock)
    world.engine.memory.tell(tallies.rotation_ended)
    rotation = world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)
    tallies = Tallies(world.clock)
    world.engine.memory.tell(tallies.rotation_ended)
    # As this process stands when it has not heard of the end: open in memory, ended in the journal.
    world.engine.memory.apply([rotation])
    world.engine.memory.load(world.store)
    world.engine.memory.load(world.store)
    assert scraped(house, tallies).value(Metric.ROTATIONS, **ROTATED) == 1.0


def drained(result: str, at: World, **detail: str) -> Event:
    """Return one event of a drain."""
    return Event(
        type=EventType.DRAINED,
        time=at.clock.now(),
        subject="service-0",
        result=result,
        detail={"workload": "workers", "member": "worker-1", **detail},
    )


def test_a_drain_lasts_from_its_beginning_to_its_last_task(house: House) -> None:
    """A member that was drained for ninety seconds is one observation of ninety; one that was let go is none."""
    world, tallies = house.world, Tallies(house.world.clock)
    tallies.committed([drained("started", world)])
    world.clock.advance(timedelta(seconds=90))
    tallies.committed([drained("ok", world)])
    tallies.committed([drained("started", world), drained("deferred", world)])
    tallies.committed([drained("ok", world)])
    seen = scraped(house, tallies)
    assert (1.0, 90.0) == (
        seen.value(f"{Metric.DRAIN_SECONDS}_count", workload="workers"),
        seen.value(f"{Metric.DRAIN_SECONDS}_sum", workload="workers"),
    )


def test_scrapes_at_the_same_time_cost_one(house: House) -> None:
    """Within a second the same answer is given; after it the world is read anew."""
    metrics = Metrics(house.life, Tallies(house.world.clock))
    first = metrics.exposition()
    house.world.clock.advance(timedelta(milliseconds=900))
    assert first == metrics.exposition()
    house.world.clock.advance(timedelta(milliseconds=200))
    assert first != metrics.exposition()


def test_labels_are_bounded(house: House) -> None:
    """Generations that have ended are shown no more: a CA that rotates for years makes no more series."""
    house.world.run(span=timedelta(hours=20), tick=timedelta(minutes=2))
    shown = [each for each in scraped(house).samples if each.name == Metric.ISSUER_NOT_AFTER]
    alive = [each for each in house.world.held() if each.authority.not_after > house.world.clock.now()]
    ever = max(each.number for each in house.world.held())
    assert (True, True) == (len(alive) >= len(shown) > 0, ever > len(shown)), f"{ever} generations, {len(shown)} shown"


def test_the_platform_has_metrics_of_its_own(tmp_path: Path) -> None:
    """Documents, what is to be applied, and drift by kind are shown for each control plane; nothing without one."""
    with contextlib.closing(PlatformWorld(tmp_path)) as world:
        world.applied()
        world.place.put(world.permission("ledger", "mallory"))
        world.look()
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in platform_families(world.engine)
            for sample in family.samples
        }
        # Whoever was let in goes after whoever is let in now.
        assert (2, 2) == (
            found["rotator_platform_documents", MESH],
            found["rotator_platform_to_apply", MESH],
        )
        assert {"edited": 1, "removed": 0, "added": 0, "foreign": 0} == {
            name[2]: value for name, value in found.items() if name[0] == "rotator_platform_drifted"
        }
        assert world.clock.now().timestamp() - found["rotator_platform_seen_timestamp_seconds", MESH] < 120


def test_tokens_and_signing_keys_are_shown_as_they_are(tmp_path: Path, new_standin: NewStandIn) -> None:
    """End, used share and window of a token; age and window of the keys, and how long they could have been rotated."""
    with contextlib.closing(TokenWorld(tmp_path, new_standin(), rotate_every=timedelta(hours=2))) as world:
        world.run(until=world.settled)
        token, keys = world.engine.tokens.view(WEB), world.engine.signing_keys.view(KEYS)
        assert token is not None
        assert token.window is not None
        assert keys is not None
        assert keys.opens is not None
        (newest,) = keys.keys
        assert newest.created_at is not None
        now = keys.opens + timedelta(minutes=7)
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in subject_families(world.engine, now)
            for sample in family.samples
        }
    assert {
        (Metric.MANAGED_TOKEN_NOT_AFTER, WEB): token.window.closes.timestamp(),
        (Metric.MANAGED_TOKEN_LIFETIME_USED, WEB): token.window.used(now),
        (Metric.RENEWAL_OPENS, WEB): token.window.opens.timestamp(),
        (Metric.SAFETY_LINE, WEB): token.window.safety_line.timestamp(),
        (Metric.RENEWAL_OVERDUE, WEB): (now - token.window.opens).total_seconds(),
        (Metric.SIGNING_KEY_ADDED, KEYS): newest.created_at.timestamp(),
        (Metric.RENEWAL_OPENS, KEYS): keys.opens.timestamp(),
        (Metric.RENEWAL_OVERDUE, KEYS): timedelta(minutes=7).total_seconds(),
    } == found
