"""
Commands that rotator starts: whose they are, how they are found again, what an operator is told.

Rules that must stay true here:

- Nothing outlives its test: what was started is killed by a descriptor, never by a bare number.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.processes import CommandMember, Processes
from rotator.adapters.processes.seen import Process, boot_id, held, process, session_of
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName, Surge
from rotator.embedded.process import wait_until
from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable

PATIENCE = timedelta(seconds=30)
TOKEN = "hvs.CAESIJ0123456789abcdefghij0123456789"  # noqa: S105 -- made up, to be redacted

# A parent with one child; the child notes every TERM it gets.
FAMILY = """
import os, pathlib, signal, sys
place = pathlib.Path(sys.argv[1])
if os.fork() == 0:
    signal.signal(signal.SIGTERM, lambda *_: (place / "child-got-term").touch())
    (place / "child").write_text(str(os.getpid()))
    while True:
        signal.pause()
if len(sys.argv) > 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(place / "up").touch()
while True:
    signal.pause()
"""


class Bench:
    """One member in a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.pid_file = place / "run" / "worker.pid"
        self.log_file = place / "log" / "worker.log"

    def member(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        environment_file: Path | None = None,
        directory: Path | None = None,
    ) -> CommandMember:
        return CommandMember(
            name="worker-1",
            command=command or ("sleep", "600"),
            pid_file=self.pid_file,
            log_file=self.log_file,
            environment=environment or {},
            environment_file=environment_file,
            directory=directory,
        )

    def processes(self, member: CommandMember | None = None, *, stop: float = 10) -> Processes:
        return Processes(
            SubjectName("workers"),
            [member or self.member()],
            clock=SystemClock(),
            stop_timeout=timedelta(seconds=stop),
            start_timeout=PATIENCE,
            settle=timedelta(milliseconds=300),
        )

    def main(self) -> Process:
        found = process(json.loads(self.pid_file.read_text())["pid"])
        assert found is not None
        return found

    def family(self, *, stubborn: bool = False) -> CommandMember:
        words = (sys.executable, "-I", "-S", "-c", FAMILY, str(self.place))
        return self.member(*words, *(("stubborn",) if stubborn else ()))

    def child(self) -> Process:
        wait_until(lambda: (self.place / "child").exists() and (self.place / "up").exists(), within=PATIENCE, what="up")
        wait_until(lambda: bool((self.place / "child").read_text()), within=PATIENCE, what="the child's number")
        found = process(int((self.place / "child").read_text()))
        assert found is not None
        return found


def end(*ended: Process) -> None:
    for each in ended:
        with held(each) as one:
            if one is not None:
                one.send(signal.SIGKILL)
                assert one.ended(PATIENCE)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    with suppress(FileNotFoundError, ValueError, TypeError, KeyError, AssertionError):
        main = bench.main()
        end(*session_of(main), main)


def only(processes: Processes) -> Member:
    (member,) = processes.members()
    return member


