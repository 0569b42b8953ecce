"""
How tokens and their signing keys stand, for ``status`` and ``plan``.

Rules that must stay true here:

- Read only, from the last look, as `rotator.engine.status`; a token itself is nowhere in it (law 10).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from rotator.core.tokens import described
from rotator.durations import moment_text
from rotator.engine.engine import Engine
from rotator.engine.targets import SigningKeyTarget, TokenTarget


def token_row(engine: Engine, target: TokenTarget) -> dict[str, Any]:
    """Return what the row of one token says beside what every subject's does."""
    view = engine.tokens.view(target.name)
    best = view.best if view is not None else None
    token = best.token if best is not None else None
    window = view.window if view is not None else None
    phase = "unknown" if view is None else "absent" if token is None else "in_use" if view.proven else "published"
    return {
        "phase": phase,
        "generation": best.number if best is not None else None,
        "serial": token.id if token is not None else None,
        "spiffe_id": None,
        "issuer": token.issuer if token is not None else None,
        "not_before": _moment(token.not_before if token is not None else None),
        "not_after": _moment(token.not_after if token is not None else None),
        "renew_at": _moment(window.opens if window is not None else None),
        "safety_line": _moment(window.safety_line if window is not None else None),
        "longest_leaf_seconds": int(target.token.lifetime.total_seconds()),
        "skew_seconds": int(target.policy.skew.total_seconds()),
        "token": {
            "kind": target.token.grant.kind.value,
            "for": described(target.token.grant),
            "signing_key": token.key if token is not None else None,
        },
        "warnings": [view.problem] if view is not None and view.problem else [],
    }


def signing_key_row(engine: Engine, target: SigningKeyTarget) -> dict[str, Any]:
    """Return what the row of one set of signing keys says beside what every subject's does."""
    view = engine.signing_keys.view(target.name)
    rotation = engine.memory.open_rotation(target.name)
    keys = view.keys if view is not None else ()
    newest = keys[-1] if keys else None
    phase = "unknown" if view is None else "absent" if newest is None else "steady"
    if newest is not None and rotation is not None:
        phase = (
            "prepared"
            if rotation.activated_at is None
            else "activated"
            if any(
                engine.tokens.needing(each, rotation.to_generation or 0) for each in engine.fleet.signed_by(target.name)
            )
            else "reissued"
        )
    return {
        "phase": phase,
        "generation": newest.serial if newest is not None else None,
        "serial": None,
        "spiffe_id": None,
        "issuer": target.keys.place,
        "not_before": _moment(newest.created_at if newest is not None else None),
        "not_after": None,
        "renew_at": _moment(view.opens if view is not None else None),
        "safety_line": None,
        "longest_leaf_seconds": int(target.policy.others_live.total_seconds()),
        "skew_seconds": int(target.policy.skew.total_seconds()),
        "signing_keys": [{"serial": each.serial, "created_at": _moment(each.created_at)} for each in keys],
        "warnings": [],
    }


def planned(engine: Engine, now: datetime, horizon: timedelta) -> Iterator[dict[str, Any]]:
    """Yield what tokens and signing keys will do within *horizon*."""
    for target in engine.fleet.tokens.values():
        view = engine.tokens.view(target.name)
        if view is None:
            continue
        if view.window is None:
            yield _row(now, target.name, "issue", "nothing is published yet")
        elif view.window.opens <= now + horizon:
            yield _row(view.window.opens, target.name, "issue anew", "its renewal window opens")
    for keys in engine.fleet.signing_keys.values():
        seen = engine.signing_keys.view(keys.name)
        if engine.memory.open_rotation(keys.name) is not None:
            why = f"waiting for {', '.join(seen.look.waiting_on)}" if seen is not None and seen.look.waiting_on else ""
            yield _row(now, keys.name, "rotate the signing key (under way)", why)
        elif seen is not None and seen.opens is not None and seen.opens <= now + horizon:
            yield _row(seen.opens, keys.name, "rotate the signing key", "it is as old as configured")


def token_plan(target: TokenTarget) -> list[str]:
    """Return, in sentences, what a rotation of *target* asked for now would do."""
    want = target.token
    steps = [
        f"issue a token for {described(want.grant)}, valid {int(want.lifetime.total_seconds())} s",
        f"publish it to {', '.join(store.target for store in target.stores)} and read it back",
    ]
    after = f"{int(want.revoke_after.total_seconds())} s later"
    steps.append(
        f"{after} put the one before on the revocation list; connections that are open by then live on"
        if want.revoke
        else "leave the one before to end by itself"
    )
    return steps


def signing_key_plan(engine: Engine, target: SigningKeyTarget) -> list[str]:
    """Return, in sentences, what a rotation of the signing key asked for now would do."""
    view = engine.signing_keys.view(target.name)
    keys = view.keys if view is not None else ()
    old = keys[-1].serial if keys else 0
    tokens = engine.fleet.signed_by(target.name)
    others = int(target.policy.others_live.total_seconds())
    return [
        f"add signing key {old + 1} of {target.keys.place}; it signs from then on, and key {old} stays valid",
        f"wait {int(target.policy.known_after.total_seconds())} s until it is known wherever tokens are checked",
        f"issue {len(tokens)} tokens anew and see each published",
        f"wait {others} s for tokens that rotator does not manage" if others else "wait for nobody else's tokens",
        f"remove signing key {old}: whatever it signed is refused from then on, open connections live on",
    ]


def _row(at: datetime, subject: str, what: str, why: str) -> dict[str, Any]:
    return {"at": moment_text(at), "subject": subject, "what": what, "why": why}


def _moment(at: datetime | None) -> str | None:
    return None if at is None else moment_text(at)
