"""
What proxies write of each request: a file of their own, and what the mesh's MeshAccessLogs want.

Rules that must stay true here:

- The file of its own is the stand-in's, for tests to read; a released Kuma writes nothing without a MeshAccessLog.
- One JSON object a line; of a refused caller it names the SPIFFE ID and the certificate's serial, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.fakes.kuma.selecting import by_priority
from tests.fakes.kuma.store import Json, Resource

_FILE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_PLAIN = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS%'
    " %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SERIAL% %UPSTREAM_HOST%\n"
)

FIELDS = {
    "start": "%START_TIME%",
    "listener": "%FILTER_CHAIN_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "peer_serial": "%DOWNSTREAM_PEER_SERIAL%",
    "own": "%DOWNSTREAM_LOCAL_URI_SAN%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "trace_id": "%TRACE_ID%",
    "bytes": "%BYTES_SENT%",
}
"""What a line of the proxy's own file holds."""

Backend = Callable[[Json], Json]
"""A MeshAccessLog's backend of one type -> the logger as Envoy takes it."""


def own_file(path: Path) -> Json:
    """Return the logger of the proxy's own file."""
    layout = {"json_format": FIELDS}
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {"@type": _FILE, "path": str(path), "log_format": layout},
    }


def _file(backend: Json) -> Json:
    said = backend["file"]
    layout = said.get("format") or {"type": "Plain", "plain": _PLAIN}
    if layout["type"] == "Json":
        log_format: Json = {"json_format": {each["key"]: each["value"] for each in layout["json"]}}
    else:
        log_format = {"text_format_source": {"inline_string": layout["plain"].rstrip("\n") + "\n"}}
    config = {"@type": _FILE, "path": said["path"], "log_format": log_format}
    return {"name": "envoy.access_loggers.file", "typed_config": config}


BACKENDS: dict[str, Backend] = {"File": _file}
"""What the stand-in's proxies can write to; a MeshAccessLog with another backend is stored and has no effect."""


def wanted_logs(dataplane: Resource, policies: Iterable[Resource]) -> tuple[Json, ...]:
    """Return the loggers that the MeshAccessLogs for *dataplane* want of its inbound: the strongest one's."""
    chosen = by_priority(dataplane, [each for each in policies if _entries(each)])
    if not chosen:
        return ()
    backends = [backend for entry in _entries(chosen[-1]) for backend in entry["default"]["backends"]]
    return tuple(BACKENDS[each["type"]](each) for each in backends if each["type"] in BACKENDS)


def _entries(policy: Resource) -> Sequence[Json]:
    entries: Sequence[Json] = policy.spec.get("rules") or policy.spec.get("from") or ()
    return entries
