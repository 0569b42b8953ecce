"""
Calls to a Kubernetes API server: JSON objects in and out, by their paths.

Rules that must stay true here:

- What the client library and its HTTP raise dies here; callers see the tree of `rotator.errors` alone.
- Every call has a timeout and is made once: whoever calls knows when it may be made again (law 13).
- An error quotes no PEM, and of a Secret nothing but the names of fields.
- One pool of connections for each `ObjectAPI`, which threads may share.
- A server that asks for patience (429 or 503 with ``Retry-After``) gets it: until then nothing more is asked of that
  API group, whoever wants to. Groups are apart, so that Secrets under pressure never cost a Lease.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import urllib3.exceptions
from kubernetes import client, config

from rotator.clock import SystemClock
from rotator.errors import AdapterError, ConfigError, Conflict, Denied, NotYet, Rejected, Unavailable

JSON = dict[str, Any]
"""One object as the API server spells it."""

FIELD_MANAGER: Final = "rotator"
"""Under which the API server notes the fields that rotator wrote."""

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
"""JSON is YAML, and a merge patch is JSON: what a PATCH means is said by its content type alone."""

_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""What to accept for an object without its content."""

_PATIENCE: Final = timedelta(seconds=1)
"""How long a server is left alone that refused for want of room and named no time."""

_LONGEST_PATIENCE: Final = timedelta(minutes=1)
"""Whatever a server or a proxy asks for: an expiry does not wait for ever."""

_PAGE = 500
"""Objects asked for at once, as kubectl does."""

_WORDS = 400
"""Of a server's message, how many characters an error quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """How to reach one API server."""

    namespace: str
    """Where what this access is for lives: a control plane and its secrets, rotator's own objects."""
    kubeconfig_file: Path | None = None
    """None: the ServiceAccount of the pod that this runs in."""
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    timeout: timedelta = timedelta(seconds=10)
    """For each call, connecting included."""
    connections: int = 4


