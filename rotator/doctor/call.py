"""
One refused call: everything that can be seen of it is gathered here, and judged in `rotator.platform.call_chain`.

Rules that must stay true here:

- Only looked at: no call is made on the caller's behalf, nothing is written, and no daemon is asked.
- A proxy counts as behind only if two looks find it so, further apart than control planes take to write down what
  proxies acknowledge.
- What rotator may not see is said with its reason; it never stands for good or for broken.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from rotator.adapters.kuma.api import ControlPlaneAPI
from rotator.adapters.kuma.call_view import CallView, InboundSeen, verification_problem
from rotator.adapters.kuma.calls import PERMISSIONS, SERVICES, Calls, ProxyRead, ProxySeen
from rotator.adapters.kuma.envoy_access import decision
from rotator.bootstrap.airflow import airflow_api
from rotator.bootstrap.meshes import control_plane, endpoint_of
from rotator.bootstrap.sessions import Sessions
from rotator.core.model import IssuerId
from rotator.doctor.call_hosts import host_uses
from rotator.doctor.call_tokens import HeldToken, held_tokens, token_of
from rotator.doctor.call_ways import MeantWays, application
from rotator.doctor.meshes import LOOK_AGAIN
from rotator.doctor.parties import Named, Party, hostnames_of, named
from rotator.errors import ConfigError, RotatorError
from rotator.pki.certificates import parse_certificates, subject_key_id, uri_names
from rotator.platform.call import (
    Call,
    Decision,
    HostUse,
    Side,
    Sidecar,
    Verification,
)
from rotator.platform.call_chain import judge
from rotator.platform.call_verdict import Verdict
from rotator.platform.model import Component, Identity, Platform, Service
from rotator.platform.permission_documents import Destination, permitted
from rotator.ports import Clock
from rotator.settings import Settings, platform_of
from rotator.settings.meshes import Mesh

JSON = Mapping[str, Any]

MOST_ASKED: Final = 8
"""Proxies of each side whose whole configuration is read."""
_GENERATION: Final = re.compile(r"g(?P<number>\d+)-cert")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """What was found of one call."""

    caller: str
    service: str
    verdict: Verdict


@dataclass(slots=True, kw_only=True)
class _Mesh:
    """One mesh as it was seen."""

    settings: Mesh
    calls: Calls
    proxies: tuple[ProxySeen, ...]
    behind: frozenset[str] = frozenset()
    """Proxies that have not answered, found so by two looks."""
    reads: dict[str, ProxyRead] = field(default_factory=dict)
    generations: Mapping[IssuerId, str] = field(default_factory=dict)
    revoked: tuple[str, frozenset[str]] | None = None


def examine_call(
    settings: Settings,
    *,
    caller: str,
    destination: str,
    environment: str | None = None,
    clock: Clock,
    look_again: timedelta = LOOK_AGAIN,
) -> CallReport:
    """
    Return where the call from *caller* to *destination* breaks.

    Raises:
        ConfigError: If nobody is meant by one of them, or more than one.
        RotatorError: If a control plane cannot be asked at all.
    """
    platform = platform_of(settings)
    sides = named(settings, platform, caller, destination, environment)
    with contextlib.ExitStack() as opened:
        sessions = opened.enter_context(contextlib.closing(Sessions(clock, 1, {})))
        meshes = {
            name: _opened(settings, name, clock, opened, look_again, sides)
            for name in dict.fromkeys(_trust_domains(settings, sides))
        }
        call = _gathered(platform, sides, meshes, held_tokens(settings, sessions), clock)
        uses, unseen = host_uses(settings, sessions, sides.caller, sides.service)
        if sides.wrong_host is not None:
            uses = (HostUse(where="--to", host=sides.wrong_host, port=None, meant=True), *uses)
        unasked, unhealthy = _airflow_state(settings, sides.caller, clock)
        call = replace(call, host_uses=uses, unseen_hosts=unseen, unasked_airflow=unasked, unhealthy=unhealthy)
        return CallReport(caller=sides.caller.short, service=sides.service.short, verdict=judge(call))


def _trust_domains(settings: Settings, sides: Named) -> Iterable[str]:
    for side in (sides.caller, sides.service):
        if side.trust_domain is not None:
            yield side.trust_domain
        else:
            yield from (name for name, each in settings.trust_domains.items() if each.mesh is not None)


def _opened(
    settings: Settings, name: str, clock: Clock, opened: contextlib.ExitStack, look_again: timedelta, sides: Named
) -> _Mesh:
    domain = settings.trust_domains.get(name)
    if domain is None or domain.mesh is None:
        raise ConfigError(f"trust domain {name} has no mesh: nothing there enforces who may call what")
    calls = Calls(ControlPlaneAPI(endpoint_of(domain.mesh)), domain.mesh.name)
    opened.callback(calls.close)
    found = _Mesh(settings=domain.mesh, calls=calls, proxies=calls.proxies())
    concerned = {each.report.name for side in (sides.caller, sides.service) for each in _of(side, name, found.proxies)}
    behind = _unanswered(found.proxies) & concerned
    if behind:
        clock.wait(threading.Event(), look_again)
        found.proxies = calls.proxies()
        behind &= _unanswered(found.proxies)
    found.behind = frozenset(behind)
    found.revoked = calls.revoked()
    found.generations = _generations(domain.mesh, clock)
    return found


def _unanswered(proxies: Iterable[ProxySeen]) -> set[str]:
    return {
        each.report.name
        for each in proxies
        if each.report.online
        and each.report.responses_sent > each.report.responses_acknowledged + each.report.responses_rejected
    }


def _of(side: Party, trust_domain: str, proxies: Sequence[ProxySeen]) -> tuple[ProxySeen, ...]:
    """Return the proxies of *side*."""
    if side.trust_domain not in {None, trust_domain}:
        return ()
    if side.marks is None:
        return tuple(each for each in proxies if each.report.name == side.short)
    wanted = side.marks.items()
    return tuple(each for each in proxies if all(each.marks.get(key) == value for key, value in wanted))


def _generations(mesh: Mesh, clock: Clock) -> Mapping[IssuerId, str]:
    """Return rotator's own CA generations by key id; none where its secrets may not be read."""
    try:
        held = control_plane(mesh, clock)().secrets.held()
        found: dict[IssuerId, str] = {}
        for each in held:
            named_so = _GENERATION.fullmatch(each.purpose)
            if named_so is None:
                continue
            key_id = subject_key_id(parse_certificates(each.value, source=each.purpose)[0])
            if key_id is not None:
                found[key_id] = f"generation {named_so['number']}"
    except RotatorError:
        return {}
    return found


