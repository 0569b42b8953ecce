"""
The commands about the configuration file itself: ``config check``, ``config schema`` and ``config rbac``.

Rules that must stay true here:

- None needs a daemon, a network or any right but to read the file.
- ``check`` judges exactly what `run` would: the same `rotator.settings.load`.
- ``rbac`` prints the same bytes for the same file: what was applied can be kept and compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rotator.cli.invocation import invocation, print_json
from rotator.cli.operate import Json

app = typer.Typer(
    help="Check the configuration, or print its JSON Schema or the rights it takes in a cluster.", no_args_is_help=True
)


class Output(StrEnum):
    """How objects are printed."""

    YAML = "yaml"
    JSON = "json"


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


@app.command("rbac")
def rbac_command(
    ctx: typer.Context,
    *,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", metavar="NAME", help="Rotator's own namespace (default: cluster.namespace)."),
    ] = None,
    service_account: Annotated[
        str, typer.Option("--service-account", metavar="NAME", help="The ServiceAccount that rotator runs as.")
    ] = "rotator",
    mesh: Annotated[
        str | None,
        typer.Option(
            "--mesh",
            metavar="DOMAIN",
            help="Print the rights for the mesh of this trust domain alone, for its cluster.",
        ),
    ] = None,
    read_secret: Annotated[
        list[str] | None,
        typer.Option(
            "--read-secret",
            metavar="DOMAIN=NAME",
            help="Lend a Secret of a CA that is adopted, to be read; repeatable.",
        ),
    ] = None,
    adopt: Annotated[
        list[str] | None,
        typer.Option(
            "--adopt", metavar="DOMAIN=NAME", help="Lend a MeshIdentity or MeshTrust that is adopted; repeatable."
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", help="yaml, or json: one List.")] = Output.YAML,
) -> None:
    """Print the ServiceAccount, roles and admission policies that the configuration takes in its cluster."""
    from rotator.bootstrap import rights  # noqa: PLC0415 -- heavy

    asked = invocation(ctx)
    settings = asked.settings()
    account = rights.account_of(settings, namespace=namespace, name=service_account)
    lent = rights.lent_for(settings, secrets=read_secret or (), objects=adopt or ())
    if mesh is not None:
        settings = rights.only_mesh(settings, mesh)
    found = rights.marked(rights.rights_objects(settings, account, lent=lent), configuration_digest(asked.config))
    for each in rights.meshes_elsewhere(settings):
        typer.echo(f"{each}: its mesh is in another cluster; for that one: rotator config rbac --mesh {each}", err=True)
    if output is Output.JSON:
        print_json({"apiVersion": "v1", "kind": "List", "items": list(found)})
        return
    typer.echo(
        f"# What {account.namespace}/{account.name} may do. Made by rotator config rbac: make it again, do not edit."
    )
    typer.echo(_yaml(found), nl=False)


def configuration_digest(path: Path) -> str:
    """Return which configuration *path* holds, white space around it left out: the chart compares it with its own."""
    return f"sha256:{hashlib.sha256(path.read_bytes().strip()).hexdigest()}"


def _yaml(objects: Sequence[dict[str, Any]]) -> str:
    import yaml  # noqa: PLC0415 -- heavy

    class Plain(yaml.SafeDumper):
        """Writes everything out: Kubernetes' tools know aliases, people who compare files do not like them."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 -- the base class calls it
            return True

    return yaml.dump_all(objects, Dumper=Plain, sort_keys=False, width=116, explicit_start=True)
