"""
What stands where, as the contract's ``status`` JSON and as a plan.

Rules that must stay true here:

- Field names are the contract's; times are RFC 3339 UTC with whole seconds; additions are free.
- Read only, from the last look: asking for the status never makes a call that leaves the process.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rotator.core.authority_policy import next_due
from rotator.core.model import Phase, RelyingParty, SubjectKind, SubjectName, TrustDomainName
from rotator.core.rollout import foreseen
from rotator.core.steps import Done, Nothing, Refused, Wait, sentence
from rotator.engine import token_status
from rotator.engine.domains import DomainState
from rotator.engine.engine import Engine
from rotator.engine.observe import newest
from rotator.engine.targets import (
    CertificateTarget,
    DomainTarget,
    PlatformTarget,
    SigningKeyTarget,
    TokenTarget,
    WorkloadTarget,
)
from rotator.ports import Rotation, RotationState


def moment(at: datetime | None) -> str | None:
    """Return *at* as the contract writes moments, or None."""
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def subjects(engine: Engine) -> list[dict[str, Any]]:
    """Return every subject's status, trust domains first."""
    fleet = engine.fleet
    return [
        *(_domain(engine, each) for each in fleet.domains.values()),
        *(_certificate(engine, each) for each in fleet.certificates.values()),
        *(_signing_keys(engine, each) for each in fleet.signing_keys.values()),
        *(_token(engine, each) for each in fleet.tokens.values()),
    ]


def workloads(engine: Engine) -> list[dict[str, Any]]:
    """Return every workload's members and what its roll waits for."""
    return [_workload(engine, each) for each in engine.fleet.workloads.values()]


def alerts(engine: Engine) -> list[dict[str, Any]]:
    """Return what people should know now."""
    return [
        {
            "key": each.key,
            "subject": each.subject,
            "severity": each.severity.value,
            "since": moment(each.since),
            "summary": each.summary,
        }
        for each in engine.alerting.raised()
    ]


def watched(engine: Engine) -> list[dict[str, Any]]:
    """Return every entry of what is watched without being managed: what ends first there, and how many there are."""
    return [
        {
            "name": row["name"],
            "kind": row["kind"],
            "place": row["place"],
            "count": row["count"],
            "which": first.which if first is not None else "",
            "serial": first.serial if first is not None else None,
            "issuer": first.issuer if first is not None else None,
            "not_before": moment(first.not_before) if first is not None else None,
            "not_after": moment(first.not_after) if first is not None else None,
            "ends_first": first.ends_first if first is not None else "",
            "seen_at": moment(row["seen_at"]),
            "problem": row["problem"],
        }
        for row in engine.watcher.rows()
        for first in [row["first"]]
    ]


def plan(engine: Engine, horizon: timedelta) -> list[dict[str, Any]]:
    """Return what will happen within *horizon*, when and why, earliest first."""
    now = engine.clock.now()
    rows = [row for each in engine.fleet.domains.values() for row in _domain_plan(engine, each, now, horizon)]
    rows += [row for each in engine.fleet.certificates.values() for row in _leaf_plan(engine, each, now, horizon)]
    rows += token_status.planned(engine, now, horizon)
    return sorted(rows, key=lambda row: str(row["at"]))


