"""
The auditor's commands: ``evidence verify``, ``prove`` and ``reconcile``, and ``key``, whose output auditors are given.

Rules that must stay true here:

- No logic that another room could hold: read what was given, ask `rotator.evidence`, print, exit.
- ``verify`` and ``prove`` need no configuration, no network and no running daemon: an auditor has the directory alone.
- Exit codes are the contract's; with ``--json`` standard output holds one JSON object and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, cast

import typer

from rotator.core.event import Commitment, Event
from rotator.durations import parse_duration
from rotator.errors import ConfigError, LedgerTampered, RotatorError
from rotator.evidence.prove import prove
from rotator.evidence.reconcile import Report, reconcile, summary_event
from rotator.evidence.record import Record
from rotator.evidence.signer import LocalSigner
from rotator.evidence.verify import Verdict, outside, verify
from rotator.ports import IssuedCertificate

if TYPE_CHECKING:
    from rotator.settings import Settings

FAILED, USAGE = 1, 2


class AuditSources(Protocol):
    """What ``reconcile``, and ``verify`` without a directory, need of the configured installation."""

    @property
    def log_directory(self) -> Path:
        """Return where the evidence log lies."""
        ...

    def records(self) -> Iterable[Record]:
        """Return the whole ledger, in order."""
        ...

    def issued(self) -> Iterable[IssuedCertificate]:
        """Return the CA's own lists: every trust domain's leaves, and the CAs that the corporate PKI signed for it."""
        ...

    def now(self) -> datetime:
        """Return the wall clock."""
        ...

    def note(self, event: Event) -> None:
        """Append *event* to the ledger."""
        ...

    def reveal(self, commitment: Commitment) -> str | None:
        """Return the name or words behind *commitment*; None if they were erased."""
        ...


class AuditContext(Protocol):
    """What the root command puts into ``ctx.obj``."""

    @property
    def as_json(self) -> bool:
        """Return whether ``--json`` was given before the command."""
        ...

    def audit_sources(self) -> AuditSources:
        """Wire the configured installation. Raises `ConfigError` if there is none."""
        ...

    def settings(self) -> Settings:
        """Return the configuration. Raises `ConfigError` with every mistake in it."""
        ...


app = typer.Typer(
    name="evidence", help="Check, prove and reconcile the evidence log.", no_args_is_help=True, add_completion=False
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object (default: sentences).")]
LogDirectory = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="The log's directory (default: ledger.path of the configuration)."),
]


@app.command("key")
def key_command(
    ctx: typer.Context,
    *,
    make: Annotated[
        bool, typer.Option("--make", help="Make the signing key first, in ledger.signing_key_file (default: no).")
    ] = False,
) -> None:
    """Print the log's verifier key, to be given to auditors by another way than the log."""
    try:
        ledger = _context(ctx).settings().ledger
        if make:
            signer = LocalSigner.generate(ledger.signing_key_file, ledger.origin)
        else:
            signer = LocalSigner(ledger.signing_key_file, ledger.origin)
    except RotatorError as e:
        fail(e, USAGE)
    typer.echo(signer.verifier_key)


