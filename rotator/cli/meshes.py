"""
The operator's commands about meshes and about what rotator needs around it.

Rules that must stay true here:

- No logic that another room could hold: read the arguments, ask, print, exit with the contract's code.
- A mesh is adopted by asking the daemon, so that it knows who asked; on one machine the plan is printed first, in a
  cluster with the answer.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotator.cli.invocation import Invocation, invocation, print_json
from rotator.cli.operate import (
    Json,
    Reason,
    Wait,
    WaitAtMost,
    finish,
    finish_plan,
    given_duration,
    print_plan,
)
from rotator.exits import ExitCode

if TYPE_CHECKING:
    from rotator.doctor import CallReport

app = typer.Typer()


@app.command("adopt")
def adopt_command(
    ctx: typer.Context,
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="The trust domain of a mesh.")],
    reason: Reason,
    *,
    ticket: Annotated[str | None, typer.Option("--ticket", metavar="ID", help="Name the ticket it belongs to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")] = False,
    accept_interruption: Annotated[
        str | None,
        typer.Option(
            "--accept-interruption",
            metavar="TEXT",
            help="Say why what the plan says will be interrupted may be; recorded as an exception; a right of its own.",
        ),
    ] = None,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    as_json: Json = False,
) -> None:
    """Lead a mesh that runs on a CA which rotator did not make; print the plan first."""
    from dataclasses import replace  # noqa: PLC0415 -- with the next one

    from rotator.control import AdoptRequest  # noqa: PLC0415 -- heavy
    from rotator.core.model import SubjectName  # noqa: PLC0415 -- with the one above

    asked = invocation(ctx, as_json=as_json)
    longest = given_duration(wait_at_most, "--wait-at-most")
    request = AdoptRequest(subject=SubjectName(domain), reason=reason, ticket=ticket, dry_run=True)
    daemon = asked.daemon()
    if dry_run or daemon.plans_first:
        planned = daemon.adopt(request)
        _print_found(asked, domain, planned)
        if dry_run:
            finish_plan(asked, planned)
    answer = daemon.adopt(replace(request, dry_run=False, accept_interruption=accept_interruption))
    if not daemon.plans_first:
        _print_found(asked, domain, answer)
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest)


def _print_found(asked: Invocation, domain: str, planned: Mapping[str, Any]) -> None:
    """Print what a mesh runs on, what its adoption does, and what that interrupts."""
    if asked.as_json:
        return
    if planned.get("found"):
        typer.echo(f"{domain}: found {planned['found']}")
    print_plan(asked, planned)
    if planned.get("interrupts"):
        typer.echo(f"this interrupts: {planned['interrupts']}", err=True)


@app.command("doctor")
def doctor_command(
    ctx: typer.Context,
    *,
    caller: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="IDENTITY",
            help="Look at one refused call: who calls (ENVIRONMENT/NAME, a SPIFFE ID, or a Dataplane's name).",
        ),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DESTINATION", help="What is called: ENVIRONMENT/NAME, a hostname, or a SPIFFE ID."
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", metavar="NAME", help="The environment of names that say none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every connection and right that rotator will need, or where one call breaks; say how to mend it."""
    asked = invocation(ctx, as_json=as_json)
    if (caller is None) != (destination is None):
        raise typer.BadParameter("a call has two ends: give --from and --to")
    if environment is not None and caller is None:
        raise typer.BadParameter("--environment belongs to --from and --to")
    settings = asked.settings()
    from rotator.clock import SystemClock  # noqa: PLC0415 -- heavy with the next one
    from rotator.doctor import Grade, examine, examine_call  # noqa: PLC0415 -- heavy

    if caller is not None and destination is not None:
        report = examine_call(
            settings, caller=caller, destination=destination, environment=environment, clock=SystemClock()
        )
        _print_call(asked, report)
        raise typer.Exit(ExitCode.DONE if report.verdict.broken is None else ExitCode.FAILED)
    findings = tuple(examine(settings, clock=SystemClock()))
    broken = sum(each.grade is Grade.BROKEN for each in findings)
    if asked.as_json:
        print_json(
            {
                "findings": [
                    {"about": each.about, "grade": each.grade.value, "what": each.what, "mend": each.mend or None}
                    for each in findings
                ],
                "broken": broken,
                "warnings": sum(each.grade is Grade.WARNING for each in findings),
            }
        )
    else:
        from rotator.cli.tables import findings_view  # noqa: PLC0415 -- heavy

        asked.console().print(
            findings_view([(each.grade.value, each.about, each.what, each.mend) for each in findings])
        )
    raise typer.Exit(ExitCode.FAILED if broken else ExitCode.DONE)


def _print_call(asked: Invocation, report: CallReport) -> None:
    """Print every link of a call, and first of all the one that is broken."""
    from rotator.doctor.call_words import as_document, as_findings, headline  # noqa: PLC0415 -- heavy

    if asked.as_json:
        print_json(as_document(report))
        return
    from rotator.cli.tables import findings_view  # noqa: PLC0415 -- heavy

    asked.console().print(
        findings_view([(each.grade.value, each.about, each.what, each.mend) for each in as_findings(report)])
    )
    asked.console().print(headline(report))
