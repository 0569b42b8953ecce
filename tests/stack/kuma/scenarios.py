"""
What must hold of a CA rotation on a mesh, one function a claim.

Rules that must stay true here:

- Written once for every model, control plane and data plane: a `Stage` is all that a scenario knows of them.
- Each begins and ends with a mesh at rest and every proxy running, so that any may follow any other on one stage.
- A disturbance comes while a rotation is in the phase it is meant for, or has just passed it: phases of a second are
  not held up for a scenario's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from rotator.core.model import IssuerId, Phase
from tests.stack.kuma.plane import Json

PHASES = (Phase.PREPARED, Phase.TRUSTED, Phase.ACTIVATED, Phase.REISSUED)
"""The phases in which something may happen to a rotation."""


class Seeing(Protocol):
    """How a scenario sees what happens."""

    def unharmed(self, what: str) -> AbstractContextManager[None]:
        """Fail if any call between two proxies fails inside the block; *what* is told of it."""
        ...

    def active(self) -> IssuerId:
        """Return the one authority that signed every proxy's leaf; anything else is a failure."""
        ...

    def at(self, phase: Phase) -> None:
        """Wait until the open rotation has come to *phase* or past it."""
        ...

    def named(self, name: str) -> None:
        """Wait until ``status`` names *name* as what is waited for, or as what holds the rotation."""
        ...

    def alerted(self, name: str) -> None:
        """Wait until an alert names *name*."""
        ...


class Rotating(Protocol):
    """What a scenario asks rotator for."""

    def rotate(self) -> str:
        """Ask for a CA rotation; return its id."""
        ...

    def roll_back(self) -> None:
        """Ask for the open rotation to be walked back."""
        ...

    def moved(self, rotation: str, before: IssuerId) -> IssuerId:
        """Wait until *rotation* is done; return who signed every proxy's leaf since, who is not *before*."""
        ...

    def rolled_back(self, rotation: str, before: IssuerId) -> None:
        """Wait until *rotation* has been walked back, and every proxy serves a leaf of *before* again."""
        ...


class Disturbing(Protocol):
    """What a scenario does to the stage."""

    def join(self, name: str) -> None:
        """Start a proxy, new or stopped before; it is called and calls from now on."""
        ...

    def leave(self, name: str) -> None:
        """Let nobody call a proxy any more, and stop it."""
        ...

    def freeze(self, name: str) -> None:
        """Let a proxy acknowledge nothing from now on."""
        ...

    def thaw(self, name: str) -> None:
        """Let it take what it is given again."""
        ...

    def spare(self, name: str | None) -> None:
        """Let nobody call *name*, and *name* nobody; None: everybody calls everybody again."""
        ...


class Breaking(Protocol):
    """What a scenario breaks, and what somebody else does."""

    @property
    def mesh(self) -> str:
        """Return the mesh's name."""
        ...

    def restart_control_plane(self) -> None:
        """Kill the control plane and start it anew."""
        ...

    def kill_daemon(self) -> None:
        """Kill rotator and start it anew."""
        ...

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Call the control plane's HTTP API as somebody else with every right."""
        ...


class Stage(Seeing, Rotating, Disturbing, Breaking, Protocol):
    """A mesh of at least two proxies, ``service-0`` and so on, all calling each other, and rotator looking after it."""


Scenario = Callable[[Stage], None]


def two_rotations_and_a_rollback(stage: Stage) -> None:
    """Two rotations in a row and one that is walked back: no call fails, every proxy's leaf moves and returns."""
    with stage.unharmed("two rotations in a row and a rollback"):
        first = stage.active()
        second = stage.moved(stage.rotate(), first)
        third = stage.moved(stage.rotate(), second)
        rotation = stage.rotate()
        stage.at(Phase.ACTIVATED)
        stage.roll_back()
        stage.rolled_back(rotation, third)


def _disturbed(stage: Stage, what: str, phase: Phase, disturb: Callable[[], None]) -> None:
    """Rotate, do *disturb* once *phase* is reached, and see the rotation done with no call failed."""
    with stage.unharmed(f"{what}, {phase.value}"):
        before = stage.active()
        rotation = stage.rotate()
        stage.at(phase)
        disturb()
        stage.moved(rotation, before)


def joins(stage: Stage, phase: Phase) -> None:
    """A proxy that joins in any phase is served and serves from its first call on (law 19)."""
    name = f"joiner-{phase.value}"
    _disturbed(stage, "a proxy joins", phase, lambda: stage.join(name))
    with stage.unharmed("the joiner leaves"):
        stage.leave(name)


