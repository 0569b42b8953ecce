"""The operator's commands against a real control socket: what they print, and the exit codes of the contract."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rotator.bootstrap import open_store
from rotator.cli import main
from rotator.cli.following import Followed, follow, watched
from rotator.cli.tables import plan_view, status_view
from rotator.control import ControlClient, ControlServer, PauseRequest, RollbackRequest, RotateRequest
from rotator.core.event import Event, EventType
from rotator.core.model import SubjectName
from rotator.errors import ConfigError, Denied, InvariantBroken, JournalError, Unavailable
from rotator.exits import ExitCode
from rotator.settings import load
from rotator.telemetry import configure_logging
from tests.fakes.clock import ManualClock
from tests.fakes.operations import FakeOperations

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "envoy.yaml"
DONE = {"subject": "proxy", "state": "done", "phase": "in_use", "proven": 1, "total": 1, "outcome": "completed"}
OPEN = {"subject": "proxy", "state": "open", "phase": "published", "proven": 0, "total": 1, "waiting_on": ["envoy"]}
HELD = {**OPEN, "alert": True}
ROW = {
    "name": "proxy",
    "kind": "certificate",
    "phase": "in_use",
    "generation": 3,
    "serial": "0123456789abcdef",
    "not_before": "2030-01-01T00:00:00Z",
    "not_after": "2030-01-01T12:00:00Z",
    "renew_at": "2030-01-01T06:00:00Z",
    "safety_line": "2030-01-01T10:48:00Z",
    "waiting_on": [],
}
PROXY = SubjectName("proxy")
NOW = datetime(2030, 1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What one command did."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations(steps=[OPEN, OPEN, DONE])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration whose socket and store lie in the test's own directory."""
    text = EXAMPLE.read_text()
    for old, new in (("/run/rotator/control.sock", f"{tmp_path}/control.sock"), ("/var/lib/rotator", f"{tmp_path}")):
        text = text.replace(old, new)
    path = tmp_path / "rotator.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(["--config", str(config), *arguments])
        said = capsys.readouterr()
        return Ended(code=code, out=said.out, err=said.err)

    return go


@pytest.fixture
def daemon(config: Path, operations: FakeOperations) -> Iterator[ControlServer]:
    quiet = configure_logging("info", "json", io.StringIO())
    with ControlServer(config.parent / "control.sock", operations) as server:
        yield server
    quiet()


# --- asking for a rotation --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_rotate_now_prints_the_plan_first(run: Run, operations: FakeOperations) -> None:
    """The plan is asked for and printed before anything is opened; what was opened is named."""
    ended = run("rotate-now", "proxy", "--reason", "because", "--ticket", "T-1")
    planned = RotateRequest(subjects=(PROXY,), reason="because", ticket="T-1", dry_run=True)
    assert (0, "web\n  1. issue web anew\n  2. wait for proof\nproxy: rotation r-proxy is accepted\n") == (
        ended.code,
        ended.out,
    )
    assert [(planned, True), (planned, False)] == [
        (planned, order.dry_run) for order, _ in operations.asked if isinstance(order, RotateRequest)
    ]


@pytest.mark.usefixtures("daemon")
def test_a_dry_run_opens_nothing(run: Run, operations: FakeOperations) -> None:
    """--dry-run asks for the plan alone."""
    ended = run("rotate-now", "--all", "--reason", "because", "--dry-run")
    assert (0, [True]) == (
        ended.code,
        [order.dry_run for order, _ in operations.asked if isinstance(order, RotateRequest)],
    )
    assert "accepted" not in ended.out


