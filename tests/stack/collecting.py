"""
A real OpenTelemetry collector on the configuration that rotator renders, and Envoys that tell it of every call.

Rules that must stay true here:

- Only addresses are other than rendered: everything listens on loopback, and what would go to a store goes to a file.
- Envoys log what the rendered MeshAccessLog says, as Kuma would hand it to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import urllib3
import yaml

from rotator.embedded.envoy import EnvoyClient, EnvoyServer
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port
from rotator.platform.model import Telemetry
from rotator.platform.telemetry import call_attributes
from rotator.platform.telemetry_collector import collector_configuration

PROGRAM = Path(__file__).parent / "bin" / "collector"
_TYPE = "@type"
_ROOT = "type.googleapis.com/envoy"
_CLUSTER = "collector"
Json = dict[str, Any]


class CollectorProcess:
    """The collector, and what it wrote instead of sending it on."""

    def __init__(self, directory: Path) -> None:
        """Keep everything in *directory*; `start` runs it."""
        directory.mkdir(parents=True, exist_ok=True)
        self.told = directory / "told.jsonl"
        self.telemetry = Telemetry(
            address="localhost",
            grpc_port=free_port(),
            http_port=free_port(),
            by_reference=True,
            sampled_percent=100,
            refresh=timedelta(seconds=5),
            sends_to="http://localhost",
            authorization_from=None,
        )
        self._health = free_port()
        configuration = directory / "collector.yaml"
        configuration.write_text(yaml.safe_dump(self._configuration(), sort_keys=False))
        self._process = ServerProcess(
            "collector", [PROGRAM, "--config", configuration], log=directory / "collector.log"
        )
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=2.0, read=5.0))

    @property
    def endpoint(self) -> str:
        """Return where it takes OTLP over HTTP."""
        return f"http://{LOOPBACK}:{self.telemetry.http_port}"

    def _configuration(self) -> Json:
        rendered = collector_configuration(self.telemetry)
        protocols = rendered["receivers"]["otlp"]["protocols"]
        for name in protocols:
            protocols[name]["endpoint"] = protocols[name]["endpoint"].replace("0.0.0.0", LOOPBACK)  # noqa: S104 -- it goes
        rendered["extensions"]["health_check"]["endpoint"] = f"{LOOPBACK}:{self._health}"
        rendered["exporters"] = {"file/store": {"path": str(self.told), "flush_interval": "100ms"}}
        for pipeline in rendered["service"]["pipelines"].values():
            pipeline["exporters"] = ["file/store"]
        # Its own metrics would listen on a port of their own.
        rendered["service"]["telemetry"] = {"metrics": {"level": "none"}}
        return rendered

    def start(self) -> None:
        """Start it and return once it is healthy."""
        self._process.start(ready=self._is_healthy, within=timedelta(seconds=60))

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()
        self._http.clear()

    def _is_healthy(self) -> bool:
        try:
            return self._http.request("GET", f"http://{LOOPBACK}:{self._health}/").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def spans(self) -> list[Json]:
        """Return every span, with its resource's attributes beside its own."""
        return list(self._read("resourceSpans", "scopeSpans", "spans"))

    def lines(self) -> list[Json]:
        """Return every line, likewise."""
        return list(self._read("resourceLogs", "scopeLogs", "logRecords"))

    def metrics(self) -> list[Json]:
        """Return every metric, likewise."""
        return list(self._read("resourceMetrics", "scopeMetrics", "metrics"))

    def _read(self, resources: str, scopes: str, items: str) -> Iterator[Json]:
        if not self.told.exists():
            return
        whole, _, _ = self.told.read_text(encoding="utf-8").rpartition("\n")
        for text in whole.splitlines():
            for resource in json.loads(text).get(resources, ()):
                about = plain(resource.get("resource", {}).get("attributes", ()))
                for scope in resource.get(scopes, ()):
                    for item in scope.get(items, ()):
                        yield {**item, "resource": about, "attributes": plain(item.get("attributes", ()))}


def plain(attributes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return attributes as OTLP's JSON has them as plain values."""
    found = {}
    for each in attributes:
        ((kind, value),) = each["value"].items()
        found[each["key"]] = int(value) if kind == "intValue" else value
    return found


def _told_of(chain: Json, *, direction: str, service: str, filters: Iterable[Json] = ()) -> Json:
    """Return *chain* with the access log, the tracer and *filters* in front."""
    manager = chain["filters"][0]["typed_config"]
    attributes = [
        {"key": key, "value": {"string_value": value}} for key, value in call_attributes("default", direction).items()
    ]
    grpc: Json = {"envoy_grpc": {"cluster_name": _CLUSTER}, "timeout": "5s"}
    manager["access_log"].append(
        {
            "name": "envoy.access_loggers.open_telemetry",
            "typed_config": {
                _TYPE: f"{_ROOT}.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
                "grpc_service": grpc,
                "log_name": service,
                "body": {"string_value": "call"},
                "attributes": {"values": attributes},
                "buffer_flush_interval": "0.2s",
            },
        }
    )
    manager["tracing"] = {
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                _TYPE: f"{_ROOT}.config.trace.v3.OpenTelemetryConfig", "grpc_service": grpc, "service_name": service,
            },
        },
    }  # fmt: skip
    manager["http_filters"] = [*filters, *manager["http_filters"]]
    return chain


def _collector_cluster(port: int) -> Json:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    address = {"socket_address": {"address": LOOPBACK, "port_value": port}}
    return {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            options: {
                _TYPE: f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


class ToldServer(EnvoyServer):
    """A server that lets in *allows* alone of those whose certificates it trusts, and tells of every call."""

    def __init__(
        self, work: Path, *, certificates: Path, trusts: Iterable[str], allows: Iterable[str], collector: int
    ) -> None:
        super().__init__(work, certificates=certificates, admits=trusts, name="told-server")
        self._allows = tuple(allows)
        self._collector = collector

    def _http_filter_chain(self, route: Json, *, tls: Json | None, log: Mapping[str, str]) -> Json:
        principals = [{"authenticated": {"principal_name": {"exact": each}}} for each in self._allows]
        policy = {"permissions": [{"any": True}], "principals": principals}
        access = {
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                _TYPE: f"{_ROOT}.extensions.filters.http.rbac.v3.RBAC",
                "rules": {"action": "ALLOW", "policies": {"MeshTrafficPermission": policy}},
            },
        }
        chain = super()._http_filter_chain(route, tls=tls, log=log)
        return _told_of(chain, direction="inbound", service=self.name, filters=[access])

    def _clusters(self) -> list[Json]:
        return [*super()._clusters(), _collector_cluster(self._collector)]


class ToldClient(EnvoyClient):
    """A client's proxy that tells of every call."""

    def __init__(
        self, work: Path, *, certificates: Path, upstream_port: int, expects: str, name: str, collector: int
    ) -> None:
        super().__init__(work, certificates=certificates, upstream_port=upstream_port, expects=expects, name=name)
        self._collector = collector

    def _http_filter_chain(self, route: Json, *, tls: Json | None, log: Mapping[str, str]) -> Json:
        chain = super()._http_filter_chain(route, tls=tls, log=log)
        return _told_of(chain, direction="outbound", service=self.name)

    def _clusters(self) -> list[Json]:
        return [*super()._clusters(), _collector_cluster(self._collector)]
