"""
A CA rotation on a mesh of five real Envoys under load, with a real OpenBao and the real daemon.

Rules that must stay true here:

- Every model that a control plane has, on each control plane; what a scenario claims stands in
  `tests.stack.kuma.scenarios`.
- Control planes are stand-ins unless the environment names a released Kuma (`tests.stack.kuma.released`): then the
  same scenarios run on that one, too.
- `make test-stack` takes each scenario in one phase for the provided model (2.14) and the identity model (3.0), and
  what fits beside them; `make soak` all of them in all phases, for each model of each version.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.clock import SystemClock
from rotator.embedded.openbao import OpenBaoServer
from tests.fixtures_postgres import running_postgresql
from tests.stack.kuma import released
from tests.stack.kuma.beginnings import begin
from tests.stack.kuma.installation import MeshPolicy, new_mesh_name
from tests.stack.kuma.naive import overwritten_in_place
from tests.stack.kuma.plane import Beginning, MeshUnderTest, Model
from tests.stack.kuma.released import ReleasedPlane
from tests.stack.kuma.scenarios import Scenario, in_every_phase, in_one_phase, left_behind, two_rotations_and_a_rollback
from tests.stack.kuma.stage import LoadedStage, staged
from tests.stack.kuma.standin import StandInPlane

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.external, pytest.mark.timeout(1800)]

LEAF = "60s"
DEADLINE = timedelta(seconds=10)
ENOUGH = 50_000
"""Requests a model in the soak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model on one control plane."""

    model: Model
    version: str | None
    """Of the stand-in; None for the released Kuma that the environment names."""

    @contextmanager
    def plane(self, directory: Path, zones: tuple[str, ...] = ()) -> Iterator[MeshUnderTest]:
        """Give the running control plane with a mesh of a new name; skip, in one line, where it cannot be had."""
        directory.mkdir(parents=True)
        mesh = new_mesh_name()
        if self.version is not None:
            with StandInPlane(directory, mesh=mesh, version=self.version, zones=zones) as stand_in:
                yield stand_in
            return
        if (why := released.missing()) is not None:
            pytest.skip(why)
        if zones or (self.model is Model.PROVIDED and released.version() >= (3, 0, 0)):
            pytest.skip(f"the released control plane here has no {'zones' if zones else self.model.value}")
        with running_postgresql(directory) as postgres, ReleasedPlane(directory, postgres, mesh, self.model) as plane:
            yield plane

    def __str__(self) -> str:
        return f"{self.model.value}-{self.version or 'released'}"


PROVIDED_2 = Case(model=Model.PROVIDED, version="2.14.3")
IDENTITY_2 = Case(model=Model.IDENTITY, version="2.14.3")
IDENTITY_3 = Case(model=Model.IDENTITY, version="3.0.1")
RELEASED = tuple(Case(model=model, version=None) for model in Model)
CASES = (PROVIDED_2, IDENTITY_2, IDENTITY_3, *RELEASED)


@contextmanager
def on_stage(
    case: Case,
    tmp_path: Path,
    openbao: OpenBaoServer,
    *,
    beginning: Beginning = Beginning.PLAIN,
    policy: MeshPolicy | None = None,
    proxies: int = 5,
    zones: tuple[str, ...] = (),
    adopt: bool = True,
    rate: float = 120.0,
) -> Iterator[LoadedStage]:
    """Give a stage with a mesh that begins as said, rotator's already if *adopt*; tell what it cost at the end."""
    with case.plane(tmp_path / "plane", zones) as plane:
        begin(plane, case.model, beginning, leaf=LEAF, now=SystemClock().now())
        with staged(
            plane,
            case.model,
            directory=tmp_path,
            openbao=openbao,
            proxies=proxies,
            adopt=adopt,
            policy=policy or MeshPolicy(longest_leaf=LEAF, trust_deadline={"after": f"{DEADLINE.seconds}s"}),
            rate=rate,
        ) as stage:
            try:
                yield stage
            finally:
                tell(stage)


def tell(stage: LoadedStage) -> None:
    """Print what every act cost; pytest shows it with -s, and with a failure."""
    for act in stage.told:
        print(f"{stage.plane.product}, {stage.model.value}: {act.what}: {act.count.told()}")  # noqa: T201 -- figures


def possible(stage: LoadedStage) -> list[Scenario]:
    """Return the scenarios in one phase each, without what this control plane's proxies cannot do."""
    found = dict(in_one_phase())
    if not stage.plane.freezes:
        del found["a proxy never acknowledges"]
        print(f"{stage.plane.product}: not played: a proxy never acknowledges")  # noqa: T201 -- what is left out
    return list(found.values())


@pytest.mark.parametrize(
    "case", [PROVIDED_2, IDENTITY_3, *RELEASED, pytest.param(IDENTITY_2, marks=pytest.mark.soak)], ids=str
)
def test_every_scenario_in_one_phase(case: Case, tmp_path: Path, openbao: OpenBaoServer) -> None:
    """Rotations, a rollback, and every disturbance in one phase: no request fails, and every account closes."""
    with on_stage(case, tmp_path, openbao) as stage:
        for scenario in possible(stage):
            scenario(stage)
        stage.accounts()