@app.command("verify")
def verify_command(
    ctx: typer.Context,
    key: Annotated[Path, typer.Option("--key", help="The log's verifier key, kept outside the log.")],
    directory: LogDirectory = None,
    pinned: Annotated[
        list[Path] | None, typer.Option("--pinned", help="A checkpoint kept elsewhere; may be given more than once.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="A tlog-policy file; its quorum must have cosigned.")
    ] = None,
    under_way: Annotated[
        str, typer.Option("--under-way", help="A rotation this young needs no outcome yet, like 90s (default: 0s).")
    ] = "0s",
    *,
    as_json: Json = False,
) -> None:
    """Check a log: 0 whole and witnessed, 1 tampered, 2 usage, 3 UNWITNESSED, 4 incomplete."""
    as_json = as_json or wants_json(ctx)
    try:
        where = directory or sources_of(ctx).log_directory
        verdict = verify(
            where,
            outside(key, where, "the verifier key").decode(errors="replace"),
            pinned=[outside(path, where, "the pinned checkpoint") for path in pinned or ()],
            policy=outside(policy, where, "the witness policy") if policy else None,
            under_way=_duration(under_way),
        )
    except RotatorError as e:
        # Not "tampered", which is a finding: nothing could be found.
        fail(e, USAGE)
    if as_json:
        print_json(verdict.as_json())
    else:
        _print_verdict(verdict)
    raise typer.Exit(verdict.exit_code)


@app.command("prove")
def prove_command(
    ctx: typer.Context,
    wanted: Annotated[str, typer.Argument(metavar="ID", help="The record's id, or its number.")],
    directory: Annotated[
        Path | None, typer.Option("--log", help="The log's directory (default: ledger.path of the configuration).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the proof here, and the record beside it (default: print it).")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Prove that a record is in the log, in the format c2sp.org/tlog-proof@v1."""
    try:
        where = directory or sources_of(ctx).log_directory
        proof = prove(where, wanted)
        if out is not None:
            _write(out, proof.text)
            _write(out.with_suffix(".record.json"), proof.record)
    except LedgerTampered as e:
        fail(e, FAILED)
    except RotatorError as e:
        fail(e, USAGE)
    if as_json or wants_json(ctx):
        print_json({"seq": proof.seq, "record": json.loads(proof.record), "proof": proof.text.decode()})
    elif out is None:
        sys.stdout.write(proof.text.decode())
    else:
        typer.echo(f"record {proof.seq}: proof in {out}, record in {out.with_suffix('.record.json')}")


@app.command("reconcile")
def reconcile_command(
    ctx: typer.Context,
    *,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Append the result to the ledger (default: yes).")
    ] = True,
    as_json: Json = False,
) -> None:
    """Compare the ledger with the CA's own list, both ways: 0 they agree, 1 they differ."""
    try:
        sources = sources_of(ctx)
        report = reconcile(sources.records(), sources.issued(), sources.now())
        if record:
            sources.note(summary_event(report))
    except ConfigError as e:
        fail(e, USAGE)
    except RotatorError as e:
        fail(e, FAILED)
    if as_json or wants_json(ctx):
        print_json(report.as_json())
    else:
        _print_report(report)
    raise typer.Exit(0 if report.agrees else FAILED)


def _print_verdict(verdict: Verdict) -> None:
    size = "no readable checkpoint" if verdict.size is None else f"{verdict.size} records, root {verdict.root}"
    typer.echo(f"{verdict.state.value.upper()}: {verdict.origin}, {size}")
    for finding in verdict.findings:
        typer.echo(f"  {finding.weight.value}: {finding.what}")
    if verdict.pinned:
        typer.echo(f"  it continues {verdict.pinned} pinned checkpoint{'s' if verdict.pinned > 1 else ''}")
    if verdict.witnessed:
        typer.echo(f"  cosigned by {', '.join(verdict.cosigners)}")


def _print_report(report: Report) -> None:
    verdict = "they agree" if report.agrees else "they DIFFER"
    typer.echo(f"{report.in_ledger} certificates in the ledger, {report.in_ca} on the CA's lists: {verdict}")
    for orphan in report.not_in_ledger:
        why = "never asked for here" if orphan.intended is None else f"intended in record {orphan.intended}"
        typer.echo(f"  in the CA, not in the ledger: {orphan.certificate.serial} {orphan.certificate.subject} ({why})")
    for what, claims in (
        ("in the ledger, not in the CA", report.not_in_ca),
        ("revoked in the ledger, not in the CA", report.not_revoked),
        ("revoked in the CA, not in the ledger", report.revoked_elsewhere),
        ("issued, never published, and no end recorded", report.unpublished),
        ("entered late", report.late),
    ):
        for claim in claims:
            typer.echo(f"  {what}: {claim.serial} of {claim.subject} (record {claim.seq})")
    if report.missed:
        typer.echo(f"  {report.missed} rotations are recorded as missed")


def _context(ctx: typer.Context) -> AuditContext:
    if ctx.obj is None:
        raise ConfigError("no configuration: name the log's directory")
    return cast("AuditContext", ctx.obj)


def sources_of(ctx: typer.Context) -> AuditSources:
    """Return what the configured installation has to tell. Raises `ConfigError` if there is none."""
    return _context(ctx).audit_sources()


def wants_json(ctx: typer.Context) -> bool:
    """Return whether ``--json`` was given before the command."""
    return ctx.obj is not None and cast("AuditContext", ctx.obj).as_json


def _duration(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as e:
        raise ConfigError(f"--under-way: {e}") from e


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as e:
        raise ConfigError(f"cannot write {path}: {e.strerror}") from e


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(value, indent=2))


def fail(error: RotatorError, code: int) -> NoReturn:
    """End with *code* and one line."""
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code) from error
