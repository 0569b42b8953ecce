"""
Logs and metrics: their names, each with one sentence, and the set-up of logging.

Rules that must stay true here:

- An event or metric that is not in this catalogue is not written; ``docs/telemetry.md`` is made from it.
- Nothing leaves through a log before `rotator.redaction` has seen it (law 10), tracebacks included.
- Logs inform, the ledger proves: neither is ever derived from the other.
- Importing this module changes nothing; `configure_logging` does, once, at start, and says how to undo it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Final, TextIO

import structlog

from rotator.clock import SystemClock
from rotator.redaction import REMOVED, names_secret, redacted


class LogEvent(StrEnum):
    """Everything that rotator says in its log."""

    DAEMON_STARTED = "daemon_started"
    DAEMON_STOPPING = "daemon_stopping"
    DAEMON_STOPPED = "daemon_stopped"
    SETTINGS_LOADED = "settings_loaded"
    SETTINGS_REFUSED = "settings_refused"
    LEASE_ACQUIRED = "lease_acquired"
    LEASE_LOST = "lease_lost"
    TERM_BEGUN = "term_begun"
    LEASE_TROUBLE = "lease_trouble"
    STANDING_BY = "standing_by"
    SERVICE_FAILED = "service_failed"
    SWEEP_FINISHED = "sweep_finished"
    SWEEP_OVERDUE = "sweep_overdue"
    TARGET_OBSERVED = "target_observed"
    TARGET_FAILED = "target_failed"
    TARGET_WAITING = "target_waiting"
    BREAKER_TRIPPED = "breaker_tripped"
    BREAKER_CLOSED = "breaker_closed"
    DRIFT_FOUND = "drift_found"
    ROTATION_OPENED = "rotation_opened"
    ROTATION_FINISHED = "rotation_finished"
    ROTATION_REFUSED = "rotation_refused"
    STEP_STARTED = "step_started"
    STEP_FINISHED = "step_finished"
    STEP_FAILED = "step_failed"
    LEAF_ISSUED = "leaf_issued"
    LEAF_PUBLISHED = "leaf_published"
    LEAF_PROVEN = "leaf_proven"
    LEAF_REVOKED = "leaf_revoked"
    BUNDLE_PUBLISHED = "bundle_published"
    ISSUER_PREPARED = "issuer_prepared"
    ISSUER_ACTIVATED = "issuer_activated"
    ISSUER_RETIRED = "issuer_retired"
    ORPHAN_FOUND = "orphan_found"
    MEMBER_DRAINED = "member_drained"
    MEMBER_UNDRAINED = "member_undrained"
    MEMBER_REPLACED = "member_replaced"
    SESSION_OPENED = "session_opened"
    SESSION_RENEWED = "session_renewed"
    SESSION_LOST = "session_lost"
    RUNS_COPIED = "runs_copied"
    COPYING_FAILED = "copying_failed"
    LOOKAHEAD_FAILED = "lookahead_failed"
    CHECKPOINT_SIGNED = "checkpoint_signed"
    LEDGER_SPOOLED = "ledger_spooled"
    LEDGER_UNWRITABLE = "ledger_unwritable"
    LEDGER_RECONCILED = "ledger_reconciled"
    ALERT_RAISED = "alert_raised"
    ALERT_CLEARED = "alert_cleared"
    NOTICE_FAILED = "notice_failed"
    NOTICE_SENT = "notice_sent"
    WATCH_FAILED = "watch_failed"
    REQUEST_RECEIVED = "request_received"
    REQUEST_REFUSED = "request_refused"
    REQUEST_BROKEN = "request_broken"
    REQUEST_WAITING = "request_waiting"
    REQUEST_DELAYED = "request_delayed"
    REQUESTS_TIDIED = "requests_tidied"
    LAW_KEPT = "law_kept"
    THREAD_FAILED = "thread_failed"
    LIBRARY_WARNED = "library_warned"
    SERVICE_STARTED = "service_started"
    CERTIFICATE_LOADED = "certificate_loaded"
    CERTIFICATE_REFUSED = "certificate_refused"
    READER_REFUSED = "reader_refused"
    EXPORT_FAILED = "export_failed"
    EXPORT_RESUMED = "export_resumed"


EVENTS: Final[Mapping[LogEvent, str]] = {
    LogEvent.DAEMON_STARTED: "The daemon holds its lease, has read its settings and begins to sweep.",
    LogEvent.DAEMON_STOPPING: "A signal asked the daemon to stop; steps under way are finished first.",
    LogEvent.DAEMON_STOPPED: "The daemon has ended; `unfinished` names steps that the stop budget cut off.",
    LogEvent.SETTINGS_LOADED: "The configuration was read and is in force from now on.",
    LogEvent.SETTINGS_REFUSED: "A changed configuration is wrong; the one before stays in force until it is mended.",
    LogEvent.LEASE_ACQUIRED: "This process alone may change the world now.",
    LogEvent.LEASE_LOST: "Another process may change the world now; this one writes nothing more.",
    LogEvent.TERM_BEGUN: "The store refuses from now on what an earlier leader would still write.",
    LogEvent.LEASE_TROUBLE: "The lease could not be renewed or given back; it is tried again until it has lapsed.",
    LogEvent.STANDING_BY: "Another replica, `leader`, may change the world; this one is ready to take over from it.",
    LogEvent.SERVICE_FAILED: "A part of the daemon did not start, stop or take new settings; the others go on.",
    LogEvent.SWEEP_FINISHED: "Every subject was looked at once.",
    LogEvent.SWEEP_OVERDUE: "A sweep took longer than the time between two sweeps.",
    LogEvent.TARGET_OBSERVED: "One subject was observed and a decision made.",
    LogEvent.TARGET_FAILED: "One subject could not be observed or moved; it is tried again at `next_try`.",
    LogEvent.TARGET_WAITING: "One subject waits for those named in `waiting_on`.",
    LogEvent.BREAKER_TRIPPED: "One subject was issued too many certificates; issuing stops until a person looks.",
    LogEvent.BREAKER_CLOSED: "Issuing for the subject goes on.",
    LogEvent.DRIFT_FOUND: "Somebody else changed, replaced or removed what was published; `reason` says what.",
    LogEvent.ROTATION_OPENED: "A rotation was entered into the journal.",
    LogEvent.ROTATION_FINISHED: "A rotation reached its end state; `result` says which.",
    LogEvent.ROTATION_REFUSED: "A requested rotation was not opened; `reason` says why.",
    LogEvent.STEP_STARTED: "A step's intent is in journal and ledger; its effect follows.",
    LogEvent.STEP_FINISHED: "The one line of a step, with its outcome and `duration_ms`.",
    LogEvent.STEP_FAILED: "A step did not take; the world is observed again before anything else.",
    LogEvent.LEAF_ISSUED: "A certificate came back from its issuer and is what was asked for.",
    LogEvent.LEAF_PUBLISHED: "Key, chain and bundle stand in their place as one publication.",
    LogEvent.LEAF_PROVEN: "Its consumer was seen using the new certificate.",
    LogEvent.LEAF_REVOKED: "A certificate was revoked at its issuer.",
    LogEvent.BUNDLE_PUBLISHED: "A trust bundle was published to a wave of consumers.",
    LogEvent.ISSUER_PREPARED: "A new CA generation exists; nothing uses it yet.",
    LogEvent.ISSUER_ACTIVATED: "A CA generation signs from now on.",
    LogEvent.ISSUER_RETIRED: "A CA generation that nobody trusts or serves was taken out of service.",
    LogEvent.ORPHAN_FOUND: "The CA issued a certificate that was never published; it is revoked or left to lapse.",
    LogEvent.MEMBER_DRAINED: "A member of a workload takes no new work.",
    LogEvent.MEMBER_UNDRAINED: "A member takes work again without having been replaced.",
    LogEvent.MEMBER_REPLACED: "A member was stopped and started anew.",
    LogEvent.SESSION_OPENED: "Logged in at the issuer.",
    LogEvent.SESSION_RENEWED: "The issuer's token was renewed.",
    LogEvent.SESSION_LOST: "The issuer's token is gone and logging in failed; it is tried again.",
    LogEvent.RUNS_COPIED: "What an Airflow ran was copied into the evidence log.",
    LogEvent.COPYING_FAILED: "An Airflow's history could not be copied; the next try begins where the last one ended.",
    LogEvent.LOOKAHEAD_FAILED: "An Airflow did not tell which tasks are long; it is asked again in ten minutes.",
    LogEvent.CHECKPOINT_SIGNED: "The log was projected and its checkpoint signed.",
    LogEvent.LEDGER_SPOOLED: "Past the safety line and without a ledger, a record was spooled to be entered late.",
    LogEvent.LEDGER_UNWRITABLE: "Journal or ledger cannot be written; no step starts before the safety line.",
    LogEvent.LEDGER_RECONCILED: "The ledger was compared with the CA's own list.",
    LogEvent.ALERT_RAISED: "A condition that a person should know of began.",
    LogEvent.ALERT_CLEARED: "A condition that a person should know of ended.",
    LogEvent.NOTICE_FAILED: "An alert could not be delivered; it is counted and tried again.",
    LogEvent.NOTICE_SENT: "A receiver took a message; `notices` says how many it held.",
    LogEvent.WATCH_FAILED: "A watched certificate could not be looked at; it is tried again.",
    LogEvent.REQUEST_RECEIVED: "A person asked for something, over the control socket or by an object in the cluster.",
    LogEvent.REQUEST_REFUSED: "A request was refused; nothing was changed.",
    LogEvent.REQUEST_BROKEN: "A connection to the control socket was garbage, too slow or too large, and was closed.",
    LogEvent.REQUEST_WAITING: "A request waits for somebody else's word; it holds nothing meanwhile.",
    LogEvent.REQUEST_DELAYED: "Requests could not be looked at or answered now; it is tried again at the next look.",
    LogEvent.REQUESTS_TIDIED: "Requests and approvals that had ended long ago were removed from the cluster.",
    LogEvent.LAW_KEPT: "A law was about to be broken and the step was refused.",
    LogEvent.THREAD_FAILED: "A thread met an error that nobody expected; the daemon goes on without that attempt.",
    LogEvent.LIBRARY_WARNED: "A library that rotator uses logged a warning or an error.",
    LogEvent.SERVICE_STARTED: "The HTTP service listens.",
    LogEvent.CERTIFICATE_LOADED: "The HTTP service shows another certificate to new connections.",
    LogEvent.CERTIFICATE_REFUSED: "What is published for the HTTP service cannot be used; it shows the one before.",
    LogEvent.READER_REFUSED: "Somebody without the right asked the HTTP service for status or log.",
    LogEvent.EXPORT_FAILED: "The collector did not take traces, metrics or logs; said once, and nothing waits for it.",
    LogEvent.EXPORT_RESUMED: "The collector takes them again; `dropped` says how many were lost since the start.",
}


class Metric(StrEnum):
    """Every metric's Prometheus name."""

    CERTIFICATE_NOT_AFTER = "rotator_certificate_not_after_seconds"
    CERTIFICATE_LIFETIME_USED = "rotator_certificate_lifetime_used_ratio"
    RENEWAL_OVERDUE = "rotator_renewal_overdue_seconds"
    ROTATIONS = "rotator_rotations_total"
    ROTATION_SECONDS = "rotator_rotation_seconds"
    TRUST_DOMAIN_PHASE = "rotator_trust_domain_phase"
    WAITING_ON = "rotator_waiting_on"
    DRAIN_SECONDS = "rotator_drain_seconds"
    TASKS_RUNNING = "rotator_tasks_running"
    LEDGER_SIZE = "rotator_ledger_size"
    LEDGER_CHECKPOINT_TIMESTAMP = "rotator_ledger_checkpoint_timestamp_seconds"
    SWEEP_TIMESTAMP = "rotator_sweep_timestamp_seconds"
    ISSUER_REQUESTS = "rotator_issuer_requests_total"
    ISSUER_NOT_AFTER = "rotator_issuer_not_after_seconds"
    TOKEN_NOT_AFTER = "rotator_token_not_after_seconds"  # noqa: S105 -- a metric's name, not a secret
    LEADER = "rotator_leader"
    NOTICES = "rotator_notices_total"
    NOTICES_WAITING = "rotator_notices_waiting"
    WATCHED_NOT_AFTER = "rotator_watched_not_after_seconds"
    WATCHED_LIFETIME_USED = "rotator_watched_lifetime_used_ratio"
    WATCHED_SEEN_TIMESTAMP = "rotator_watched_seen_timestamp_seconds"
    PLATFORM_DOCUMENTS = "rotator_platform_documents"
    PLATFORM_TO_APPLY = "rotator_platform_to_apply"
    PLATFORM_DRIFTED = "rotator_platform_drifted"
    PLATFORM_SEEN_TIMESTAMP = "rotator_platform_seen_timestamp_seconds"
    BUILD = "rotator_build_info"
    SUBJECTS = "rotator_subjects"
    SAFETY_LINE = "rotator_safety_line_seconds"
    RENEWAL_OPENS = "rotator_renewal_opens_seconds"
    FAILURES = "rotator_failures_in_a_row"
    ALERT = "rotator_alert"
    ISSUER_LIFETIME_USED = "rotator_issuer_lifetime_used_ratio"
    ISSUER_SIGNING = "rotator_issuer_signing"
    MANAGED_TOKEN_NOT_AFTER = "rotator_managed_token_not_after_seconds"  # noqa: S105 -- a metric's name, not a secret
    MANAGED_TOKEN_LIFETIME_USED = "rotator_managed_token_lifetime_used_ratio"  # noqa: S105 -- a metric's name
    SIGNING_KEY_ADDED = "rotator_signing_key_added_timestamp_seconds"
    TOKEN_LIFETIME = "rotator_token_lifetime_seconds"  # noqa: S105 -- a metric's name, not a secret
    LEDGER_SPOOLED = "rotator_ledger_spooled_records"
    LEDGER_CHECKPOINT_INTERVAL = "rotator_ledger_checkpoint_interval_seconds"
    SWEEP_INTERVAL = "rotator_sweep_interval_seconds"
    HTTP_REQUESTS = "rotator_http_requests_total"
    HTTP_CERTIFICATE_NOT_AFTER = "rotator_http_certificate_not_after_seconds"
    OTLP_ITEMS = "rotator_otlp_items_total"
    OTLP_WAITING = "rotator_otlp_waiting"