# --- both sides -------------------------------------------------------------------------------------------------------


def _gathered(
    platform: Platform | None,
    sides: Named,
    meshes: Mapping[str, _Mesh],
    tokens: Sequence[HeldToken],
    clock: Clock,
) -> Call:
    placed = {}
    for key, side in (("caller", sides.caller), ("service", sides.service)):
        homes = [(name, found) for name, mesh in meshes.items() if (found := _of(side, name, mesh.proxies))]
        name, found = homes[0] if homes else (side.trust_domain or next(iter(meshes)), ())
        placed[key] = (meshes[name], found)
    for mesh, found in placed.values():
        asked = [each.report.name for each in found if each.report.online][:MOST_ASKED]
        mesh.reads |= mesh.calls.read([each for each in asked if each not in mesh.reads])
    (caller_mesh, callers), (service_mesh, called) = placed["caller"], placed["service"]
    names = _names_of_caller(sides.caller, caller_mesh, callers)
    documents = service_mesh.calls.documents(PERMISSIONS)
    meant = MeantWays.of(sides.service, platform, caller_mesh.calls.documents(SERVICES) or ())
    caller = _side(sides.caller, caller_mesh, callers, lambda each: _caller(each, caller_mesh, tokens, meant))
    service = _side(
        sides.service,
        service_mesh,
        called,
        lambda each: _called(each, service_mesh, tokens, sides.service, names),
    )
    now = clock.now()
    entry = sides.service.entry
    return Call(
        now=now,
        caller=caller,
        service=service,
        port=entry.port if isinstance(entry, Service) else None,
        hostnames=hostnames_of(entry) if isinstance(entry, Service) else (),
        elsewhere=meant.elsewhere,
        others=meant.others,
        asked_for=_asked_for(platform, sides),
        documents=_documents(documents, called, sides.service, names),
        verifications=tuple(
            Verification(by=by, shown_by=shown_by, problem=verification_problem(verifier.shown, read.shown.leaf, now))
            for by, verifier, shown_by, read in _pairs(caller_mesh, callers, service_mesh, called)
            if verifier.shown is not None and read.shown is not None and read.shown.leaf is not None
        ),
    )


