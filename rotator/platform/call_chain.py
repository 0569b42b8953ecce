"""
Where a refused call breaks: the chain from the caller's sidecar to Airflow's own settings, link by link.

Rules that must stay true here:

- The order is the order of causes: a link is only as good as those before it, so the first broken one is the finding.
- What follows from an earlier link is told as such and never counted as a break of its own.
- What could not be looked at is said and never taken for good or for broken.
- Pure: facts in (`rotator.platform.call`), findings out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from rotator.platform.call import Call, Decision, Side, Sidecar, Token, Way
from rotator.platform.call_verdict import (
    Cause,
    JudgedLink,
    Link,
    Mark,
    Point,
    Verdict,
    broken,
    broken_or_doubtful,
    good,
    listed,
    moment,
)


def judge(call: Call) -> Verdict:
    """Return where *call* breaks, every link looked at."""
    return Verdict(links=tuple(JudgedLink(link=link, points=tuple(look(call))) for link, look in _LOOKS.items()))


# --- 1: sidecars ------------------------------------------------------------------------------------------------------


def _sidecar(call: Call) -> Iterator[Point]:
    caller = call.caller
    if not caller.sidecars:
        yield broken(
            Cause.NO_PROXY,
            f"{caller.title} has no proxy in the mesh: no Dataplane has {caller.looked_for}",
            _JOINS[caller.in_cluster],
        )
    yield from _in_contact(call, caller)
    for side in (caller, call.service):
        for each in side.online:
            yield from _in_step(side, each)
        if side.online and not any(_step_problem(side, each) for each in side.online):
            names = listed(each.name for each in side.online)
            yield good(f"{names} of {side.short} is connected and has acknowledged what it was given")
        if side.not_asked:
            yield Point(
                mark=Mark.NOT_SEEN,
                what=f"{side.not_asked} more proxies of {side.short} are online and were not asked",
                mend="name one of them by its Dataplane's name if the call was refused there",
            )


def _in_contact(call: Call, caller: Side) -> Iterator[Point]:
    """Yield which of the caller's proxies are away."""
    away = [each for each in caller.sidecars if not each.online]
    for each in away:
        since = "" if each.away_since is None else f" since {moment(each.away_since)}"
        what = f"proxy {each.name} of {caller.short} has been out of contact{since}"
        if not each.connected_before:
            what = f"proxy {each.name} of {caller.short} has never connected to a control plane"
        if each.token is not None and _token_cause(each.token, call.now) is not None:
            yield Point(mark=Mark.FOLLOWS, what=f"{what}, because of its token")
        elif caller.online:
            yield Point(
                mark=Mark.DOUBTFUL,
                what=what,
                mend="start it, or delete its Dataplane; a call from there fails",
                cause=Cause.PROXY_OFFLINE,
            )
        else:
            yield broken(
                Cause.PROXY_OFFLINE,
                what,
                "start kuma-dp there and read its log: it says why it cannot reach its control plane",
            )


def _step_problem(side: Side, each: Sidecar) -> bool:
    return any(True for _ in _in_step(side, each))


def _in_step(side: Side, each: Sidecar) -> Iterator[Point]:
    """Yield how a proxy that is online does not follow its control plane."""
    same = _runs_what_is_intended(each)
    who = f"proxy {each.name} of {side.short}"
    if each.unanswered:
        yield broken(
            Cause.NOT_ACKNOWLEDGED,
            f"{who} has not acknowledged {each.unanswered} of {each.sent} configurations: it runs an older one",
            "read its log and the control plane's; restart the proxy if it does not recover",
        )
    elif each.rejected and same is not True:
        yield broken(
            Cause.REJECTED,
            f"{who} has rejected {each.rejected} of {each.sent} configurations: it runs an older one",
            "read its own log and the control plane's for the refused configuration, and mend the policy named there",
        )
    elif same is False:
        yield broken(
            Cause.DIFFERS,
            f"{who} runs another configuration than its control plane computes for it",
            "ask again in a minute; restart the proxy if it stays, and read the control plane's log for it",
        )


