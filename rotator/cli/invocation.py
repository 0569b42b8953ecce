"""
What every command needs: where the configuration is, how to print, how to reach the daemon.

Rules that must stay true here:

- Nothing heavy is imported before a command asks for it: ``--help`` must not wait for pydantic or a database.
- With ``--json`` standard output holds JSON and nothing else; what is said to people goes to standard error.
- A cluster is asked only where somebody has named it: a current context that happens to be there is not a choice.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rotator.errors import ConfigError

if TYPE_CHECKING:
    import typer
    from rich.console import Console

    from rotator.cli.audit import AuditSources
    from rotator.control import Daemon
    from rotator.settings import Settings

DEFAULT_CONFIG = Path("/etc/rotator/rotator.yaml")
_UNBOUNDED = 1000
"""Columns: a table that is read by a program or kept in a file is not cut to a terminal nobody has."""


@dataclass(slots=True, kw_only=True)
class Invocation:
    """One run of the command line; ``ctx.obj`` of every command."""

    config: Path = DEFAULT_CONFIG
    as_json: bool = False
    debug: bool = False
    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str = "rotator"

    def settings(self) -> Settings:
        """Return the configuration. Raises `ConfigError` with every mistake in it."""
        from rotator.settings import load  # noqa: PLC0415 -- see the rule above

        return load(self.config)

    @property
    def in_cluster(self) -> bool:
        """Return whether somebody has named a cluster to ask in."""
        return self.kubeconfig is not None or self.context is not None

    def daemon(self, *, timeout: timedelta = timedelta(seconds=30)) -> Daemon:
        """
        Return the running daemon: in the cluster that was named, else on this machine.

        Asking it raises `Unavailable` if there is none.
        """
        if self.in_cluster:
            from rotator.bootstrap.cluster import people_in  # noqa: PLC0415 -- see the rule above

            return people_in(self.kubeconfig, self.context, self.namespace, timeout=timeout)
        from rotator.control import ControlClient  # noqa: PLC0415 -- see the rule above

        if not self.config.exists():
            raise ConfigError(
                f"there is no configuration at {self.config} to find the daemon's socket by: "
                "give --config, or --context NAME to ask in a cluster"
            )
        return ControlClient(self.settings().socket, timeout=timeout)

    def audit_sources(self) -> AuditSources:
        """Wire what the auditor's commands read of the configured installation."""
        from rotator.bootstrap import audit_sources  # noqa: PLC0415 -- see the rule above

        return audit_sources(self.settings())

    def console(self) -> Console:
        """Return standard output for people; where it is no terminal, lines are as long as what they say."""
        from rich.console import Console  # noqa: PLC0415 -- see the rule above

        return Console(highlight=False, width=None if sys.stdout.isatty() else _UNBOUNDED)


def print_json(value: object, *, one_line: bool = False) -> None:
    """Print *value* as JSON on standard output, on one line or indented."""
    sys.stdout.write(json.dumps(value, indent=None if one_line else 2, allow_nan=False) + "\n")
    sys.stdout.flush()


def invocation(ctx: typer.Context, *, as_json: bool = False) -> Invocation:
    """Return the invocation of *ctx*; ``--json`` may stand before or after the command."""
    found = ctx.find_object(Invocation)
    if found is None:
        found = Invocation()
        ctx.obj = found
    found.as_json = found.as_json or as_json
    return found
