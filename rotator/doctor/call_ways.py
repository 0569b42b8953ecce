"""
Which outbounds of a proxy are the way to a service, and whether an application takes connections.

Rules that must stay true here:

- The way by which a service's hostname leads counts before any other: that is the one that callers use.
- An outbound is known by what the Dataplane, the MeshService or Kuma's own name for it says; only where none of them
  tells, by whom it leads to.
- An application is knocked at only where its proxy is on this machine: an address of another one means nothing here.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

from rotator.adapters.kuma.call_view import CallView, OutboundSeen
from rotator.adapters.kuma.calls import ProxyRead, ProxySeen
from rotator.doctor.parties import Party
from rotator.platform.call import Application, Way
from rotator.platform.model import Platform, Service
from rotator.platform.resources import DISPLAY_NAME
from rotator.platform.routes import backend, front

JSON = Mapping[str, Any]

_KNOCK: Final = timedelta(seconds=2)
_LOOPBACK: Final = "127.0.0.1"
_SERVICE: Final = "kuma.io/service"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeantWays:
    """How the ways to one service are known."""

    leads_to: str | None
    """Its SPIFFE ID."""
    elsewhere: Mapping[str, str]
    """SPIFFE IDs of the same service in other environments, with their names."""
    others: Mapping[str, str]
    """SPIFFE IDs of every other service, with their names."""
    references: tuple[JSON, ...] = ()
    """References by which it is called, the one by its hostname first."""
    tag: str | None = None
    """Its tag kuma.io/service."""
    services: tuple[JSON, ...] = ()
    """Every MeshService of the caller's mesh."""

    @classmethod
    def of(cls, side: Party, platform: Platform | None, services: Sequence[JSON]) -> Self:
        """Return how the ways to *side* are known."""
        entry = side.entry
        known = () if platform is None else platform.services
        if not isinstance(entry, Service):
            others = {each.spiffe_id: each.qualified for each in known if each.spiffe_id != side.spiffe_id}
            return cls(leads_to=side.spiffe_id, elsewhere={}, others=others, services=tuple(services))
        same = [each for each in known if each.name == entry.name and each.environment != entry.environment]
        return cls(
            leads_to=side.spiffe_id,
            elsewhere={each.spiffe_id: each.qualified for each in same},
            others={each.spiffe_id: each.qualified for each in known if each.name != entry.name},
            references=((front(entry),) if entry.hostname is not None else ()) + (backend(entry),),
            tag=entry.kuma_service,
            services=tuple(services),
        )

    def ways(self, view: CallView, proxy: ProxySeen) -> tuple[Way, ...]:
        """Return the outbounds of *proxy* in *view*, those marked that lead to the service or ought to."""
        meant = self._meant(view.outbounds, proxy)
        return tuple(
            Way(
                at=f"{each.address}:{each.port}",
                meant=each in meant,
                leads_to=each.leads_to,
                clusters=each.clusters,
            )
            for each in view.outbounds
        )

    def declared(self, proxy: ProxySeen) -> tuple[Way, ...]:
        """Return the outbounds that the Dataplane of *proxy* names as ways to the service, whatever they lead to."""
        found = [OutboundSeen.declared(*_at(each)) for each in proxy.outbounds]
        named = [each for each in found if self._is_named(each, proxy)]
        return tuple(Way(at=f"{each.address}:{each.port}", meant=True, leads_to=()) for each in named)

    def _is_named(self, outbound: OutboundSeen, proxy: ProxySeen) -> bool:
        by_reference = any(self._is_referred_to(outbound, each, proxy) for each in self.references)
        return by_reference or self._has_tag(outbound, proxy)

    def _meant(self, outbounds: Sequence[OutboundSeen], proxy: ProxySeen) -> list[OutboundSeen]:
        for reference in self.references:
            found = [each for each in outbounds if self._is_referred_to(each, reference, proxy)]
            if found:
                return found
        tagged = [each for each in outbounds if self._has_tag(each, proxy)]
        if tagged:
            return tagged
        right = [each for each in outbounds if self.leads_to in each.leads_to]
        return right or [each for each in outbounds if any(lead in self.elsewhere for lead in each.leads_to)]

    def _is_referred_to(self, outbound: OutboundSeen, reference: JSON, proxy: ProxySeen) -> bool:
        labels = _get(reference, "labels")
        for each in proxy.outbounds:
            its = _get(each, "backendRef")
            if its and _at(each) == (outbound.address, outbound.port) and _holds(self._labels(its), labels):
                return True
        for service in self.services:
            if not _holds(_labels_of(service), labels):
                continue
            vips = {str(vip.get("ip")) for vip in _items(_get(service, "status"), "vips")}
            if outbound.address in vips or outbound.name.startswith(_kri(service)):
                return True
        return False

    def _labels(self, reference: JSON) -> JSON:
        """Return the labels of what a Dataplane's outbound refers to, by name where it says no labels."""
        labels = _get(reference, "labels")
        if labels:
            named = [each for each in self.services if _holds(_labels_of(each), labels)]
        else:
            named = [each for each in self.services if reference.get("name") in _names_of(each)]
        return _labels_of(named[0]) if named else labels

    def _has_tag(self, outbound: OutboundSeen, proxy: ProxySeen) -> bool:
        return any(
            self.tag is not None
            and _get(each, "tags").get(_SERVICE) == self.tag
            and _at(each) == (outbound.address, outbound.port)
            for each in proxy.outbounds
        )