def _runs_what_is_intended(each: Sidecar) -> bool | None:
    """Return whether what it runs says of this call what its control plane intends; None if nobody can tell."""
    answers = []
    if each.held is not None and each.intended is not None:
        answers.append(each.held.admitted == each.intended.admitted)
    if each.intended_ways is not None and each.unread is None:
        answers.append(_leads(each.ways) == _leads(each.intended_ways))
    return all(answers) if answers else None


def _leads(ways: tuple[Way, ...]) -> frozenset[str]:
    return frozenset(each for way in ways if way.meant for each in way.leads_to)


# --- 2: identity, certificate, token ----------------------------------------------------------------------------------


def _identity(call: Call) -> Iterator[Point]:
    for side in (call.caller, call.service):
        for each in side.sidecars:
            yield from _token(call, side, each)
        for each in side.online:
            yield from _certificate(call, side, each)


def _token(call: Call, side: Side, each: Sidecar) -> Iterator[Point]:
    token = each.token
    if token is None:
        return
    cause = _token_cause(token, call.now)
    if cause is None:
        until = "" if token.not_after is None else f" until {moment(token.not_after)}"
        yield good(f"the token of proxy {each.name} ({token.name}) lets it in{until}")
        return
    what = f"the token of proxy {each.name} of {side.short} ({token.name}) "
    if cause is Cause.TOKEN_REVOKED:
        what += f"is revoked by {token.revoked_by}"
    else:
        what += f"ended at {moment(token.not_after)}" if token.not_after is not None else "has ended"
    mend = "give the proxy a new token (POST /tokens/dataplane), and restart it"
    if token.subject is not None:
        mend = (
            f"rotator rotate-now {token.subject} --reason TEXT; then restart the proxy if it does not read files anew"
        )
    alive = [other for other in side.online if other is not each]
    if each.online or alive:
        yield Point(mark=Mark.DOUBTFUL, what=f"{what}: it will not be let in again", mend=mend, cause=cause)
    else:
        yield broken(cause, f"{what}: its control plane lets it in no more", mend)


def _token_cause(token: Token, now: datetime) -> Cause | None:
    if token.revoked_by is not None:
        return Cause.TOKEN_REVOKED
    return Cause.TOKEN_EXPIRED if token.not_after is not None and token.not_after <= now else None


def _certificate(call: Call, side: Side, each: Sidecar) -> Iterator[Point]:
    who = f"proxy {each.name} of {side.short}"
    ends = each.leaf_not_after
    if ends is not None and ends <= call.now:
        yield broken(
            Cause.LEAF_EXPIRED,
            f"the certificate of {who} ended at {moment(ends)}",
            "restart the proxy, and read the control plane's log: it issues none; rotator doctor says more",
        )
        return
    if each.unread is not None:
        yield Point(mark=Mark.NOT_SEEN, what=f"who {who} is: {each.unread}", mend=_LET_READ)
        return
    if not each.names:
        yield broken(
            Cause.NO_CERTIFICATE,
            f"{who} holds no certificate of the mesh",
            "see that a MeshIdentity that is ready selects it, or that the Mesh has mtls (Kuma 2.x)",
        )
        return
    if side.spiffe_id is not None and side.spiffe_id not in each.names:
        yield _wrong_name(side, side.spiffe_id, each, who)
        return
    issued = "" if each.issuer is None else f", issued by {each.issuer}"
    until = "" if ends is None else f", until {moment(ends)}"
    yield good(f"{who} is {side.spiffe_id or each.names[0]}{issued}{until}")