def test_a_meshidentity_on_2_14_moves_twice_and_back(tmp_path: Path, openbao: OpenBaoServer) -> None:
    """Two rotations and a rollback of a MeshIdentity on 2.14 fail no request; the disturbances are the soak's there."""
    with on_stage(IDENTITY_2, tmp_path, openbao) as stage:
        two_rotations_and_a_rollback(stage)
        stage.accounts()


@pytest.mark.parametrize(
    ("case", "beginning"),
    [(PROVIDED_2, Beginning.BUILTIN), (PROVIDED_2, Beginning.BY_HAND), (IDENTITY_3, Beginning.BY_HAND)],
    ids=str,
)
def test_a_mesh_of_others_is_taken_over(
    case: Case, beginning: Beginning, tmp_path: Path, openbao: OpenBaoServer
) -> None:
    """A mesh on Kuma's builtin CA, or on one made by hand, is taken over under load without a failed request."""
    with on_stage(case, tmp_path, openbao, beginning=beginning, proxies=3, adopt=False) as stage:
        stage.adopted(interrupts=False)
        stage.accounts()


@pytest.mark.parametrize("case", [PROVIDED_2, pytest.param(IDENTITY_3, marks=pytest.mark.soak)], ids=str)
def test_a_mesh_without_mutual_tls_is_taken_over(case: Case, tmp_path: Path, openbao: OpenBaoServer) -> None:
    """A mesh without mutual TLS: what is interrupted is said first, refused unless told to, and counted."""
    with on_stage(case, tmp_path, openbao, proxies=3, adopt=False) as stage:
        stage.adopted(interrupts=True)
        stage.accounts()


def test_a_global_control_plane_gates_on_its_zones(tmp_path: Path, openbao: OpenBaoServer) -> None:
    """Against a Global control plane with two zones the same two rotations and a rollback fail no request."""
    with on_stage(PROVIDED_2, tmp_path, openbao, proxies=4, zones=("east", "west")) as stage:
        two_rotations_and_a_rollback(stage)
        stage.accounts()


@pytest.mark.parametrize("case", [IDENTITY_3, pytest.param(IDENTITY_2, marks=pytest.mark.soak)], ids=str)
def test_a_global_control_plane_shows_too_little_of_identities(
    case: Case, tmp_path: Path, openbao: OpenBaoServer
) -> None:
    """A Global control plane does not say whether a MeshIdentity is ready in its zones: that is refused, and said."""
    with on_stage(case, tmp_path, openbao, proxies=2, zones=("east", "west"), adopt=False) as stage:
        refused = stage.daemon.adopt("--accept-interruption", "nobody calls anybody yet")
        assert refused.returncode == 4, refused.stdout + refused.stderr
        assert "Global" in refused.stdout + refused.stderr


def test_the_deadlines_choice_is_followed(tmp_path: Path, openbao: OpenBaoServer) -> None:
    """With ``proceed, at most one`` the frozen proxy is left behind at the deadline, and nobody else notices."""
    policy = MeshPolicy(longest_leaf=LEAF, trust_deadline={"after": "5s", "then": "proceed", "at_most": 1})
    with on_stage(PROVIDED_2, tmp_path, openbao, policy=policy) as stage:
        left_behind(stage)
        stage.accounts()


NAIVE = (
    (PROVIDED_2, 0),
    (IDENTITY_3, 15),
    *((case, 0) for case in RELEASED),
    # They take two minutes each and change no claim.
    *(
        pytest.param(case, seconds, marks=pytest.mark.soak)
        for case, seconds in ((PROVIDED_2, 15), (IDENTITY_2, 0), (IDENTITY_2, 15), (IDENTITY_3, 0))
    ),
)


@pytest.mark.parametrize(("case", "seconds"), NAIVE, ids=str)
def test_the_naive_way_is_counted(case: Case, seconds: int, tmp_path: Path) -> None:
    """
    The secrets overwritten in place, on the same mesh under the same load, at once or by two commands: an experiment.

    With a provided CA it is an outage. What it does to identities is told as it was counted, not claimed.
    """
    with case.plane(tmp_path / "plane") as plane:
        apart = timedelta(seconds=seconds)
        count = overwritten_in_place(plane, case.model, directory=tmp_path, leaf=LEAF, apart=apart)
        told = f"{plane.product}, {case.model.value}: overwritten in place, {seconds} s apart: {count.told()}"
        print(told)  # noqa: T201 -- figures
    assert count.requests > 0
    assert case.model is Model.IDENTITY or count.failures


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_scenario_in_every_phase(case: Case, tmp_path: Path, openbao: OpenBaoServer) -> None:
    """The full matrix, and fifty thousand requests a model: no request fails, and every account closes."""
    with on_stage(case, tmp_path, openbao, rate=150.0) as stage:
        for scenario in [*possible(stage), *in_every_phase().values()]:
            scenario(stage)
        while (seen := stage.load.count().requests) < ENOUGH:
            with stage.unharmed(f"one more rotation after {seen} requests"):
                stage.moved(stage.rotate(), stage.active())
        stage.accounts()
        whole = stage.load.count() - stage.began
        print(f"{stage.plane.product}, {case.model.value}: all in all {whole.told()}")  # noqa: T201 -- figures
    assert whole.failures == ()
