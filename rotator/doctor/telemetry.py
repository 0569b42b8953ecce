"""
The collector of traces, metrics and logs: whether it would take them.

Rules that must stay true here:

- Nothing is told while looking: what is sent is empty.
- A collector that is away is a warning: no rotation waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from rotator.bootstrap.exporting import untaken
from rotator.doctor.findings import Finding, broken, fine, warning
from rotator.errors import ConfigError, Unavailable
from rotator.ports import Clock
from rotator.settings import Settings


def telemetry_findings(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Yield what the collector says, if the settings name one."""
    otlp = settings.telemetry.otlp
    if otlp is None:
        return
    about = "telemetry.otlp"
    try:
        trouble = untaken(settings, clock)
    except ConfigError as error:
        yield broken(about, str(error), "install the extra, or remove telemetry.otlp")
        return
    for signal, why in trouble.items():
        if isinstance(why, Unavailable):
            yield warning(about, f"{signal}: {why}", "start the collector, or mend telemetry.otlp.endpoint")
        else:
            yield broken(about, f"{signal}: {why}", "mend its files, its headers, or the collector's pipelines")
    if not trouble:
        yield fine(about, f"the collector at {otlp.endpoint} takes {', '.join(otlp.signals)}")
