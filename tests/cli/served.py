"""Commands against a daemon's socket behind which recorded operations answer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rotator.cli import main
from rotator.control import ControlServer
from rotator.telemetry import configure_logging
from tests.fakes.operations import FakeOperations

_EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "kuma-universal-provided.yaml"
Run = Callable[..., tuple[int, str, str]]
"""Runs one command: exit code, standard output, standard error."""


@contextmanager
def served(
    directory: Path, operations: FakeOperations, capsys: pytest.CaptureFixture[str], *, example: Path = _EXAMPLE
) -> Iterator[Run]:
    """Give what runs commands with the configuration *example* against *operations*."""
    config = directory / "rotator.yaml"
    config.write_text(example.read_text().replace("/run/rotator/control.sock", f"{directory}/control.sock"))
    quiet = configure_logging("info", "json", io.StringIO())

    def go(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--config", str(config), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    with ControlServer(directory / "control.sock", operations):
        yield go
    quiet()
