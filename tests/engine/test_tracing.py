"""A rotation is one trace, whoever does its steps and however often the daemon starts anew."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.core.model import SubjectKind, SubjectName
from rotator.core.trace import SERIAL, SPIFFE_ID, root_span_id, trace_id
from rotator.engine.engine import Engine
from rotator.errors import Unavailable
from rotator.ports import Span
from rotator.telemetry import LogEvent, configure_logging
from tests.engine.world import MESH, World

SERVICE = SubjectName("service-0")
HOURS = timedelta(hours=6)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, certificates=2)
    yield made
    made.close()


def hear(engine: Engine) -> list[Span]:
    """Return a list that every span of *engine* is added to."""
    spans: list[Span] = []
    engine.recorder.tracing.tell(spans.append)
    return spans


def test_a_leafs_rotation_is_a_trace_of_its_steps(world: World) -> None:
    """Root, step, signature, publication and proof are one tree under the rotation's own id, and say whose it is."""
    world.run(until=world.settled)
    spans = hear(world.engine)
    rotation = world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)
    mine = {each.name: each for each in spans if each.trace_id == trace_id(rotation.id)}
    root = root_span_id(rotation.id)
    assert {
        "rotation": None,
        "issue_leaf": root,
        "sign": mine["issue_leaf"].span_id,
        "publish": mine["issue_leaf"].span_id,
        "prove": root,
    } == {name: each.parent_id for name, each in mine.items()}
    (issued,) = (each for each in world.events(EventType.ISSUED) if each.rotation_id == rotation.id)
    assert issued.new is not None
    assert {
        "rotator.subject": SERVICE,
        "rotator.step": "issue_leaf",
        "rotator.rotation_id": rotation.id,
        "rotator.trigger": "request",
        "rotator.result": "ok",
        SPIFFE_ID: f"spiffe://{MESH}/{SERVICE}",
        SERIAL: issued.new.serial,
    } == mine["issue_leaf"].attributes
    assert (root, "done") == (mine["rotation"].span_id, mine["rotation"].attributes["rotator.result"])
    assert all(each.began <= each.ended for each in spans)


def test_every_record_of_a_rotation_names_its_trace(world: World) -> None:
    """From a record one gets to the trace, and the other way round: the trace's id is the rotation's."""
    world.run(until=world.settled)
    told = [each for each in world.events() if each.rotation_id]
    assert told
    assert [trace_id(each.rotation_id or "") for each in told] == [each.trace_id for each in told]


def test_a_restart_goes_on_with_the_same_trace(world: World) -> None:
    """Steps of the process before and of the one after it are children of one root, which the second one tells of."""
    world.run(until=world.settled)
    first = hear(world.engine)
    rotation = world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.consumers[SERVICE].lag = timedelta(minutes=3)
    world.run(span=timedelta(seconds=20))
    world.restart()
    second = hear(world.engine)
    world.consumers[SERVICE].lag = timedelta(0)
    world.run(until=world.settled, span=HOURS)
    before, after = ([each for each in spans if each.trace_id == trace_id(rotation.id)] for spans in (first, second))
    assert "prepare_issuer" in {each.name for each in before}
    assert {"activate_issuer", "retire_issuer", "rotation"} <= {each.name for each in after}
    assert "rotation" not in {each.name for each in before}
    known = {each.span_id for each in (*before, *after)}
    assert [] == [each.name for each in (*before, *after) if each.parent_id is not None and each.parent_id not in known]
    assert 1 == sum(each.parent_id is None for each in (*before, *after))


def test_a_leaf_that_follows_its_ca_is_linked_to_the_cas_rotation(world: World) -> None:
    """A wave's leaves have traces of their own, each with a link to the rotation that caused it."""
    world.run(until=world.settled)
    spans = hear(world.engine)
    rotation = world.ask(SubjectName(MESH), SubjectKind.TRUST_DOMAIN)
    world.run(until=world.settled, span=HOURS)
    issued = [each for each in spans if each.name == "issue_leaf" and each.attributes["rotator.trigger"] == "authority"]
    assert {SERVICE, "service-1"} == {each.attributes["rotator.subject"] for each in issued}
    cause = (trace_id(rotation.id), root_span_id(rotation.id))
    assert all(each.links == (cause,) and each.trace_id != trace_id(rotation.id) for each in issued)


def test_a_step_that_fails_says_so(world: World) -> None:
    """Its span, and the call within it that failed, bear the error; the rotation goes on to its end."""
    world.run(until=world.settled)
    spans = hear(world.engine)
    refused: list[str] = []

    def refuse_once(call: str) -> None:
        if call == "issuer.sign" and not refused:
            refused.append(call)
            raise Unavailable("the issuer did not answer")

    world.faults.before = refuse_once
    rotation = world.ask(SERVICE, SubjectKind.CERTIFICATE)
    world.run(until=world.settled)
    mine = [each for each in spans if each.trace_id == trace_id(rotation.id)]
    failed = {each.name for each in mine if each.error}
    assert ({"issue_leaf", "sign"}, "") == (failed, next(each.error for each in mine if each.name == "rotation"))


def test_lines_within_a_step_name_its_trace_and_span(world: World) -> None:
    """A line that is written while a step is done leads to its span, and the line after it says how long it took."""
    stream = io.StringIO()
    undo = configure_logging("info", "json", stream)
    try:
        world.run(until=world.settled)
        spans = hear(world.engine)
        stream.truncate(0)
        stream.seek(0)
        rotation = world.ask(SERVICE, SubjectKind.CERTIFICATE)
        world.run(until=world.settled)
    finally:
        undo()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    step = next(each for each in spans if each.name == "issue_leaf")
    about = [each for each in lines if each.get("rotation_id") == rotation.id and "span_id" in each]
    assert [LogEvent.STEP_STARTED, LogEvent.STEP_FINISHED] == [each["event"] for each in about]
    assert {(trace_id(rotation.id), step.span_id)} == {(each["trace_id"], each["span_id"]) for each in about}
    assert about[-1]["duration_ms"] >= 0


@pytest.mark.parametrize("rotation_id", ["5f2b6c3d9e7a4b1c8d0e1f2a3b4c5d6e", "5f2b6c3d-9e7a-4b1c-8d0e-1f2a3b4c5d6e"])
def test_a_rotations_id_is_its_traces_id(rotation_id: str) -> None:
    """What a person reads in status can be looked for in the traces as it is."""
    assert rotation_id.replace("-", "") == trace_id(rotation_id)


@pytest.mark.parametrize("rotation_id", ["", "0" * 32, "naive", "x" * 500])
def test_any_other_id_has_a_trace_too(rotation_id: str) -> None:
    """Ids of other forms become ids that W3C allows, always the same."""
    found = trace_id(rotation_id)
    assert (32, 16, False) == (len(found), len(root_span_id(rotation_id)), set(found) == {"0"})
    assert int(found, 16) > 0
    assert found == trace_id(rotation_id)
