"""
One control plane that serves proxies: it reads its store, computes each proxy's configuration and writes insights.

Rules that must stay true here:

- Nothing happens but in `tick`, in the order in which it is due; a write is seen when the cache lets it be seen.
- A proxy for which nothing can be computed keeps what it runs.
- With ``Mesh.mtls`` on a 3.x control plane nothing is issued: its proxies speak plaintext.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from rotator.ports import Clock
from tests.fakes.kuma.admission import enabled_backend
from tests.fakes.kuma.conditions import Conditions
from tests.fakes.kuma.connections import (
    Admin,
    Connection,
    Issued,
    ProxySilent,
    with_certificate,
    with_subscription,
)
from tests.fakes.kuma.desired import Desired, Identity, Inbound, Trust, Upstream
from tests.fakes.kuma.envoy_config import intended_config
from tests.fakes.kuma.envoy_log import wanted_logs
from tests.fakes.kuma.identities import IdentityPath, Workload, kri, selected
from tests.fakes.kuma.legacy import LegacyCertificates, LegacyPath
from tests.fakes.kuma.limiter import Limiter
from tests.fakes.kuma.permissions import SERVICE_TAG, access_of
from tests.fakes.kuma.reading import CachedReading, MeshContext
from tests.fakes.kuma.routing import Destination, routed
from tests.fakes.kuma.selecting import standing_behind
from tests.fakes.kuma.signing import BadPair
from tests.fakes.kuma.store import DATAPLANE, IDENTITY, INSIGHT, MESH, READINESS, Json, Resource, Store
from tests.fakes.kuma.timings import Timings
from tests.fakes.kuma.topology import address_of, inbound_mode, inbounds, ports_of, service_of, services, tags_of

# The name that Kuma gives the secret with every trust domain's CAs.
TRUST_BUNDLE = "system_trust_bundle"

# What stands before the mesh's name in the names of the leaf's secret and of the CA's.
_NAMES = ("identity_cert:secret:", "mesh_ca:secret:")
_UNIFIED_NAMES = ("system_mtls_identity_", "system_mtls_ca_")

# Issuance is throttled since this version.
THROTTLED_SINCE = (2, 14, 2)


class ServingPlane:
    """A zone's control plane; `tick` from one thread, everything else from any."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        timings: Timings,
        version: tuple[int, int, int],
        environment: str,
        zone: str,
        forgets_certificates: bool = False,
        unified_names: bool = False,
    ) -> None:
        """
        Make one that remembers nothing.

        With *forgets_certificates* the last flush of a closing stream finds the certificate cleaned up already; with
        *unified_names* the secrets of ``Mesh.mtls`` are called as proxies of the newer naming have them.
        """
        self.store = store
        self.clock = clock
        self.timings = timings
        self.version = version
        self.environment = environment
        self.zone = zone
        self.instance = f"stand-in-{uuid.uuid4().hex[:4]}"
        self.lock = threading.RLock()
        self.connections: dict[str, Connection] = {}
        self.labels = {"kuma.io/env": environment, "kuma.io/origin": "zone", "kuma.io/zone": zone}
        self.neighbours: tuple[ServingPlane, ...] = ()
        """The other zones' control planes: what they serve is reached from here too, as if through their ingresses."""
        self.stuck: set[str] = set()
        """Proxies for which nothing can be computed, as if issuing for them were held back: they keep what they run."""
        self._forgets_certificates = forgets_certificates
        self._secret_names = _UNIFIED_NAMES if unified_names else _NAMES
        self._versions = itertools.count(1)
        self._reading = CachedReading(store, clock, timings)
        limiter = Limiter(timings, active=version >= THROTTLED_SINCE)
        self._limiter = limiter
        self._legacy = LegacyPath(self._reading, limiter)
        self._identities = IdentityPath(
            self._reading, limiter, timings, environment=environment, zone=zone, major=version[0]
        )
        self._conditions = Conditions(
            store, clock, self._identities, zone=zone, major=version[0], labels=dict(self.labels)
        )
        self._next_status = clock.now() + timings.status
        self._ways: dict[tuple[bool, bool], tuple[MeshContext, dict[str, Upstream]]] = {}

    # --- streams ----------------------------------------------------------------------------------------------------

    def connect(
        self,
        mesh: str,
        name: str,
        *,
        dataplane: Json | None = None,
        labels: Mapping[str, str] | None = None,
        admin: Admin | None = None,
        over_http: bool = False,
    ) -> str:
        """Open a proxy's stream and return its id; with *dataplane* the proxy brings its own Dataplane."""
        with self.lock:
            now = self.clock.now()
            for other in [c for c in self.connections.values() if (c.mesh, c.name) == (mesh, name)]:
                self._close(other, now, keeps_dataplane=True)
            if dataplane is not None:
                kept = self.store.get(DATAPLANE, mesh, name)
                own = {
                    **self.labels,
                    **self._pod_labels(name, labels or {}),
                    "kuma.io/mesh": mesh,
                    "kuma.io/display-name": name,
                    **(labels or {}),
                }
                created_at = kept.created_at if kept is not None else now
                self.store.put(
                    Resource(
                        type=DATAPLANE,
                        mesh=mesh,
                        name=name,
                        spec=dataplane,
                        labels=own,
                        created_at=created_at,
                        modified_at=now,
                    )
                )
            connection = Connection(
                mesh=mesh,
                name=name,
                opened_at=now,
                instance=self.instance,
                admin=admin,
                owns_dataplane=dataplane is not None,
                heard_at=now if over_http else None,
            )
            self.connections[connection.id] = connection
            return connection.id

    def _pod_labels(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Return what Kuma writes on the Dataplane of a pod: the namespace and account that its identity names."""
        if self.environment != "kubernetes":
            return {}
        account = labels.get("kuma.io/workload", name)
        return {"k8s.kuma.io/namespace": "airflow", "k8s.kuma.io/service-account": account}

    def poll(self, connection_id: str, version: str, *, accepted: bool) -> Desired | None:
        """Take the answer to *version* (empty for none) and return what is outstanding. Raises `KeyError` if closed."""
        with self.lock:
            connection = self.connections[connection_id]
            if connection.heard_at is not None:
                connection.heard_at = self.clock.now()
            if version:
                connection.answer(version, accepted=accepted)
            return connection.outstanding

    def disconnect(self, connection_id: str, *, keeps_dataplane: bool = False) -> None:
        """Close a stream; the proxy's own Dataplane goes with it unless it is kept."""
        with self.lock:
            connection = self.connections.get(connection_id)
            if connection is not None:
                self._close(connection, self.clock.now(), keeps_dataplane=keeps_dataplane)

    def ask(self, mesh: str, name: str, what: str) -> bytes:
        """Return an answer of the proxy's own Envoy. Raises `ProxySilent`."""
        with self.lock:
            found = [c for c in self.connections.values() if (c.mesh, c.name) == (mesh, name)]
        if not found or found[0].admin is None:
            raise ProxySilent(f"{name} is not connected")
        return found[0].admin(what)

    def intended(self, mesh: str, name: str) -> Json:
        """Return the listeners and clusters that a proxy should run, by type and name. Raises `ProxySilent`."""
        with self.lock:
            found = [c for c in self.connections.values() if (c.mesh, c.name) == (mesh, name)]
            dataplane = self.store.get(DATAPLANE, mesh, name)
            desired = (found[0].waiting or found[0].outstanding or found[0].accepted) if found else None
        if dataplane is None or desired is None:
            raise ProxySilent(f"{name} is not connected")
        return intended_config(desired, ports_of(dataplane), service=service_of(dataplane))

    def _close(self, connection: Connection, now: datetime, *, keeps_dataplane: bool) -> None:
        self.connections.pop(connection.id, None)
        self._legacy.forget(connection.proxy)
        self._identities.forget(connection.proxy)
        self._limiter.forget(connection.proxy)
        if self._forgets_certificates:
            connection.issued = None
        if connection.owns_dataplane and not keeps_dataplane:
            self.store.delete(DATAPLANE, connection.mesh, connection.name)
            self.store.delete(INSIGHT, connection.mesh, connection.name)
            return
        self._flush(connection, now, closed_at=now)

    # --- time passing -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do everything that is due now, once."""
        with self.lock:
            now = self.clock.now()
            if now >= self._next_status:
                self._next_status = now + self.timings.status
                self._conditions.update()
                self._forget_readiness()
            for connection in list(self.connections.values()):
                if connection.heard_at is not None and now - connection.heard_at > self.timings.silence:
                    self._close(connection, now, keeps_dataplane=True)
                    continue
                if now >= connection.next_watchdog:
                    connection.next_watchdog = connection.after_watchdog(now, self.timings.watchdog)
                    self._reconcile(connection, now)
                if now >= connection.next_flush:
                    connection.next_flush = now + self.timings.insight_flush
                    self._flush(connection, now)

    def _flush(self, connection: Connection, now: datetime, *, closed_at: datetime | None = None) -> None:
        kept = self.store.get(INSIGHT, connection.mesh, connection.name)
        spec = kept.spec if kept is not None else {}
        fresh = with_subscription(spec, connection.subscription(now, closed_at=closed_at), now)
        fresh = with_certificate(fresh, connection.issued)
        created_at = kept.created_at if kept is not None else now
        self.store.put(
            Resource(
                type=INSIGHT,
                mesh=connection.mesh,
                name=connection.name,
                spec=fresh,
                created_at=created_at,
                modified_at=now,
            )
        )

    # --- one proxy's configuration ----------------------------------------------------------------------------------

    def _reconcile(self, connection: Connection, now: datetime) -> None:
        if connection.name in self.stuck:
            connection.problem = "nothing is computed for it"
            return
        context = self._reading.context(connection.mesh)
        if context is None:
            return
        dataplane = next((each for each in context.dataplanes if each.name == connection.name), None)
        if dataplane is None:
            return
        try:
            workload = self._identities.workload(connection.proxy, dataplane.labels, context.identities, now)
            legacy = None if workload or self._is_three() else self._by_mtls(connection, context, dataplane, now)
        except BadPair as e:
            connection.problem = str(e)
            return
        connection.problem = ""
        connection.issued = _issued(context, workload, legacy)
        desired = self._desired(context, dataplane, workload, legacy)
        shape = {**desired.as_json(), "version": ""}
        content = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
        if content != connection.content:
            connection.content = content
            version = f"{self.instance}-{next(self._versions)}"
            connection.offer(Desired.from_json({**shape, "version": version}))

    def _is_three(self) -> bool:
        return self.version[0] >= 3

    def _by_mtls(
        self, connection: Connection, context: MeshContext, dataplane: Resource, now: datetime
    ) -> LegacyCertificates | None:
        return self._legacy.certificates(connection.proxy, context.mesh, tags_of(dataplane), now)

    def _desired(
        self,
        context: MeshContext,
        dataplane: Resource,
        workload: Workload | None,
        legacy: LegacyCertificates | None,
    ) -> Desired:
        upstreams = self._upstreams(context, workload, legacy)
        upstreams.pop(service_of(dataplane), None)
        ways = routed(dataplane, context, major=self.version[0])
        upstreams |= {each.name: self._behind(context, each, workload, legacy) for each in ways.destinations}
        mesh = context.mesh.name
        if workload is not None:
            bundles = self._bundles(context)
            pair, name = workload.pair, workload.kri
            trust = Trust(name=TRUST_BUNDLE, by_trust_domain=bundles)
            peers = tuple(f"spiffe://{domain}/" for domain in bundles)
            inbound = inbound_mode(context)
        elif legacy is not None:
            pair, name = legacy.pair, f"{self._secret_names[0]}{mesh}"
            trust = Trust(name=f"{self._secret_names[1]}{mesh}", trusted_ca=legacy.bundle)
            peers = (f"spiffe://{mesh}/",)
            permissive = (enabled_backend(context.mesh.spec) or {}).get("mode") == "PERMISSIVE"
            inbound = Inbound.PERMISSIVE if permissive else Inbound.STRICT
        else:
            return Desired(version="", upstreams=upstreams, outbounds=ways.outbounds)
        section = next(iter(inbounds(dataplane)), {"port": 0})
        access = access_of(dataplane, context.permissions, by_identity=workload is not None, section=section)
        identity = Identity(name=name, certificate_pem=pair.certificate_pem.decode(), key_pem=pair.key_pem.decode())
        return Desired(
            version="",
            identity=identity,
            trust=trust,
            inbound=inbound,
            peers=peers,
            upstreams=upstreams,
            access=access,
            outbounds=ways.outbounds,
            access_logs=wanted_logs(dataplane, context.access_logs),
        )

    def _bundles(self, context: MeshContext) -> dict[str, str]:
        """Return every trust domain's CAs, joined over all its MeshTrusts; on 2.x the mesh's own CA under its name."""
        found: dict[str, list[str]] = {}
        for trust in context.trusts:
            blobs = [each["pem"]["value"] for each in trust.spec.get("caBundles") or []]
            found.setdefault(trust.spec["trustDomain"], []).extend(blobs)
        if found and not self._is_three() and (own := self._legacy.bundle(context.mesh)) is not None:
            found.setdefault(context.mesh.name, []).append(own)
        return {domain: "\n".join(blobs) for domain, blobs in sorted(found.items())}

    def _upstreams(
        self, context: MeshContext, workload: Workload | None, legacy: LegacyCertificates | None
    ) -> dict[str, Upstream]:
        """Return the way to every service, to one of another zone as that zone knows it."""
        # The same for every proxy of one look at the mesh, whoever asks: dozens ask in a second.
        kind = (workload is not None, legacy is not None)
        if self._ways.get(kind, (None, {}))[0] is context and not self.neighbours:
            return dict(self._ways[kind][1])
        found: dict[str, Upstream] = {}
        for plane in (self, *self.neighbours):
            seen = context if plane is self else plane._reading.context(context.mesh.name)
            for service, members in services(seen).items() if seen is not None else ():
                if seen is not None and service not in found:
                    found[service] = plane._upstream(seen, members, workload, legacy)
        found = dict(sorted(found.items()))
        self._ways[kind] = (context, found)
        return dict(found)

    def _upstream(
        self,
        context: MeshContext,
        members: list[Resource],
        workload: Workload | None,
        legacy: LegacyCertificates | None,
    ) -> Upstream:
        addresses = tuple(sorted(address_of(member) for member in members))
        service = service_of(members[0])
        return self._upstream_of(context, service, members, addresses, (service,), workload, legacy)

    def _behind(
        self,
        context: MeshContext,
        destination: Destination,
        workload: Workload | None,
        legacy: LegacyCertificates | None,
    ) -> Upstream:
        """Return the way to one port of a MeshService."""
        found = standing_behind(destination.service, destination.port, context.dataplanes)
        addresses = tuple(sorted((each.spec["networking"]["address"], inbound["port"]) for each, inbound in found))
        tagged = tuple(
            sorted({(inbound.get("tags") or {}).get(SERVICE_TAG, service_of(each)) for each, inbound in found})
        )
        proxies = [each for each, _ in found]
        return self._upstream_of(context, destination.name, proxies, addresses, tagged, workload, legacy)

    def _upstream_of(
        self,
        context: MeshContext,
        name: str,
        proxies: Sequence[Resource],
        addresses: tuple[tuple[str, int], ...],
        tagged: tuple[str, ...],
        workload: Workload | None,
        legacy: LegacyCertificates | None,
    ) -> Upstream:
        if workload is not None:
            found = {self._spiffe_id(context, each) for each in proxies}
            identities = tuple(sorted(each for each in found if each))
            return Upstream(addresses=addresses, tls=self._tls_ready(context, name, proxies), identities=identities)
        if legacy is not None:
            strict = (enabled_backend(context.mesh.spec) or {}).get("mode") != "PERMISSIVE"
            names = tuple(f"spiffe://{context.mesh.name}/{each}" for each in tagged)
            tls = strict or self._tls_ready(context, name, proxies)
            return Upstream(addresses=addresses, tls=tls, identities=names)
        return Upstream(addresses=addresses, tls=False)

    def _tls_ready(self, context: MeshContext, service: str, members: Sequence[Resource]) -> bool:
        """Return whether a service's proxies all have, or once had, a certificate: it never goes back."""
        mesh = context.mesh.name
        if self.store.get(READINESS, mesh, service) is not None:
            return True
        insights = {insight.name: insight.spec for insight in context.insights}
        if not all("mTLS" in insights.get(each.name, {}) for each in members):
            return False
        now = self.clock.now()
        spec = {"tls": {"status": "Ready"}}
        self.store.put(Resource(type=READINESS, mesh=mesh, name=service, spec=spec, created_at=now, modified_at=now))
        return True

    def _forget_readiness(self) -> None:
        """Let no service of a mesh without certificates be ready."""
        for service in self.store.list(READINESS):
            mesh = self.store.get(MESH, "", service.mesh)
            has_mtls = mesh is not None and not self._is_three() and enabled_backend(mesh.spec) is not None
            if not has_mtls and not self.store.list(IDENTITY, service.mesh):
                self.store.delete(*service.key)

    def _spiffe_id(self, context: MeshContext, dataplane: Resource) -> str | None:
        identity = selected(dataplane.labels, context.identities)
        try:
            return self._identities.spiffe_id(identity, dataplane.labels) if identity is not None else None
        except BadPair:
            return None


def _issued(context: MeshContext, workload: Workload | None, legacy: LegacyCertificates | None) -> Issued | None:
    if workload is not None:
        supported = tuple(kri("mtrust", trust) for trust in context.trusts)
        pair, backend = workload.pair, workload.kri
    elif legacy is not None:
        pair, backend, supported = legacy.pair, legacy.backend, (legacy.backend,)
    else:
        return None
    return Issued(not_after=pair.not_after, issued_at=pair.issued_at, backend=backend, supported=supported)