def _wrong_name(side: Side, wanted: str, each: Sidecar, who: str) -> Point:
    shown = next((name for name in each.names if name.startswith("spiffe://")), each.names[0])
    if _trust_domain(shown) != _trust_domain(wanted):
        return broken(
            Cause.WRONG_TRUST_DOMAIN,
            f"{who} is {shown}, of trust domain {_trust_domain(shown)}; configured is {wanted}",
            f"let the MeshIdentity's spiffeID.trustDomain be {_trust_domain(wanted)}, or mend the environment's "
            "trust_domain in the configuration",
        )
    return broken(
        Cause.WRONG_IDENTITY,
        f"{who} is {shown}; configured is {wanted}",
        "give it the ServiceAccount or workload label of the configuration"
        if side.in_cluster
        else "give its Dataplane the workload label of the configuration, and a token for it",
    )


# --- 3: trust ---------------------------------------------------------------------------------------------------------


def _trust(call: Call) -> Iterator[Point]:
    for each in call.verifications:
        if each.problem is None:
            continue
        yield broken(
            Cause.NOT_TRUSTED,
            f"proxy {each.by} does not take the certificate of proxy {each.shown_by}: {each.problem}",
            "see that the MeshTrust (Kuma 2.x: the Mesh's CA) holds the other's issuer and its root, and that the "
            "proxy has acknowledged it: rotator status",
        )
    taken = sum(each.problem is None for each in call.verifications)
    if taken:
        yield good(f"each side takes the other's certificate ({taken} looked at)")
    if not call.verifications:
        yield Point(mark=Mark.NOT_SEEN, what="whether they take each other's certificates", mend=_LET_READ)


# --- 4: permission ----------------------------------------------------------------------------------------------------


def _permission(call: Call) -> Iterator[Point]:
    who, service = call.caller.title, call.service
    asked = [each for each in service.online if each.held is not None]
    for each in asked:
        yield from _enforced(call, each)
    if asked:
        return
    documents = call.documents
    if documents is None:
        yield Point(mark=Mark.NOT_SEEN, what=f"whether {service.title} lets {who} in", mend=_LET_READ)
    elif documents.admitted:
        yield good(f"the permissions on the control plane let {who} in ({listed(documents.by)})")
    else:
        yield _refused(call, documents, f"no MeshTrafficPermission lets {who} call {service.title}")
    if service.online and documents is not None:
        yield Point(mark=Mark.NOT_SEEN, what=f"which rules the proxies of {service.short} enforce", mend=_LET_READ)


def _enforced(call: Call, each: Sidecar) -> Iterator[Point]:
    """Yield what the rules of one proxy say, or will say when it has taken what its control plane intends."""
    held, who = each.held, call.caller.title
    if held is None:
        return
    stale = each.unanswered or each.rejected or _runs_what_is_intended(each) is False
    meant = (each.intended or call.documents or held) if stale else held
    if not meant.admitted and not held.admitted:
        yield _refused(call, meant, f"proxy {each.name} of {call.service.short} does not let {who} in")
    elif not held.admitted:
        what = f"proxy {each.name} refuses {who}, because it runs an older configuration; a newer one lets it in"
        yield Point(mark=Mark.FOLLOWS, what=what)
    elif not meant.admitted:
        refused = _refused(call, meant, f"proxy {each.name} will refuse {who} once it has taken its configuration")
        yield replace(refused, mark=Mark.DOUBTFUL)
    else:
        by = f" ({listed(held.by)})" if held.by else ""
        yield good(f"proxy {each.name} of {call.service.short} lets {who} in{by}")


def _refused(call: Call, decision: Decision, what: str) -> Point:
    if decision.denied:
        named = listed(decision.by)
        return broken(
            Cause.DENIED,
            f"{call.caller.title} is denied {call.service.title} by {named}",
            f"take the denial out of {named}, if the call is meant to be",
        )
    here, there = call.caller.environment, call.service.environment
    if here is not None and there is not None and here != there:
        mend = f"call the service of its own environment, {here}: no permission reaches into another"
    elif call.asked_for:
        mend = (
            f"rotator platform apply: the configuration lets it ({listed(call.asked_for)}), what is in force does not"
        )
    elif call.asked_for is None:
        mend = "write a MeshTrafficPermission for it, if the call is meant to be"
    else:
        mend = (
            "add it under platform.permissions with its reason, if the call is meant to be, then rotator platform apply"
        )
    return broken(Cause.MISSING_PERMISSION, what, mend)