def _pairs(
    caller_mesh: _Mesh, callers: Sequence[ProxySeen], service_mesh: _Mesh, called: Sequence[ProxySeen]
) -> Iterable[tuple[str, ProxyRead, str, ProxyRead]]:
    """Yield who has to take whose certificate, in both directions."""
    for one in callers:
        for other in called:
            first = caller_mesh.reads.get(one.report.name)
            second = service_mesh.reads.get(other.report.name)
            if first is not None and second is not None:
                yield one.report.name, first, other.report.name, second
                yield other.report.name, second, one.report.name, first


def _side(side: Party, mesh: _Mesh, found: Sequence[ProxySeen], seen: Callable[[ProxySeen], Sidecar]) -> Side:
    online = [each for each in found if each.report.online]
    return Side(
        title=side.title,
        short=side.short,
        spiffe_id=side.spiffe_id,
        environment=side.environment,
        sidecars=tuple(seen(each) for each in found if not _is_unasked(each, mesh)),
        looked_for=side.looked_for,
        in_cluster=side.in_cluster,
        not_asked=max(0, len(online) - MOST_ASKED),
    )


def _is_unasked(each: ProxySeen, mesh: _Mesh) -> bool:
    return each.report.online and each.report.name not in mesh.reads


def _sidecar(each: ProxySeen, mesh: _Mesh, tokens: Sequence[HeldToken]) -> Sidecar:
    report, read = each.report, mesh.reads.get(each.report.name)
    leaf = None if read is None or read.shown is None else read.shown.leaf
    ends = [report.certificate_not_after, None if read is None or read.view is None else read.view.leaf_not_after]
    issuer = None if read is None or read.view is None or read.view.leaf_issuer is None else read.view.leaf_issuer
    unanswered = report.responses_sent - report.responses_acknowledged - report.responses_rejected
    return Sidecar(
        name=report.name,
        online=report.online,
        connected_before=bool(report.connection),
        away_since=report.disconnected_at,
        sent=report.responses_sent,
        rejected=report.responses_rejected,
        unanswered=unanswered if report.name in mesh.behind else 0,
        unread="it is out of contact" if read is None else read.unread,
        names=() if leaf is None else uri_names(leaf),
        leaf_not_after=max((at for at in ends if at is not None), default=None),
        issuer=None if issuer is None else mesh.generations.get(issuer),
        token=token_of(each, tokens, mesh.settings.name, mesh.revoked),
    )


def _caller(each: ProxySeen, mesh: _Mesh, tokens: Sequence[HeldToken], meant: MeantWays) -> Sidecar:
    found, read = _sidecar(each, mesh, tokens), mesh.reads.get(each.report.name)
    if read is None or read.held is None:
        # Only what it is told to have: where it leads is not known.
        return replace(found, ways=meant.declared(each))
    intended = None if read.intended is None else meant.ways(read.intended, each)
    return replace(found, ways=meant.ways(read.held, each), intended_ways=intended)


def _called(each: ProxySeen, mesh: _Mesh, tokens: Sequence[HeldToken], service: Party, names: Sequence[str]) -> Sidecar:
    found, read = _sidecar(each, mesh, tokens), mesh.reads.get(each.report.name)
    inbounds = _inbounds(each, service)
    found = replace(found, not_ready=_not_ready(inbounds))
    if read is None or read.held is None:
        return found
    ports = {port for inbound in inbounds if isinstance(port := inbound.get("port"), int)}
    return replace(
        found,
        held=_said(read.held, ports, names),
        intended=None if read.intended is None else _said(read.intended, ports, names),
        application=application(each, inbounds, read),
    )


