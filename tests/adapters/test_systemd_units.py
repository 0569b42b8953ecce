"""
Members that systemd runs, tried on a real service manager of a user, started for these tests.

Rules that must stay true here:

- The manager is private: own runtime directory, own mount namespace where the machine was not booted by systemd.
- Where it cannot be had (no systemd, or neither root nor booted by it) the tests are skipped and say why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.processes import Processes, UnitMember
from rotator.adapters.processes.seen import held, process
from rotator.clock import SystemClock
from rotator.core.model import Member, SubjectName
from rotator.embedded.celery_worker import worker_command
from rotator.embedded.process import wait_until
from rotator.errors import Denied, Rejected, Unavailable
from tests.fixtures_celery import CeleryFleet

pytestmark = pytest.mark.external

PATIENCE = timedelta(seconds=30)

# The main process has one child; both note TERM. The main process ends after TERM, but not while "busy" is there.
SERVICE = """
import os, pathlib, signal, sys, time
place = pathlib.Path(sys.argv[1])
def note(name):
    signal.signal(signal.SIGTERM, lambda *_: (place / name).touch())
if os.fork() == 0:
    note("child-got-term")
    while True:
        signal.pause()
note("main-got-term")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
(place / "up").write_text(str(os.getpid()))
while not (place / "main-got-term").exists() or (place / "busy").exists():
    signal.sigtimedwait({signal.SIGALRM}, 0.02)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """A service manager that runs."""

    systemctl: tuple[str, ...]
    units: Path
    place: Path

    def __call__(self, *words: str) -> str:
        """Run systemctl."""
        return subprocess.run(
            [*self.systemctl, *words], check=True, capture_output=True, text=True, timeout=PATIENCE.total_seconds()
        ).stdout


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    program = next((p for p in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(p).exists()), None)
    if program is None or shutil.which("systemctl") is None:
        pytest.skip("systemd is not installed")
    place = tmp_path_factory.mktemp("systemd")
    runtime, units = place / "runtime", place / "config" / "systemd" / "user"
    runtime.mkdir(mode=0o700)
    units.mkdir(parents=True)
    command = [program, "--user", "--log-target=console"]
    if not Path("/run/systemd/system").exists():
        if os.geteuid() != 0:
            pytest.skip("this machine was not booted by systemd, and only root can pretend that it was")
        # The manager looks whether this directory exists; it does in a namespace of its own only.
        pretend = 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", pretend, "sh", *command]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(place / "config"),
    }
    with (place / "log").open("wb") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    words = [f"{name}={value}" for name, value in environment.items()]
    systemctl = ("env", "-i", *words, "systemctl", "--user")

    def answers() -> bool:
        if started.poll() is not None:
            pytest.skip(f"a user's service manager cannot run here: {(place / 'log').read_text()[-300:]}")
        return subprocess.run([*systemctl, "show"], capture_output=True, check=False).returncode == 0

    try:
        wait_until(answers, within=PATIENCE, what="the service manager")
        yield Manager(systemctl=systemctl, units=units, place=place)
    finally:
        started.terminate()  # a user's manager stops every unit and exits
        try:
            started.wait(PATIENCE.total_seconds())
        finally:
            started.kill()
            started.wait()


class Bench:
    """One service of its own."""

    def __init__(self, manager: Manager, place: Path, *, lines: tuple[str, ...] = ("KillMode=mixed",)) -> None:
        self.manager = manager
        self.place = place
        self.unit = f"{place.name}.service"
        script = place / "service.py"
        script.write_text(SERVICE)
        text = ["[Service]", f"ExecStart={sys.executable} -I -S {script} {place}", "TimeoutStopSec=5", *lines]
        (manager.units / self.unit).write_text("\n".join(text) + "\n")
        manager("daemon-reload")

    def processes(self, *, stop: float = 20, drained: bool = True) -> Processes:
        return Processes(
            SubjectName("workers"),
            [UnitMember(name="worker-1", unit=self.unit)],
            clock=SystemClock(),
            stop_timeout=timedelta(seconds=stop),
            start_timeout=PATIENCE,
            drained=drained,
            systemctl=self.manager.systemctl,
        )

    def seen(self) -> Member:
        (member,) = self.processes().members()
        return member

    def replace(self, *, stop: float = 20, forced: bool = False) -> None:
        self.processes(stop=stop).replace("worker-1", forced=forced)
        self.wait_up()

    def wait_up(self) -> None:
        def up() -> bool:
            file = self.place / "up"
            return file.exists() and file.read_text() == self.seen().identity.partition("@")[0]

        wait_until(up, within=PATIENCE, what="the service")

    def noted(self) -> set[str]:
        return {note for note in ("main-got-term", "child-got-term") if (self.place / note).exists()}


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    yield tmp_path
    if "manager" in request.fixturenames:
        manager: Manager = request.getfixturevalue("manager")
        unit = f"{tmp_path.name}.service"
        # Whatever the unit's own way to stop leaves behind.
        for words in (("kill", "--kill-who=all", "--signal=KILL", unit), ("stop", unit), ("reset-failed", unit)):
            subprocess.run([*manager.systemctl, *words], capture_output=True, check=False)


