"""
The meshes: are the proxies in step, what is the control plane, what would be refused, are all secrets there.

Rules that must stay true here:

- A proxy counts as behind only if two looks find it so, further apart than control planes take to write down what
  proxies acknowledge: one look may catch a change on its way.
- Whether the mesh may be led is what the engine itself would find: the same look, the same guards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from rotator.adapters.kuma.about import Model
from rotator.adapters.kuma.control_plane import ControlPlane, Kind, ProxyReport
from rotator.adapters.kuma.models import KumaMesh
from rotator.adapters.kuma.named_secrets import named_in
from rotator.adapters.kuma.proofs import views_of
from rotator.adapters.kuma.rights import rbac_rules
from rotator.adapters.kuma.sync import Finding as Lagging
from rotator.adapters.kuma.sync import Lag, out_of_sync
from rotator.bootstrap.meshes import cluster_access, control_plane, mesh_target
from rotator.bootstrap.sessions import Sessions
from rotator.core.window import written
from rotator.doctor.cluster import rights_findings
from rotator.doctor.findings import Finding, attempted, broken, fine, warning
from rotator.errors import Denied
from rotator.ports import Clock, MeshView
from rotator.settings import Settings
from rotator.settings.issuers import VaultIssuer
from rotator.settings.meshes import Mesh

LOOK_AGAIN: Final = timedelta(seconds=11)
"""Control planes write insights down every ten seconds."""
_NEAR: Final = 0.1
"""Share of its life that a certificate has left when it is near its end; Kuma renews when a fifth is left."""

_MENDS: Final = {
    Lag.NEVER_CONNECTED: "start it, or delete its Dataplane: a rotation waits for no proxy that never had a leaf",
    Lag.OFFLINE: "start it, or delete its Dataplane; a rotation waits for it until its last leaf has ended",
    Lag.REJECTING: "read its own log and the control plane's for the refused configuration, and mend that",
    Lag.BEHIND: "look at the control plane's load and the proxy's log; restart the proxy if it does not recover",
    Lag.UNREADABLE: "see that the control plane may reach the proxy's admin interface",
}


def mesh_findings(settings: Settings, sessions: Sessions, clock: Clock) -> Iterator[Finding]:
    """Yield what is found in each mesh, its proxies first."""
    for name, domain in settings.trust_domains.items():
        vault = settings.issuers[domain.issuer].vault if domain.issuer in settings.issuers else None
        if domain.mesh is None or vault is None:
            continue
        about = f"trust_domain {name}"
        mend = "mend mesh.control_plane"
        yield from attempted(about, partial(_connected, about, domain.mesh, clock), otherwise=mend)
        if domain.mesh.control_plane.kubernetes is not None:
            rights = partial(_rights, about, domain.mesh)
            yield from attempted(about, rights, otherwise="mend mesh.control_plane.kubernetes")
        led = partial(_led, about, settings, name, domain.mesh, vault, sessions, clock)
        yield from attempted(about, led, otherwise="see docs/kuma.md")


def _connected(about: str, mesh: Mesh, clock: Clock) -> Iterator[Finding]:
    """Yield what the control plane itself shows."""
    plane = control_plane(mesh, clock)()
    reports = plane.proxies.reports()
    yield from _proxies(about, plane, reports, clock)
    yield from certificates_ending(about, reports, clock.now())
    said = plane.about
    yield fine(
        about,
        f"{said.product} {said.version_text}, {said.environment}, {said.mode}; {len(reports)} proxies in mesh "
        f"{plane.mesh}",
    )
    if mesh.control_plane.url is None and mesh.control_plane.address.startswith("http://"):
        # Where it is given, plain http is for this machine alone.
        yield warning(
            about,
            f"the proxies are seen through {mesh.control_plane.address}, where anybody on the way can answer instead",
            "name the control plane's CA as mesh.control_plane.ca_file: then its https port is asked",
        )
    yield from _secrets(about, plane)


def _proxies(about: str, plane: ControlPlane, reports: Sequence[ProxyReport], clock: Clock) -> Iterator[Finding]:
    found = _lagging(plane, reports)
    if any(each.lag in {Lag.BEHIND, Lag.UNREADABLE} for each in found):
        clock.wait(threading.Event(), LOOK_AGAIN)
        still = {(each.proxy, each.lag) for each in _lagging(plane, plane.proxies.reports())}
        found = tuple(
            each for each in found if each.lag not in {Lag.BEHIND, Lag.UNREADABLE} or (each.proxy, each.lag) in still
        )
    for each in found:
        where = f"proxy {each.proxy}" + (f" of zone {each.zone}" if each.zone else "")
        worse = each.lag in {Lag.REJECTING, Lag.BEHIND}
        yield (broken if worse else warning)(about, f"{where}: {each.detail}", _MENDS[each.lag])
    if not found:
        yield fine(about, "every proxy is in step with its control plane and can be asked what it trusts")


def _lagging(plane: ControlPlane, reports: Sequence[ProxyReport]) -> tuple[Lagging, ...]:
    """Return who is out of step, everybody who is online being asked."""
    return out_of_sync(reports, views_of(plane.proxies, [each.name for each in reports if each.online]))


def certificates_ending(about: str, reports: Sequence[ProxyReport], now: datetime) -> Iterator[Finding]:
    """Yield whose certificate has ended or soon ends at *now*, of those who are in contact."""
    for each in reports:
        ends, began = each.certificate_not_after, each.certificate_issued_at
        if not each.online or ends is None:
            continue
        if ends <= now:
            yield broken(
                about,
                f"the certificate of proxy {each.name} ended at {ends:%Y-%m-%dT%H:%M:%SZ}",
                "restart the proxy, and read the control plane's log: it issues none",
            )
        elif began is not None and ends - now < _NEAR * (ends - began):
            left = written(timedelta(seconds=(ends - now) // timedelta(seconds=1)))
            yield warning(
                about,
                f"the certificate of proxy {each.name} ends in {left} and was not renewed",
                "read the control plane's log: Kuma renews when a fifth of the life is left",
            )


def _secrets(about: str, plane: ControlPlane) -> Iterator[Finding]:
    """Yield secrets that nothing refers to, and references to secrets that are not there."""
    documents = [document for kind in Kind for document in plane.documents.listed(kind)]
    named = {name: document for document in documents for name in named_in(document)}
    held = {each.name: each.purpose for each in plane.secrets.held()}
    for name, document in sorted(named.items()):
        if name in held:
            continue
        try:
            is_there = plane.secrets.read(name) is not None
        except Denied:
            yield warning(
                about,
                f"{document.kind} {document.name} refers to secret {name}, which rotator may not read",
                "let it, until the mesh runs on a CA of rotator's: --read-secret in deploy/kuma",
            )
            continue
        if not is_there:
            yield broken(
                about,
                f"{document.kind} {document.name} refers to secret {name}, which is not there",
                "put it back from its backup, or let the document refer to one that is there",
            )
    unused = [purpose for name, purpose in held.items() if name not in named and purpose.startswith("bundle-")]
    if len(unused) > 1:
        yield warning(
            about,
            f"nothing refers to {len(unused)} of rotator's bundle secrets: {', '.join(sorted(unused))}",
            "leave them: the next rotation of this mesh removes them when it retires a CA",
        )
    yield fine(about, f"{len(held)} secrets of rotator's are held")


def _rights(about: str, mesh: Mesh) -> Iterator[Finding]:
    """Yield what rotator's account lacks in the cluster."""
    access = cluster_access(mesh)
    if access is not None:
        yield from rights_findings(about, access, rbac_rules(mesh.name, access.namespace))


