"""
What a control plane reports of one proxy: an item of ``_overview`` made into a `ProxyReport`.

Rules that must stay true here:

- Pure, and forgiving of what is missing: a proxy without a report is one that never connected.
- Online is what Kuma calls online: a subscription that has begun and not ended.
- A moment in the year 1 is none, and counters come as text: both are how protobuf is written as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rotator.adapters.kuma.control_plane import ProxyReport

EGRESS = "zoneegress:"
"""What the name of a zone egress begins with; no Dataplane's name holds a colon."""

_ZONE = "kuma.io/zone"
_COUNTER = re.compile(r"[0-9]{1,20}")


def report_of(item: Mapping[str, Any]) -> ProxyReport:
    """Return what *item* says, of a Dataplane's overview or of a zone egress's."""
    is_egress = "zoneEgress" in item or str(item.get("type", "")).startswith("ZoneEgress")
    proxy = _mapping(item.get("zoneEgress" if is_egress else "dataplane"))
    insight = _mapping(item.get("zoneEgressInsight" if is_egress else "dataplaneInsight"))
    subscriptions = [each for each in _list(insight.get("subscriptions")) if each.get("connectTime")]
    open_ones = [each for each in subscriptions if not each.get("disconnectTime")]
    latest: Mapping[str, Any] = (open_ones or subscriptions or [{}])[-1]
    total = _mapping(_mapping(latest.get("status")).get("total"))
    mtls = _mapping(insight.get("mTLS"))
    workload = _workload(item, proxy)
    name = str(item.get("name", ""))
    left = [at for each in subscriptions if (at := moment(each.get("disconnectTime"))) is not None]
    return ProxyReport(
        name=f"{EGRESS}{name}" if is_egress else name,
        zone=str(proxy.get("zone") or workload.get(_ZONE, "")),
        online=bool(open_ones),
        connection=f"{latest['id']}/{latest.get('generation', 0)}" if latest.get("id") else "",
        certificate_not_after=moment(mtls.get("certificateExpirationTime")),
        certificate_issued_at=moment(mtls.get("lastCertificateRegeneration")),
        issued_by=str(mtls.get("issuedBackend") or ""),
        responses_sent=_count(total.get("responsesSent")),
        responses_acknowledged=_count(total.get("responsesAcknowledged")),
        responses_rejected=_count(total.get("responsesRejected")),
        disconnected_at=None if open_ones else max(left, default=None),
        version=_version(_mapping(latest.get("version"))),
        workload=workload,
    )


def moment(text: object) -> datetime | None:
    """Return an RFC 3339 moment in whole seconds, None if there is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.year <= 1 or found.tzinfo is None:
        return None
    return found.astimezone(UTC).replace(microsecond=0)


def _workload(item: Mapping[str, Any], proxy: Mapping[str, Any]) -> dict[str, str]:
    """Return the proxy's labels, with the tags of its first inbound or of its gateway where labels say nothing."""
    networking = _mapping(proxy.get("networking"))
    inbounds = _list(networking.get("inbound"))
    tags = _mapping(inbounds[0].get("tags")) if inbounds else _mapping(_mapping(networking.get("gateway")).get("tags"))
    return {str(key): str(value) for key, value in {**tags, **_mapping(item.get("labels"))}.items()}


def _version(version: Mapping[str, Any]) -> str:
    parts = (("kuma-dp", "kumaDp"), ("Envoy", "envoy"))
    found = ((word, _mapping(version.get(key)).get("version")) for word, key in parts)
    return ", ".join(f"{word} {number}" for word, number in found if number)


def _count(found: object) -> int:
    return (
        int(found) if isinstance(found, int) or (isinstance(found, str) and found.isascii() and found.isdigit()) else 0
    )


def _mapping(found: object) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}


def _list(found: object) -> Sequence[Mapping[str, Any]]:
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