def test_a_unit_is_started_and_seen(manager: Manager, place: Path) -> None:
    """A stopped unit is listed as such; started, it has its main process and its start."""
    bench = Bench(manager, place)
    before = bench.seen()
    assert (False, "", f"{bench.unit} is inactive/dead") == (before.running, before.identity, before.detail)
    begun = datetime.now(tz=UTC)
    bench.replace()
    seen = bench.seen()
    assert manager("show", "--property=MainPID", "--value", bench.unit).strip() == seen.identity.partition("@")[0]
    assert seen.started_at is not None
    assert abs(seen.started_at - begun) < timedelta(seconds=5)


def test_law_17_term_reaches_the_units_main_process_only(manager: Manager, place: Path) -> None:
    """The children of a unit get no TERM when rotator replaces it."""
    bench = Bench(manager, place, lines=("KillMode=mixed",))
    bench.replace()
    before = bench.seen().identity
    bench.processes().replace("worker-1", forced=False)
    assert {"main-got-term"} == bench.noted()
    assert before != bench.seen().identity


def test_law_17_a_unit_that_still_works_is_not_killed(manager: Manager, place: Path) -> None:
    """Neither rotator's patience nor the unit's own TimeoutStopSec ends a main process that still has work."""
    bench = Bench(manager, place, lines=("KillMode=mixed", "TimeoutStopSec=1"))
    bench.replace()
    (place / "busy").touch()
    before = bench.seen()
    # Longer than TimeoutStopSec: a stop job would have killed it by now.
    with pytest.raises(Unavailable, match=r"has not ended 2 s after TERM"):
        bench.replace(stop=2)
    assert before.identity == bench.seen().identity
    (place / "busy").unlink()
    (place / "up").unlink()
    wait_until(lambda: not bench.seen().running, within=PATIENCE, what="its end")
    (place / "main-got-term").unlink()
    bench.replace()
    assert before.identity != bench.seen().identity


def test_a_unit_that_is_started_again_by_systemd_is_one_run(manager: Manager, place: Path) -> None:
    """With Restart=always the new run is systemd's or ours, but there is one."""
    bench = Bench(manager, place, lines=("KillMode=mixed", "Restart=always", "RestartSec=60"))
    bench.replace()
    before = bench.seen().identity
    bench.processes().replace("worker-1", forced=False)
    (place / "main-got-term").unlink()
    assert before != bench.seen().identity


def test_forced_kills_the_unit_after_its_grace_period(manager: Manager, place: Path) -> None:
    """What ignores TERM is killed with its children, and started anew."""
    bench = Bench(manager, place, lines=("KillMode=mixed",))
    bench.replace()
    (place / "busy").touch()
    old = process(int(bench.seen().identity.partition("@")[0]))
    assert old is not None
    with held(old) as main:
        assert main is not None
        bench.replace(stop=0.5, forced=True)
        assert main.ended(timedelta(0))
    assert {"main-got-term"} == bench.noted()


@pytest.mark.parametrize("mode", ["control-group", "none"])
def test_law_17_a_unit_that_would_kill_its_children_is_refused(manager: Manager, place: Path, mode: str) -> None:
    """For a drained workload the mend is named, and nothing was signalled."""
    bench = Bench(manager, place, lines=(f"KillMode={mode}",))
    manager("start", bench.unit)
    bench.wait_up()
    with pytest.raises(Rejected, match=f"KillMode={mode}.*set KillMode=mixed"):
        bench.replace()
    assert set() == bench.noted()
    bench.processes(drained=False).replace("worker-1", forced=False)
    assert "main-got-term" in bench.noted()


