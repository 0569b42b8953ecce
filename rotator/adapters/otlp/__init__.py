"""Where rotator's own traces, metrics and logs go: an OpenTelemetry collector, by OTLP over HTTP."""
