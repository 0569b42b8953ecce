"""
How a rotation is a trace: ids that follow from the rotation's own id, and the words by which everything is joined.

Rules that must stay true here:

- Pure: the same rotation has the same trace in every process and after every restart, without anything remembered.
- The ids are W3C Trace Context's: 16 and 8 bytes in lower-case hex, never all zero.
- The attribute names here are those that proxies' access logs, Airflow's spans and rotator's own spans share.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NewType

TraceId = NewType("TraceId", str)
"""32 lower-case hex digits."""
SpanId = NewType("SpanId", str)
"""16 lower-case hex digits."""

SPIFFE_ID: Final = "spiffe.id"
"""Of whom a span or line is about: the subject of a rotation, the caller of a call."""
SERIAL: Final = "certificate.serial"
"""Of the certificate: lower-case hex without colons, as everywhere in rotator."""
DAG: Final = "airflow.dag_id"
RUN: Final = "airflow.dag_run.run_id"
TASK: Final = "airflow.task_id"

_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")


def trace_id(rotation_id: str) -> TraceId:
    """Return the trace of a rotation: its id itself where that is one (a UUID in hex is), else a digest of it."""
    plain = rotation_id.replace("-", "").lower()
    if _TRACE_ID.fullmatch(plain):
        return TraceId(plain)
    return TraceId(_digest("trace", rotation_id)[:32])


def root_span_id(rotation_id: str) -> SpanId:
    """Return the span that stands for the whole rotation, known to its steps before it has ended."""
    return SpanId(_digest("rotation", rotation_id)[:16])


def _digest(kind: str, rotation_id: str) -> str:
    # A digest of zeros alone would be no id; nobody will see one.
    return hashlib.sha256(f"rotator/{kind}/{rotation_id}".encode()).hexdigest()
