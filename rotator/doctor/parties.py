"""
Who is meant by the words of ``rotator doctor --from … --to …``.

Rules that must stay true here:

- A word that could mean two is refused with both: an answer about the wrong one is worse than none.
- Pure: the configuration in, names out; whether they are there is seen elsewhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rotator.errors import ConfigError
from rotator.platform.model import Identity, InCluster, Platform, Service
from rotator.settings import Settings

_ON_KUBERNETES = re.compile(r"/ns/(?P<namespace>[^/]+)/sa/(?P<account>[^/]+)")
_ON_MACHINES = re.compile(r"/workload/(?P<workload>[^/]+)")
_NEAR = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One side of a call, as it was named."""

    title: str
    """For sentences."""
    short: str
    trust_domain: str | None
    """Whose mesh it is in; None: any mesh may have a proxy of this name."""
    spiffe_id: str | None = None
    environment: str | None = None
    marks: Mapping[str, str] | None = None
    """Labels or tags that its Dataplanes have; None: it was named by its Dataplane."""
    in_cluster: bool = True
    entry: Identity | Service | None = None
    """What the configuration says of it."""

    @property
    def looked_for(self) -> str:
        """Return how its Dataplanes are found, in words."""
        if self.marks is None:
            return f"the name {self.short}"
        return "labels " + ", ".join(f"{key}={value}" for key, value in sorted(self.marks.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Both sides of a call."""

    caller: Party
    service: Party
    wrong_host: str | None = None
    """The host by which the destination was named, if it is nobody's: the nearest service is looked at instead."""


def named(
    settings: Settings, platform: Platform | None, caller: str, destination: str, environment: str | None
) -> Named:
    """
    Return whom *caller* and *destination* mean, in *environment* where they name none.

    Raises:
        ConfigError: If nobody is meant, or more than one.
    """
    known = set[str]() if platform is None else {each.name for each in platform.environments}
    if environment is not None and environment not in known:
        raise ConfigError(f"there is no environment {environment}: {_choice(known)}")
    calls = _caller(settings, platform, caller, environment)
    return _destination(settings, platform, destination, calls, environment or calls.environment)


# --- the caller -------------------------------------------------------------------------------------------------------


def _caller(settings: Settings, platform: Platform | None, text: str, environment: str | None) -> Party:
    if platform is not None:
        everybody: tuple[Identity | Service, ...] = (*platform.identities, *platform.services)
        found = [each for each in everybody if _means(text, each, environment)]
        if len(found) > 1:
            raise ConfigError(
                f"{text} may be {', '.join(sorted(each.qualified for each in found))}: say which, or --environment"
            )
        if found:
            return _of_entry(found[0])
    if text.startswith("spiffe://"):
        return _of_spiffe_id(settings, text)
    if "/" in text:
        names = set() if platform is None else {each.qualified for each in platform.identities}
        raise ConfigError(f"there is no identity {text}: {_choice(names)}")
    return Party(title=f"proxy {text}", short=text, trust_domain=None)


def _means(text: str, each: Identity | Service, environment: str | None) -> bool:
    if text in {each.qualified, each.spiffe_id}:
        return True
    return text == each.name and environment in {None, each.environment.name}


def _of_entry(each: Identity | Service) -> Party:
    environment = each.environment
    is_provided = environment.model.value == "provided"
    return Party(
        title=each.in_words,
        short=each.qualified,
        trust_domain=environment.trust_domain,
        spiffe_id=each.spiffe_id,
        environment=environment.name,
        marks={"kuma.io/service": each.kuma_service} if is_provided else each.place.labels(),
        in_cluster=isinstance(each.place, InCluster),
        entry=each,
    )


def _of_spiffe_id(settings: Settings, text: str) -> Party:
    domain, _, path = text.removeprefix("spiffe://").partition("/")
    names = [
        name
        for name, each in settings.trust_domains.items()
        if each.mesh is not None and domain in {name, each.mesh.name}
    ]
    if not names:
        meshes = {name for name, each in settings.trust_domains.items() if each.mesh is not None}
        raise ConfigError(
            f"{text} is of trust domain {domain}, which is no mesh of the configuration: {_choice(meshes)}"
        )
    name = domain if domain in names else names[0]
    marks = {"kuma.io/service": path}
    in_cluster = True
    if (found := _ON_KUBERNETES.fullmatch(f"/{path}")) is not None:
        marks = {"k8s.kuma.io/namespace": found["namespace"], "k8s.kuma.io/service-account": found["account"]}
    elif (found := _ON_MACHINES.fullmatch(f"/{path}")) is not None:
        marks, in_cluster = {"kuma.io/workload": found["workload"]}, False
    return Party(title=text, short=text, trust_domain=name, spiffe_id=text, marks=marks, in_cluster=in_cluster)


# --- the destination --------------------------------------------------------------------------------------------------


def _destination(
    settings: Settings, platform: Platform | None, text: str, caller: Party, environment: str | None
) -> Named:
    services = () if platform is None else platform.services
    found = [each for each in services if _means(text, each, environment)]
    host = text.rpartition(":")[0] if text.rpartition(":")[2].isdecimal() else text
    if not found:
        found = [
            each for each in services if host in hostnames_of(each) and environment in {None, each.environment.name}
        ]
    if len(found) > 1:
        raise ConfigError(
            f"{text} may be {', '.join(sorted(each.qualified for each in found))}: say which, or --environment"
        )
    if found:
        return Named(caller=caller, service=_of_entry(found[0]))
    if text.startswith("spiffe://"):
        return Named(caller=caller, service=_of_spiffe_id(settings, text))
    if "." in host and "/" not in text:
        return Named(caller=caller, service=_nearest(services, host, environment), wrong_host=host)
    if "/" in text or services:
        raise ConfigError(f"there is no service {text}: {_choice({each.qualified for each in services})}")
    return Named(caller=caller, service=Party(title=f"proxy {text}", short=text, trust_domain=caller.trust_domain))


def _nearest(services: tuple[Service, ...], host: str, environment: str | None) -> Party:
    """Return the service whose name is most like that of *host*, which is nobody's."""
    candidates = {
        name: each
        for each in services
        if environment in {None, each.environment.name}
        for name in (*hostnames_of(each), each.name)
    }
    first = host.partition(".")[0]
    like = difflib.get_close_matches(host, candidates, n=1, cutoff=_NEAR)
    like = like or difflib.get_close_matches(first, candidates, n=1, cutoff=_NEAR)
    if not like:
        names = {each.hostname for each in services if each.hostname is not None}
        raise ConfigError(f"no service has the hostname {host}: {_choice(names)}")
    return _of_entry(candidates[like[0]])


def hostnames_of(service: Service) -> tuple[str, ...]:
    """Return every name by which *service* is reached, the one to use first."""
    own = () if service.hostname is None else (service.hostname,)
    place = service.place
    if not isinstance(place, InCluster):
        return own
    name = f"{place.service or service.name}.{place.namespace}"
    return (*own, f"{name}.svc", name, f"{name}.svc.cluster.local", f"{name}.svc.mesh.local")


def _any_of(found: Sequence[Identity | Service]) -> str:
    return ", ".join(sorted(each.qualified for each in found))


def _choice(names: Mapping[str, object] | set[str]) -> str:
    return f"there is {', '.join(sorted(names))}" if names else "the configuration names none"