def _at(outbound: JSON) -> tuple[str, int]:
    port = outbound.get("port")
    return str(outbound.get("address") or _LOOPBACK), port if isinstance(port, int) else 0


def _names_of(service: JSON) -> set[object]:
    return {service.get("name"), _get(service, "labels").get(DISPLAY_NAME)}


def _labels_of(service: JSON) -> JSON:
    return {DISPLAY_NAME: service.get("name"), **_get(service, "labels")}


def _kri(service: JSON) -> str:
    """Return what Kuma's own names of everything about *service* begin with."""
    labels = _labels_of(service)
    zone, namespace = labels.get("kuma.io/zone", ""), labels.get("k8s.kuma.io/namespace", "")
    return f"kri_msvc_{service.get('mesh', '')}_{zone}_{namespace}_{labels[DISPLAY_NAME]}_"


def _holds(labels: JSON, wanted: JSON) -> bool:
    return bool(wanted) and all(labels.get(key) == said for key, said in wanted.items())


def _get(found: JSON, key: str) -> JSON:
    said = found.get(key)
    return said if isinstance(said, Mapping) else {}


def _items(found: JSON, key: str) -> list[JSON]:
    said = found.get(key)
    return [each for each in said if isinstance(each, Mapping)] if isinstance(said, list) else []


# --- the application behind a proxy -----------------------------------------------------------------------------------


def application(proxy: ProxySeen, inbounds: Sequence[JSON], read: ProxyRead) -> Application:
    """Return whether the application behind *proxy* takes connections at *inbounds*."""
    if _is_here(proxy.address):
        for each in inbounds:
            host = str(each.get("serviceAddress") or _LOOPBACK)
            port = each.get("servicePort") or each.get("port")
            if isinstance(port, int) and not _answers(host, port):
                return Application(answers=False, seen=f"nobody listens at {host}:{port}")
        return Application(answers=True, seen="it takes connections on this machine")
    ports = {each.get("port") for each in inbounds}
    views = () if read.held is None else read.held.inbounds
    clusters = {name for view in views if view.port in ports for name in view.clusters}
    hosts = [each for each in read.hosts if each.cluster in clusters]
    tried, failed = sum(each.connections for each in hosts), sum(each.failed for each in hosts)
    if any(not each.healthy for each in hosts):
        return Application(answers=False, seen="its proxy's health check fails")
    if failed and failed >= tried:
        return Application(answers=False, seen=f"all of {failed} connections failed since its proxy started")
    if failed:
        return Application(answers=None, seen=f"{failed} of {tried} connections failed since its proxy started")
    if tried:
        return Application(answers=True, seen=f"it took {tried} connections since its proxy started")
    return Application(answers=None, seen="nobody has called it yet, and it cannot be reached from here")


def _is_here(address: str) -> bool:
    """Return whether *address* is one of this machine's."""
    try:
        family = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as bound:
            bound.bind((address, 0))
    except OSError:
        return False
    return True


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_KNOCK.total_seconds()):
            return True
    except OSError:
        return False
