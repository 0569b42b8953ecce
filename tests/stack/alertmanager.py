"""
A real Alertmanager and a real Prometheus on this machine, as Debian ships them.

Rules that must stay true here:

- Loopback only, no cluster of Alertmanagers, all files below one directory.
- Nothing here waits longer than a busy machine of two cores needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
import yaml

from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until

BIN = Path(__file__).resolve().parent / "bin"
RULES = Path(__file__).resolve().parents[2] / "deploy/prometheus/rotator.rules.yaml"
PATIENCE = timedelta(seconds=60)


class AlertmanagerServer:
    """One Alertmanager; `webhook` is told of every group, if given."""

    def __init__(self, directory: Path, *, webhook: str = "") -> None:
        """Describe it without starting it."""
        self.url = f"http://{LOOPBACK}:{free_port()}"
        receiver: dict[str, Any] = {"name": "all"}
        if webhook:
            receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
        route = {"receiver": "all", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
        file = directory / "alertmanager.yml"
        file.write_text(yaml.safe_dump({"route": route, "receivers": [receiver]}))
        self._process = ServerProcess(
            "alertmanager",
            [
                BIN / "alertmanager",
                f"--config.file={file}",
                f"--storage.path={directory / 'alertmanager'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            log=directory / "alertmanager.log",
        )

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        self._process.start(ready=lambda: _answers(f"{self.url}/-/ready"), within=PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._process.stop()

    def active(self, subject: str, *, source: str = "rotator") -> list[dict[str, Any]]:
        """Return the alerts of *subject* that fire now: those that *source* sent, the empty one is Prometheus."""
        wanted = [f'subject="{subject}"', f'source="{source}"']
        answer = requests.get(f"{self.url}/api/v2/alerts", params={"filter": wanted, "active": "true"}, timeout=20)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def wait_for(self, subject: str, severities: Sequence[str], *, within: timedelta = PATIENCE) -> None:
        """Wait until exactly *severities* fire of *subject*."""
        wait_until(
            lambda: list(severities) == sorted(each["labels"]["severity"] for each in self.active(subject)),
            within=within,
            what=f"{subject} to fire {list(severities)}, not {json.dumps([a['labels'] for a in self.active(subject)])}",
            every=timedelta(milliseconds=200),
        )


class PrometheusServer:
    """One Prometheus that scrapes *target* every second, judges by the shipped rules, and tells *alertmanager*."""

    def __init__(self, directory: Path, *, target: str, alertmanager: AlertmanagerServer) -> None:
        """Describe it without starting it."""
        self.url = f"http://{LOOPBACK}:{free_port()}"
        file = directory / "prometheus.yml"
        file.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "rotator", "static_configs": [{"targets": [target]}]}],
                    "alerting": {
                        "alertmanagers": [
                            {"static_configs": [{"targets": [alertmanager.url.removeprefix("http://")]}]},
                        ]
                    },
                }
            )
        )
        self._process = ServerProcess(
            "prometheus",
            [
                BIN / "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--log.level=warn",
            ],
            log=directory / "prometheus.log",
        )

    def __enter__(self) -> Self:
        """Start it and wait until it is ready."""
        self._process.start(ready=lambda: _answers(f"{self.url}/-/ready"), within=PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._process.stop()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == requests.codes.ok
    except requests.RequestException:
        return False
