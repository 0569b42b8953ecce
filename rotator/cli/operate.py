"""
The operator's commands: the daemon, and everything that is asked of it, on this machine or in a cluster.

Rules that must stay true here:

- No logic that another room could hold: read the arguments, ask, print, exit with the contract's code.
- What changes something goes through the control socket, or by an object made with the asker's own kubeconfig, so that
  the daemon knows who asked.
- Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rotator.cli.invocation import Invocation, invocation, print_json
from rotator.clock import SystemClock
from rotator.durations import parse_duration, parse_moment
from rotator.errors import ConfigError
from rotator.exits import ExitCode

if TYPE_CHECKING:
    from rotator.control import Daemon

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON (default: text and tables).")]
Reason = Annotated[str, typer.Option("--reason", help="Say why; it stands in the ledger as a commitment.")]
RequestId = Annotated[str, typer.Argument(metavar="ID", help="The request, as rotator status names it.")]
Subject = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="A certificate's, trust domain's, token's or signing key's name.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Show progress until the last consumer is proven (default: no).")]
WaitAtMost = Annotated[
    str | None, typer.Option("--wait-at-most", metavar="DURATION", help="Stop watching then, with exit code 3.")
]


@app.command("run")
def run_command(ctx: typer.Context) -> None:
    """Run the daemon in the foreground."""
    from rotator.daemon import run  # noqa: PLC0415 -- heavy

    raise typer.Exit(run(invocation(ctx).config))


@app.command("rotate-now")
def rotate_now_command(
    ctx: typer.Context,
    reason: Reason,
    subject: Annotated[
        str | None,
        typer.Argument(metavar="[SUBJECT]", help="A certificate's, trust domain's, token's or signing key's name."),
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Rotate every certificate, trust domain, token and signing key.")
    ] = False,
    ticket: Annotated[str | None, typer.Option("--ticket", metavar="ID", help="Name the ticket it belongs to.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")] = False,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Skip windows and freezes, and nothing else; a right of its own.")
    ] = False,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Revoke a trust domain's CA first, and move without waiting.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="With --compromised: type SUBJECT once more.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask for a rotation now."""
    from dataclasses import replace  # noqa: PLC0415 -- with the next one

    from rotator.control import RotateRequest  # noqa: PLC0415 -- heavy
    from rotator.core.model import SubjectName  # noqa: PLC0415 -- with the one above

    asked = invocation(ctx, as_json=as_json)
    if (subject is None) != everything:
        raise ConfigError("name one SUBJECT, or give --all")
    _check_compromise(subject, compromised=compromised, confirm=confirm)
    longest = given_duration(wait_at_most, "--wait-at-most")
    request = RotateRequest(
        subjects=() if subject is None else (SubjectName(subject),),
        everything=everything,
        reason=reason,
        ticket=ticket,
        dry_run=True,
        emergency=emergency,
        compromised=compromised,
    )
    daemon = asked.daemon()
    if dry_run or daemon.plans_first:
        planned = daemon.rotate(request)
        if not asked.as_json:
            print_plan(asked, planned)
        if dry_run:
            finish_plan(asked, planned)
    answer = daemon.rotate(replace(request, dry_run=False))
    if not (daemon.plans_first or asked.as_json):
        print_plan(asked, answer)
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest)


@app.command("plan")
def plan_command(
    ctx: typer.Context,
    horizon: Annotated[
        str, typer.Option("--horizon", metavar="DURATION", help="Look so far ahead (default: 24h).")
    ] = "24h",
    *,
    as_json: Json = False,
) -> None:
    """Say what will happen when, and why; change nothing."""
    asked = invocation(ctx, as_json=as_json)
    rows = asked.daemon().plan(given_duration(horizon, "--horizon") or timedelta())
    if asked.as_json:
        print_json(rows)
        return
    from rotator.cli.tables import plan_view  # noqa: PLC0415 -- heavy

    asked.console().print(plan_view(rows, SystemClock().now()) if rows else f"nothing within {horizon}")