def progress(engine: Engine, rotation: Rotation) -> dict[str, Any]:
    """Return where one rotation stands, as `rotator.control` describes it."""
    domain = engine.fleet.domains.get(TrustDomainName(rotation.subject))
    certificate = engine.fleet.certificates.get(rotation.subject)
    ended = rotation.state is not RotationState.OPEN
    row: dict[str, Any] = {"phase": None, "waiting_on": []}
    proven = total = 0
    if domain is not None and rotation.kind is SubjectKind.TRUST_DOMAIN:
        row = _domain(engine, domain)
        state = engine.domains.get(domain.name)
        parties = state.seen.parties if state is not None else ()
        signer = state.signer if state is not None else None
        total = len(parties)
        newest_id = state.decision.bundle[0].id if state is not None and state.decision.bundle else None
        if row["phase"] in {"prepared", "trusted"}:
            proven = sum(1 for party in parties if newest_id in party.acknowledged)
        else:
            proxies = {each.name for each in _proxies(state)}
            proven = sum(
                1
                for party in parties
                if (party.leaf_issuer is None and party.name not in proxies)
                or (signer is not None and party.served_issuer == signer.authority.id)
            )
    elif certificate is not None:
        row = _certificate(engine, certificate)
        total = len(certificate.probes) + sum(
            len(engine.rolls.known_members(workload)) for workload in certificate.certificate.rolls
        )
        view = engine.leaves.view(certificate.name)
        waiting = len(view.proof.waiting_on) if view is not None else total
        proven = max(0, total - waiting)
    token = engine.fleet.tokens.get(rotation.subject)
    keys = engine.fleet.signing_keys.get(rotation.subject)
    if token is not None:
        row = _token(engine, token)
        total = len(token.stores)
        seen = engine.tokens.view(token.name)
        proven = max(0, total - len(seen.waiting_on)) if seen is not None else 0
    elif keys is not None:
        row = _signing_keys(engine, keys)
        signed = engine.fleet.signed_by(keys.name)
        total = len(signed)
        proven = sum(engine.tokens.needing(each, rotation.to_generation or 0) is None for each in signed)
    target: DomainTarget | CertificateTarget | TokenTarget | SigningKeyTarget | PlatformTarget | None = (
        domain or certificate or token or keys
    )
    if rotation.kind is SubjectKind.PLATFORM and engine.fleet.platform is not None:
        target = engine.fleet.platform
    look = engine.pool.look(target.id)[0] if target is not None else None
    if look is not None and rotation.kind is SubjectKind.PLATFORM:
        row = {"phase": "applying", "waiting_on": list(look.waiting_on)}
        proven, total = engine.platform.progress(rotation.id)
    return {
        "id": rotation.id,
        "subject": rotation.subject,
        "state": rotation.state.value,
        "phase": row["phase"],
        "waiting_on": [] if ended else row["waiting_on"],
        "proven": total if ended else proven,
        "total": total,
        "alert": bool(look is not None and look.alert and not ended),
        "outcome": rotation.outcome,
    }


def rotation_plan(
    engine: Engine,
    target: DomainTarget | CertificateTarget | TokenTarget | SigningKeyTarget,
    *,
    compromised: bool = False,
) -> list[str]:
    """Return, in sentences, what a rotation of *target* asked for now would do."""
    if isinstance(target, TokenTarget):
        return token_status.token_plan(target)
    if isinstance(target, SigningKeyTarget):
        return token_status.signing_key_plan(engine, target)
    if isinstance(target, DomainTarget) and compromised:
        taken = (
            f"publish the bundle {{new}} and a new leaf to all {len(engine.fleet.relying_on(target.name))} consumers"
        )
        if target.mesh is not None:
            taken = f"give the bundle {{new}} to {target.name}, whose control plane gives every proxy a new leaf"
        return [
            f"revoke the present generation of {target.name} at the corporate PKI",
            "prepare a new generation and sign with it at once, without waiting for anyone's acknowledgement",
            taken,
            "handshakes fail between those who have the new bundle and those who have not: that is the price",
        ]
    if isinstance(target, DomainTarget):
        state = engine.domains.get(target.name)
        if target.mesh is not None:
            return _mesh_plan(engine, target, state)
        parties = engine.fleet.relying_on(target.name)
        leaves = [each for each in parties if each.certificate.trust_domain == target.name]
        number = (state.seen.highest_number if state is not None else 0) + 1
        return [
            f"prepare generation {number} of {target.name}",
            f"publish the bundle {{old, new}} to {len(parties)} consumers",
            (
                "wait until every live consumer has acknowledged it (trust deadline "
                f"{_written(target.policy.trust_deadline)}, then {target.policy.at_deadline.value})"
            ),
            f"activate generation {number}",
            f"reissue {len(leaves)} leaves and wait until each is seen in use",
            f"publish the bundle {{new}} no sooner than {_written(target.policy.minimum_overlap)} after {{old, new}}",
            "retire the old generation",
        ]
    certificate = target.certificate
    steps = [
        f"issue {certificate.name} anew for {certificate.identity}, valid {_written(certificate.lifetime)}",
        f"publish it to {', '.join(store.target for store in target.stores)}",
    ]
    steps += [f"roll {workload}, drained, member by member" for workload in certificate.rolls]
    steps += [f"mind: {each}" for each in _ahead(engine, target, engine.clock.now())]
    steps.append(f"wait for proof from {', '.join(probe.name for probe in target.probes) or 'the rolled members'}")
    return steps


