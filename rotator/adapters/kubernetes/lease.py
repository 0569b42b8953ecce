"""
The right to change the world as a Lease of the cluster: one holder at a time, whatever the others' clocks say.

Rules that must stay true here:

- Every write carries the resourceVersion that was read: of two that take or renew at once, one is refused (law 14).
- Nobody's wall clock decides. A holder counts from the moment before its last renewal went out; whoever waits counts
  from the moment at which it first saw the record as it is, and takes it only after a whole duration without a change.
- A holder stops believing at ``renew_deadline``, and a successor may begin at ``duration``: the time between them is
  for the call that was already under way. So `held` asks no server, and needs none to say no.
- What was found lost stays lost: an object of this class leads once.
- Given back, the next one need not wait.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from rotator.cluster.objects import JSON, ObjectAPI
from rotator.cluster.paths import path_of
from rotator.cluster.rights import Confined, Rights, rule
from rotator.errors import AdapterError, Conflict
from rotator.ports import Clock, LeaseClaim
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

VERSION: Final = "coordination.k8s.io/v1"
_PLURAL: Final = "leases"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """How long a lease is believed, by whom."""

    duration: timedelta
    """A record unchanged for so long is nobody's: whole seconds."""
    renew_deadline: timedelta
    """A holder that could not renew for so long holds it no more."""
    retry: timedelta
    """Between two renewals, and between two looks of those who wait."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A record as it was read, and since when it has not changed."""

    record: tuple[object, ...]
    since: float
    """Monotonic seconds of this process."""