class ObjectAPI:
    """One API server, as whoever the kubeconfig or the pod's ServiceAccount is."""

    def __init__(self, access: ClusterAccess) -> None:
        """
        Read the credentials; nothing is called yet.

        Raises:
            ConfigError: If there is neither a usable kubeconfig nor a pod's ServiceAccount.
        """
        self._client = client.ApiClient(_configuration(access))
        self._timeout = access.timeout.total_seconds()
        self._patience = _Patience()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()  # type: ignore[no-untyped-call] # the library's types are not complete

    def get(self, path: str, *, secret: bool = False, metadata_only: bool = False) -> JSON | None:
        """Return one object, None if it is absent; with *metadata_only* its content stays at the server."""
        try:
            return self._call("GET", path, secret=secret, accept=_METADATA if metadata_only else "application/json")
        except _AbsentError:
            return None

    def listed(self, path: str, *, selector: str = "", fields: str = "") -> tuple[JSON, ...]:
        """
        Return every object of the collection at *path*, page by page; none if the cluster knows no such kind.

        Those with the labels that *selector* asks for, if it is not empty, and with the values that *fields* asks for
        (``status.phase!=Done``), where the kind lets its objects be selected by them.
        """
        return tuple(each for page in self.pages(path, selector=selector, fields=fields) for each in page)

    def pages(
        self, path: str, *, selector: str = "", fields: str = "", size: int = _PAGE, secret: bool = False
    ) -> Iterator[tuple[JSON, ...]]:
        """
        Yield the objects of the collection at *path*, *size* at once; none if the cluster knows no such kind.

        For what is too much to be kept whole. *selector* asks for labels, *fields* for fields, if they are not empty.
        """
        query = {"limit": str(size)}
        query |= {key: words for key, words in (("labelSelector", selector), ("fieldSelector", fields)) if words}
        while True:
            try:
                page = self._call("GET", path, query=query, secret=secret)
            except _AbsentError:
                return
            yield tuple(page.get("items", ()))
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query["continue"] = following

    def create(self, path: str, body: Mapping[str, Any], *, secret: bool = False) -> JSON:
        """Create *body* in the collection at *path* and return it as stored; there already: `Conflict`."""
        try:
            return self._call("POST", path, body, query=_WRITTEN_BY_ROTATOR, secret=secret)
        except _AbsentError as e:
            raise Rejected(f"the cluster knows no {path}: no such namespace, or no such kind") from e

    def replace(self, path: str, body: Mapping[str, Any], *, secret: bool = False) -> JSON:
        """Replace the object at *path*, whose resourceVersion *body* carries; changed since or gone: `Conflict`."""
        try:
            return self._call("PUT", path, body, query=_WRITTEN_BY_ROTATOR, secret=secret)
        except _AbsentError as e:
            raise Conflict(f"{path} is gone") from e

    def apply(self, path: str, body: Mapping[str, Any], *, force: bool = False, secret: bool = False) -> JSON:
        """
        Apply *body* to the object at *path* as `FIELD_MANAGER`, on the server's side, and return it as stored.

        A ``metadata.resourceVersion`` in *body* is a precondition: changed since, or gone, is a `Conflict`, and so are
        fields that another manager applies unless *force* takes them. Without one an absent object is created.
        """
        query = _WRITTEN_BY_ROTATOR | {"force": "true" if force else "false"}
        try:
            return self._call("PATCH", path, body, query=query, secret=secret, content_type=_APPLY)
        except _AbsentError as e:
            raise Rejected(f"the cluster knows no {path}: no such namespace, or no such kind") from e

    def merge(self, path: str, body: Mapping[str, Any], *, secret: bool = False) -> JSON:
        """
        Merge *body* into the object (or subresource, as ``.../status``) at *path* and return it as stored.

        A ``metadata.resourceVersion`` in *body* is a precondition; changed since, or gone, is a `Conflict`.
        """
        try:
            return self._call("PATCH", path, body, query=_WRITTEN_BY_ROTATOR, secret=secret, content_type=_MERGE)
        except _AbsentError as e:
            raise Conflict(f"{path} is gone") from e

    def delete(self, path: str, *, revision: str, secret: bool = False, rehearse: bool = False) -> None:
        """
        Delete the object at *path* as it was read at *revision*; absent is no error, changed since a `Conflict`.

        With *rehearse* admission answers, the control plane's own guard included, and nothing is deleted.
        """
        options: JSON = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": revision},
            "propagationPolicy": "Background",
        }
        if rehearse:
            options["dryRun"] = ["All"]
        try:
            self._call("DELETE", path, options, secret=secret)
        except _AbsentError:
            return

    def evict(self, path: str, *, uid: str) -> None:
        """
        Ask for the pod at *path* to end in its own grace period, if it is still the one with *uid*; gone is no error.

        Raises:
            NotYet: If a PodDisruptionBudget does not allow it now; which one is said.
            Conflict: If another pod has its name by now.
        """
        namespace, _, name = path.partition("/namespaces/")[2].partition("/pods/")
        eviction: JSON = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        try:
            self._call("POST", f"{path}/eviction", eviction, query=_WRITTEN_BY_ROTATOR)
        except _AbsentError:
            return

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        secret: bool = False,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> JSON:
        """Make one call and return its JSON; errors name *path*, and with *secret* no word of the server's."""
        doing = f"{method} {path}"
        group = _group_of(path)
        left = self._patience.left(group)
        if left is not None:
            raise Unavailable(f"the API server asked for patience: {doing}", after=left)
        try:
            _, url, headers, sent, _ = self._client.param_serialize(
                method,
                path + (f"?{urlencode(query)}" if query else ""),
                header_params={"Accept": accept, "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(method, url, headers, sent, _request_timeout=self._timeout)
            status, retry_after = answer.status, answer.headers.get("Retry-After")
            content = answer.read()  # type: ignore[no-untyped-call] # the library's types are not complete
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError) as e:
            # Status 0 of the client is a failed TLS handshake; the rest never reached an answer.
            raise Unavailable(f"the API server did not answer {doing}") from e
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if _is_overloaded(status, retry_after, found):
            after = self._patience.grant(group, retry_after)
            raise Unavailable(f"the API server asks for patience: {doing}", after=after)
        if not isinstance(found, dict) and status == HTTPStatus.NOT_FOUND:
            # A group or kind that the server does not know has no path: that is said in plain text.
            raise _AbsentError(f"{doing}: not found")
        if not isinstance(found, dict):
            # A proxy in between may answer in HTML; its words mean nothing to us.
            raise Unavailable(f"the API server answered {doing} with {status} and no JSON object")
        if status >= HTTPStatus.BAD_REQUEST:
            raise _error(status, found, doing, secret=secret)
        return found


_WRITTEN_BY_ROTATOR: Final = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
# Strict: a field that the stored schema does not know would otherwise be dropped without a word.


class _Patience:
    """Until when each API group is left alone."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def grant(self, group: str, asked: str | None) -> timedelta:
        """Leave *group* alone for as long as the header value *asked* says, in seconds; return how long that is."""
        wanted = timedelta(seconds=int(asked)) if asked is not None and asked.isdecimal() else _PATIENCE
        after = min(max(wanted, _PATIENCE), _LONGEST_PATIENCE)
        until = self._clock.monotonic() + after.total_seconds()
        with self._lock:
            self._until[group] = max(until, self._until.get(group, until))
        return after

    def left(self, group: str) -> timedelta | None:
        """Return how long *group* is still to be left alone, None if it is not."""
        with self._lock:
            left = self._until.get(group, 0.0) - self._clock.monotonic()
        return timedelta(seconds=left) if left > 0 else None


def _is_overloaded(status: int, retry_after: str | None, answer: object) -> bool:
    """Return whether the server has no room for anybody; a disruption budget's 429 is about one pod alone."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return not (isinstance(answer, dict) and _disruption_budget(answer.get("details") or {}))
    return status == HTTPStatus.SERVICE_UNAVAILABLE and retry_after is not None


def _group_of(path: str) -> str:
    """Return the API group that *path* is in: ``api``, or ``apis/GROUP``."""
    first, _, rest = path.lstrip("/").partition("/")
    return first if first == "api" else f"{first}/{rest.partition('/')[0]}"


class _AbsentError(AdapterError):
    """The object is not there; never leaves this module."""


def _configuration(access: ClusterAccess) -> client.Configuration:
    """Return the client's configuration for *access*."""
    found = client.Configuration()
    try:
        if access.kubeconfig_file is None:
            config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call] # the library's types are not complete
        else:
            config.load_kube_config(  # type: ignore[no-untyped-call] # the library's types are not complete
                config_file=str(access.kubeconfig_file),
                context=access.context,
                client_configuration=found,
                persist_config=False,
            )
    except (config.ConfigException, OSError, ssl.SSLError, ValueError) as e:
        file = access.kubeconfig_file
        where = f"kubeconfig {file}" if file else "the pod's ServiceAccount (no kubeconfig_file is set)"
        raise ConfigError(f"cannot reach the cluster with {where}: {_quoted(str(e))}") from e
    found.connection_pool_maxsize = access.connections
    # urllib3 alone would make a write that got no answer again.
    found.retries = False
    return found


