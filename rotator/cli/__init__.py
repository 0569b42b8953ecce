"""
The console command: every command in one tree, and one way out of it.

Rules that must stay true here:

- Exit codes are the contract's (`rotator.exits`); an error is one line that says what to do next (a configuration's
  mistakes: one line each), with ``--debug`` also the traceback.
- With ``--json`` an error is a JSON object on standard output as well.
- Nothing that a secret could stand in is printed unredacted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
import typer.main

from rotator import __version__
from rotator.cli import audit, configuration, demo, meshes, operate, platform, who_ran
from rotator.cli.invocation import DEFAULT_CONFIG, Invocation, print_json
from rotator.errors import RotatorError
from rotator.exits import ExitCode, exit_code
from rotator.redaction import redacted_text

_INTERRUPTED = 130

app = typer.Typer(
    name="rotator",
    help="Keep certificates and identities short-lived: rotated without a failed handshake, proven to outsiders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 -- Typer calls it by position
    if wanted:
        typer.echo(f"rotator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    config: Annotated[
        Path,
        typer.Option("--config", envvar="ROTATOR_CONFIG", help="Read this configuration.", metavar="FILE"),
    ] = DEFAULT_CONFIG,
    *,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            envvar="ROTATOR_CONTEXT",
            metavar="NAME",
            help="Ask in the cluster of this context of your kubeconfig (default: on this machine).",
        ),
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig",
            metavar="FILE",
            help="Ask in a cluster, with this kubeconfig (default with --context: KUBECONFIG, else ~/.kube/config).",
        ),
    ] = None,
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            envvar="ROTATOR_NAMESPACE",
            metavar="NAME",
            help="Rotator's own in that cluster (default: rotator).",
        ),
    ] = "rotator",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (default: text and tables).")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    del version
    ctx.obj = Invocation(
        config=config, as_json=as_json, debug=debug, kubeconfig=kubeconfig, context=context, namespace=namespace
    )


app.add_typer(operate.app)
app.add_typer(meshes.app)
app.add_typer(configuration.app, name="config")
app.add_typer(platform.app, name="platform")
audit.app.command("who-ran")(who_ran.who_ran)
app.add_typer(audit.app, name="evidence")
app.command("demo")(demo.demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (default: the process's own) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        # Not standalone: errors come here instead of being printed by the library in its own way.
        result = typer.main.get_command(app).main(given, prog_name="rotator", standalone_mode=False)
    except RotatorError as e:
        return _failed(e, str(e), exit_code(e), given)
    except typer.TyperException as e:
        said = e.format_message().rstrip(".")
        # Empty where the library has already printed the help instead.
        return _failed(e, f"{said}: see rotator --help", ExitCode.USAGE, given) if said else ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough; nothing more may be written, also not when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as e:  # noqa: BLE001 -- the last frame: whatever it is, a person gets one line and a code
        said = f"an error that nobody expected ({type(e).__name__}: {e}): run it again with --debug and report it"
        return _failed(e, said, ExitCode.FAILED, given)
    return result if isinstance(result, int) else ExitCode.DONE


def _failed(error: BaseException, message: str, code: ExitCode, given: Sequence[str]) -> int:
    if "--debug" in given:
        sys.stderr.write(redacted_text("".join(traceback.format_exception(error))))
    message = redacted_text(message)
    sys.stderr.write(f"{message}\n")
    if "--json" in given:
        print_json({"error": {"kind": type(error).__name__, "message": message, "exit_code": int(code)}})
    return int(code)
