"""
What must hold of a CA rotation on a mesh under load, one function a claim.

Rules that must stay true here:

- Whichever model, control plane and phase: a scenario is written once.
- Each begins and ends with a mesh at rest and every proxy running, so that any may follow any other on one stage.
- A disturbance comes while a rotation is in the phase it is meant for, or has just passed it: phases of a second are
  not held up for a scenario's sake.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial

from rotator.core.model import Phase
from rotator.embedded.process import wait_until
from tests.stack.kuma.installation import PATIENCE
from tests.stack.kuma.stage import Stage, Told

PHASES = (Phase.PREPARED, Phase.TRUSTED, Phase.ACTIVATED, Phase.REISSUED)
"""The phases in which something may happen to a rotation."""


def two_rotations_and_a_rollback(stage: Stage) -> None:
    """Two rotations in a row and one that is walked back: no request fails, every proxy's leaf moves and returns."""
    with stage.unharmed("two rotations in a row and a rollback"):
        first = stage.active()
        second = stage.moved(stage.rotate(), first)
        third = stage.moved(stage.rotate(), second)
        rotation = stage.rotate()
        stage.at(Phase.ACTIVATED)
        stage.daemon.roll_back()
        stage.rolled_back(rotation, third)


def _disturbed(stage: Stage, what: str, phase: Phase, disturb: Callable[[], None]) -> None:
    """Rotate, do *disturb* once *phase* is reached, and see the rotation done with no request failed."""
    with stage.unharmed(f"{what}, {phase.value}"):
        before = stage.active()
        rotation = stage.rotate()
        stage.at(phase)
        disturb()
        stage.moved(rotation, before)


def joins(stage: Stage, phase: Phase) -> None:
    """A proxy that joins in any phase is served and serves from its first request on (law 19)."""
    name = f"joiner-{phase.value}"
    _disturbed(stage, "a proxy joins", phase, lambda: stage.join(name))
    with stage.unharmed("the joiner leaves"):
        stage.leave(name)
        stage.spread()


def stopped_and_started(stage: Stage) -> None:
    """A proxy stopped before and started after a rotation counts as live while its leaf lives, and is served anew."""
    name = "service-0"
    with stage.unharmed("a proxy is stopped before and started after"):
        before = stage.active()
        stage.leave(name)
        rotation = stage.rotate()
        stage.daemon.wait_row(lambda row: any(name in each for each in row["waiting_on"]), f"status to name {name}")
        stage.moved(rotation, before)
        stage.join(name)
        stage.active()


def control_plane_restarted(stage: Stage, phase: Phase) -> None:
    """The control plane killed and started anew in any phase: proxies go on, and the rotation ends."""
    _disturbed(stage, "the control plane is killed and comes back", phase, stage.plane.restart)


def daemon_killed(stage: Stage, phase: Phase) -> None:
    """The daemon killed in any phase: the next one ends what was begun."""

    def kill() -> None:
        stage.daemon.daemon.kill()
        stage.daemon.start()

    _disturbed(stage, "the daemon is killed and comes back", phase, kill)


def secret_edited(stage: Stage, phase: Phase) -> None:
    """A secret edited by hand in the middle holds the rotation with a named reason; mended, it ends."""
    plane, daemon = stage.plane, stage.daemon
    with stage.unharmed(f"a secret is edited by hand, {phase.value}"):
        before = stage.active()
        rotation = stage.rotate()
        stage.at(phase)
        name = newest_certificate_secret(stage)
        path = f"/meshes/{plane.mesh}/secrets/{name}"
        kept = plane.api("GET", path)
        edited = base64.b64decode(kept["data"]) + b"\n# edited by hand\n"
        plane.api("PUT", path, {**kept, "data": base64.b64encode(edited).decode()})
        daemon.wait_row(lambda row: name in str(row) or row["open_rotation"] is None, f"status to name {name}")
        plane.api("PUT", path, kept)
        stage.moved(rotation, before)


