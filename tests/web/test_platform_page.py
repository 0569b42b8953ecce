"""The platform on the status page: what is applied, what is out of step, who changed what, and what waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rotator.control import ApproveRequest
from rotator.core.approval import ApprovalPolicy
from rotator.core.event import EventType
from rotator.platform.documents import PLATFORM, Document
from rotator.platform.resources import ENVIRONMENT
from rotator.web.page import status_page
from rotator.web.platform_page import MOST_DRIFTS
from tests.engine.platform_world import BOB, PlatformWorld
from tests.engine.test_platform import RULE
from tests.web.test_page import NOW, WELL, parsed


@pytest.fixture
def world(tmp_path: Path) -> Iterator[PlatformWorld]:
    """Give a platform with a document of production, one of staging, and one of the whole mesh, all applied."""
    with contextlib.closing(PlatformWorld(tmp_path)) as made:
        made.applied(*documents(made))
        yield made


def documents(world: PlatformWorld, *more: str) -> list[Document]:
    """Return what is wanted; *more* may call production's ledger, too."""
    production, staging = (
        replace(made, labels={**made.labels, ENVIRONMENT: name})
        for name, made in (
            ("production", world.permission("production-ledger", "finance", *more)),
            ("staging", world.permission("staging-ledger", "finance")),
        )
    )
    return [production, staging, world.service("front")]


def words(world: PlatformWorld) -> str:
    """Return what people read."""
    tags = parsed(status_page(world.desk_status(), now=world.clock.now(), health=WELL, environment="test"))
    assert ([], []) == (tags.broken, tags.open)
    return tags.words


def shares(world: PlatformWorld) -> dict[str | None, tuple[int, int, int, int]]:
    """Return applied, standing, to apply and drifted of each environment, as the status says it."""
    (mesh,) = world.desk_status()["platform"]["meshes"]
    fields = ("applied", "documents", "to_apply", "drifted")
    return {each["environment"]: tuple(each[field] for field in fields) for each in mesh["environments"]}


def test_each_environment_says_what_is_applied_and_what_is_out_of_step(world: PlatformWorld) -> None:
    """A hand's edit counts in its environment, what the configuration adds in the same, the others stay in step."""
    world.look()
    assert {"production": (1, 1, 0, 0), "staging": (1, 1, 0, 0), None: (1, 1, 0, 0)} == shares(world)

    world.place.put(documents(world, "mallory")[0])
    world.configure(*documents(world, "sales"))
    world.look()

    # Whom a hand let in goes, and who is wanted comes: two writes.
    assert {"production": (1, 1, 2, 1), "staging": (1, 1, 0, 0), None: (1, 1, 0, 0)} == shares(world)
    said = words(world)
    assert "production" in said
    assert "2 to apply" in said
    assert "1 changed" in said
    assert "lets somebody in" in said
    assert "mallory" in said


def test_a_change_stands_with_who_asked_and_who_approved(world: PlatformWorld) -> None:
    """Waiting it is named with whoever asks; over, both stand as the commitments of the ledger."""
    world.policy = ApprovalPolicy(rules=(RULE,))
    world.configure(*documents(world, "sales"))
    waiting = world.apply(reason="sales reads it")["request"]
    said = words(world)
    assert "waits for approval" in said
    assert "sales reads it" in said
    assert f"rotator approve {waiting['id'][:12]}" in said
    assert "alice" in said

    world.desk().approve(ApproveRequest(id=waiting["id"]), BOB)
    world.run(until=lambda: world.engine.memory.open_rotation(PLATFORM) is None)
    world.look()

    change = world.desk_status()["platform"]["changes"][0]
    record = next(each for each in reversed(world.events()) if each.type is EventType.APPLIED)
    assert (record.requested_by, list(record.approved_by)) == (change["requested_by"], change["approved_by"])
    assert ("done", 1) == (change["state"], len(change["approved_by"]))
    said = words(world)
    assert "waits for approval" not in said
    assert ("alice" in said, "bob" in said) == (False, False)
    assert change["requested_by"].removeprefix("sha256:")[:12] in said


def test_many_drifts_are_cut_and_say_so() -> None:
    """The ones that let somebody in come first."""
    drift: list[dict[str, Any]] = [{"says": f"document {at}", "what": "edited"} for at in range(MOST_DRIFTS + 4)]
    drift.append({"says": "the open door", "what": "foreign", "opens": True})
    status = {"platform": {"meshes": [], "drift": drift}}
    said = parsed(status_page(status, now=NOW, health=WELL, environment="test")).words
    assert "5 more: see the JSON" in said
    assert said.index("the open door") < said.index("document 0")


def test_without_a_platform_there_is_no_section() -> None:
    """Whoever configures none reads nothing of one."""
    said = parsed(status_page({"platform": None}, now=NOW, health=WELL, environment="test")).words
    assert "Platform" not in said