def _names_of_caller(side: Party, mesh: _Mesh, callers: Sequence[ProxySeen]) -> tuple[str, ...]:
    """Return the names by which the caller is let in: those that it shows, if it is who it ought to be."""
    for each in callers:
        read = mesh.reads.get(each.report.name)
        leaf = None if read is None or read.shown is None else read.shown.leaf
        if leaf is None:
            continue
        names = uri_names(leaf)
        if side.spiffe_id is None or side.spiffe_id in names:
            return names
    return () if side.spiffe_id is None else (side.spiffe_id,)


def _inbounds(each: ProxySeen, service: Party) -> tuple[JSON, ...]:
    """Return the inbounds of the Dataplane at which *service* is called: by its port, else all."""
    entry = service.entry
    if not isinstance(entry, Service):
        return each.inbounds
    own = tuple(one for one in each.inbounds if entry.port in {one.get("port"), one.get("servicePort")})
    return own or each.inbounds


def _not_ready(inbounds: Sequence[JSON]) -> str | None:
    for each in inbounds:
        health = each.get("health")
        if each.get("state") in {"NotReady", "Ignored"}:
            return f"its inbound at port {each.get('port')} is {each['state']}"
        if isinstance(health, Mapping) and health.get("ready") is False:
            return f"its inbound at port {each.get('port')} fails its health check"
    return None


def _said(view: CallView, ports: set[int], names: Sequence[str]) -> Decision | None:
    """Return what the inbound that is called says of whoever has *names*."""
    asked = [each for each in view.inbounds if each.port in ports] or list(view.inbounds)
    if not asked:
        return None
    found = [_of_inbound(each, names) for each in asked]
    admitted = next((each for each in found if each is not None and each.admitted), None)
    return admitted or next((each for each in found if each is not None), None)


def _of_inbound(inbound: InboundSeen, names: Sequence[str]) -> Decision | None:
    if not inbound.filters:
        why = "it enforces no rules" if inbound.takes_tls else "it takes plaintext, of anybody"
        return Decision(admitted=True, by=(why,))
    return decision(inbound.filters, names) if names else None


def _documents(
    documents: Sequence[JSON] | None, called: Sequence[ProxySeen], service: Party, names: Sequence[str]
) -> Decision | None:
    """Return what the permissions on the control plane say for the first proxy that is called."""
    if documents is None or not called or not names:
        return None
    each = called[0]
    sections = {str(one[key]) for one in _inbounds(each, service) for key in ("port", "name") if one.get(key)}
    destination = Destination(name=each.report.name, marks=each.marks, sections=frozenset(sections))
    return permitted(documents, destination, names)


def _asked_for(platform: Platform | None, sides: Named) -> tuple[str, ...] | None:
    if platform is None:
        return None
    pair = (sides.caller.entry, sides.service.entry)
    return tuple(each.name for each in platform.permissions if pair in tuple(each.pairs()))


def _airflow_state(settings: Settings, caller: Party, clock: Clock) -> tuple[str, tuple[str, ...]]:
    """Return why the caller's Airflow could not be asked how it is, and which of its parts it calls unhealthy."""
    entry = caller.entry
    if not isinstance(entry, Identity) or entry.component is Component.OTHER:
        return "", ()
    known = settings.airflow
    name = next((each for each in known if len(known) == 1 or each == entry.environment.name), None)
    if name is None:
        return "", ()
    try:
        with contextlib.closing(airflow_api(known[name], clock)) as api:
            health = api.healthy(doing="asking for its health")
    except RotatorError as e:
        return str(e), ()
    states = ((part, said.get("status")) for part, said in health.items() if isinstance(said, Mapping))
    return "", tuple(part for part, status in states if status == "unhealthy")
