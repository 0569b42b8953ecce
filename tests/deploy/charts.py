"""
The Helm chart, rendered by the real Helm as operators render it.

Rules that must stay true here:

- Rights come from ``rotator config rbac`` and the same configuration, as the documentation says.
- Nothing is rendered but by `helm template`; what it refuses is its own words on standard error.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from rotator.cli import app
from tests.stack.cluster import BIN

TOP = Path(__file__).parents[2]
CHART = TOP / "deploy" / "helm" / "rotator"
VALUES = TOP / "deploy" / "helm" / "values"
EXAMPLES = TOP / "config" / "examples"

JSON = dict[str, Any]

_WITHIN = 60
"""Seconds for one call of Helm: it takes a tenth of one."""


class Refused(Exception):
    """Helm refused; its message is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """One way to render the chart."""

    place: Path
    """Where files for it are written."""
    configuration: str
    """Rotator's own, as text."""
    values: str
    """Which of the shipped values files."""
    namespace: str = "rotator"
    account: str = "rotator"

    def rights(self) -> str:
        """Return what ``rotator config rbac`` prints for the configuration."""
        file = self._file("configuration.yaml", self.configuration)
        words = ["--config", str(file), "config", "rbac", "--service-account", self.account]
        ran = CliRunner().invoke(app, words)
        assert ran.exit_code == 0, ran.stderr
        return ran.stdout

    def documents(self, *words: str, rights: str | None = None) -> list[JSON]:
        """
        Return what Helm renders with the further *words*; *rights* instead of those of the configuration.

        Raises:
            Refused: If Helm refuses.
        """
        return list(yaml.safe_load_all(self.text(*words, rights=rights)))

    def text(self, *words: str, rights: str | None = None) -> str:
        """Return the same as text."""
        return self._helm("template", "rotator", *words, rights=rights)

    def linted(self, *words: str) -> str:
        """Return what ``helm lint --strict`` says."""
        return self._helm("lint", "--strict", *words)

    def _helm(self, command: str, *words: str, rights: str | None = None) -> str:
        before = words[:1] if command == "template" else ()
        ran = subprocess.run(
            [
                BIN / "helm",
                command,
                *before,
                CHART,
                "--namespace",
                self.namespace,
                "--values",
                VALUES / f"{self.values}.yaml",
                "--set-file",
                f"config={self._file('configuration.yaml', self.configuration)}",
                "--set-file",
                f"rbac.manifest={self._file('rights.yaml', self.rights() if rights is None else rights)}",
                *words[len(before) :],
            ],
            env={"HOME": str(self.place), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            check=False,
        )
        if ran.returncode != 0:
            raise Refused(ran.stderr + ran.stdout)
        return ran.stdout

    def _file(self, name: str, text: str) -> Path:
        file = self.place / name
        file.write_text(text)
        return file


def of_kind(documents: list[JSON], kind: str) -> JSON:
    """Return the only one of *documents* that is a *kind*."""
    (found,) = [each for each in documents if each and each["kind"] == kind]
    return found