@app.command("status")
def status_command(
    ctx: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show every subject: phase, generation, expiry, next action, who is waited on."""
    asked = invocation(ctx, as_json=as_json)
    daemon = asked.daemon(timeout=timedelta(seconds=10))
    status = daemon.status()
    if asked.as_json:
        print_json(status, one_line=watch)
        while watch:
            _breathe()
            print_json(daemon.status(), one_line=True)
        return
    from rotator.cli.tables import status_view  # noqa: PLC0415 -- heavy

    clock = SystemClock()
    if not watch:
        asked.console().print(status_view(status, clock.now()))
        return
    from rich.live import Live  # noqa: PLC0415 -- heavy

    from rotator.errors import Unavailable  # noqa: PLC0415 -- with its use

    with Live(status_view(status, clock.now()), console=asked.console(), auto_refresh=False) as live:
        while True:
            _breathe()
            try:
                live.update(status_view(daemon.status(), clock.now()), refresh=True)
            except Unavailable as e:
                live.update(str(e), refresh=True)


@app.command("explain")
def explain_command(
    ctx: typer.Context,
    subject: Annotated[
        str | None, typer.Argument(metavar="[SUBJECT]", help="A certificate's or a trust domain's name.")
    ] = None,
    *,
    serial: Annotated[
        str | None, typer.Option("--serial", help="Instead: of a certificate that was met in a call.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", metavar="NAME", help="Beside or instead of it: who signed it.")
    ] = None,
    spiffe_id: Annotated[
        str | None, typer.Option("--spiffe-id", metavar="ID", help="Beside or instead of it: whom it names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell a subject's life story from the ledger, in sentences; by name, or by what a line of a call says."""
    asked = invocation(ctx, as_json=as_json)
    settings = asked.settings()
    clues = [each for each in (serial, issuer, spiffe_id) if each is not None]
    if (subject is None) != bool(clues):
        raise ConfigError("name either a subject, or what a call showed: --serial, --issuer, --spiffe-id")
    from rotator.bootstrap import open_store  # noqa: PLC0415 -- heavy
    from rotator.evidence.ledger import records, story  # noqa: PLC0415 -- heavy
    from rotator.evidence.whose import Clue, whose  # noqa: PLC0415 -- with the one above
    from rotator.pki.certificates import normal_serial  # noqa: PLC0415 -- heavy

    # Opening would make an empty one, owned by whoever asked.
    if settings.store.startswith("sqlite:") and not Path(settings.store.removeprefix("sqlite:///")).exists():
        raise ConfigError(f"there is no ledger at {settings.store}: start the daemon once, or mend store")
    store = open_store(settings)
    try:
        found = None
        if subject is None:
            clue = Clue(serial=normal_serial(serial) if serial else "", issuer=issuer or "", spiffe_id=spiffe_id or "")
            found = whose(records(store), clue)
            if found is None:
                raise ConfigError(
                    f"no record knows {' or '.join(clues)}: a leaf of a mesh is known by its --issuer or --spiffe-id"
                )
            subject = found.subject
        told = story(records(store), subject)
    finally:
        store.close()
    known = [
        *settings.certificates,
        *settings.trust_domains,
        *settings.workloads,
        *settings.tokens,
        *settings.signing_keys,
    ]
    known += ["platform"] if settings.platform is not None else []
    if not told and subject not in known:
        near = difflib.get_close_matches(subject, known, n=1)
        raise ConfigError(
            f"nothing is known of {subject}: " + (f"did you mean {near[0]}?" if near else "mend the name")
        )
    if asked.as_json:
        about = {"by": found.by, "made_in": found.made_in, "last_rotation": found.last} if found is not None else None
        print_json({"subject": subject, "story": told} | ({"met": about} if about is not None else {}))
        return
    for sentence in (*(found.sentences() if found is not None else ()), *told) or [
        f"nothing has been recorded of {subject} yet"
    ]:
        typer.echo(sentence)


@app.command("pause")
def pause_command(
    ctx: typer.Context,
    subject: Subject,
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="Hold until then: 2026-12-20T00:00:00Z, or 2h from now.")
    ],
    reason: Reason,
    *,
    past_safety_line: Annotated[
        bool, typer.Option("--past-safety-line", help="Let it expire rather than go on; a right of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold a subject; it goes on at its safety line unless told otherwise."""
    from rotator.control import PauseRequest  # noqa: PLC0415 -- heavy
    from rotator.core.model import SubjectName  # noqa: PLC0415 -- with the one above

    asked = invocation(ctx, as_json=as_json)
    request = PauseRequest(
        subject=SubjectName(subject), until=_moment(until), reason=reason, past_safety_line=past_safety_line
    )
    _print_answer(asked, asked.daemon().pause(request), "{subject} is paused until {paused_until}")


@app.command("approve")
def approve_command(
    ctx: typer.Context,
    request: RequestId,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Say why; it stands in the ledger as a commitment.")
    ] = None,
    *,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    as_json: Json = False,
) -> None:
    """Agree to what somebody else asks; the last word that is needed carries it out."""
    from rotator.control import ApproveRequest  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    longest = given_duration(wait_at_most, "--wait-at-most")
    daemon = asked.daemon()
    answer = daemon.approve(ApproveRequest(id=request, reason=reason))
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest)