class KubernetesLease:
    """A Lease object. Implements `rotator.ports.Lease` and `rotator.ports.Claiming`. Safe from many threads."""

    def __init__(
        self, api: ObjectAPI, *, namespace: str, name: str, identity: str, timing: LeaseTiming, clock: Clock
    ) -> None:
        """
        Nothing is called before `acquire`.

        *identity* must be of this object alone: a process that comes back under an old name would be believed. *api*
        had better time out well within the renew deadline.
        """
        self._api = api
        self._path = path_of(VERSION, _PLURAL, namespace=namespace, name=name)
        self._collection = path_of(VERSION, _PLURAL, namespace=namespace)
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._lock = threading.Lock()
        """Guards what follows; never held during a call."""
        self._seen: _Seen | None = None
        self._holder: str | None = None
        self._stored: JSON | None = None
        """The object as this process wrote it last; None while it does not hold it."""
        self._renewed = 0.0
        self._lost = False
        self._told: Callable[[], None] | None = None
        self._stopping = threading.Event()
        self._renewing: threading.Thread | None = None

    # --- the port ---------------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """
        Take the lease, by one look at it; taking it twice is no error.

        Raises:
            Conflict: If somebody else holds it, or was faster; the holder is named.
            AdapterError: If the API server does not answer or does not let.
        """
        if self.held():
            return
        if self._lost or self._stopping.is_set():
            raise Conflict("this lease was held once and is over: begin anew with another name")
        began = self._clock.monotonic()
        found = self._api.get(self._path)
        self._look(found)
        if found is None:
            stored = self._api.create(self._collection, self._body(None))
        else:
            spec = _spec(found)
            holder = spec.get("holderIdentity") or None
            if holder not in (None, self._identity) and not self._is_over(spec, began):
                raise Conflict(f"{holder} holds the lease {self._namespace}/{self._name}")
            stored = self._api.replace(self._path, self._body(found))
        with self._lock:
            self._stored, self._renewed = stored, began
            self._holder = self._identity
        self._renewing = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._renewing.start()

    def held(self) -> bool:
        """Return whether it is still held: the last renewal is younger than the renew deadline. Asks nobody."""
        with self._lock:
            return self._holds()

    def release(self) -> None:
        """Stop renewing and give it back, so that the next one need not wait; giving it back twice is no error."""
        self._stopping.set()
        if self._renewing is not None:
            self._renewing.join(self._timing.renew_deadline.total_seconds())
        with self._lock:
            stored = self._stored if self._holds() else None
            self._stored = None
            self._holder = None
        if stored is None:
            return
        given_back = self._body(stored)
        given_back["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            self._api.replace(self._path, given_back)
        except AdapterError as error:
            # It lapses by itself.
            log.info(LogEvent.LEASE_TROUBLE, error=str(error))

    def holder(self) -> str | None:
        """Return who held it when this process last looked; None if nobody did."""
        with self._lock:
            return self._holder

    def when_lost(self, told: Callable[[], None]) -> None:
        """Have *told* called once a lease that was held is lost."""
        self._told = told

    def claim(self) -> LeaseClaim:
        """Return which holding of the lease this is: later ones of the same Lease object have higher numbers."""
        with self._lock:
            stored = self._stored
        if stored is None:
            raise Conflict("the lease is not held")
        return LeaseClaim(
            lease=str(stored["metadata"]["uid"]),
            number=int(_spec(stored).get("leaseTransitions") or 0),
            holder=self._identity,
        )

    # --- taking -----------------------------------------------------------------------------------------------------

    def _look(self, found: JSON | None) -> None:
        """Note who holds it, and since when the record is as it is."""
        spec = _spec(found)
        metadata = (found or {}).get("metadata", {})
        # The API server's own number: it changes with every renewal, whatever any clock says.
        record = (metadata.get("uid"), metadata.get("resourceVersion"))
        with self._lock:
            self._holder = spec.get("holderIdentity") or None
            if self._seen is None or self._seen.record != record:
                self._seen = _Seen(record, self._clock.monotonic())

    def _is_over(self, spec: Mapping[str, Any], now: float) -> bool:
        """Return whether the record was seen unchanged for as long as its holder, or we, may believe in it."""
        seconds = max(float(spec.get("leaseDurationSeconds") or 0), self._timing.duration.total_seconds())
        with self._lock:
            return self._seen is not None and now - self._seen.since >= seconds

    def _body(self, found: JSON | None) -> JSON:
        """Return the object as this process holds it from now on, in place of *found*."""
        now = _moment(self._clock.now())
        before = _spec(found)
        continues = before.get("holderIdentity") == self._identity
        number = int(before.get("leaseTransitions") or 0)
        metadata = {"name": self._name, "namespace": self._namespace} if found is None else dict(found["metadata"])
        return {
            "apiVersion": VERSION,
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, math.ceil(self._timing.duration.total_seconds())),
                "acquireTime": before.get("acquireTime", now) if continues else now,
                "renewTime": now,
                "leaseTransitions": number if continues or found is None else number + 1,
            },
        }

    # --- keeping ----------------------------------------------------------------------------------------------------

    def _holds(self) -> bool:
        """Return whether it is held; the lock is taken."""
        if self._lost or self._stored is None:
            return False
        return self._clock.monotonic() - self._renewed < self._timing.renew_deadline.total_seconds()

    def _renew(self) -> None:
        """Renew until told to stop, or until it is lost."""
        while not self._clock.wait(self._stopping, min(self._timing.retry, self._remaining())):
            try:
                self._renew_once()
            except AdapterError as error:
                log.warning(LogEvent.LEASE_TROUBLE, error=str(error))
            with self._lock:
                self._lost = not self._holds()
            if self._lost:
                self._tell()
                return

    def _remaining(self) -> timedelta:
        """Return for how long it is believed without a further renewal."""
        with self._lock:
            passed = timedelta(seconds=self._clock.monotonic() - self._renewed)
        return max(self._timing.renew_deadline - passed, timedelta(0))

    def _renew_once(self) -> None:
        """
        Write the record anew over what this process wrote last.

        A record that is ours but was touched by somebody (an annotation) is taken as it is; one that is gone is made
        again, which the API server lets only one do; one that names somebody else is lost.
        """
        with self._lock:
            stored = self._stored
        if stored is None:
            return
        began = self._clock.monotonic()
        try:
            renewed = self._api.replace(self._path, self._body(stored))
        except Conflict:
            found = self._api.get(self._path)
            self._look(found)
            if found is not None and _spec(found).get("holderIdentity") != self._identity:
                with self._lock:
                    self._lost = True
                return
            if found is None:
                made = self._body(stored)
                made["metadata"] = {"name": self._name, "namespace": self._namespace}
                renewed = self._api.create(self._collection, made)
            else:
                renewed = self._api.replace(self._path, self._body(found))
        with self._lock:
            self._stored, self._renewed = renewed, began

    def _tell(self) -> None:
        told = self._told
        if told is not None and not self._stopping.is_set():
            told()


def holder_of(api: ObjectAPI, *, namespace: str, name: str) -> str | None:
    """Return who stands in the Lease *name* now, which may have lapsed; None if nobody does."""
    return _spec(api.get(path_of(VERSION, _PLURAL, namespace=namespace, name=name))).get("holderIdentity") or None


def lease_rights(namespace: str, name: str) -> Rights:
    """Return what a replica may do: its Lease *name*, and to create it, which an admission policy confines."""
    return Rights(
        namespaces={
            namespace: (
                rule(_PLURAL, "get", "update", group="coordination.k8s.io", names=(name,)),
                rule(_PLURAL, "create", group="coordination.k8s.io"),
            )
        },
        confined=(Confined(namespace=namespace, resource=_PLURAL, group="coordination.k8s.io", names=(name,)),),
    )


def _spec(found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    spec: Mapping[str, Any] = (found or {}).get("spec") or {}
    return spec


def _moment(now: datetime) -> str:
    """Return *now* as Kubernetes writes a MicroTime. For people: no decision reads it."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
