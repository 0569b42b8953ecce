"""
The commands about the configuration file itself: ``config check`` and ``config schema``.

Rules that must stay true here:

- Neither needs a daemon, a network or any right but to read the file.
- ``check`` judges exactly what `run` would: the same `rotator.settings.load`.
"""

from __future__ import annotations

import typer

from rotator.cli.invocation import invocation, print_json
from rotator.cli.operate import Json

app = typer.Typer(help="Check the configuration, or print its JSON Schema.", no_args_is_help=True)


@app.command("check")
def check_command(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Name every mistake in the configuration at once."""
    from rotator.settings import policy_sha256  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    settings = asked.settings()
    counts = {
        "trust_domains": len(settings.trust_domains),
        "certificates": len(settings.certificates),
        "workloads": len(settings.workloads),
    }
    digest = policy_sha256(settings)
    if asked.as_json:
        print_json({"file": str(asked.config), "valid": True, "policy_sha256": digest, **counts})
        return
    said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    typer.echo(f"{asked.config}: nothing wrong; {said}; policy {digest}")


@app.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of the configuration."""
    from rotator.settings import json_schema  # noqa: PLC0415 -- heavy

    print_json(json_schema())
