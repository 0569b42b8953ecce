"""
The commands about the platform around the rotation: ``platform render``, ``platform check`` and their companions.

Rules that must stay true here:

- No logic that another room could hold: read the configuration, ask `rotator.platform`, print.
- ``diff``, ``apply`` and ``undo`` ask the daemon, which knows who asks; what is shown first is what is done, by the
  digest of its plan.
- ``render`` needs no daemon, no network and no right but to read the file, and prints the same bytes for the same file.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli.invocation import invocation, print_json
from rotator.cli.operate import Json, Reason, Wait, WaitAtMost, finish, finish_plan, given_duration
from rotator.errors import ConfigError
from rotator.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rotator.cli.invocation import Invocation
    from rotator.core.model import TrustDomainName
    from rotator.platform.check import Finding
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


def _standing(settings: Settings) -> tuple[Finding, ...]:
    """Return what is wrong with what stands on the control planes."""
    from rotator.bootstrap.platform import standing_findings  # noqa: PLC0415 -- heavy
    from rotator.clock import SystemClock  # noqa: PLC0415 -- with the one above

    return standing_findings(settings, SystemClock())


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
    control_plane: Annotated[
        bool,
        typer.Option("--control-plane", help="Judge what stands on the control planes, too, asked as rotator itself."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say which identity may call which service and why, and what is wrong with it; exit 1 if anything is broken."""
    asked = invocation(ctx, as_json=as_json)
    settings = asked.settings()
    platform = platform_in(settings)
    from rotator.platform.check import Grade, check  # noqa: PLC0415 -- heavy
    from rotator.platform.picture import picture as drawn  # noqa: PLC0415 -- with the one above
    from rotator.platform.reach import reach  # noqa: PLC0415 -- with the one above

    within = in_known(platform, environment)
    pairs = [each for each in reach(platform) if within in {None, each.service.environment.name}]
    everything_found = check(platform) + (_standing(settings) if control_plane else ())
    findings = [each for each in everything_found if within in {None, each.about.partition("/")[0]}]
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


# --- on the control planes ------------------------------------------------------------------------------------------

Ticket = Annotated[str | None, typer.Option("--ticket", metavar="ID", help="Name the ticket it belongs to.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
PlanDigest = Annotated[
    str | None,
    typer.Option("--plan", metavar="DIGEST", help="Do it only if the plan is still the one of this digest."),
]

Supersede = Annotated[
    bool,
    typer.Option("--supersede", help="Also while another change is under way: that one ends where it stands."),
]


@app.command("diff")
def diff_command(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Show what the control planes hold that is not as configured, and what others changed; exit 3 if anything."""
    from rotator.control import ApplyRequest  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    daemon = asked.daemon()
    planned = daemon.apply(ApplyRequest(reason="to see what would change", dry_run=True))
    drift = ((daemon.status().get("platform") or {}).get("drift") or []) if daemon.plans_first else []
    if asked.as_json:
        print_json({"plan": planned.get("plan", []), "digest": planned.get("digest"), "drift": drift})
    else:
        _print_steps(asked, planned)
        for each in drift:
            typer.echo(f"drift since {each.get('since')}: {each.get('says')}")
    raise typer.Exit(ExitCode.WAITING if planned.get("plan") or drift else ExitCode.DONE)


@app.command("apply")
def apply_command(
    ctx: typer.Context,
    reason: Reason,
    *,
    ticket: Ticket = None,
    dry_run: DryRun = False,
    plan: PlanDigest = None,
    supersede: Supersede = False,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    as_json: Json = False,
) -> None:
    """Make the control planes hold what the configuration says; print the plan first."""
    from dataclasses import replace  # noqa: PLC0415 -- with the next one

    from rotator.control import ApplyRequest  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    longest = given_duration(wait_at_most, "--wait-at-most")
    request = ApplyRequest(reason=reason, ticket=ticket, dry_run=True, plan=plan, supersede=supersede)
    daemon = asked.daemon()
    planned = daemon.apply(request)
    if not asked.as_json:
        _print_steps(asked, planned)
    if dry_run:
        finish_plan(asked, planned)
    answer = daemon.apply(replace(request, dry_run=False, plan=plan or planned.get("digest")))
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest)


@app.command("undo")
def undo_command(
    ctx: typer.Context,
    change: Annotated[str, typer.Argument(metavar="CHANGE", help="Its id, as rotator platform changes lists it.")],
    reason: Reason,
    *,
    ticket: Ticket = None,
    dry_run: DryRun = False,
    plan: PlanDigest = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also where a document is not as that change left it any more.")
    ] = False,
    supersede: Supersede = False,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    as_json: Json = False,
) -> None:
    """Write what was there before a change; print the plan first."""
    from dataclasses import replace  # noqa: PLC0415 -- with the next one

    from rotator.control import UndoRequest  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    longest = given_duration(wait_at_most, "--wait-at-most")
    request = UndoRequest(
        change=change,
        reason=reason,
        ticket=ticket,
        dry_run=True,
        plan=plan,
        overwrite=overwrite,
        supersede=supersede,
    )
    daemon = asked.daemon()
    planned = daemon.undo(request)
    if not asked.as_json:
        _print_steps(asked, planned)
        for each in planned.get("differs") or ():
            typer.echo(f"not as that change left it: {each}", err=True)
    if dry_run:
        finish_plan(asked, planned)
    answer = daemon.undo(replace(request, dry_run=False, plan=plan or planned.get("digest")))
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest)


@app.command("changes")
def changes_command(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the newest changes of the platform's documents, newest first."""
    asked = invocation(ctx, as_json=as_json)
    found = (asked.daemon().status().get("platform") or {}).get("changes") or []
    if asked.as_json:
        print_json({"changes": found})
        return
    for each in found:
        of = f" of {each['undoes']}" if each.get("undoes") else ""
        typer.echo(f"{each['id']}  {each['kind']}{of}: {each['documents']} documents, plan {each['plan_sha256']}")


def _print_steps(asked: Invocation, planned: Mapping[str, Any]) -> None:
    """Print what *planned* would write, mesh by mesh, each with its place in the order of writing, and the digest."""
    from rich.syntax import Syntax  # noqa: PLC0415 -- heavy

    plan = list(planned.get("plan") or ())
    if not plan:
        typer.echo("nothing to do: every control plane holds what is wanted")
        return
    console = asked.console()
    for domain in dict.fromkeys(each.get("trust_domain") for each in plan):
        typer.echo(f"# the mesh of {domain}")
        for number, each in enumerate(plan, start=1):
            if each.get("trust_domain") != domain:
                continue
            typer.echo(f"\n{number}. {each.get('what')}")
            if console.is_terminal:
                console.print(Syntax(str(each.get("diff", "")), "diff"))
            else:
                typer.echo(each.get("diff", ""))
    typer.echo(f"\nplan {planned.get('digest')}")