@pytest.mark.usefixtures("daemon")
def test_waiting_shows_progress_until_it_is_proven(run: Run) -> None:
    """--wait prints each change and ends with 0 when the last consumer is proven."""
    ended = run("rotate-now", "proxy", "--reason", "because", "--wait")
    assert (0, ["proxy  published  0 of 1 consumers proven  waiting on envoy",
                "proxy  in_use  1 of 1 consumers proven  completed"]) == (
        ended.code, ended.out.splitlines()[-2:]
    )  # fmt: skip


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({**DONE, "state": "failed"}, ExitCode.FAILED),
        ({**DONE, "state": "rolled_back"}, ExitCode.FAILED),
        ({**DONE, "state": "refused"}, ExitCode.LAW),
        (HELD, ExitCode.WAITING),
    ],
    ids=["failed", "rolled back", "refused", "held"],
)
def test_waiting_ends_with_what_became_of_it(
    run: Run, operations: FakeOperations, last: dict[str, Any], expected: ExitCode
) -> None:
    """The exit code of --wait is the rotation's end; one that is held beyond its deadline is waiting."""
    operations.steps = [OPEN, last]
    assert expected == run("rotate-now", "proxy", "--reason", "because", "--wait").code


@pytest.mark.usefixtures("daemon")
def test_waiting_has_an_end(run: Run, operations: FakeOperations) -> None:
    """--wait-at-most stops watching with exit code 3 and stops nothing else."""
    operations.steps = [OPEN]
    assert 3 == run("rotate-now", "proxy", "--reason", "because", "--wait-at-most", "100ms").code


@pytest.mark.usefixtures("daemon")
def test_what_waits_already_is_exit_code_3(run: Run, operations: FakeOperations) -> None:
    """A request that was accepted and has to wait ends with 3 and says for whom."""
    operations.waiting_on = ["the window nights"]
    ended = run("rotate-now", "proxy", "--reason", "because")
    assert (3, "waiting on the window nights") == (ended.code, ended.out.splitlines()[-1])


@pytest.mark.usefixtures("daemon")
def test_law_05_a_refused_rotation_is_exit_code_4(run: Run, operations: FakeOperations) -> None:
    """A second rotation of one trust domain is refused with its reason and exit code 4."""
    operations.refused = [{"subject": "proxy", "why": "rotation r-1 is under way already (law 5)"}]
    ended = run("rotate-now", "proxy", "--reason", "because")
    assert (4, "proxy: refused: rotation r-1 is under way already (law 5)\n") == (ended.code, ended.err)


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    "arguments",
    [
        ("services.prod", "--compromised"),
        ("services.prod", "--compromised", "--confirm", "services"),
        ("--all", "--compromised", "--confirm", "services.prod"),
        ("services.prod", "--confirm", "services.prod"),
    ],
    ids=["not typed", "mistyped", "everything", "without the intent"],
)
def test_law_08_compromise_is_typed(run: Run, operations: FakeOperations, arguments: tuple[str, ...]) -> None:
    """A compromise that was not confirmed by typing its name asks the daemon for nothing."""
    ended = run("rotate-now", *arguments, "--reason", "because")
    assert (2, [], 1) == (ended.code, operations.asked, len(ended.err.splitlines()))


@pytest.mark.usefixtures("daemon")
def test_a_confirmed_compromise_is_asked_for(run: Run, operations: FakeOperations) -> None:
    """Typed in full, it is its own intent."""
    assert 0 == run("rotate-now", "services.prod", "--compromised", "--confirm", "services.prod", "--reason", "r").code
    assert [True, True] == [order.compromised for order, _ in operations.asked if isinstance(order, RotateRequest)]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize("arguments", [(), ("proxy", "--all")], ids=["neither", "both"])
def test_a_rotation_has_one_subject_or_all(run: Run, arguments: tuple[str, ...]) -> None:
    """Neither a name nor --all, or both, is a usage error."""
    assert (2, "name one SUBJECT, or give --all\n") == (
        (ended := run("rotate-now", *arguments, "--reason", "because")).code,
        ended.err,
    )