def newest_certificate_secret(stage: Stage) -> str:
    """Return the name of the certificate secret of the newest generation."""
    listed = stage.plane.api("GET", f"/meshes/{stage.plane.mesh}/secrets")["items"]
    numbers = [
        int(parts[1][1:])
        for each in listed
        if len(parts := str(each["name"]).split("-")) == 3 and parts[0] == "rotator" and parts[2] == "cert"
    ]
    return f"rotator-g{max(numbers)}-cert"


def never_acknowledges(stage: Stage, *, deadline: timedelta) -> None:
    """A proxy that acknowledges nothing holds the rotation, is named, and alerts; when it answers again, it ends."""
    name = "service-1"
    with stage.unharmed("a proxy never acknowledges"):
        before = stage.active()
        stage.plane.freeze_proxy(name)
        rotation = stage.rotate()
        stage.daemon.wait_row(lambda row: any(name in each for each in row["waiting_on"]), f"status to name {name}")
        wait_until(
            lambda: any(name in alert for alert in stage.daemon.alerts()),
            within=deadline + PATIENCE,
            what=f"an alert that names {name}: {stage.daemon.status()}",
            every=timedelta(milliseconds=200),
        )
        assert before == stage.active(), "a generation signs that not everybody trusts"
        assert stage.daemon.row()["open_rotation"] is not None
        stage.plane.thaw_proxy(name)
        stage.moved(rotation, before)


def left_behind(stage: Stage) -> None:
    """With ``proceed, at most one`` the rotation goes on without the frozen proxy at the deadline, and says so."""
    name = "service-1"
    before = stage.active()
    stage.plane.freeze_proxy(name)
    with stage.unharmed("a rotation proceeds without a frozen proxy, as its operator wrote"):
        # It will be left behind: that is the choice, and what it costs is no surprise.
        stage.spread(without=name)
        rotation = stage.rotate()
        stage.at(Phase.ACTIVATED)
    stage.plane.thaw_proxy(name)
    stage.moved(rotation, before)
    with stage.unharmed("the proxy is back"):
        stage.spread()


def adopted(stage: Stage, *, interrupts: bool) -> None:
    """A mesh that rotator did not make is taken over under load, with its plan shown first; then it rotates."""
    planned = stage.daemon.command("adopt", stage.daemon.domain, "--reason", "look", "--dry-run")
    assert planned.stdout.strip(), "no plan was shown"
    before = stage.load.count()
    refused = None
    if interrupts:
        refused = stage.daemon.adopt()
        assert refused.returncode == 4, refused.stdout + refused.stderr
    done = stage.daemon.adopt(*(("--accept-interruption", "the test says so") if interrupts else ()))
    assert done.returncode == 0, done.stdout + done.stderr
    stage.load.more(100)
    during = stage.counted(before)
    stage.told.append(Told(what="taken over", count=during))
    if not interrupts:
        assert during.failures == (), during.told()
    with stage.unharmed("the first rotation after being taken over"):
        stage.moved(stage.rotate(), stage.active())


def in_one_phase(deadline: timedelta) -> Mapping[str, Callable[[Stage], None]]:
    """Return every scenario that needs no stage of its own, each in one phase."""
    return {
        "two rotations and a rollback": two_rotations_and_a_rollback,
        "a proxy joins": lambda stage: joins(stage, Phase.TRUSTED),
        "the control plane is restarted": lambda stage: control_plane_restarted(stage, Phase.ACTIVATED),
        "the daemon is killed": lambda stage: daemon_killed(stage, Phase.PREPARED),
        "a secret is edited by hand": lambda stage: secret_edited(stage, Phase.PREPARED),
        "a proxy never acknowledges": lambda stage: never_acknowledges(stage, deadline=deadline),
        "a proxy is stopped and started": stopped_and_started,
    }


def in_every_phase() -> Mapping[str, Callable[[Stage], None]]:
    """Return the scenarios that have a phase, in each of them."""
    disturbances = (joins, control_plane_restarted, daemon_killed, secret_edited)
    return {
        f"{each.__name__.replace('_', ' ')}, {phase.value}": partial(each, phase=phase)
        for each in disturbances
        for phase in PHASES
    }
