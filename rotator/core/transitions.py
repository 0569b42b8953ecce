"""
The transitions of a trust domain's authority, as data: what the diagram is drawn from and `decide` is held to.

Rules that must stay true here:

- Every step that `rotator.core.authority.decide` can give in a phase stands here, with every phase it can lead to;
  nothing else does. A test walks the state machine and compares both ways.
- A phase may also change without a step: parties acknowledge, leaves are replaced, time passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from rotator.core.model import IntentKind, Phase
from rotator.core.steps import (
    ActivateIssuer,
    AuthorityStep,
    PrepareIssuer,
    PublishBundle,
    ReissueLeaves,
    RetireIssuer,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step in one phase under one intent, and the phases in which the world can stand afterwards."""

    phase: Phase
    intent: IntentKind | None
    """None: nobody wants anything, what lies about is put away."""
    step: type[AuthorityStep]
    then: tuple[Phase, ...]
    why: str


_ROTATE, _BACK, _COMPROMISE = IntentKind.ROTATE, IntentKind.ROLL_BACK, IntentKind.COMPROMISE


def _row(
    phase: Phase, intent: IntentKind | None, step: type[AuthorityStep], then: tuple[Phase, ...], why: str
) -> Transition:
    return Transition(phase=phase, intent=intent, step=step, then=then, why=why)


TRANSITIONS: tuple[Transition, ...] = (
    _row(Phase.ABSENT, _ROTATE, PrepareIssuer, (Phase.PREPARED, Phase.TRUSTED), "the first generation, or recovery"),
    _row(Phase.STEADY, _ROTATE, PrepareIssuer, (Phase.PREPARED, Phase.TRUSTED), "a successor is made"),
    _row(Phase.STEADY, _ROTATE, RetireIssuer, (Phase.STEADY,), "a successor that cannot be activated is put away"),
    _row(Phase.PREPARED, _ROTATE, PublishBundle, (Phase.PREPARED, Phase.TRUSTED), "everyone is given {new, old}"),
    _row(Phase.TRUSTED, _ROTATE, ActivateIssuer, (Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED), "it signs"),
    _row(Phase.ACTIVATED, _ROTATE, PublishBundle, (Phase.ACTIVATED,), "a bundle that lost one of the two is mended"),
    _row(Phase.ACTIVATED, _ROTATE, ReissueLeaves, (Phase.ACTIVATED, Phase.REISSUED), "leaves follow in waves"),
    _row(Phase.REISSUED, _ROTATE, PublishBundle, (Phase.REISSUED, Phase.RETIRED), "everyone is given {new}"),
    _row(Phase.REISSUED, _ROTATE, RetireIssuer, (Phase.REISSUED, Phase.RETIRED), "the old one is put away"),
    _row(Phase.STEADY, None, RetireIssuer, (Phase.STEADY,), "what nobody uses is put away"),
)
