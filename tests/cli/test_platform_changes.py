"""Changing the platform from the command line: shown first, done by the digest of what was shown, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from rotator.cli.tables import status_view
from rotator.control import ApplyRequest, UndoRequest
from tests.cli.served import Run, served
from tests.fakes.operations import CHANGE, FakeOperations

DIGEST = "5" * 64


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def run(tmp_path: Path, operations: FakeOperations, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with served(tmp_path, operations, capsys) as run:
        yield run


def test_diff_shows_each_document_by_mesh_and_ends_with_3(run: Run, operations: FakeOperations) -> None:
    """What would be written stands under its mesh with its diff and the plan's digest; nothing is asked to be done."""
    code, out, _ = run("platform", "diff")

    assert (3, True) == (code, out.startswith("# the mesh of mesh.prod\n\n1. create MeshTrafficPermission"))
    assert f"+type: MeshTrafficPermission\n\nplan {DIGEST}\n" in out
    assert [True] == [request.dry_run for request, _ in operations.asked]  # type: ignore[attr-defined] # all are plans


def test_apply_does_what_was_shown(run: Run, operations: FakeOperations) -> None:
    """The plan is asked for first, and the order carries its digest."""
    code, out, _ = run("platform", "apply", "--reason", "finance reads", "--ticket", "T-1")

    assert (0, True) == (code, "create MeshTrafficPermission" in out)
    assert [
        ApplyRequest(reason="finance reads", ticket="T-1", dry_run=True),
        ApplyRequest(reason="finance reads", ticket="T-1", plan=DIGEST),
    ] == [request for request, _ in operations.asked]


def test_a_plan_that_was_looked_at_before_can_be_named(run: Run, operations: FakeOperations) -> None:
    """--plan goes to the daemon in the place of the digest of the moment, which refuses another one."""
    operations.refused = [{"subject": "platform", "why": "the plan has changed since it was shown"}]
    code, _, err = run("platform", "apply", "--reason", "finance reads", "--plan", "6" * 64)

    assert (4, "platform: refused: the plan has changed since it was shown\n") == (code, err)
    assert ["6" * 64] * 2 == [request.plan for request, _ in operations.asked]  # type: ignore[attr-defined] # both are


def test_a_dry_run_applies_nothing(run: Run, operations: FakeOperations) -> None:
    """--dry-run asks for the plan alone."""
    code, _, _ = run("platform", "apply", "--reason", "finance reads", "--dry-run")

    assert (0, [True]) == (code, [request.dry_run for request, _ in operations.asked])  # type: ignore[attr-defined] # a plan


def test_undo_names_a_change(run: Run, operations: FakeOperations) -> None:
    """The change, and whether later edits may go, stand in the order."""
    code, out, _ = run("--json", "platform", "undo", "r-1", "--reason", "wrong queue", "--overwrite")

    assert (0, [{"id": "r-1", "kind": "platform", "subject": "platform"}]) == (code, json.loads(out)["rotations"])
    assert [
        UndoRequest(change="r-1", reason="wrong queue", overwrite=True, dry_run=True),
        UndoRequest(change="r-1", reason="wrong queue", overwrite=True, plan=DIGEST),
    ] == [request for request, _ in operations.asked]
    assert 1 == len(CHANGE)


def test_status_says_what_is_to_be_applied_and_who_is_waited_for() -> None:
    """Each mesh of the platform has its line, and so has the change that is under way."""
    platform = {
        "meshes": [{"trust_domain": "mesh.prod", "documents": 4, "to_apply": 2, "problem": ""}],
        "open_change": {"id": "c-1"},
        "waiting_on": ["worker-1"],
    }
    shown = io.StringIO()
    Console(file=shown, width=120).print(status_view({"subjects": [], "platform": platform}, datetime.now(UTC)))

    assert "platform, mesh.prod: 4 documents, 2 writes to apply" in shown.getvalue()
    assert "change c-1 is under way: waits for worker-1" in shown.getvalue()
