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
    RevokeIssuer,
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
    # nobody wants anything
    _row(Phase.ABSENT, None, RetireIssuer, (Phase.ABSENT,), "what has expired and nobody uses is put away"),
    _row(Phase.STEADY, None, RetireIssuer, (Phase.STEADY,), "what is left over and nobody uses is put away"),
    # forward
    _row(Phase.ABSENT, _ROTATE, PrepareIssuer, (Phase.PREPARED, Phase.TRUSTED), "the first generation, or recovery"),
    _row(Phase.ABSENT, _ROTATE, RetireIssuer, (Phase.ABSENT,), "a successor that cannot be activated is put away"),
    _row(Phase.STEADY, _ROTATE, PrepareIssuer, (Phase.PREPARED, Phase.TRUSTED), "a successor is made"),
    _row(Phase.STEADY, _ROTATE, RetireIssuer, (Phase.STEADY,), "a successor that grew too old is put away"),
    _row(Phase.PREPARED, _ROTATE, PublishBundle, (Phase.PREPARED, Phase.TRUSTED), "everyone is given {new, old}"),
    _row(
        Phase.TRUSTED,
        _ROTATE,
        ActivateIssuer,
        (Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED),
        "every live party has acknowledged it",
    ),
    _row(Phase.ACTIVATED, _ROTATE, PublishBundle, (Phase.ACTIVATED,), "a bundle that lost one of the two is mended"),
    _row(Phase.ACTIVATED, _ROTATE, ReissueLeaves, (Phase.ACTIVATED,), "leaves follow in waves"),
    _row(Phase.REISSUED, _ROTATE, PublishBundle, (Phase.REISSUED, Phase.RETIRED), "everyone is given {new}"),
    _row(
        Phase.REISSUED,
        _ROTATE,
        ReissueLeaves,
        (Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED),
        "a leaf that somebody swapped is replaced",
    ),
    _row(Phase.REISSUED, _ROTATE, RetireIssuer, (Phase.REISSUED, Phase.RETIRED), "nobody uses or trusts the old one"),
    # back
    _row(Phase.ACTIVATED, _BACK, PublishBundle, (Phase.ACTIVATED,), "everyone is given {new, old} again"),
    _row(Phase.ACTIVATED, _BACK, ActivateIssuer, (Phase.PREPARED, Phase.TRUSTED), "the old one signs again"),
    _row(Phase.REISSUED, _BACK, PublishBundle, (Phase.REISSUED,), "everyone is given {new, old} again"),
    _row(Phase.REISSUED, _BACK, ActivateIssuer, (Phase.PREPARED, Phase.TRUSTED), "the old one signs again"),
    _row(Phase.TRUSTED, _BACK, ReissueLeaves, (Phase.PREPARED, Phase.TRUSTED), "leaves follow in waves"),
    _row(Phase.TRUSTED, _BACK, PublishBundle, (Phase.PREPARED,), "everyone is given {old}"),
    _row(Phase.PREPARED, _BACK, ReissueLeaves, (Phase.PREPARED,), "leaves follow in waves"),
    _row(Phase.PREPARED, _BACK, PublishBundle, (Phase.PREPARED, Phase.TRUSTED), "everyone is given {old}"),
    _row(Phase.PREPARED, _BACK, RetireIssuer, (Phase.PREPARED, Phase.STEADY), "nobody uses or trusts the new one"),
    _row(Phase.STEADY, _BACK, PublishBundle, (Phase.STEADY,), "a bundle that somebody cut is mended"),
    _row(Phase.STEADY, _BACK, ReissueLeaves, (Phase.STEADY,), "a leaf that somebody swapped is replaced"),
    _row(Phase.STEADY, _BACK, RetireIssuer, (Phase.STEADY,), "what is left over and nobody uses is put away"),
    # away
    _row(Phase.ABSENT, _COMPROMISE, PrepareIssuer, (Phase.PREPARED,), "a successor is made"),
    _row(Phase.ABSENT, _COMPROMISE, RetireIssuer, (Phase.ABSENT,), "what lay beside the stolen key is put away"),
    _row(Phase.STEADY, _COMPROMISE, PrepareIssuer, (Phase.PREPARED,), "a successor is made"),
    _row(Phase.STEADY, _COMPROMISE, RetireIssuer, (Phase.STEADY,), "what lay beside the stolen key is put away"),
    _row(Phase.PREPARED, _COMPROMISE, RevokeIssuer, (Phase.PREPARED,), "the stolen one is revoked at its parent"),
    _row(
        Phase.PREPARED,
        _COMPROMISE,
        ActivateIssuer,
        (Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED),
        "no acknowledgement is waited for",
    ),
    _row(
        Phase.ACTIVATED,
        _COMPROMISE,
        ReissueLeaves,
        (Phase.ACTIVATED, Phase.REISSUED),
        "new leaf and bundle {new} in one write",
    ),
    _row(Phase.ACTIVATED, _COMPROMISE, PublishBundle, (Phase.ACTIVATED,), "everyone else is given {new}"),
    _row(
        Phase.ACTIVATED,
        _COMPROMISE,
        RetireIssuer,
        (Phase.ACTIVATED, Phase.REISSUED, Phase.RETIRED),
        "the stolen one is put away while somebody still presents it",
    ),
    _row(
        Phase.REISSUED,
        _COMPROMISE,
        ReissueLeaves,
        (Phase.REISSUED, Phase.RETIRED),
        "a leaf that somebody swapped is replaced",
    ),
    _row(Phase.REISSUED, _COMPROMISE, PublishBundle, (Phase.REISSUED, Phase.RETIRED), "everyone else is given {new}"),
    _row(Phase.REISSUED, _COMPROMISE, RetireIssuer, (Phase.REISSUED, Phase.RETIRED), "the stolen one is put away"),
)
