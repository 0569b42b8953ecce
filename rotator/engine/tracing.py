"""
A rotation is a trace, a step is a span: what the engine does, told while it does it.

Rules that must stay true here:

- A trace's id is the rotation's own: steps after a restart, and of another replica, stand in the same trace.
- Every log line within a step carries its trace, its span and its rotation, also where nothing is collected.
- Nothing here changes what is done: whoever listens is called when a piece of work has ended, and must not raise.
- Traces inform, the ledger proves: neither is derived from the other.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from rotator.core.model import SubjectName
from rotator.core.steps import Step, sentence
from rotator.core.trace import SPIFFE_ID, SpanId, TraceId, root_span_id, trace_id
from rotator.errors import NotYet, RotatorError
from rotator.ports import Attribute, Clock, Rotation, RotationState, Span
from rotator.redaction import redacted_text
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

ROTATION = "rotation"
"""The name of the span that stands for a whole rotation."""

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(slots=True)
class Work:
    """A piece of work under way; what is noted of it becomes attributes of its span."""

    trace_id: TraceId
    span_id: SpanId
    rotation_id: str
    noted: dict[str, Attribute] = field(default_factory=dict)

    def note(self, name: str, value: Attribute) -> None:
        """Let its span say *value* under *name*; no secrets, no people."""
        self.noted[name] = value


_CURRENT: ContextVar[Work | None] = ContextVar("rotator_work", default=None)


def note(name: str, value: Attribute) -> None:
    """Let the span of the work that this thread is at say *value* under *name*; nothing where it is at none."""
    work = _CURRENT.get()
    if work is not None:
        work.note(name, value)


class Tracing:
    """Makes spans of rotations, steps and calls. Safe from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: list[Callable[[Span], None]] = []

    def tell(self, ended: Callable[[Span], None]) -> None:
        """Call *ended* with each span once its work has ended; it must return at once and not raise."""
        self._told.append(ended)

    @contextlib.contextmanager
    def step(
        self,
        step: Step,
        subject: SubjectName,
        rotation: Rotation | None,
        *,
        identity: str | None = None,
        cause: Rotation | None = None,
        waits: tuple[type[RotatorError], ...] = (NotYet,),
    ) -> Iterator[Work]:
        """
        Do the block as *step* of *rotation*: one span, a line before it and a line after it.

        *cause* is the rotation that this one follows. What is in *waits* is waiting, which neither took nor failed, and
        comes again at every look: it makes no span.
        """
        name = _CAPITAL.sub("_", type(step).__name__).lower()
        with self.piece(name, sentence(step), subject, rotation, identity=identity, cause=cause, waits=waits) as work:
            yield work

    @contextlib.contextmanager
    def piece(
        self,
        name: str,
        said: str,
        subject: SubjectName,
        rotation: Rotation | None,
        *,
        identity: str | None = None,
        cause: Rotation | None = None,
        waits: tuple[type[RotatorError], ...] = (NotYet,),
    ) -> Iterator[Work]:
        """Do the block as a step that has a *name* and is *said* in a sentence; else as `step`."""
        attributes: dict[str, Attribute] = {"rotator.subject": str(subject), "rotator.step": name}
        if rotation is not None:
            attributes |= {"rotator.rotation_id": rotation.id, "rotator.trigger": rotation.trigger.value}
        if identity is not None:
            attributes[SPIFFE_ID] = identity
        began = self._clock.monotonic()
        with contextlib.ExitStack() as around:
            work = around.enter_context(self._span(name, rotation, attributes, cause=cause, waits=waits))
            bound = {"trace_id": work.trace_id, "span_id": work.span_id}
            if rotation is not None:
                bound["rotation_id"] = rotation.id
            around.enter_context(structlog.contextvars.bound_contextvars(**bound))
            log.info(LogEvent.STEP_STARTED, subject=subject, step=said)
            try:
                yield work
            except waits:
                raise
            except RotatorError as error:
                took = self._since(began)
                log.warning(LogEvent.STEP_FAILED, subject=subject, step=said, error=str(error), duration_ms=took)
                raise
            log.info(LogEvent.STEP_FINISHED, subject=subject, step=said, outcome="ok", duration_ms=self._since(began))

    @contextlib.contextmanager
    def call(self, name: str, **attributes: Attribute) -> Iterator[None]:
        """Do the block as a part of the step that this thread is at, with a span of its own; bare without a step."""
        work = _CURRENT.get()
        if work is None:
            yield
            return
        with self._span(name, None, {f"rotator.{key}": value for key, value in attributes.items()}):
            yield

    def seen(self, name: str, rotation: Rotation, began: datetime, attributes: Mapping[str, Attribute]) -> None:
        """Tell of what went on since *began* and was now seen to have ended, as a part of *rotation*."""
        now = self._clock.now()
        self._tell(
            Span(
                trace_id=trace_id(rotation.id),
                span_id=_new_span_id(),
                parent_id=root_span_id(rotation.id),
                name=name,
                began=min(began, now),
                ended=now,
                attributes=attributes,
            )
        )

    def rotation_ended(self, rotation: Rotation) -> None:
        """Tell of *rotation* as a whole, which has just ended, whoever did its steps."""
        ended = rotation.finished_at or self._clock.now()
        attributes: dict[str, Attribute] = {
            "rotator.subject": str(rotation.subject),
            "rotator.rotation_id": rotation.id,
            "rotator.kind": rotation.kind.value,
            "rotator.intent": rotation.intent.value,
            "rotator.trigger": rotation.trigger.value,
            "rotator.result": rotation.state.value,
        }
        if rotation.to_generation is not None:
            attributes["rotator.generation"] = rotation.to_generation
        failed = rotation.state in {RotationState.FAILED, RotationState.REFUSED}
        self._tell(
            Span(
                trace_id=trace_id(rotation.id),
                span_id=root_span_id(rotation.id),
                parent_id=None,
                name=ROTATION,
                began=min(rotation.opened_at, ended),
                ended=ended,
                attributes=attributes,
                error=redacted_text(rotation.outcome or rotation.state.value) if failed else "",
            )
        )

    # --- one span ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _span(
        self,
        name: str,
        rotation: Rotation | None,
        attributes: dict[str, Attribute],
        *,
        cause: Rotation | None = None,
        waits: tuple[type[RotatorError], ...] = (NotYet,),
    ) -> Iterator[Work]:
        around = _CURRENT.get()
        trace, parent, links = _place(rotation, around, cause)
        work = Work(trace, _new_span_id(), rotation.id if rotation is not None else "", attributes)
        began, error = self._clock.now(), ""
        begun = self._clock.monotonic()
        token = _CURRENT.set(work)
        waiting = False
        try:
            yield work
        except waits:
            waiting = True
            raise
        except BaseException as e:
            error = redacted_text(str(e)) if isinstance(e, RotatorError) else type(e).__name__
            raise
        finally:
            _CURRENT.reset(token)
            if not waiting:
                work.noted["rotator.result"] = "failed" if error else "ok"
                self._tell(
                    Span(
                        trace_id=trace,
                        span_id=work.span_id,
                        parent_id=parent,
                        name=name,
                        began=began,
                        # A wall clock that is set back meanwhile makes no span of negative length.
                        ended=began + timedelta(seconds=max(0.0, self._clock.monotonic() - begun)),
                        attributes=dict(work.noted),
                        error=error,
                        links=links,
                    )
                )

    def _since(self, began: float) -> int:
        return round(1000 * max(0.0, self._clock.monotonic() - began))

    def _tell(self, span: Span) -> None:
        for tell in self._told:
            tell(span)


def _place(
    rotation: Rotation | None, around: Work | None, cause: Rotation | None
) -> tuple[TraceId, SpanId | None, tuple[tuple[TraceId, SpanId], ...]]:
    """Return trace, parent and links of work for *rotation* that begins within *around*."""
    links = ((trace_id(cause.id), root_span_id(cause.id)),) if cause is not None else ()
    if rotation is None:
        return (around.trace_id, around.span_id, links) if around is not None else (_new_trace_id(), None, links)
    trace = trace_id(rotation.id)
    if around is not None and around.trace_id == trace:
        return trace, around.span_id, links
    if around is not None and not links:
        links = ((around.trace_id, around.span_id),)
    return trace, root_span_id(rotation.id), links


def _new_span_id() -> SpanId:
    return SpanId(secrets.token_hex(8))


def _new_trace_id() -> TraceId:
    return TraceId(secrets.token_hex(16))
