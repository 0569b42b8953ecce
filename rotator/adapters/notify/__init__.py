"""Where people are told: rotator's own log, Alertmanager, a webhook, Kubernetes Events, and what apprise reaches."""