# --- the other orders -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_pause_resume_rollback(run: Run, operations: FakeOperations) -> None:
    """Each order arrives as it was given and is answered in a sentence."""
    said = [
        run("pause", "proxy", "--until", "2031-01-01T00:00:00Z", "--reason", "hold"),
        run("resume", "proxy"),
        run("rollback", "services.prod", "--reason", "back"),
    ]
    assert [0, 0, 0] == [each.code for each in said]
    assert [
        "proxy is paused until 2031-01-01T00:00:00Z\n",
        "proxy goes on\n",
        "services.prod: rotation r-services.prod is accepted\n",
    ] == [each.out for each in said]
    until = datetime(2031, 1, 1, tzinfo=UTC)
    assert [
        PauseRequest(subject=PROXY, until=until, reason="hold"),
        "proxy",
        RollbackRequest(subject=SubjectName("services.prod"), reason="back"),
    ] == [order for order, _ in operations.asked]


@pytest.mark.usefixtures("daemon")
def test_a_rollback_that_rolled_back_is_done(run: Run, operations: FakeOperations) -> None:
    """Rolled back is what a rollback is for: exit code 0."""
    operations.steps = [{**DONE, "state": "rolled_back"}]
    assert 0 == run("rollback", "services.prod", "--reason", "back", "--wait").code


@pytest.mark.usefixtures("daemon")
def test_pause_takes_a_duration(run: Run, operations: FakeOperations) -> None:
    """--until 2h is two hours from now."""
    before = datetime.now(tz=UTC).replace(microsecond=0)
    assert 0 == run("pause", "proxy", "--until", "2h", "--reason", "hold").code
    order = operations.asked[0][0]
    assert isinstance(order, PauseRequest)
    assert timedelta() <= order.until - (before + timedelta(hours=2)) < timedelta(minutes=1)


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("daemon")
def test_status_is_the_daemons_word(run: Run, operations: FakeOperations) -> None:
    """--json, before or after the command, prints the daemon's answer; without it stands a table."""
    operations.shown = {"subjects": [ROW], "ledger": {"size": 7, "checkpoint_at": None, "witness": "LOCAL"}}
    assert [operations.shown] * 2 == [
        json.loads(run(*each).out) for each in (("--json", "status"), ("status", "--json"))
    ]
    table = run("status").out
    assert ["proxy", "in", "use", "3", "0123456789ab"] == table.splitlines()[1].split()[:5]
    assert "ledger: 7 records, not signed yet, LOCAL" == table.splitlines()[-1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "1h ago in 11h renew in 5h -"),
        ({"waiting_on": ["a", "b"]}, "1h ago in 11h renew in 5h a, b"),
        ({"paused_until": "2030-01-01T02:30:00Z"}, "1h ago in 11h paused for 1h30m -"),
        ({"open_rotation": {"intent": "roll_back"}}, "1h ago in 11h roll back under way -"),
        ({"not_after": "2030-01-01T00:30:00Z"}, "1h ago expired 30m ago renew in 5h -"),
        ({"error": "Vault did not answer"}, "1h ago in 11h retry: Vault did not answer -"),
        ({"not_before": None, "not_after": None, "renew_at": None}, "- - - -"),
        ({"renew_at": "2030-01-01T00:59:00Z"}, "1h ago in 11h renew now -"),
        ({"not_after": "[bold]x"}, "1h ago - renew in 5h -"),
    ],
)
def test_status_says_what_comes_next(changes: dict[str, object], expected: str) -> None:
    """Each row says when it was issued, when it ends, what comes next and who is waited on."""
    drawn = rendered(lambda console: console.print(status_view({"subjects": [{**ROW, **changes}]}, NOW)))
    assert expected == " ".join(drawn.splitlines()[1].split()[5:])


def test_status_is_no_markup() -> None:
    """A name from outside is shown as it is."""
    shown = {"subjects": [{"name": "[red]x[/red]"}], "workloads": [{"name": "w", "members": [{"name": "[b]m"}]}]}
    drawn = rendered(lambda console: console.print(status_view(shown, NOW)))
    assert ("[red]x[/red]" in drawn, "[b]m" in drawn) == (True, True)


def rendered(draw: Callable[[Console], None]) -> str:
    """Return what *draw* prints."""
    stream = io.StringIO()
    draw(Console(file=stream, width=200))
    return stream.getvalue()


