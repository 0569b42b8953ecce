"""
The commands about the platform around the rotation: ``platform render``, ``platform check`` and their companions.

Rules that must stay true here:

- No logic that another room could hold: read the configuration, ask `rotator.platform`, print.
- ``render`` needs no daemon, no network and no right but to read the file, and prints the same bytes for the same file.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rotator.cli.invocation import invocation, print_json
from rotator.cli.operate import Json
from rotator.errors import ConfigError
from rotator.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rotator.core.model import TrustDomainName
    from rotator.platform.files import Form
    from rotator.platform.model import Platform
    from rotator.settings import Settings

app = typer.Typer(
    help="Render, compare and apply what Kuma and Airflow are told of identities, permissions and routes.",
    no_args_is_help=True,
)

EnvironmentName = Annotated[
    str | None,
    typer.Option("--environment", metavar="NAME", help="Only what is of this environment (default: all)."),
]


def platform_in(settings: Settings) -> Platform:
    """Return the configured platform. Raises `ConfigError` if there is none."""
    from rotator.settings import platform_of  # noqa: PLC0415 -- heavy

    found = platform_of(settings)
    if found is None:
        raise ConfigError("the configuration has no platform: describe it under `platform` (docs/platform.md)")
    return found


def in_known(platform: Platform, environment: str | None) -> str | None:
    """Return *environment*. Raises `ConfigError` if *platform* has none of that name."""
    names = [each.name for each in platform.environments]
    if environment is not None and environment not in names:
        raise ConfigError(f"--environment: found {environment}; allowed {', '.join(names)}")
    return environment


def _forms(settings: Settings, platform: Platform, given: str | None) -> Mapping[TrustDomainName, tuple[Form, str]]:
    """Return the form and namespace for each trust domain: as *given*, else as its control plane is reached."""
    from rotator.platform.files import SYSTEM_NAMESPACE, Form  # noqa: PLC0415 -- heavy

    found: dict[TrustDomainName, tuple[Form, str]] = {}
    for at, _ in platform.meshes():
        mesh = settings.trust_domains[at].mesh
        cluster = mesh.control_plane.kubernetes if mesh is not None else None
        form = Form.UNIVERSAL if cluster is None else Form.KUBERNETES
        if given is not None:
            try:
                form = Form(given)
            except ValueError:
                raise ConfigError(f"--form: found {given}; allowed universal, kubernetes") from None
        found[at] = (form, SYSTEM_NAMESPACE if cluster is None else cluster.namespace)
    return found


@app.command("render")
def render_command(
    ctx: typer.Context,
    *,
    environment: EnvironmentName = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            metavar="FORM",
            help="Write Kuma's documents as universal or kubernetes (default: as each control plane is reached).",
        ),
    ] = None,
    chart: Annotated[
        str | None,
        typer.Option(
            "--chart", metavar="VERSION", help="Write values for this version of the official chart (default: newest)."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Write files there (default: all to standard output)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what Kuma and Airflow need to know of the platform, from the configuration alone."""
    asked = invocation(ctx, as_json=as_json)
    settings = asked.settings()
    platform = platform_in(settings)
    from rotator.platform.chart import chart_version  # noqa: PLC0415 -- heavy
    from rotator.platform.files import files  # noqa: PLC0415 -- with the one above

    found = files(
        platform,
        _forms(settings, platform, form),
        environment=in_known(platform, environment),
        chart=chart_version(chart),
    )
    if output is not None:
        for path, text in found.items():
            target = output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    if asked.as_json:
        print_json({"files": [{"path": path, "text": text} for path, text in found.items()]})
    elif output is not None:
        typer.echo(f"{len(found)} files below {output}")
    else:
        for path, text in found.items():
            typer.echo(f"# {path}\n{text}", nl=False)


@app.command("check")
def check_command(
    ctx: typer.Context,
    *,
    environment: EnvironmentName = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Say of every identity and service, the refused ones too.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw who may call what there, as SVG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which identity may call which service and why, and what is wrong with it; exit 1 if anything is broken."""
    asked = invocation(ctx, as_json=as_json)
    platform = platform_in(asked.settings())
    from rotator.platform.check import Grade, check  # noqa: PLC0415 -- heavy
    from rotator.platform.picture import picture as drawn  # noqa: PLC0415 -- with the one above
    from rotator.platform.reach import reach  # noqa: PLC0415 -- with the one above

    within = in_known(platform, environment)
    pairs = [each for each in reach(platform) if within in {None, each.service.environment.name}]
    findings = [each for each in check(platform) if within in {None, each.about.partition("/")[0]}]
    broken = sum(each.grade is Grade.BROKEN for each in findings)
    if picture is not None:
        picture.write_text(drawn(platform))
    if asked.as_json:
        print_json(
            {
                "reach": [
                    {
                        "caller": each.caller.qualified,
                        "spiffe_id": each.caller.spiffe_id,
                        "service": each.service.qualified,
                        "allowed": each.allowed,
                        "permissions": [{"name": one.name, "reason": one.reason} for one in each.permissions],
                        "sentence": each.sentence,
                    }
                    for each in pairs
                ],
                "findings": [
                    {
                        "kind": each.kind.value,
                        "grade": each.grade.value,
                        "about": each.about,
                        "what": each.what,
                        "mend": each.mend,
                    }
                    for each in findings
                ],
                "broken": broken,
                "warnings": len(findings) - broken,
            }
        )
    else:
        for pair in pairs:
            if everything or pair.allowed:
                typer.echo(pair.sentence)
        for finding in findings:
            typer.echo(f"{finding.grade.value}: {finding.what}: {finding.mend}")
        allowed = sum(each.allowed for each in pairs)
        typer.echo(f"{allowed} of {len(pairs)} pairs permitted; {broken} broken, {len(findings) - broken} warnings")
    raise typer.Exit(ExitCode.FAILED if broken else ExitCode.DONE)