# --- 5: route ---------------------------------------------------------------------------------------------------------


def _route(call: Call) -> Iterator[Point]:
    caller, service = call.caller, call.service
    read = [each for each in caller.online if each.unread is None]
    there = frozenset((service.spiffe_id,)) if service.spiffe_id is not None else frozenset[str]()
    there |= {name for each in service.online for name in each.names}
    for each in read:
        yield from _ways(call, each, there)
    if not read and caller.sidecars:
        why = next((each.unread for each in caller.online if each.unread is not None), "no proxy of it is online")
        yield Point(mark=Mark.NOT_SEEN, what=f"where the proxies of {caller.short} lead: {why}", mend=_LET_READ)


def _ways(call: Call, each: Sidecar, there: frozenset[str]) -> Iterator[Point]:
    service = call.service
    meant = [way for way in each.ways if way.meant]
    astray = {lead: way for way in meant for lead in way.leads_to if lead in call.elsewhere and lead not in there}
    for lead, way in sorted(astray.items()):
        yield broken(
            Cause.WRONG_ENVIRONMENT,
            f"at {way.at} proxy {each.name} leads to {call.elsewhere[lead]}, not to {service.short}",
            "rotator platform diff shows which route leads there, rotator platform apply puts it back; take out what "
            "somebody else has added",
        )
    if astray:
        return
    right = [way for way in meant if any(lead in there for lead in way.leads_to)]
    wrong = [
        (way, call.others[lead])
        for way in meant
        for lead in way.leads_to
        if lead in call.others and way not in right and lead not in there
    ]
    if right:
        yield good(f"at {listed(way.at for way in right)} proxy {each.name} leads to {service.short}")
    elif wrong:
        way, name = wrong[0]
        yield broken(
            Cause.NO_ROUTE,
            f"at {way.at} proxy {each.name} leads to {name}, not to {service.short}",
            "take the route away that leads there, or rotator platform apply",
        )
    elif any(not way.leads_to for way in meant) and not service.online:
        yield Point(mark=Mark.FOLLOWS, what=f"proxy {each.name} has a way to {service.short} with nobody behind it")
    else:
        yield broken(
            Cause.NO_ROUTE,
            f"proxy {each.name} has no way to {service.short}",
            "see that the MeshService is there and that kuma.io/reachable-backends (on machines the Dataplane's "
            "outbounds) name it; rotator platform diff",
        )


# --- 6: destination ---------------------------------------------------------------------------------------------------


def _destination(call: Call) -> Iterator[Point]:
    service = call.service
    if not service.sidecars:
        yield broken(
            Cause.NO_DESTINATION,
            f"nobody is there: no Dataplane has {service.looked_for}",
            f"start {service.title}; {_JOINS[service.in_cluster]}",
        )
        return
    for each in service.sidecars:
        yield from _away(call, each)
    ready = [each for each in service.online if each.not_ready is None]
    for each in service.online:
        if each.not_ready is not None:
            what = f"proxy {each.name} of {service.short} takes no calls: {each.not_ready}"
            yield broken_or_doubtful(
                bool(ready), Cause.NOT_READY, what, "see why its pod or health check is not ready, and mend that"
            )
    answering = [each for each in ready if each.application is None or each.application.answers is not False]
    for each in ready:
        seen = each.application
        if seen is None:
            yield good(f"proxy {each.name} of {service.short} takes calls")
        elif seen.answers is False:
            yield broken_or_doubtful(
                bool(answering),
                Cause.APPLICATION_DOWN,
                f"the application behind proxy {each.name} of {service.short} takes no connections: {seen.seen}",
                "start it, or let it listen where the Dataplane says",
            )
        elif seen.answers is None:
            yield Point(
                mark=Mark.NOT_SEEN,
                what=f"whether the application behind proxy {each.name} answers: {seen.seen}",
                mend="try it where it runs",
            )
        else:
            yield good(f"the application behind proxy {each.name} of {service.short} answers: {seen.seen}")