@pytest.mark.usefixtures("daemon")
def test_plan_says_when_and_why(run: Run, operations: FakeOperations) -> None:
    """The plan of the asked horizon, soonest first, as a table and as JSON."""
    assert "nothing within 24h\n" == run("plan").out
    operations.planned = [{"at": "2030-01-01T02:00:00Z", "subject": "proxy", "what": "issue anew", "why": "due"}]
    assert 172800.0 == json.loads(run("--json", "plan", "--horizon", "2d").out)[0]["horizon"]
    drawn = rendered(lambda console: console.print(plan_view(operations.planned, NOW)))
    assert ["2030-01-01T02:00:00Z", "1h", "proxy", "issue", "anew", "due"] == drawn.splitlines()[1].split()


def test_explain_needs_a_ledger(run: Run) -> None:
    """Without a ledger the one line says so, and none is made."""
    ended = run("explain", "proxy")
    assert (2, True) == (ended.code, ended.err.startswith("there is no ledger at sqlite:///"))


def test_explain_tells_the_story(run: Run, config: Path) -> None:
    """The ledger's records of one subject are told in sentences, oldest first; another subject's are not."""
    with contextlib.closing(open_store(load(config))) as store, store.transaction() as transaction:
        for subject, kind in (("proxy", EventType.INTENT), ("other", EventType.INTENT), ("proxy", EventType.COMPLETED)):
            transaction.append(Event(type=kind, time=NOW, subject=subject, result="ok", rotation_id="r-1"))
    told, machine = run("explain", "proxy"), json.loads(run("explain", "--json", "proxy").out)
    assert ["2030-01-01T01:00:00Z"] * 2 == [line.split()[0] for line in told.out.splitlines()]
    assert {"subject": "proxy", "story": told.out.splitlines()} == machine
    assert "nothing has been recorded of services.prod yet\n" == run("explain", "services.prod").out
    assert (2, "nothing is known of prox: did you mean proxy?\n") == ((e := run("explain", "prox")).code, e.err)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_no_daemon_is_one_line(run: Run, config: Path) -> None:
    """Without a daemon every command that needs one says how to start it and ends with 1."""
    expected = (
        f"no daemon answers at {config.parent}/control.sock: start it with `systemctl start rotator` or `rotator run`\n"
    )
    commands = (("status",), ("plan",), ("resume", "x"), ("rotate-now", "x", "--reason", "r"))
    assert [(1, expected, "")] * 4 == [(e.code, e.err, e.out) for e in (run(*command) for command in commands)]


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("nothing is called x"), 2),
        (InvariantBroken(4, "it would outlive its CA"), 4),
        (Denied("you may not"), 5),
        (JournalError("disk full"), 1),
        (Unavailable("not now"), 1),
        (ZeroDivisionError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exit_codes_are_the_contracts(run: Run, operations: FakeOperations, error: Exception, code: int) -> None:
    """What the daemon refuses ends with the contract's code and one line; with --json also as an object."""
    operations.refuse = error
    plain, machine = run("resume", "x"), run("--json", "resume", "x")
    assert (code, code, 1) == (plain.code, machine.code, len(plain.err.splitlines()))
    assert (code, plain.err.strip()) == (
        (said := json.loads(machine.out)["error"])["exit_code"],
        said["message"],
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("explode",), "No such command 'explode': see rotator --help\n"),
        (("status", "--never"), "No such option: --never: see rotator --help\n"),
        (("resume",), "Missing argument 'SUBJECT': see rotator --help\n"),
        (
            ("plan", "--horizon", "soon"),
            "--horizon: found 'soon'; allowed such as 90s, 12h or 7d; write number and unit\n",
        ),
    ],
)
def test_usage_errors_are_one_line(run: Run, arguments: tuple[str, ...], expected: str) -> None:
    """A mistyped command ends with 2 and one line."""
    assert (2, expected, "") == ((ended := run(*arguments)).code, ended.err, ended.out)


def test_debug_adds_the_traceback(run: Run) -> None:
    """--debug shows where an error came from."""
    assert ("Traceback" in run("--debug", "status").err, "Traceback" in run("status").err) == (True, False)