def stopped_and_started(stage: Stage) -> None:
    """A proxy stopped before and started after a rotation counts as live while its leaf lives, and is served anew."""
    name = "service-0"
    with stage.unharmed("a proxy is stopped before and started after"):
        before = stage.active()
        stage.leave(name)
        rotation = stage.rotate()
        stage.named(name)
        stage.moved(rotation, before)
        stage.join(name)
        stage.active()


def control_plane_restarted(stage: Stage, phase: Phase) -> None:
    """The control plane killed and started anew in any phase: proxies go on, and the rotation ends."""
    _disturbed(stage, "the control plane is killed and comes back", phase, stage.restart_control_plane)


def daemon_killed(stage: Stage, phase: Phase) -> None:
    """The daemon killed in any phase: the next one ends what was begun."""
    _disturbed(stage, "the daemon is killed and comes back", phase, stage.kill_daemon)


def secret_edited(stage: Stage, phase: Phase) -> None:
    """A secret edited by hand in the middle holds the rotation with a named reason; mended, it ends."""
    with stage.unharmed(f"a secret is edited by hand, {phase.value}"):
        before = stage.active()
        rotation = stage.rotate()
        stage.at(phase)
        # Of a generation that signs for nobody: a control plane notices an edit under a live one by itself, and what
        # it does then is nobody's to prevent.
        held = _certificate_secrets(stage)
        edited, other = (held[-1], held[0]) if phase in {Phase.PREPARED, Phase.TRUSTED} else (held[0], held[-1])
        kept, wrong = stage.api("GET", edited), stage.api("GET", other)
        stage.api("PUT", edited, {**kept, "data": wrong["data"]})
        stage.named(kept["name"])
        stage.api("PUT", edited, kept)
        stage.moved(rotation, before)


def _certificate_secrets(stage: Stage) -> list[str]:
    """Return the paths of the secrets with generations' certificates, oldest first."""
    listed = stage.api("GET", f"/meshes/{stage.mesh}/secrets")["items"]
    numbers = [
        int(parts[1][1:])
        for each in listed
        if len(parts := str(each["name"]).split("-")) == 3 and parts[0] == "rotator" and parts[2] == "cert"
    ]
    return [f"/meshes/{stage.mesh}/secrets/rotator-g{number}-cert" for number in sorted(numbers)]


def never_acknowledges(stage: Stage) -> None:
    """A proxy that acknowledges nothing holds the rotation, is named, and alerts; when it answers again, it ends."""
    name = "service-1"
    with stage.unharmed("a proxy never acknowledges"):
        before = stage.active()
        stage.freeze(name)
        rotation = stage.rotate()
        stage.named(name)
        stage.alerted(name)
        assert before == stage.active(), "a generation signs that not everybody trusts"
        stage.thaw(name)
        stage.moved(rotation, before)


def left_behind(stage: Stage) -> None:
    """With ``proceed, at most one`` the rotation goes on without the frozen proxy at the deadline, and says so."""
    name = "service-1"
    before = stage.active()
    stage.freeze(name)
    with stage.unharmed("a rotation proceeds without a frozen proxy, as its operator wrote"):
        # It will be left behind: that is the choice, and what it costs is no surprise.
        stage.spare(name)
        rotation = stage.rotate()
        stage.at(Phase.ACTIVATED)
    stage.thaw(name)
    stage.moved(rotation, before)
    with stage.unharmed("the proxy is back"):
        stage.spare(None)


def in_one_phase() -> Mapping[str, Scenario]:
    """Return every scenario that needs no stage of its own, each in one phase."""
    return {
        "two rotations and a rollback": two_rotations_and_a_rollback,
        "a proxy joins": partial(joins, phase=Phase.TRUSTED),
        "the control plane is restarted": partial(control_plane_restarted, phase=Phase.ACTIVATED),
        "the daemon is killed": partial(daemon_killed, phase=Phase.PREPARED),
        "a secret is edited by hand": partial(secret_edited, phase=Phase.PREPARED),
        "a proxy never acknowledges": never_acknowledges,
        "a proxy is stopped and started": stopped_and_started,
    }


def in_every_phase() -> Mapping[str, Scenario]:
    """Return the scenarios that have a phase, in each of them."""
    disturbances = (joins, control_plane_restarted, daemon_killed, secret_edited)
    return {
        f"{each.__name__.replace('_', ' ')}, {phase.value}": partial(each, phase=phase)
        for each in disturbances
        for phase in PHASES
    }