@app.command("reject")
def reject_command(ctx: typer.Context, request: RequestId, reason: Reason, *, as_json: Json = False) -> None:
    """End what somebody asks with a no; nothing of it is carried out."""
    from rotator.control import RejectRequest  # noqa: PLC0415 -- heavy

    asked = invocation(ctx, as_json=as_json)
    answer = asked.daemon().reject(RejectRequest(id=request, reason=reason))
    if asked.as_json:
        print_json(answer)
    else:
        typer.echo(f"request {request} is rejected")


@app.command("resume")
def resume_command(ctx: typer.Context, subject: Subject, *, as_json: Json = False) -> None:
    """Let a paused subject go on."""
    asked = invocation(ctx, as_json=as_json)
    _print_answer(asked, asked.daemon().resume(subject), "{subject} goes on")


@app.command("rollback")
def rollback_command(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="A trust domain's name.")],
    reason: Reason,
    *,
    wait: Wait = False,
    wait_at_most: WaitAtMost = None,
    as_json: Json = False,
) -> None:
    """Walk an unfinished CA rotation back."""
    from rotator.control import RollbackRequest  # noqa: PLC0415 -- heavy
    from rotator.core.model import SubjectName  # noqa: PLC0415 -- with the one above

    asked = invocation(ctx, as_json=as_json)
    longest = given_duration(wait_at_most, "--wait-at-most")
    daemon = asked.daemon()
    answer = daemon.rollback(RollbackRequest(subject=SubjectName(subject), reason=reason))
    if not asked.as_json:
        print_plan(asked, answer)
    finish(asked, daemon, answer, wait=wait or longest is not None, at_most=longest, back=True)


# --- what several of them share ---------------------------------------------------------------------------------------


def _check_compromise(subject: str | None, *, compromised: bool, confirm: str | None) -> None:
    """Raise `ConfigError` unless a compromise was confirmed by typing its name (law 8)."""
    if not compromised:
        if confirm is not None:
            raise ConfigError("--confirm belongs to --compromised: give both or neither")
        return
    if subject is None:
        raise ConfigError("--compromised is for one trust domain: name it")
    if confirm != subject:
        raise ConfigError(
            f"a compromise revokes the CA of {subject} before its successor is trusted, and connections will fail: "
            f"type --confirm {subject} if that is what you want"
        )


def finish(
    asked: Invocation,
    daemon: Daemon,
    answer: Mapping[str, Any],
    *,
    wait: bool,
    at_most: timedelta | None,
    back: bool = False,
) -> None:
    """Print what was opened, follow it if asked to, and exit with what became of it."""
    opened = [each for each in answer.get("rotations") or () if isinstance(each, Mapping)]
    waiting_on = [str(each) for each in answer.get("waiting_on") or ()]
    if not asked.as_json:
        for each in opened:
            typer.echo(f"{each.get('subject')}: rotation {each.get('id')} is accepted")
        for each in answer.get("refused") or ():
            typer.echo(f"{each.get('subject')}: refused: {each.get('why')}", err=True)
    if wait and waiting_on and isinstance(answer.get("request"), Mapping):
        from rotator.cli.following import decided  # noqa: PLC0415 -- heavy

        request = decided(daemon, str(answer["request"]["id"]), clock=SystemClock(), at_most=at_most)
        opened = [{"id": each} for each in request.get("rotations") or ()]
        answer, waiting_on = {**answer, "request": request, "waiting_on": []}, []
        if request.get("state") in {"awaiting_approval", "pending"}:
            waiting_on = [str(each) for each in _waiting(request)]
            answer = {**answer, "waiting_on": waiting_on}
        elif request.get("state") in {"refused", "rejected", "expired"}:
            answer = {**answer, "refused": [{"subject": "request", "why": request.get("outcome")}]}
            if not asked.as_json:
                typer.echo(f"request {request.get('id')}: {request.get('state')}: {request.get('outcome')}", err=True)
    if wait and opened:
        from rotator.cli.following import watched  # noqa: PLC0415 -- heavy

        console = None if asked.as_json else asked.console()
        followed = watched(daemon, [str(each["id"]) for each in opened], console=console, at_most=at_most)
        if asked.as_json:
            print_json({**answer, "rotations": list(followed.progress.values())})
        code = followed.code
        # Rolled back is what a rollback is for.
        if back and {seen.get("state") for seen in followed.progress.values()} <= {"done", "rolled_back"}:
            code = ExitCode.DONE
        raise typer.Exit(max(code, refused_code(answer)))
    if asked.as_json:
        print_json(answer)
    elif waiting_on:
        typer.echo(_waiting_line(answer, waiting_on))
    refused = refused_code(answer)
    raise typer.Exit(refused or (ExitCode.WAITING if waiting_on else ExitCode.DONE))