def test_an_error_holds_no_secret(run: Run, config: Path) -> None:
    """A secret that somebody wrote into the file is not printed, not with --debug either."""
    config.write_text(config.read_text().replace("mount: pki_int", "mount: /hvs.CAESIJabcdefghijklmnopqrstuvwxyz"))
    ended = run("--debug", "--json", "config", "check")
    assert (2, False) == (ended.code, "CAESIJ" in ended.out + ended.err)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_config_check(run: Run, config: Path) -> None:
    """A good file is said to be good, with the policy's hash; a bad one ends with 2 and a line for each mistake."""
    good, machine = run("config", "check"), json.loads(run("config", "check", "--json").out)
    assert (0, True, 1) == (good.code, machine["valid"], machine["certificates"])
    assert machine["policy_sha256"] in good.out
    config.write_text(config.read_text().replace("version: 1", "version: 3").replace("after: 2h", "after: 2"))
    bad = run("config", "check")
    assert (2, ["version", "trust_domains.services.prod.trust_deadline.after"]) == (
        bad.code,
        [line.split(": ")[1] for line in bad.err.splitlines()],
    )


def test_config_schema(run: Run) -> None:
    """The schema is JSON and needs no configuration."""
    assert "rotator configuration, version 1" == json.loads(run("config", "schema").out)["title"]


# --- following --------------------------------------------------------------------------------------------------------


class Away(ControlClient):
    """A daemon that does not answer for its first *looks*."""

    def __init__(self, looks: int) -> None:
        super().__init__(Path("/nowhere"))
        self.looks = looks

    def progress(self, rotation_id: str) -> dict[str, Any]:
        """Answer when it is back."""
        self.looks -= 1
        if self.looks >= 0:
            raise Unavailable("no daemon answers")
        return {"id": rotation_id, **DONE}


def test_law_13_a_restart_is_waited_for() -> None:
    """A daemon that restarts while somebody waits is waited for, and the rotation's end is seen."""
    assert ExitCode.DONE == follow(Away(20), ["r-1"], clock=ManualClock(), show=lambda _: None).code


def test_a_daemon_that_stays_away_is_the_answer() -> None:
    """After a minute without an answer, that is the answer."""
    with pytest.raises(Unavailable):
        follow(Away(10_000), ["r-1"], clock=ManualClock(), show=lambda _: None)


def test_nothing_seen_is_waiting() -> None:
    """Whoever stops watching before anything was seen has seen it waiting."""
    assert ExitCode.WAITING == Followed().code


def test_a_terminal_is_redrawn() -> None:
    """On a terminal the progress is drawn in place and its last state stays."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    assert ExitCode.DONE == watched(Away(1), ["r-1"], console=console, at_most=None).code
    assert "1 of 1 consumers proven" in stream.getvalue()


# --- the command itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--help",), ("status", "--help"), ("--version",)])
def test_help_is_light(arguments: tuple[str, ...]) -> None:
    """Help imports neither a database nor Vault's client nor a scheduler, so it comes at once."""
    code = (
        "import sys; from rotator.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'sqlalchemy', 'hvac', 'rotator.settings', 'celery', 'kubernetes', 'apscheduler'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert (0, "[]\n") == (asked.returncode, asked.stderr)


def test_a_closed_pipe_is_quiet(config: Path) -> None:
    """`rotator ... | head` ends without a traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "rotator", "--config", str(config), "config", "schema"],
            stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert "" == asked.stderr


@pytest.mark.usefixtures("daemon")
def test_watching_as_json_is_one_line_a_look(config: Path) -> None:
    """Watching with --json prints one object a line until it is stopped."""
    with subprocess.Popen(
        [sys.executable, "-m", "rotator", "--config", str(config), "status", "--watch", "--json"],
        stdout=subprocess.PIPE, text=True,
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.terminate()
    assert [{"subjects": [], "ledger": {"size": 0}}] * 2 == looks
    assert threading.active_count() < 20
