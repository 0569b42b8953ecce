"""
A CA rotation on a mesh in virtual time: the scenarios that ``make test-stack`` plays under load, on every machine.

Rules that must stay true here:

- The same scenarios, the same adapters, the same control plane's HTTP API; every pair of proxies is judged each second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.virtual_mesh import VirtualStage
from tests.stack.kuma.plane import Beginning, Model
from tests.stack.kuma.scenarios import Scenario, in_every_phase, in_one_phase, two_rotations_and_a_rollback

CASES = [
    pytest.param((Model.PROVIDED, "2.14.3"), id="provided-2.14.3"),
    # Between the two others there is nothing new in it that every run has to see.
    pytest.param((Model.IDENTITY, "2.14.3"), id="identity-2.14.3", marks=pytest.mark.soak),
    pytest.param((Model.IDENTITY, "3.0.1"), id="identity-3.0.1"),
]
SCENARIOS = [
    *(pytest.param(scenario, id=name) for name, scenario in in_one_phase().items()),
    *(pytest.param(scenario, id=name, marks=pytest.mark.soak) for name, scenario in in_every_phase().items()),
]


@pytest.fixture(params=CASES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VirtualStage]:
    """Give a mesh of three proxies that runs on a CA of rotator's."""
    model, version = request.param
    with closing(VirtualStage(tmp_path, model, version, proxies=3)) as made:
        made.adopt()
        yield made


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_pair_is_refused(stage: VirtualStage, scenario: Scenario) -> None:
    """Whatever happens in whichever phase, every new connection between two proxies verifies, at every second."""
    scenario(stage)
    assert stage.judged > 0
    assert stage.failed == []


def test_a_global_control_plane_gates_on_its_zones(tmp_path: Path) -> None:
    """Against a Global control plane with two zones the same two rotations and a rollback refuse no pair."""
    with closing(VirtualStage(tmp_path, Model.PROVIDED, "2.14.3", proxies=4, zones=("east", "west"))) as stage:
        stage.adopt()
        two_rotations_and_a_rollback(stage)


@pytest.mark.parametrize(
    ("model", "version", "beginning"),
    [
        (Model.PROVIDED, "2.14.3", Beginning.BUILTIN),
        (Model.PROVIDED, "2.14.3", Beginning.BY_HAND),
        (Model.IDENTITY, "2.14.3", Beginning.BY_HAND),
        (Model.IDENTITY, "3.0.1", Beginning.BY_HAND),
    ],
)
def test_a_mesh_of_others_is_taken_over(tmp_path: Path, model: Model, version: str, beginning: Beginning) -> None:
    """A mesh on Kuma's builtin CA, or on one made by hand, is taken over without a refused pair; then it rotates."""
    with closing(VirtualStage(tmp_path, model, version, beginning=beginning, proxies=3)) as stage:
        with stage.unharmed("taken over"):
            before = stage.active()
            stage.adopt()
            assert stage.active() != before
        two_rotations_and_a_rollback(stage)