def refused_code(answer: Mapping[str, Any]) -> ExitCode:
    """Return the exit code of what the daemon, or whoever was to approve, refused in *answer*."""
    request = answer.get("request")
    if isinstance(request, Mapping) and request.get("state") in {"rejected", "expired"}:
        return ExitCode.DENIED
    return ExitCode.LAW if answer.get("refused") else ExitCode.DONE


def print_plan(asked: Invocation, answer: Mapping[str, Any]) -> None:
    """Print the plan in *answer*, if it has one."""
    from rotator.cli.tables import steps_view  # noqa: PLC0415 -- heavy

    plan = [each for each in answer.get("plan") or () if isinstance(each, Mapping)]
    if plan:
        asked.console().print(steps_view(plan))


def finish_plan(asked: Invocation, planned: Mapping[str, Any]) -> NoReturn:
    """End a command that only plans, with what would be refused as its exit code."""
    if asked.as_json:
        print_json(planned)
    waits = planned.get("waiting_on") and not planned.get("plan")
    if waits and not asked.as_json:
        typer.echo(_waiting_line(planned, [str(each) for each in planned["waiting_on"]]))
    raise typer.Exit(refused_code(planned) or (ExitCode.WAITING if waits else ExitCode.DONE))


def _waiting(request: Mapping[str, Any]) -> list[str]:
    missing = int(request.get("approvals_needed") or 0) - int(request.get("approvals_given") or 0)
    return [f"{missing} more approval{'s' if missing != 1 else ''}"] if missing > 0 else ["an answer"]


def _waiting_line(answer: Mapping[str, Any], waiting_on: Sequence[str]) -> str:
    """Return what is waited for and, where it is somebody's word, how it is said."""
    line = f"waiting on {', '.join(waiting_on)}"
    request = answer.get("request")
    if not isinstance(request, Mapping):
        return line
    if not request.get("expires_at"):
        return f"request {request.get('id')} is made: {line}"
    return f"request {request.get('id')} is {line} until {request['expires_at']}: rotator approve {request.get('id')}"


def _print_answer(asked: Invocation, answer: Mapping[str, Any], sentence: str) -> None:
    """Print what became of an order that opens no rotation, and exit with it."""
    waiting_on = [str(each) for each in answer.get("waiting_on") or ()]
    if asked.as_json:
        print_json(answer)
    elif answer.get("refused"):
        for each in answer["refused"]:
            typer.echo(f"{each.get('subject')}: refused: {each.get('why')}", err=True)
    elif waiting_on:
        typer.echo(_waiting_line(answer, waiting_on))
    else:
        typer.echo(sentence.format_map(answer))
    raise typer.Exit(refused_code(answer) or (ExitCode.WAITING if waiting_on else ExitCode.DONE))


def given_duration(text: str | None, option: str) -> timedelta | None:
    """Return the duration given with *option*, None if none was."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as e:
        raise ConfigError(f"{option}: found {text!r}; allowed such as 90s, 12h or 7d; write number and unit") from e


def _moment(text: str) -> datetime:
    """Return the moment that *text* says, or that lies so far from now."""
    try:
        return SystemClock().now() + parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_moment(text)
    except ValueError as e:
        raise ConfigError(
            f"--until: found {text!r}; allowed a moment such as 2026-12-20T00:00:00Z, or 2h from now; write one"
        ) from e


def _breathe() -> None:
    SystemClock().wait(threading.Event(), timedelta(seconds=1))