def _led(
    about: str, settings: Settings, name: str, mesh: Mesh, vault: VaultIssuer, sessions: Sessions, clock: Clock
) -> Iterator[Finding]:
    """Yield whether the mesh may be led."""
    session = sessions.of(settings.trust_domains[name].issuer, vault)
    target = mesh_target(settings, name, mesh, vault, session, clock)
    led = target.mesh
    if isinstance(led, KumaMesh):
        yield from _model(about, settings, name, mesh, led.model)
    if led is not None:
        yield from _judged(about, name, led.look(proofs=True))


def _model(about: str, settings: Settings, name: str, mesh: Mesh, model: Model) -> Iterator[Finding]:
    wanted = settings.trust_domains[name].model
    yield fine(about, f"model {model}, {'as the control plane shows' if wanted == 'auto' else 'as configured'}")
    if model is Model.PROVIDED and name != mesh.name:
        yield warning(
            about,
            f"its proxies are called spiffe://{mesh.name}/..., because Kuma's provided model names them by the mesh",
            f"name the trust domain {mesh.name}, unless another mesh has that name already",
        )


def _judged(about: str, name: str, view: MeshView) -> Iterator[Finding]:
    for refusal in view.refusals:
        what, _, mend = refusal.rpartition(": ")
        yield broken(about, what or refusal, mend if what else "see docs/runbooks/mesh-refused.md")
    for said in view.warnings:
        yield warning(about, said, "see docs/kuma.md")
    if view.adoption is not None:
        yield warning(
            about,
            f"found {view.adoption.found}: rotator does not lead it yet",
            f"rotator adopt {name} --reason TEXT --dry-run",
        )
    elif not view.refusals:
        active = next((each.number for each in view.held.generations if each.authority.id == view.held.active), None)
        yield fine(about, "it has no CA yet" if active is None else f"generation {active} signs, and may be rotated")
