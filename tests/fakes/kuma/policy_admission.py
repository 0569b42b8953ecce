"""
What a control plane refuses to store of policies and services.

Rules that must stay true here:

- 2.x and 3.x differ where their sources do: 3.x knows no ``from``, selects real resources by labels alone and the
  proxies of a policy by ``Mesh`` and ``Dataplane`` alone.
- Whatever the stand-in's proxies would not enforce is refused, so that no test believes in it: ``filters`` of routes,
  ``sni`` of permissions (which is for zone proxies), destinations other than MeshService.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.kuma.admission import Violation
from tests.fakes.kuma.shapes import (
    DEFINED,
    NOT_EMPTY,
    Shape,
    anything,
    both,
    fields,
    flag,
    listed,
    number,
    one_of,
    text,
    texts,
)
from tests.fakes.kuma.store import (
    ACCESS_LOG,
    HOSTNAMES,
    HTTP_ROUTE,
    METRIC,
    PERMISSION,
    SERVICE,
    TCP_ROUTE,
    TELEMETRY_BACKEND,
    TRACE,
    Json,
)

_PORT = number(1, 65535)
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*/?")
_BY_TAGS = frozenset({"MeshSubset", "MeshServiceSubset"})
_REAL = frozenset({"Dataplane", "MeshService"})
_LONGEST_SERVICE_NAME = 63

_REFERENCE = fields(
    ("kind",),
    kind=text,
    name=text,
    namespace=text,
    labels=texts,
    tags=texts,
    sectionName=text,
    mesh=text,
    proxyTypes=listed(one_of("Sidecar", "Gateway"), at_least=1),
)


def _reference(*kinds: str, major: int, **more: Shape) -> Shape:
    """Return the shape of a ``targetRef`` to one of *kinds*, with *more* fields in a ``backendRef``."""

    def check(said: Any, at: str) -> list[Violation]:
        found = _REFERENCE({key: one for key, one in said.items() if key not in more}, at)
        if found:
            return found
        kind = said["kind"]
        if kind not in kinds:
            return [Violation(f"{at}.kind", "value is not supported")]
        present = {key for key in ("name", "namespace", "labels", "tags", "sectionName", "mesh") if said.get(key)}
        allowed = {"tags"} if kind in _BY_TAGS else set()
        if kind in _REAL:
            allowed |= {"labels", "sectionName"} | ({"name", "namespace"} if major < 3 else set())
        if kind == "MeshServiceSubset":
            allowed |= {"name"}
        unknown = major >= 3 and kind in _REAL
        found = [
            Violation(f"{at}.{key}", "unknown field" if unknown else f"must not be set with kind {kind}")
            for key in sorted(present - allowed)
        ]
        if {"name", "labels"} <= present:
            found.append(Violation(f"{at}.labels", "either labels or name and namespace must be specified"))
        if kind == "MeshService" and not {"name", "labels"} & present:
            found.append(Violation(f"{at}.{'name' if major < 3 else 'labels'}", f"must be set with kind {kind}"))
        return found

    return both(fields((), **dict.fromkeys(_KNOWN, anything), **more), check)


_KNOWN = ("kind", "name", "namespace", "labels", "tags", "sectionName", "mesh", "proxyTypes")


def _selecting(major: int) -> Shape:
    """Return the shape of the ``targetRef`` that says which proxies a policy is for."""
    if major >= 3:
        return _reference("Mesh", "Dataplane", major=major)
    return _reference("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", "Dataplane", major=major)


# --- permissions ------------------------------------------------------------------------------------------------------


def _spiffe_id(said: Any, at: str) -> list[Violation]:
    found = fields(("type", "value"), type=one_of("Exact", "Prefix"), value=text)(said, at)
    if found:
        return found
    if not _SPIFFE_ID.fullmatch(said["value"]) or (said["type"] == "Exact" and said["value"].endswith("/")):
        return [Violation(f"{at}.value", f"must be a valid SPIFFE ID: {said['value']!r}")]
    return []


def _match(major: int) -> Shape:
    def not_empty(said: Any, at: str) -> list[Violation]:
        return [Violation(at, NOT_EMPTY)] if major >= 3 and not said else []

    return both(fields((), spiffeID=_spiffe_id), not_empty)


def _permission(major: int) -> Shape:
    matches = listed(_match(major))
    rule = fields(("default",), default=fields((), deny=matches, allow=matches, allowWithShadowDeny=matches))
    known: dict[str, Shape] = {"targetRef": _selecting(major), "rules": listed(rule)}
    if major < 3:
        client = _reference("Mesh", "MeshSubset", "MeshService", "MeshServiceSubset", major=major)
        action = fields(("action",), action=one_of("Allow", "Deny", "AllowWithShadowDeny"))
        known["from"] = listed(fields(("targetRef", "default"), targetRef=client, default=action))

    def one_form(said: Any, at: str) -> list[Violation]:
        forms = [form for form in ("from", "rules") if said.get(form)]
        if len(forms) == 1:
            return []
        if forms:
            return [Violation(at, "fields 'from' and 'rules' are mutually exclusive")]
        return [Violation(f"{at}.rules", "policy must define rules" if major >= 3 else "needs at least one item")]

    return both(fields((), **known), one_form)


# --- routes and services ----------------------------------------------------------------------------------------------


def _backends(major: int) -> Shape:
    return listed(_reference("MeshService", major=major, port=_PORT, weight=number(0, 2**31)))


def _with_port(said: Any, at: str) -> list[Violation]:
    return [
        Violation(f"{at}[{index}].port", DEFINED)
        for index, each in enumerate(said)
        if not each.get("port") and not each.get("sectionName")
    ]


def _path(said: Any, at: str) -> list[Violation]:
    kinds = one_of("Exact", "PathPrefix", "RegularExpression")
    found = fields(("type", "value"), type=kinds, value=text)(said, at)
    if found or said["type"] == "RegularExpression":
        return found
    if not said["value"].startswith("/"):
        return [Violation(f"{at}.value", "must be an absolute path")]
    if said["type"] == "PathPrefix" and said["value"] != "/" and said["value"].endswith("/"):
        return [Violation(f"{at}.value", "does not need a trailing slash")]
    return []


_METHODS = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
_HEADER = fields(("name",), type=one_of("Exact", "Present", "Absent", "Prefix"), name=text, value=text)


def _http_route(major: int) -> Shape:
    match = fields((), path=_path, method=one_of(*_METHODS), headers=listed(_HEADER))
    default = fields((), backendRefs=both(_backends(major), _with_port))
    rule = fields(("matches", "default"), matches=listed(match, at_least=1), default=default)
    return _routing(major, listed(rule))


def _tcp_route(major: int) -> Shape:
    refs = both(_backends(major), _with_port, listed(anything, at_least=1))
    rule = fields(("default",), default=fields(("backendRefs",), backendRefs=refs))
    return _routing(major, listed(rule, at_most=1))


def _routing(major: int, rules: Shape) -> Shape:
    to = fields(("targetRef", "rules"), targetRef=_reference("MeshService", major=major), rules=rules)
    # Subsets of services route no more than whole ones here, and nobody renders them.
    top = _reference("Mesh", "Dataplane", *(("MeshSubset",) if major < 3 else ()), major=major)
    return fields((), targetRef=top, to=listed(to, at_least=1))


def _target_port(said: Any, at: str) -> list[Violation]:
    return text(said, at) if isinstance(said, str) else _PORT(said, at)


def _service(major: int) -> Shape:
    port = fields(("port",), name=text, port=_PORT, targetPort=_target_port, appProtocol=one_of(*PROTOCOLS))
    labels = fields((), matchLabels=texts)
    # What released versions call the labels' part differs between lines of development: both are taken (GUESS).
    selectors: dict[str, Shape] = {"dataplaneRef": fields((), name=text)}
    selectors |= {"dataplaneLabels": labels, "dataplane": labels}
    if major < 3:
        selectors["dataplaneTags"] = texts

    def one_selector(said: Any, at: str) -> list[Violation]:
        if len(said.get("selector") or {}) <= 1:
            return []
        return [Violation(f"{at}.selector", "must specify only one of: dataplaneTags, dataplaneRef, or labels")]

    whole = fields(
        (),
        state=one_of("Available", "Unavailable"),
        selector=fields((), **selectors),
        ports=listed(port),
        identities=listed(fields(("type", "value"), type=one_of("ServiceTag", "SpiffeID"), value=text)),
    )
    return both(whole, one_selector)


PROTOCOLS = ("tcp", "http", "http2", "grpc", "kafka", "tls")

# --- telemetry --------------------------------------------------------------------------------------------------------

_BACKEND_REFERENCE = fields(("kind",), kind=one_of(TELEMETRY_BACKEND), name=text, labels=texts)
_JSON_FIELD = fields(("key", "value"), key=text, value=text)


def _typed(said: Any, at: str, parts: dict[str, str]) -> list[Violation]:
    """Return what is wrong with a backend whose ``type`` says which part it must have."""
    part = parts[said["type"]]
    return [] if said.get(part) is not None else [Violation(f"{at}.{part}", DEFINED)]


def _open_telemetry(major: int, **more: Shape) -> Shape:
    if major >= 3:
        return fields(("backendRef",), backendRef=_BACKEND_REFERENCE, **more)

    def somewhere(said: Any, at: str) -> list[Violation]:
        if said.get("backendRef") is not None and said.get("endpoint") is not None:
            return [Violation(at, "only one of backendRef, endpoint can be defined")]
        return [] if said.get("backendRef") or said.get("endpoint") else [Violation(f"{at}.endpoint", NOT_EMPTY)]

    return both(fields((), backendRef=_BACKEND_REFERENCE, endpoint=text, **more), somewhere)


def _access_log(major: int) -> Shape:
    parts = {"File": "file", "Tcp": "tcp", "OpenTelemetry": "openTelemetry"}
    layout = fields(
        ("type",), type=one_of("Plain", "Json"), plain=text, json=listed(_JSON_FIELD, at_least=1), omitEmptyValues=flag
    )
    attributes = listed(fields(("key", "value"), key=text, value=anything))
    backend = both(
        fields(
            ("type",),
            type=one_of(*parts),
            file=fields(("path",), path=text, format=layout),
            tcp=fields(("address",), address=text, format=layout),
            openTelemetry=_open_telemetry(major, attributes=attributes, body=anything),
        ),
        lambda said, at: _typed(said, at, parts),
    )
    default = fields(("backends",), backends=listed(backend))
    kinds = ("Mesh", "MeshService")
    to = fields(("targetRef", "default"), targetRef=_reference(*kinds, major=major), default=default)
    rule = fields(("default",), default=default, matches=listed(_match(major)))
    known: dict[str, Shape] = {"targetRef": _selecting(major), "to": listed(to), "rules": listed(rule)}
    if major < 3:
        origin = fields(("targetRef", "default"), targetRef=_reference("Mesh", major=major), default=default)
        known["from"] = listed(origin)

    def sides(said: Any, at: str) -> list[Violation]:
        if not any(said.get(side) for side in ("to", "from", "rules")):
            return [Violation(at, "at least one of 'to' or 'rules' has to be defined")]
        if said.get("rules") and (said.get("to") or said.get("from")):
            return [Violation(at, "'to' must be empty when 'rules' is defined")]
        return []

    return both(fields((), **known), sides)


def _share(said: Any, at: str) -> list[Violation]:
    try:
        share = float(said)
    except (TypeError, ValueError):
        return [Violation(at, "string is not a number")]
    return [] if 0 <= share <= 100 else [Violation(at, "must be between 0 and 100")]


def _url(said: Any, at: str) -> list[Violation]:
    return text(said, at) or ([] if urlsplit(said).netloc else [Violation(at, "must be a valid url")])


def _trace(major: int) -> Shape:
    parts = {"Zipkin": "zipkin", "Datadog": "datadog", "OpenTelemetry": "openTelemetry"}
    zipkin = fields(
        ("url",), url=_url, traceId128bit=flag, apiVersion=one_of("httpJson", "httpProto"), sharedSpanContext=flag
    )
    backend = both(
        fields(
            ("type",),
            type=one_of(*parts),
            zipkin=zipkin,
            datadog=fields(("url",), url=_url, splitService=flag),
            openTelemetry=_open_telemetry(major),
        ),
        lambda said, at: _typed(said, at, parts),
    )

    def tag(said: Any, at: str) -> list[Violation]:
        found = fields(("name",), name=text, literal=text, header=fields(("name",), name=text, default=text))(said, at)
        if not found and ("literal" in said) == ("header" in said):
            found = [Violation(at, "must have only one of header, literal")]
        return found

    sampling = fields((), overall=_share, client=_share, random=_share)
    default = fields(
        ("backends",), backends=listed(backend, at_most=1), sampling=sampling, tags=listed(tag, at_least=0)
    )
    return fields(("default",), targetRef=_selecting(major), default=default)


def _metric(major: int) -> Shape:
    parts = {"Prometheus": "prometheus", "OpenTelemetry": "openTelemetry"}
    tls = fields((), mode=one_of("Disabled", "ProvidedTLS", *(("ActiveMTLSBackend",) if major < 3 else ())))
    backend = both(
        fields(
            ("type",),
            type=one_of(*parts),
            prometheus=fields((), clientId=text, port=_PORT, path=text, tls=tls),
            openTelemetry=_open_telemetry(major, refreshInterval=text),
        ),
        lambda said, at: _typed(said, at, parts),
    )
    selector = fields(("type", "match"), type=one_of("Prefix", "Regex", "Exact", "Contains"), match=text)
    profiles = fields(
        (),
        appendProfiles=listed(fields(("name",), name=one_of("All", "None", "Basic"))),
        include=listed(selector),
        exclude=listed(selector),
    )
    application = fields(("port",), name=text, path=text, address=text, port=_PORT)
    default = fields(
        (),
        sidecar=fields((), includeUnused=flag, profiles=profiles),
        applications=listed(application),
        backends=listed(backend),
    )
    return fields(("default",), targetRef=_selecting(major), default=default)


def _telemetry_backend(major: int) -> Shape:
    del major
    endpoint = fields(("address", "port"), address=text, port=_PORT, path=text)
    return fields((), endpoint=endpoint, protocol=one_of("grpc", "http"), env=anything)


def _hostnames(major: int) -> Shape:
    del major
    labels = fields((), matchLabels=texts)

    def template(said: Any, at: str) -> list[Violation]:
        return text(said, at) or ([] if _HOSTNAME.fullmatch(said) else [Violation(at, "must be a valid hostname")])

    selector = fields((), meshService=labels, meshExternalService=labels, meshMultiZoneService=labels)
    return fields(("template",), selector=selector, template=template, extension=anything)


# Placeholders stand for labels of a name; what is left must be one.
_HOSTNAME = re.compile(r"(\{\{[^}]*\}\}|[a-z0-9])(\{\{[^}]*\}\}|[a-z0-9.-])*")

_SHAPES = {
    PERMISSION: _permission,
    HTTP_ROUTE: _http_route,
    TCP_ROUTE: _tcp_route,
    SERVICE: _service,
    ACCESS_LOG: _access_log,
    TRACE: _trace,
    METRIC: _metric,
    TELEMETRY_BACKEND: _telemetry_backend,
    HOSTNAMES: _hostnames,
}


def policy_violations(kind: str, name: str, spec: Json, *, major: int) -> list[Violation]:
    """Return what a control plane of *major* refuses of a policy or service; nothing of other kinds."""
    if kind not in _SHAPES:
        return []
    found = _SHAPES[kind](major)(spec, "spec")
    if kind == SERVICE and len(name) > _LONGEST_SERVICE_NAME:
        found.append(Violation("name", f"must not be longer than {_LONGEST_SERVICE_NAME}"))
    return found