METRICS: Final[Mapping[Metric, tuple[str, tuple[str, ...], str]]] = {
    Metric.CERTIFICATE_NOT_AFTER: ("gauge", ("subject",), "When the certificate in use ends, Unix time."),
    Metric.CERTIFICATE_LIFETIME_USED: ("gauge", ("subject",), "Used part of the lifetime; 1 is expired."),
    Metric.RENEWAL_OVERDUE: ("gauge", ("subject",), "Seconds since the renewal window opened without a renewal."),
    Metric.ROTATIONS: ("counter", ("kind", "result"), "Rotations that ended."),
    Metric.ROTATION_SECONDS: ("histogram", ("kind",), "From a rotation's intent to its end."),
    Metric.TRUST_DOMAIN_PHASE: ("gauge", ("trust_domain", "phase"), "1 for the phase the trust domain is in."),
    Metric.WAITING_ON: ("gauge", ("subject",), "How many parties a rotation waits for."),
    Metric.DRAIN_SECONDS: ("histogram", ("workload",), "From taking a member's queues away to its last task."),
    Metric.TASKS_RUNNING: ("gauge", ("workload",), "Tasks running or reserved on members under drain."),
    Metric.LEDGER_SIZE: ("gauge", (), "Records in the ledger."),
    Metric.LEDGER_CHECKPOINT_TIMESTAMP: ("gauge", (), "When the last checkpoint was signed, Unix time."),
    Metric.SWEEP_TIMESTAMP: ("gauge", (), "When the last sweep ended, Unix time."),
    Metric.ISSUER_REQUESTS: ("counter", ("result",), "Requests to issuers."),
    Metric.ISSUER_NOT_AFTER: ("gauge", ("trust_domain", "generation"), "When a CA generation ends, Unix time."),
    Metric.TOKEN_NOT_AFTER: (
        "gauge",
        ("issuer",),
        "When the login at an issuer, or at the control plane of a trust domain, ends, Unix time.",
    ),
    Metric.LEADER: ("gauge", (), "1 while this process holds the lease."),
    Metric.NOTICES: ("counter", ("receiver", "result"), "Notices by what became of them: sent, failed, left_out."),
    Metric.NOTICES_WAITING: ("gauge", ("receiver",), "Notices that are news and not delivered yet."),
    Metric.WATCHED_NOT_AFTER: ("gauge", ("watched", "kind"), "When a watched certificate ends, Unix time."),
    Metric.WATCHED_LIFETIME_USED: ("gauge", ("watched", "kind"), "Used part of its lifetime; 1 is expired."),
    Metric.WATCHED_SEEN_TIMESTAMP: ("gauge", ("watched", "kind"), "When it was last seen, Unix time."),
    Metric.PLATFORM_DOCUMENTS: (
        "gauge",
        ("trust_domain",),
        "Rotator's own documents of the platform on the control plane.",
    ),
    Metric.PLATFORM_TO_APPLY: (
        "gauge",
        ("trust_domain",),
        "Writes that it would take to make them as the configuration says; nobody has asked for them.",
    ),
    Metric.PLATFORM_DRIFTED: (
        "gauge",
        ("trust_domain", "what"),
        "Documents that others edited, removed, added, or (foreign) opened a service with.",
    ),
    Metric.PLATFORM_SEEN_TIMESTAMP: ("gauge", ("trust_domain",), "When they were last looked at, Unix time."),
    Metric.BUILD: ("gauge", ("version", "python"), "1; which rotator this is."),
    Metric.SUBJECTS: ("gauge", ("kind",), "Subjects in the configuration, of each kind."),
    Metric.SAFETY_LINE: (
        "gauge",
        ("subject",),
        "From when on nothing may hold a renewal any more; of a trust domain, when its CA stops signing. Unix time.",
    ),
    Metric.RENEWAL_OPENS: ("gauge", ("subject",), "When the renewal window opens, Unix time."),
    Metric.FAILURES: (
        "gauge",
        ("subject",),
        "Looks at a subject that failed in a row; absent when the last succeeded.",
    ),
    Metric.ALERT: ("gauge", ("subject", "kind", "severity"), "1 while rotator itself has this alert raised."),
    Metric.ISSUER_LIFETIME_USED: (
        "gauge",
        ("trust_domain", "generation"),
        "Used part of a CA generation's lifetime; 1 is expired.",
    ),
    Metric.ISSUER_SIGNING: (
        "gauge",
        ("trust_domain", "generation"),
        "1 for the CA generation that signs, 0 for others.",
    ),
    Metric.MANAGED_TOKEN_NOT_AFTER: ("gauge", ("subject",), "When the published token of Kuma ends, Unix time."),
    Metric.MANAGED_TOKEN_LIFETIME_USED: ("gauge", ("subject",), "Used part of its lifetime; 1 is expired."),
    Metric.SIGNING_KEY_ADDED: (
        "gauge",
        ("subject",),
        "When the newest key that signs tokens was added, Unix time.",
    ),
    Metric.TOKEN_LIFETIME: ("gauge", ("issuer",), "How long that login was given for."),
    Metric.LEDGER_SPOOLED: ("gauge", (), "Records that wait outside the ledger."),
    Metric.LEDGER_CHECKPOINT_INTERVAL: ("gauge", (), "How often the log is to be signed: `ledger.checkpoint_every`."),
    Metric.SWEEP_INTERVAL: ("gauge", (), "How often everything is to be looked at: `timing.sweep_every`."),
    Metric.HTTP_REQUESTS: ("counter", ("route", "code"), "Requests that the HTTP service has answered."),
    Metric.HTTP_CERTIFICATE_NOT_AFTER: (
        "gauge",
        (),
        "When the certificate ends that the HTTP service shows, Unix time; 0 while it shows a stand-in of its own.",
    ),
    Metric.OTLP_ITEMS: (
        "counter",
        ("signal", "result"),
        "Spans, lines and readings for the collector by what became of them: sent, refused, dropped.",
    ),
    Metric.OTLP_WAITING: ("gauge", ("signal",), "Spans and lines that wait for the collector."),
}