def test_a_member_leads_its_own_session_and_is_nobodys_child(bench: Bench) -> None:
    """It shares neither session nor parent with rotator, so that neither's end reaches it."""
    bench.processes().replace("worker-1", forced=False)
    main = bench.main()
    parent = int(Path(f"/proc/{main.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert main.pid == main.session
    assert os.getpid() != parent
    assert str(Path(f"/proc/{main.pid}/fd/0").readlink()) == os.devnull
    assert Path(f"/proc/{main.pid}/fd/1").readlink() == bench.log_file
    assert {"0", "1", "2"} == {entry.name for entry in Path(f"/proc/{main.pid}/fd").iterdir()}


def test_a_member_survives_the_sigkill_of_whoever_started_it(bench: Bench) -> None:
    """Rotator's own death, also by SIGKILL, does not touch a worker; the next rotator finds it."""
    script = f"""
import os, signal
from datetime import timedelta
from pathlib import Path
from rotator.adapters.processes import CommandMember, Processes
from rotator.clock import SystemClock
member = CommandMember(name="worker-1", command=("sleep", "600"),
                       pid_file=Path({str(bench.pid_file)!r}), log_file=Path({str(bench.log_file)!r}))
Processes("workers", [member], clock=SystemClock(), stop_timeout=timedelta(seconds=5),
          start_timeout=timedelta(seconds=30)).replace("worker-1", forced=False)
os.killpg(os.getpgid(0), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], start_new_session=True, check=False, timeout=60)
    assert -signal.SIGKILL == done.returncode
    seen = only(bench.processes())
    assert (True, bench.main().identity) == (seen.running, seen.identity)


def test_law_17_term_reaches_the_main_process_only(bench: Bench) -> None:
    """A member's children, which are its work, get no signal from a replacement."""
    processes = bench.processes(bench.family())
    processes.replace("worker-1", forced=False)
    child = bench.child()
    try:
        main = bench.main()
        with held(main) as handle:
            assert handle is not None
            processes.replace("worker-1", forced=False)
            assert handle.ended(timedelta(0))
        assert process(child.pid) is not None
        assert not (bench.place / "child-got-term").exists()
    finally:
        end(child)


def test_forced_leaves_nothing_of_the_old_session(bench: Bench) -> None:
    """A main process that ignores TERM is killed after its grace period, and its children with it."""
    processes = bench.processes(bench.family(stubborn=True), stop=0.3)
    processes.replace("worker-1", forced=False)
    child, main = bench.child(), bench.main()
    with pytest.raises(Unavailable, match=r"has not ended 0\.3 s after TERM"):
        processes.replace("worker-1", forced=False)
    assert process(main.pid) is not None
    processes.replace("worker-1", forced=True)
    wait_until(lambda: process(child.pid) is None, within=PATIENCE, what="the child to be gone")
    assert process(main.pid) is None
    assert not (bench.place / "child-got-term").exists()


def test_a_reused_number_is_never_taken_for_the_member(bench: Bench) -> None:
    """A pid file whose number belongs to another process now means that the member does not run."""
    bench.pid_file.parent.mkdir()
    noted = {"pid": os.getpid(), "start_ticks": 1, "boot_id": boot_id(), "started_at": datetime.now(UTC).isoformat()}
    bench.pid_file.write_text(json.dumps(noted))
    assert not only(bench.processes()).running
    own = process(os.getpid())
    assert own is not None
    bench.pid_file.write_text(json.dumps(noted | {"start_ticks": own.start_ticks}))
    assert only(bench.processes()).running
    bench.pid_file.write_text(json.dumps(noted | {"start_ticks": own.start_ticks, "boot_id": "another"}))
    assert not only(bench.processes()).running
    bench.processes().replace("worker-1", forced=False)
    assert os.getpid() != bench.main().pid


def test_a_process_that_is_another_by_now_cannot_be_held() -> None:
    """Between a look and a signal the number may be given away: then there is nothing to signal."""
    own = process(os.getpid())
    assert own is not None
    with held(own) as handle:
        assert handle is not None
    with held(replace(own, start_ticks=own.start_ticks - 1)) as handle:
        assert handle is None
    with held(replace(own, pid=4194305)) as handle:
        assert handle is None


def test_a_plain_pid_file_is_believed_if_the_process_is_older(bench: Bench) -> None:
    """Workers write a bare number; it counts unless its process began after the file was written."""
    bench.pid_file.parent.mkdir()
    bench.pid_file.write_text(f"{os.getpid()}\n")
    seen = only(bench.processes())
    own = process(os.getpid())
    assert own is not None
    assert (True, own.identity) == (seen.running, seen.identity)
    os.utime(bench.pid_file, (0, 0))
    assert not only(bench.processes()).running
    bench.pid_file.write_text("4194305\n")
    assert not only(bench.processes()).running


def test_the_start_of_a_foreign_process_is_read_off_the_kernel(bench: Bench) -> None:
    """For a plain pid file the start comes from the kernel, right to about a second, and does not waver."""
    begun = datetime.now(tz=UTC)
    with subprocess.Popen(["sleep", "600"]) as started:
        bench.pid_file.parent.mkdir()
        bench.pid_file.write_text(str(started.pid))
        at = only(bench.processes()).started_at
        started.kill()
    assert at is not None
    assert abs(at - begun) < timedelta(seconds=1.5)


@pytest.mark.parametrize("text", ["", "worker", "{}", "[1]", '{"pid": "x"}', "-5", "1 2"])
def test_a_pid_file_that_says_nothing_is_not_guessed_at(bench: Bench, text: str) -> None:
    """Whether the worker runs is unknown then, so nothing is started beside it."""
    bench.pid_file.parent.mkdir()
    bench.pid_file.write_text(text)
    for call in (bench.processes().members, lambda: bench.processes().replace("worker-1", forced=False)):
        with pytest.raises(Rejected, match="does not name a process"):
            call()


def test_a_zombie_has_ended(bench: Bench) -> None:
    """A process that nobody has reaped yet does not count as running."""
    with subprocess.Popen(["true"]) as started:
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        bench.pid_file.parent.mkdir()
        bench.pid_file.write_text(str(started.pid))
        assert not only(bench.processes()).running


def test_a_failed_start_shows_the_end_of_the_log_without_secrets(bench: Bench) -> None:
    """The operator reads why, and what to do; older lines and tokens are not shown."""
    bench.log_file.parent.mkdir()
    bench.log_file.write_text("an old line\n")
    member = bench.member("sh", "-c", f"echo broker refused: {TOKEN} >&2; exit 3")
    with pytest.raises(Unavailable) as caught:
        bench.processes(member).replace("worker-1", forced=False)
    text = str(caught.value)
    assert "broker refused: [removed]" in text
    assert "worker-1 ended as soon as it was started; run sh by hand, or see" in text
    assert "an old line" not in text
    assert TOKEN not in text


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/nowhere/worker",), "worker-1 cannot be started: cannot run /nowhere/worker: No such file or directory"),
        (("/proc/version",), "worker-1 cannot be started: cannot run /proc/version: Permission denied"),
    ],
)
def test_a_command_that_cannot_run_is_rejected(bench: Bench, command: tuple[str, ...], told: str) -> None:
    """It would fail the same way again: mend the configuration."""
    with pytest.raises(Rejected) as caught:
        bench.processes(bench.member(*command)).replace("worker-1", forced=False)
    assert told == str(caught.value)
    assert not only(bench.processes()).running