def _mesh_plan(engine: Engine, target: DomainTarget, state: DomainState | None) -> list[str]:
    """Return, in sentences, what a rotation of a mesh's CA would do."""
    proxies = len(_proxies(state))
    others = len(engine.fleet.relying_on(target.name))
    also = f" and {others} consumers outside it" if others else ""
    number = (state.seen.highest_number if state is not None else 0) + 1
    return [
        f"prepare generation {number} of {target.name}: key made here, certificate from the corporate PKI",
        f"give {{old, new}} to the mesh with its {proxies} proxies by one write{also}",
        (
            "wait until every live proxy shows it in its own configuration (trust deadline "
            f"{_written(target.policy.trust_deadline)}, then {target.policy.at_deadline.value})"
        ),
        f"activate generation {number} by one write",
        "wait until every proxy is seen with a leaf of it, or the last old leaf has ended",
        f"give {{new}} to the mesh no sooner than {_written(target.policy.minimum_overlap)} after {{old, new}}",
        "retire the old generation and remove its secrets",
    ]


def _proxies(state: DomainState | None) -> tuple[RelyingParty, ...]:
    """Return the proxies of a mesh as last seen; the first of its parties is the mesh itself."""
    return () if state is None or state.mesh is None else state.mesh.parties[1:]


def _mesh_row(state: DomainState | None) -> dict[str, Any]:
    """Return what the row of a trust domain says beyond the contract if it is a mesh."""
    if state is None or state.mesh is None:
        return {}
    view, proxies = state.mesh, _proxies(state)
    return {
        "mesh": {
            "proxies": len(proxies),
            "out_of_contact": [each.name for each in proxies if not each.reachable] if state.intent is not None else [],
            "refusals": list(view.refusals),
            "adoption": None
            if view.adoption is None
            else {"found": view.adoption.found, "interrupts": view.adoption.interrupts},
        },
        "warnings": list(view.warnings),
    }


def _phase(state: DomainState | None, rotation: Rotation | None) -> str:
    """Return the phase as last seen; what was seen of a rotation that has ended says nothing of the one after it."""
    if state is None:
        return "unknown"
    of_another = state.intent is not None and (rotation is None or rotation.id != state.intent.rotation_id)
    return (Phase.STEADY if of_another and state.decision.phase is Phase.RETIRED else state.decision.phase).value


