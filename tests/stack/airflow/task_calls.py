"""
A task's process, as Airflow itself sets it up: its tracer, its span of the task, and a call within it.

Run by Airflow's own Python with the variables that rotator renders: ``task_calls.py LOCAL_SETTINGS URL TASK``.
Prints one JSON object: what was answered, and which trace the task's span stands in.

Rules that must stay true here:

- Airflow's code makes provider, exporter and span; ``requests`` is called as a DAG would, without a word of tracing.
- What carries the trace into the call is the file of local settings that rotator renders, run as Airflow runs it.
"""

from __future__ import annotations

import json
import runpy
import sys
from types import SimpleNamespace

import requests
from airflow.configuration import conf
from airflow.sdk._shared.observability.traces import configure_otel, new_dagrun_trace_carrier
from airflow.sdk.execution_time.task_runner import _make_task_span
from opentelemetry import trace


def main(local_settings: str, url: str, task: str) -> None:
    """Call *url* once in a task named *task*."""
    configure_otel(conf)
    runpy.run_path(local_settings)
    instance = SimpleNamespace(
        dag_id="books", task_id=task, run_id="manual__2030", try_number=1, map_index=-1,
        context_carrier=new_dagrun_trace_carrier(),
    )  # fmt: skip
    with _make_task_span(SimpleNamespace(ti=instance)) as span:
        answer = requests.get(url, timeout=30)
        made = {"status": answer.status_code, "trace_id": f"{span.get_span_context().trace_id:032x}"}
    trace.get_tracer_provider().force_flush(30_000)
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