def _away(call: Call, each: Sidecar) -> Iterator[Point]:
    if each.online:
        return
    service = call.service
    since = "" if each.away_since is None else f" since {moment(each.away_since)}"
    what = f"proxy {each.name} of {service.short} has been out of contact{since}"
    if each.token is not None and _token_cause(each.token, call.now) is not None:
        yield Point(mark=Mark.FOLLOWS, what=f"{what}, because of its token")
    else:
        yield broken_or_doubtful(
            bool(service.online), Cause.DESTINATION_OFFLINE, what, "start it, or delete its Dataplane"
        )


# --- 7: Airflow -------------------------------------------------------------------------------------------------------


def _airflow(call: Call) -> Iterator[Point]:
    right = {name.lower().rstrip(".") for name in call.hostnames}
    ways = {_address(way.at) for each in call.caller.sidecars for way in each.ways if way.meant}
    used = False
    for each in call.host_uses:
        host = each.host.lower().rstrip(".")
        host = "127.0.0.1" if host == "localhost" else host
        fits = (host in right and each.port in {None, call.port}) or (host, each.port) in ways
        if fits:
            used = True
            yield good(f"{each.where} names {each.host}")
        elif each.meant and host in right:
            yield broken(
                Cause.WRONG_HOSTNAME,
                f"{each.where} names port {each.port} of {each.host}; {call.service.short} is at {call.port}",
                f"let it name {each.host}:{call.port}",
            )
        elif each.meant:
            name = call.hostnames[0] if call.hostnames else "the name of its Service"
            yield broken(
                Cause.WRONG_HOSTNAME,
                f"{each.where} names {each.host}, which is not {call.service.short}",
                f"let it name {name}" + ("" if call.port is None else f":{call.port}"),
            )
    for part in call.unhealthy:
        yield Point(
            mark=Mark.DOUBTFUL,
            what=f"Airflow calls its {part} unhealthy",
            mend="mend it: tasks that do not run call nobody",
            cause=Cause.UNHEALTHY,
        )
    if call.unasked_airflow:
        what = f"how Airflow is: {call.unasked_airflow}"
        yield Point(mark=Mark.NOT_SEEN, what=what, mend="mend its entry under airflow, or ask rotator doctor")
    if not used and not any(each.meant for each in call.host_uses):
        why = call.unseen_hosts or "no setting that could be read names it"
        yield Point(
            mark=Mark.NOT_SEEN,
            what=f"by which name Airflow calls {call.service.short}: {why}",
            mend=_by_name(call),
        )


def _address(at: str) -> tuple[str, int | None]:
    host, _, port = at.rpartition(":")
    return host.strip("[]"), int(port) if port.isdecimal() else None


def _by_name(call: Call) -> str:
    if not call.hostnames:
        return "see that the connection names the Service of the destination"
    return f"see that the connection names {call.hostnames[0]}" + ("" if call.port is None else f":{call.port}")


# --- words ------------------------------------------------------------------------------------------------------------

_LOOKS: Final[dict[Link, Callable[[Call], Iterator[Point]]]] = {
    Link.SIDECAR: _sidecar,
    Link.IDENTITY: _identity,
    Link.TRUST: _trust,
    Link.PERMISSION: _permission,
    Link.ROUTE: _route,
    Link.DESTINATION: _destination,
    Link.AIRFLOW: _airflow,
}
_LET_READ: Final = "see that the proxy is online, and give rotator's user the right to see proxies' configurations"
_JOINS: Final = {
    True: "label its pods kuma.io/sidecar-injection: enabled, give them the ServiceAccount of the configuration "
    "(rotator platform render), and restart them",
    False: "start kuma-dp there with the Dataplane that rotator platform render prints",
}


def _trust_domain(spiffe_id: str) -> str:
    return spiffe_id.removeprefix("spiffe://").partition("/")[0]