def _domain(engine: Engine, target: DomainTarget) -> dict[str, Any]:
    """Return one trust domain's row."""
    rotation = engine.memory.open_rotation(target.subject)
    state = engine.domains.get(target.name)
    signer = state.signer if state is not None else None
    active = None
    if state is not None:
        active = next((each for each in state.held.generations if each.authority.id == state.held.active), None)
    shown = signer or active
    deadline = None
    if rotation is not None and rotation.trust_published_at is not None:
        deadline = rotation.trust_published_at + target.policy.trust_deadline
    look, failures, error = engine.pool.look(target.id)
    return {
        "name": target.name,
        "kind": "trust_domain",
        "phase": _phase(state, rotation),
        "generation": shown.number if shown is not None else None,
        "serial": shown.authority.serial if shown is not None else None,
        "spiffe_id": f"spiffe://{target.name}",
        "issuer": target.issuer_label or None,
        "not_before": moment(shown.authority.not_before) if shown is not None else None,
        "not_after": moment(shown.authority.not_after) if shown is not None else None,
        "renew_at": moment(next_due(state.seen, target.policy, target.name)) if state is not None else None,
        "safety_line": moment(target.policy.stops_signing(shown.authority)) if shown is not None else None,
        "waiting_on": list(look.waiting_on) if look is not None else [],
        "longest_leaf_seconds": int(target.policy.longest_leaf.total_seconds()),
        "skew_seconds": int(target.policy.skew.total_seconds()),
        "trust_deadline": moment(deadline),
        "trust_deadline_seconds": int(target.policy.trust_deadline.total_seconds()),
        "bundle": [each.serial for each in state.decision.bundle] if state is not None else [],
        "generations": [
            {
                "number": each.number,
                "serial": each.authority.serial,
                "not_before": moment(each.authority.not_before),
                "not_after": moment(each.authority.not_after),
            }
            for each in (state.held.generations if state is not None else ())
        ],
        "warnings": [],
        **_mesh_row(state),
        **_common(engine, rotation, target.subject, failures, error, look.why if look else ""),
    }


def _certificate(engine: Engine, target: CertificateTarget) -> dict[str, Any]:
    """Return one certificate's row."""
    # In this order: a rotation that is seen closed here is seen with its certificate below.
    rotation = engine.memory.open_rotation(target.name)
    view = engine.leaves.view(target.name)
    publication = newest(view.observation) if view is not None else None
    leaf = publication.leaf if publication is not None else None
    domain = engine.fleet.domains[target.certificate.trust_domain]
    look, failures, error = engine.pool.look(target.id)
    window = view.window if view is not None else None
    phase = "unknown" if view is None else "absent" if leaf is None else "in_use" if view.proof.proven else "published"
    return {
        "name": target.name,
        "kind": "certificate",
        "phase": phase,
        "generation": publication.number if publication is not None else None,
        "serial": leaf.serial if leaf is not None else None,
        "spiffe_id": target.certificate.identity,
        "issuer": leaf.issuer if leaf is not None else None,
        "not_before": moment(leaf.not_before) if leaf is not None else None,
        "not_after": moment(leaf.not_after) if leaf is not None else None,
        "renew_at": moment(window.opens) if window is not None else None,
        "safety_line": moment(window.safety_line) if window is not None else None,
        "waiting_on": list(look.waiting_on) if look is not None else [],
        "longest_leaf_seconds": int(target.certificate.lifetime.total_seconds()),
        "skew_seconds": int(domain.policy.skew.total_seconds()),
        "trust_deadline": None,
        "trust_domain": target.certificate.trust_domain,
        **_common(engine, rotation, target.name, failures, error, look.why if look else ""),
    }


def _token(engine: Engine, target: TokenTarget) -> dict[str, Any]:
    """Return one token's row."""
    # In this order, as for a certificate.
    rotation = engine.memory.open_rotation(target.name)
    return _of_kind_token(engine, target, rotation, token_status.token_row(engine, target), target.token.trust_domain)


def _signing_keys(engine: Engine, target: SigningKeyTarget) -> dict[str, Any]:
    """Return the row of one set of signing keys."""
    rotation = engine.memory.open_rotation(target.name)
    return _of_kind_token(engine, target, rotation, token_status.signing_key_row(engine, target), None)


def _of_kind_token(
    engine: Engine,
    target: TokenTarget | SigningKeyTarget,
    rotation: Rotation | None,
    row: dict[str, Any],
    trust_domain: TrustDomainName | None,
) -> dict[str, Any]:
    """Return *row* with what every subject's row has."""
    look, failures, error = engine.pool.look(target.id)
    return {
        "name": target.name,
        "kind": "token",
        **row,
        "waiting_on": list(look.waiting_on) if look is not None else [],
        "trust_deadline": None,
        "trust_domain": trust_domain,
        **_common(engine, rotation, target.name, failures, error, look.why if look else ""),
    }


