"""
Where certificates are published, how their use is proven, and who is rolled for them.

Rules that must stay true here:

- A consumer that does not answer is a warning: it may be stopped. A place that cannot be written is broken.
- Brokers are asked who is there and nothing else; nobody is drained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from rotator.bootstrap import Sessions
from rotator.bootstrap.fleet import certificate_target, workload_target
from rotator.doctor.findings import Finding, attempted, fine, warning
from rotator.doctor.machine import writable
from rotator.doctor.pods import pods_findings
from rotator.ports import Clock, LeafStore
from rotator.settings import Settings


def place_findings(settings: Settings, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what is found at each certificate's places and probes, and at each workload."""
    for name in settings.certificates:
        about = f"certificate {name}"
        yield from attempted(
            about, partial(_certificate, about, settings, name, sessions, clock), otherwise="mend its entry"
        )
    for name in settings.workloads:
        about = f"workload {name}"
        yield from attempted(
            about, partial(_workload, about, settings, name, sessions, clock), otherwise="mend its entry"
        )


def _certificate(about: str, settings: Settings, name: str, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    places = settings.certificates[name].publish
    for place in places:
        # Before the rest: an owner that is not there would keep the stores from being made.
        if place.directory is not None:
            yield from writable(about, place.directory.path)
    target = certificate_target(settings, name, clock, partial(sessions.cluster, settings))
    for place, store in zip(places, target.stores, strict=True):
        if place.directory is None:
            yield from attempted(about, partial(_in_cluster, about, store), otherwise="see who made it, and mend it")
    for probe in target.probes:
        served = probe.look()
        if served.reachable:
            yield fine(about, f"{probe.name} answers")
        else:
            yield warning(
                about,
                f"{probe.name} does not answer{': ' if served.detail else ''}{served.detail}",
                "start the consumer, or mend the probe: until it answers nothing is proven",
            )


def _in_cluster(about: str, store: LeafStore) -> Iterator[Finding]:
    """Yield what is found of one Secret or ConfigMap; whether rotator may write there is asked of the whole cluster."""
    seen = store.read()
    if seen is None:
        yield fine(about, f"{store.target} is not there yet, and is made when the certificate is issued")
    elif seen.problem is not None or seen.drift is not None:
        yield warning(
            about,
            f"{store.target}: {seen.problem or seen.drift}",
            "find out who writes there (kubectl get --show-managed-fields); rotator puts it right at its next look",
        )
    else:
        yield fine(about, f"{store.target} holds publication {seen.number}")


def _workload(about: str, settings: Settings, name: str, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    if settings.workloads[name].in_cluster is not None:
        yield from pods_findings(about, settings, name, sessions.cluster(settings))
        return
    target = workload_target(settings, name, clock, partial(sessions.cluster, settings))
    members = target.workloads.members()
    running = {each.name for each in members if each.running}
    if target.drainer is not None:
        # Who does not run is asked too: otherwise nobody would be, and the broker with nobody.
        members = target.drainer.inspect([replace(each, running=True) for each in members])
    for member in members:
        if member.name not in running:
            yield warning(about, f"{member.name} does not run", "start it, or take it out of the configuration")
        elif target.drainer is not None and member.busy is None:
            yield warning(
                about,
                f"nobody can see what {member.name} does{': ' if member.detail else ''}{member.detail}",
                "mend its node name and queues: it could not be drained",
            )
        else:
            yield fine(about, f"{member.name} runs{' and can be drained' if target.drainer is not None else ''}")
