"""Adopting a mesh from the command line: the plan first, what it interrupts, and the exit codes of the contract."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from rotator.cli.tables import status_view
from rotator.control import AdoptRequest
from rotator.core.model import SubjectName
from tests.cli.served import Run, served
from tests.fakes.operations import FakeOperations

DONE = {"subject": "default", "state": "done", "phase": "retired", "proven": 5, "total": 5, "outcome": "completed"}
MESH = SubjectName("default")


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations(steps=[DONE])


@pytest.fixture
def run(tmp_path: Path, operations: FakeOperations, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with served(tmp_path, operations, capsys) as run:
        yield run


def asked(operations: FakeOperations) -> list[AdoptRequest]:
    """Return what the daemon was asked, in order."""
    return [request for request, _ in operations.asked if isinstance(request, AdoptRequest)]


def test_adopt_prints_what_is_there_and_the_plan_first(run: Run, operations: FakeOperations) -> None:
    """What the mesh runs on and each step are printed before the mesh is asked for; then what was opened."""
    code, out, _ = run("adopt", "default", "--reason", "we lead it", "--ticket", "T-1")

    assert (
        0,
        (
            "default: found the builtin CA of backend ca-1\nweb\n  1. issue web anew\n  2. wait for proof\n"
            "default: rotation r-default is accepted\n"
        ),
    ) == (code, out)
    assert [
        AdoptRequest(subject=MESH, reason="we lead it", ticket="T-1", dry_run=True),
        AdoptRequest(subject=MESH, reason="we lead it", ticket="T-1"),
    ] == asked(operations)


def test_a_dry_run_adopts_nothing(run: Run, operations: FakeOperations) -> None:
    """--dry-run asks for the plan alone."""
    code, _, _ = run("adopt", "default", "--reason", "we lead it", "--dry-run")

    assert (0, [True]) == (code, [each.dry_run for each in asked(operations)])


def test_an_interruption_is_accepted_in_words(run: Run, operations: FakeOperations) -> None:
    """The words go to the daemon with the order, and not with the plan, which anybody may read."""
    run("adopt", "default", "--reason", "we lead it", "--accept-interruption", "tonight nobody minds")

    assert [None, "tonight nobody minds"] == [each.accept_interruption for each in asked(operations)]


def test_what_is_refused_is_exit_code_4(run: Run, operations: FakeOperations) -> None:
    """A mesh that is not adopted, for want of somebody's word, ends with 4 and the reason."""
    operations.refused = [{"subject": "default", "why": "this interrupts: every connection"}]

    code, _, err = run("adopt", "default", "--reason", "we lead it")

    assert (4, "default: refused: this interrupts: every connection\n") == (code, err)


def test_adopting_can_be_waited_for(run: Run) -> None:
    """--wait ends with 0 when the last proxy is proven; with --json the progress stands in the answer."""
    code, out, _ = run("--json", "adopt", "default", "--reason", "we lead it", "--wait")

    assert (0, ["done"]) == (code, [each["state"] for each in json.loads(out)["rotations"]])


def test_status_names_what_holds_a_mesh_back() -> None:
    """Beside its row a mesh says why nothing may be changed, what it runs on, and what people should know."""
    row = {
        "name": "default",
        "phase": "absent",
        "mesh": {"refusals": ["another hand: stop it"], "adoption": {"found": "the builtin CA", "interrupts": None}},
        "warnings": ["two secrets are left"],
    }
    shown = io.StringIO()
    Console(file=shown, width=200).print(
        status_view({"subjects": [row, {"name": "web"}]}, datetime(2030, 1, 1, tzinfo=UTC))
    )

    assert [
        "default is refused: another hand: stop it",
        "default: found the builtin CA; rotator adopt default",
        "default: two secrets are left",
    ] == [line.rstrip() for line in shown.getvalue().splitlines()[3:]]