_LISTENERS: list[Callable[[Mapping[str, Any]], None]] = []


def listen(listener: Callable[[Mapping[str, Any]], None]) -> Callable[[], None]:
    """Give *listener* every line from now on, redacted, as it is written; return what ends that. It must not raise."""
    _LISTENERS.append(listener)

    def undo() -> None:
        if listener in _LISTENERS:
            _LISTENERS.remove(listener)

    return undo


def _told(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Tell whoever listens; a structlog processor, after `redact`."""
    for each in tuple(_LISTENERS):
        each(event)
    return event


def catalogue() -> str:
    """Return ``docs/telemetry.md``: every log event and metric with its sentence."""
    lines = [
        "# What rotator says: log events and metrics",
        "",
        "Made from `rotator/telemetry.py`; refresh it with `python -m rotator.telemetry > docs/telemetry.md`.",
        "Levels: `info` the world changed, `warning` rotator will retry, `error` a person must act, `debug` the rest.",
        "Every line has `time`, `level` and `event`; within a step also `rotation_id`, `trace_id` and `span_id`.",
        "Traces, and how all of it reaches a collector: [tracing.md](tracing.md).",
        "",
        "## Log events",
        "",
        "| event | means |",
        "|---|---|",
        *(f"| `{event.value}` | {sentence} |" for event, sentence in EVENTS.items()),
        "",
        "## Metrics",
        "",
        "| metric | type | labels | means |",
        "|---|---|---|---|",
        *(
            f"| `{metric.value}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {sentence} |"
            for metric, (kind, labels, sentence) in METRICS.items()
        ),
        "",
    ]
    return "\n".join(lines)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove every secret from one log line, by a field's name or a value's look; a structlog processor."""
    for key, value in event.items():
        event[key] = REMOVED if names_secret(key) and value is not None else redacted(value)
    return event


def _stamped(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the moment first: RFC 3339 UTC with milliseconds, so that lines of several machines can be merged."""
    event["time"] = SystemClock().now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


class _LibraryHandler(logging.Handler):
    """Passes what libraries log on to structlog, so that it is redacted and shaped like everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record* as one `LIBRARY_WARNED` line; a record that cannot be formatted is written unformatted."""
        try:
            said = record.getMessage()
        except (TypeError, ValueError):
            said = str(record.msg)
        level = record.levelno if record.levelno in (logging.WARNING, logging.ERROR, logging.CRITICAL) else logging.INFO
        structlog.get_logger().log(
            level, LogEvent.LIBRARY_WARNED.value, library=record.name, said=said, exc_info=record.exc_info or None
        )


def configure_logging(
    level: str,
    format: str,  # noqa: A002 -- the configuration's own key
    stream: TextIO | None = None,
) -> Callable[[], None]:
    """
    Send structlog, and libraries' warnings, to *stream* (default: standard error); return what undoes it.

    *level* is ``debug``, ``info``, ``warning`` or ``error``. *format* is ``json`` (one object a line), ``console``, or
    ``auto``: console on a terminal, JSON everywhere else. Calling it again replaces what an earlier call set up.
    """
    target = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not target.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _stamped,
        structlog.processors.format_exc_info,
        redact,
        _told,
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str, sort_keys=False)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=target.isatty(),
            timestamp_key="time",
            # The plain one: rich's shows local variables, and keys are local variables.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler(level=logging.WARNING)
    root = logging.getLogger()
    before = root.level
    for earlier in [each for each in root.handlers if isinstance(each, _LibraryHandler)]:
        root.removeHandler(earlier)
        earlier.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)

    def undo() -> None:
        logging.captureWarnings(capture=False)
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
        structlog.reset_defaults()

    return undo


if __name__ == "__main__":
    sys.stdout.write(catalogue())
