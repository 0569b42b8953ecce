"""
What rotator tells of its own work while it works: spans, lines and readings, for whoever collects them.

Rules that must stay true here:

- Facts only: no secret, no person's name and no free text of a person stands in any of them (laws 10 and 24).
- Telling never delays what is told of: whoever takes these returns at once and raises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rotator.core.trace import SpanId, TraceId

Attribute = str | int | float | bool
"""What an attribute may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One piece of work that has ended: a rotation, a step of it, or a call within a step."""

    trace_id: TraceId
    span_id: SpanId
    parent_id: SpanId | None
    """None for what stands alone: a rotation as a whole, or a step that belongs to none."""
    name: str
    began: datetime
    ended: datetime
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    error: str = ""
    """Why it did not take, redacted; empty if it did."""
    links: tuple[tuple[TraceId, SpanId], ...] = ()
    """Other traces that this one comes from: the rotation of the CA, for a leaf that follows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the log, redacted."""

    at: datetime
    level: str
    """``debug``, ``info``, ``warning``, ``error`` or ``critical``."""
    event: str
    fields: Mapping[str, object]
    trace_id: TraceId | None = None
    span_id: SpanId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One metric with one set of labels, at one moment."""

    name: str
    kind: str
    """``gauge``, ``counter`` or ``histogram``."""
    sentence: str
    labels: Mapping[str, str]
    value: float
    """Of a histogram the sum of what was observed."""
    buckets: tuple[tuple[float, int], ...] = ()
    """Of a histogram: upper bound, and how many were observed up to it; the last bound is infinite."""
