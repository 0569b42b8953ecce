"""
How the platform's documents stand, for ``status``.

Rules that must stay true here:

- Read only, from the last look, as `rotator.engine.status`.
- Who asked and who approved stand here as the ledger's commitments, so that nothing names a person (law 24).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rotator.core.model import TrustDomainName
from rotator.durations import moment_text
from rotator.engine.engine import Engine
from rotator.engine.platform_views import PlaceView
from rotator.ports import PlatformChange, Rotation


def platform_row(engine: Engine) -> dict[str, Any] | None:
    """Return the platform's documents: each mesh as last seen, what others changed, and the change under way."""
    target = engine.fleet.platform
    if target is None:
        return None
    rotation, last = engine.memory.open_rotation(target.name), engine.memory.last_rotation(target.name)
    look, failures, error = engine.pool.look(target.id)
    views = {each.trust_domain: each for each in engine.platform.views()}
    return {
        "meshes": [_mesh(domain, mesh, views.get(domain)) for domain, mesh in target.meshes.items()],
        "drift": [
            {
                "what": each.kind.value,
                "trust_domain": each.address.trust_domain,
                "mesh": each.address.mesh,
                "kind": each.address.kind,
                "name": each.address.name,
                "says": each.in_words,
                "opens": each.is_grave,
                "since": _moment(since),
                "diff": each.diff,
            }
            for each, since in engine.platform.drift()
        ],
        "on_drift": target.on_drift.value,
        "open_change": None if rotation is None else {"id": rotation.id, "opened_at": _moment(rotation.opened_at)},
        "last_change": None
        if last is None
        else {
            "id": last.id,
            "result": last.state.value,
            "finished_at": _moment(last.finished_at),
            "outcome": last.outcome,
        },
        "changes": [_change(each, engine.platform.rotation_of(each)) for each in engine.platform.changes()],
        "waiting_on": list(look.waiting_on) if look is not None else [],
        "why": look.why if look is not None else "",
        "failures": failures,
        "error": error,
    }


def _mesh(domain: TrustDomainName, mesh: str, view: PlaceView | None) -> dict[str, Any]:
    return {
        "trust_domain": domain,
        "mesh": mesh,
        "documents": view.own if view is not None else None,
        "to_apply": view.to_apply if view is not None else None,
        "seen_at": _moment(view.seen_at) if view is not None else None,
        "problem": view.problem if view is not None else "",
        "environments": [
            {
                "environment": each.environment,
                "applied": each.applied,
                "documents": each.own,
                "to_apply": each.to_apply,
                "drifted": each.drifted,
            }
            for each in (view.environments if view is not None else ())
        ],
    }


def _change(change: PlatformChange, rotation: Rotation | None) -> dict[str, Any]:
    return {
        "id": change.id,
        "kind": change.kind.value,
        "undoes": change.undoes,
        "documents": len(change.plan.ends()),
        "plan_sha256": change.plan.digest,
        "state": rotation.state.value if rotation is not None else None,
        "opened_at": _moment(rotation.opened_at) if rotation is not None else None,
        "finished_at": _moment(rotation.finished_at) if rotation is not None else None,
        "outcome": rotation.outcome if rotation is not None else "",
        "ticket": rotation.ticket if rotation is not None else None,
        "requested_by": rotation.requested_by if rotation is not None else None,
        "approved_by": list(rotation.approved_by) if rotation is not None else [],
    }


def _moment(at: datetime | None) -> str | None:
    return None if at is None else moment_text(at)