def _error(status: int, answer: JSON, doing: str, *, secret: bool) -> AdapterError:
    """Return what an error answer means for the caller."""
    message = str(answer.get("message", ""))
    details = answer.get("details") or {}
    if secret:
        said = ", ".join(sorted({str(cause.get("field", "")) for cause in details.get("causes", ())} - {""}))
    else:
        said = _quoted(message)
    said = f": {said}" if said else ""
    match status:
        case HTTPStatus.NOT_FOUND:
            return _AbsentError(f"{doing}: not found")
        case HTTPStatus.CONFLICT:
            return Conflict(f"somebody else wrote first: {doing}{said}")
        case HTTPStatus.UNAUTHORIZED:
            return Denied(f"the API server does not know who asks: {doing}{said}")
        case HTTPStatus.FORBIDDEN if message.startswith("admission webhook "):
            # A webhook that says no without a status of its own is answered as if a right were missing.
            return Rejected(f"refused at admission: {doing}{said}")
        case HTTPStatus.FORBIDDEN:
            return Denied(f"the API server denied {doing}{said}")
        case HTTPStatus.TOO_MANY_REQUESTS if budget := _disruption_budget(details):
            return NotYet(budget)
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unavailable(f"the API server answered {doing} with {status}{said}")
        case _:
            return Rejected(f"the API server rejected {doing} with {status}{said}")


def _disruption_budget(details: JSON) -> str:
    """Return what a PodDisruptionBudget says against an eviction; empty if it is not what stands against it."""
    causes = [each for each in details.get("causes") or () if each.get("reason") == "DisruptionBudget"]
    return _quoted("; ".join(str(each.get("message", "")) for each in causes))


def _quoted(words: str) -> str:
    """Return the beginning of *words* on one line, without any PEM."""
    before, found, _ = words.partition("-----BEGIN")
    line = " ".join((before + ("(PEM left out)" if found else "")).split())
    return line if len(line) <= _WORDS else line[:_WORDS] + "…"