def _common(
    engine: Engine, rotation: Rotation | None, subject: SubjectName, failures: int, error: str, why: str
) -> dict[str, Any]:
    """Return the fields that every subject has."""
    last = engine.memory.last_rotation(subject)
    hold = engine.memory.hold(subject)
    paused = hold is not None and hold.until > engine.clock.now()
    return {
        "last_rotation": None
        if last is None
        else {"id": last.id, "result": last.state.value, "finished_at": moment(last.finished_at)},
        "open_rotation": None
        if rotation is None
        else {"id": rotation.id, "intent": rotation.intent.value, "trigger": rotation.trigger.value},
        "paused_until": moment(hold.until) if hold is not None and paused else None,
        "why": why,
        "failures": failures,
        "error": error,
    }


def _workload(engine: Engine, target: WorkloadTarget) -> dict[str, Any]:
    """Return one workload's row."""
    look, failures, error = engine.pool.look(target.id)
    members = engine.rolls.known_members(target.name)
    return {
        "name": target.name,
        "members": [
            {
                "name": each.name,
                "running": each.running,
                "ready": each.ready,
                "draining": each.draining,
                "ending": each.ending,
                "busy": each.busy,
                "started_at": moment(each.started_at),
                "identity": each.identity,
                "detail": each.detail,
            }
            for each in members
        ],
        "waiting_on": list(look.waiting_on) if look is not None else [],
        "why": look.why if look is not None else "",
        "foreseen": list(engine.rolls.ahead.told(target.name)),
        "failures": failures,
        "error": error,
    }


def _ahead(engine: Engine, target: CertificateTarget, at: datetime) -> list[str]:
    """Return what may go wrong with the rolls of *target* if they begin at *at*, in sentences."""
    view = engine.leaves.view(target.name)
    found = []
    for name in target.certificate.rolls:
        workload = engine.fleet.workloads.get(name)
        members = engine.rolls.known_members(name)
        if workload is None or view is None or view.window is None or not members:
            continue
        found += [f"{name}: {each}" for each in foreseen(workload.policy, members, view.window.closes, at)]
        found += [f"{name}: {each}" for each in engine.rolls.ahead.told(name)]
    return found


def _domain_plan(engine: Engine, target: DomainTarget, now: datetime, horizon: timedelta) -> list[dict[str, Any]]:
    """Return what one trust domain will do."""
    state = engine.domains.get(target.name)
    rotation = engine.memory.open_rotation(target.subject)
    if state is None or (rotation is None and state.mesh is not None and state.mesh.adoption is not None):
        # No rotation opens by itself in a mesh that nobody has given to rotator.
        return []
    decided = state.decision.next
    match decided:
        case Wait():
            why = f"waiting for {', '.join(decided.on)}" if decided.on else decided.why
        case Nothing() | Done():
            why = ""
        case Refused():
            why = decided.reason
        case _:
            why = sentence(decided)
    rows = []
    if rotation is not None:
        rows.append({"at": moment(now), "subject": target.name, "what": "rotate the CA (under way)", "why": why})
    at = next_due(state.seen, target.policy, target.name)
    if at is not None and at <= now + horizon:
        rows.append(
            {"at": moment(at), "subject": target.name, "what": "rotate the CA", "why": "its renewal window opens"}
        )
    return rows


def _leaf_plan(engine: Engine, target: CertificateTarget, now: datetime, horizon: timedelta) -> list[dict[str, Any]]:
    """Return what one certificate will do."""
    view = engine.leaves.view(target.name)
    if view is None:
        return []
    if view.window is None:
        return [{"at": moment(now), "subject": target.name, "what": "issue", "why": "nothing is published yet"}]
    at = view.window.opens
    if at > now + horizon:
        return []
    return [
        {
            "at": moment(at),
            "subject": target.name,
            "what": "issue anew",
            "why": "its renewal window opens",
            "foreseen": _ahead(engine, target, at),
        }
    ]


def _written(span: timedelta) -> str:
    """Return *span* in seconds, as a person reads it."""
    return f"{int(span.total_seconds())} s"