def test_a_spare_unit_is_there_for_the_time_of_a_roll(manager: Manager, place: Path) -> None:
    """Started it is one more, stopped it stays stopped; one that systemd would bring back is refused before."""
    bench = Bench(manager, place, lines=("KillMode=mixed", "Restart=always"))
    spare = UnitMember(name="spare", unit=bench.unit, spare=True)
    workers = Processes(
        SubjectName("workers"),
        [spare],
        clock=SystemClock(),
        stop_timeout=PATIENCE,
        start_timeout=PATIENCE,
        systemctl=manager.systemctl,
    )
    assert () == workers.members()
    with pytest.raises(Rejected, match=r"Restart=always.*set Restart=on-failure"):
        workers.more(1)
    assert not bench.seen().running
    Bench(manager, place, lines=("KillMode=mixed", "Restart=on-failure", "RestartSec=0"))
    workers.more(1)
    bench.wait_up()
    assert [("spare", True)] == [(each.name, each.extra) for each in workers.members()]
    workers.back()
    assert ({"main-got-term"}, False) == (bench.noted(), bench.seen().running)
    assert () == workers.members()


def test_law_17_a_celery_worker_that_systemd_runs_is_drained(manager: Manager, place: Path) -> None:
    """Its task outlasts TimeoutStopSec; drained and replaced, the unit has another process and no task is lost."""
    with CeleryFleet(place, names=("worker-1",)) as fleet:
        environment = [f'Environment="{name}={value}"' for name, value in fleet.place.environment().items()]
        path = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
        lines = ["KillMode=mixed", "TimeoutStopSec=1", f"WorkingDirectory={place}", f'Environment="{path}"']
        command = ["ExecStart=", f"ExecStart={' '.join(worker_command('worker-1'))}"]
        bench = Bench(manager, place, lines=(*lines, *environment, *command))
        workers = bench.processes(stop=PATIENCE.total_seconds())

        def seen() -> Member:
            return fleet.drainer.inspect(workers.members())[0]

        workers.replace("worker-1", forced=False)
        wait_until(lambda: seen().ready, within=2 * PATIENCE, what="a ready worker")
        before = seen().identity
        with fleet.working(2):
            wait_until(lambda: seen().busy == 2, within=PATIENCE, what="running tasks")
            fleet.drainer.drain(seen())
            assert (True, 2, before) == (seen().draining, seen().busy, seen().identity)
        for _ in range(2):
            wait_until(lambda: seen().busy == 0, within=PATIENCE, what="an idle worker")
        workers.replace("worker-1", forced=False)
        wait_until(lambda: seen().ready, within=2 * PATIENCE, what="a ready worker")
        assert before != seen().identity
        assert (frozenset(), frozenset()) == (fleet.ledger.lost(), fleet.ledger.repeated())


def test_a_unit_that_does_not_start_is_an_error(manager: Manager, place: Path) -> None:
    """The operator is told the result and where to read on."""
    bench = Bench(manager, place, lines=("KillMode=mixed", "Type=notify", "ExecStart=", "ExecStart=/bin/false"))
    with pytest.raises(Unavailable, match=rf"did not start \(exit-code, status 1\): see journalctl -u {bench.unit}"):
        bench.replace()


def test_an_unknown_unit_is_rejected(manager: Manager, place: Path) -> None:
    """A misspelt unit is named at the first look."""
    bench = Bench(manager, place)
    (manager.units / bench.unit).unlink()
    manager("daemon-reload")
    with pytest.raises(Rejected, match=f"no usable unit {bench.unit}"):
        bench.seen()


@pytest.mark.parametrize(
    ("says", "error", "told"),
    [
        ("Failed to restart x.service: Access denied", Denied, "not allowed for this user: give it a polkit rule"),
        ("Failed to connect to bus: No such file or directory", Unavailable, "reached no service manager"),
    ],
)
def test_what_systemctl_says_is_translated(place: Path, says: str, error: type[Exception], told: str) -> None:
    """A missing right and a missing manager are told apart (the words are systemctl's own, replayed)."""
    stub = place / "systemctl"
    stub.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    stub.chmod(0o755)
    processes = Processes(
        SubjectName("workers"),
        [UnitMember(name="worker-1", unit="x.service")],
        clock=SystemClock(),
        stop_timeout=PATIENCE,
        start_timeout=PATIENCE,
        systemctl=(str(stub),),
    )
    with pytest.raises(error, match=told):
        processes.members()