def test_a_missing_directory_is_rejected(bench: Bench) -> None:
    """A working directory that is not there is named."""
    member = bench.member(directory=bench.place / "nowhere")
    with pytest.raises(Rejected, match=r"nowhere: No such file"):
        bench.processes(member).replace("worker-1", forced=False)


def test_a_worker_inherits_none_of_rotators_credentials(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is a short list, the configuration and the file; none of it stands in the command line."""
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    secrets = bench.place / "environment"
    secrets.write_text("# for the worker\n\nBROKER_PASSWORD='s3cret value'\nPLAIN=a=b\n")
    member = bench.member(environment={"ROLE": "worker"}, environment_file=secrets)
    bench.processes(member).replace("worker-1", forced=False)
    pid = bench.main().pid
    environment = dict(
        line.split("=", 1) for line in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in line
    )
    assert ("worker", "s3cret value", "a=b") == (
        environment["ROLE"],
        environment["BROKER_PASSWORD"],
        environment["PLAIN"],
    )
    assert "VAULT_TOKEN" not in environment
    assert "s3cret" not in Path(f"/proc/{pid}/cmdline").read_text()
    assert "s3cret" not in repr(member)


def test_a_broken_environment_file_is_named_without_its_content(bench: Bench) -> None:
    """The line's number is told, never the line."""
    secrets = bench.place / "environment"
    secrets.write_text(f"A=b\n{TOKEN}\n")
    with pytest.raises(ConfigError) as caught:
        bench.processes(bench.member(environment_file=secrets)).replace("worker-1", forced=False)
    assert f"{secrets}:2: not of the form NAME=value" == str(caught.value)


def test_one_member_is_started_once(bench: Bench) -> None:
    """Two orders at the same time: one is carried out, the other is told of the conflict or replaces in turn."""
    first, second = bench.processes(), bench.processes()
    outcomes: list[str] = []

    def replace(processes: Processes) -> None:
        try:
            processes.replace("worker-1", forced=False)
            outcomes.append("replaced")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=replace, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "replaced" in outcomes
    running = [
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if process(pid) is not None and _writes_to(pid, bench.log_file)
    ]
    assert [bench.main().pid] == running


def _writes_to(pid: int, file: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/fd/1").readlink() == file
    except OSError:
        return False


def test_a_launcher_that_outlives_rotator_keeps_the_member_locked(bench: Bench) -> None:
    """Between a kill of rotator and the start of the worker nobody else starts a second one."""
    bench.pid_file.parent.mkdir()
    # What a surviving launcher holds is this lock, by an inherited descriptor.
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    lock = bench.pid_file.with_name("worker.pid.lock")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Conflict, match="worker-1 is being replaced"):
            bench.processes().replace("worker-1", forced=False)
        holder.communicate(b"\n")
    bench.processes().replace("worker-1", forced=False)
    assert only(bench.processes()).running


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_may_not_be_written_is_denied(bench: Bench) -> None:
    """The operator is told which place."""
    bench.pid_file.parent.mkdir(mode=0o500)
    with pytest.raises(Denied, match="may not be written"):
        bench.processes().replace("worker-1", forced=False)


def test_two_members_share_nothing(bench: Bench) -> None:
    """The same name or pid file twice is refused before anything is started."""
    with pytest.raises(ConfigError, match="same name, pid file or unit"):
        Processes(
            SubjectName("workers"),
            [bench.member(), bench.member()],
            clock=SystemClock(),
            stop_timeout=PATIENCE,
            start_timeout=PATIENCE,
        )


def test_a_spare_is_a_member_as_long_as_it_runs(tmp_path: Path) -> None:
    """Started it is one more and extra, seen by another process too; stopped it is gone, and stopping twice is one."""
    bench = Bench(tmp_path)
    spare = replace(bench.member(), name="spare", pid_file=tmp_path / "spare.pid", spare=True)

    def workers() -> Processes:
        return Processes(
            SubjectName("workers"),
            [bench.member(), spare],
            clock=SystemClock(),
            stop_timeout=PATIENCE,
            start_timeout=PATIENCE,
            settle=timedelta(0),
        )

    def wanted(of: Processes) -> Surge | None:
        of.members()
        return of.seen(scaler=True)

    first = workers()
    assert ["worker-1"] == [each.name for each in first.members()]
    assert Surge(wanted=1) == wanted(first)
    first.more(1)
    second = workers()
    assert Surge(wanted=2, before=1, raised_to=2) == wanted(second)
    assert [("worker-1", False, False), ("spare", True, True)] == [
        (each.name, each.running, each.extra) for each in second.members()
    ]
    with pytest.raises(Conflict, match="one runs already"):
        second.more(1)
    second.back()
    second.back()
    assert Surge(wanted=1) == wanted(first)
    with pytest.raises(Conflict, match="2 spares"):
        first.more(2)
