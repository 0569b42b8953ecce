"""
The run itself, act by act: what is done to the daemon, when, and what is waited for.

Rules that must stay true here:

- The daemon is driven only through its command, its socket and signals, as an operator and a crash would.
- Every wait is for a condition and has a bound; when a bound passes, the run ends in order, and its report says so.
- What happens the naive way is loaded and counted apart, after the daemon has been stopped and its log verified.
- The checkpoint is pinned outside the log's folder before the kill.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rotator.adapters.directory import DirectoryStore
from rotator.adapters.probes import EnvoyAdminProbe
from rotator.clock import SystemClock
from rotator.control import ControlClient, PauseRequest
from rotator.core.model import SubjectName
from rotator.demo.counted import load_of, reported_serial, sighted, task_runs
from rotator.demo.live import LiveView
from rotator.demo.naive import NaiveAuthority, replace_in_one_step
from rotator.demo.recording import Evidence, Load, Marker, MarkerKind, Recording
from rotator.demo.scenario import (
    CLIENT,
    IDENTITIES,
    MESH,
    SERVER,
    WORKER_NAMES,
    WORKERS,
    WORKERS_DOMAIN,
    Numbers,
    Places,
    Timeline,
)
from rotator.demo.stage import Stage, command, versions, wait_for_exit
from rotator.demo.told import Told, proven, told
from rotator.demo.traffic import Bucket, TrafficLog
from rotator.demo.watch import Snapshot, Watch
from rotator.embedded.celery_worker import TaskLedger
from rotator.embedded.process import ServerProcess, wait_until
from rotator.embedded.tasks import CALL_SERVICE
from rotator.errors import RotatorError, Unavailable
from rotator.evidence.note import Checkpoint, Note

DOMAIN_OF: Mapping[str, str] = {CLIENT: MESH, SERVER: MESH, WORKERS: WORKERS_DOMAIN}
_IN_THE_MIDDLE = frozenset({"activated", "reissued"})
_PAUSE_TIMEOUT = timedelta(seconds=5)
_STATUS_TIMEOUT = timedelta(seconds=1)
_LOOK_EVERY = timedelta(milliseconds=100)
_NAIVE_BEFORE = timedelta(seconds=2)
_NAIVE_AFTER = timedelta(seconds=3)


@dataclass(slots=True, kw_only=True)
class _Noted:
    """What the director itself did and measured."""

    markers: list[Marker] = field(default_factory=list)
    ended_at: float = 0.0
    killed_rotation: str | None = None
    pinned_size: int = 0
    sessions_resumed: int = 0
    handshakes: int = 0
    evidence: Evidence | None = None
    control: Load = field(default_factory=Load)
    control_switch_at: float | None = None
    trouble: str | None = None
    reports: dict[tuple[str, str], float] = field(default_factory=dict)
    """(worker, serial) -> when that worker's report first named it."""


class Director:
    """Runs the demonstration once."""

    def __init__(self, places: Places, numbers: Numbers, timeline: Timeline, view: LiveView) -> None:
        self._places = places
        self._numbers = numbers
        self._timeline = timeline
        self._view = view
        self._clock = SystemClock()
        self._noted = _Noted()
        self._start = self._clock.now()
        self._submitting = True
        self._next_task_at = 0.0

    def run(self) -> Recording:
        """
        Run all acts and return what was recorded.

        Raises:
            RotatorError: If not even the servers could be started; later trouble stands in the recording.
        """
        began = self._clock.monotonic()
        with Stage(self._places, self._numbers) as stage:
            self._view.announce("starting OpenBao with raft and TLS, a corporate PKI, Valkey")
            stage.prepare()
            tasks = stage.tasks
            if tasks is None:
                raise Unavailable("the broker was not prepared")
            self._view.announce("starting the daemon: rotator run")
            self._start = self._clock.now()
            stage.start_daemon(ready=stage.published)
            watch = Watch(
                start=self._start,
                status=self._status_of(stage),
                ledger=self._places.ledger,
                traffic=self._places.logs / "load.jsonl",
                tasks=lambda: (len(tasks.submitted), len(tasks.finished())),
                told=self._view.show,
            )
            with watch:
                load: ServerProcess | None = None
                try:
                    self._say("the first certificates are published; starting both Envoys")
                    stage.start_envoys()
                    load = stage.load("load")
                    self._play(stage, watch, tasks)
                except RotatorError as e:
                    # Its first line is enough here; the rest is the end of a log that lies in the directory.
                    self._noted.trouble = str(e).splitlines()[0]
                    self._say(f"trouble: {self._noted.trouble}")
                self._end(stage, watch, load)
            self._compare(stage)
        seconds = self._clock.monotonic() - began
        return self._recording(watch, tasks, seconds)

    # --- the acts ---------------------------------------------------------------------------------------------------

    def _play(self, stage: Stage, watch: Watch, tasks: TaskLedger) -> None:
        """Everything under rotator's care, up to the moment when nothing is open any more."""
        self._mark(
            MarkerKind.LOAD, "load begins", f"load: {self._numbers.rate:.0f} new mutual TLS connections a second"
        )
        self._until(
            lambda snapshot: all(member["ready"] for row in snapshot.workloads for member in row["members"]),
            watch,
            tasks,
            by=self._timeline.rotate_now_at + 15,
            what="both workers to take tasks",
        )
        self._until(lambda snapshot: snapshot.at >= self._timeline.rotate_now_at, watch, tasks, by=60, what="the clock")
        self._mark(MarkerKind.ROTATE_NOW, "rotate-now", f"a person asks: rotator rotate-now {MESH}")
        asked = stage.ask(
            *("rotate-now", MESH, "--reason", "show that a person may ask", "--ticket", "DEMO-1", "--wait"),
            log="rotate-now.log",
        )
        self._kill_in_the_middle(stage, watch, tasks)
        self._until_all_was_shown(watch, tasks)
        status = wait_for_exit(asked, within=timedelta(seconds=5), what="rotator rotate-now --wait to return")
        if status != 0:
            raise Unavailable(f"rotator rotate-now ended with status {status}; see {self._places.logs}/rotate-now.log")
        self._submitting = False
        self._say("no more tasks, and no new roll or CA rotation: rotator pause; what is under way is completed")
        self._hold(stage, (MESH, WORKERS_DOMAIN, WORKERS), for_seconds=self._timeline.quiet_by - watch.seconds())
        self._until(
            lambda snapshot: not tasks.lost() and snapshot.is_quiet_but_for((CLIENT, SERVER)),
            watch,
            tasks,
            by=self._timeline.quiet_by,
            what="every task to be done, and every roll and CA rotation to be complete",
        )
        self._say("the Envoys' renewals are held for a moment, so that the log ends with nothing open")
        self._hold(stage, (SERVER, CLIENT), for_seconds=self._timeline.quiet_for)
        by = watch.seconds() + self._timeline.quiet_for
        self._until(lambda snapshot: snapshot.is_quiet_but_for(()), watch, tasks, by=by, what="the last renewal")

    def _hold(self, stage: Stage, names: Sequence[str], *, for_seconds: float) -> None:
        """Pause *names*; no pause holds beyond a safety line, so nothing expires of it."""
        client = ControlClient(stage.socket, timeout=_PAUSE_TIMEOUT)
        until = self._clock.now() + timedelta(seconds=for_seconds)
        for name in names:
            client.pause(PauseRequest(subject=SubjectName(name), until=until, reason="the demonstration ends"))

    def _kill_in_the_middle(self, stage: Stage, watch: Watch, tasks: TaskLedger) -> None:
        """Wait for the scheduled CA rotation, pin a checkpoint, kill the daemon with SIGKILL, and start it again."""

        def in_the_middle(snapshot: Snapshot) -> bool:
            row = snapshot.subject(MESH)
            opened = row.get("open_rotation") or {}
            under_way = opened.get("trigger") == "schedule" and row["phase"] in _IN_THE_MIDDLE
            # Fresh leaves: how long a start takes on a busy machine is not what is shown here. A kill at every other
            # point of a rotation is what the tests do.
            line = self._clock.now() + self._timeline.fresh_for * self._numbers.mesh.leaf
            return snapshot.answers and under_way and all(ends >= line for ends in snapshot.ends_of((CLIENT, SERVER)))

        self._until(
            in_the_middle,
            watch,
            tasks,
            by=self._timeline.activated_by,
            what=f"the scheduled CA rotation of {MESH} to be activated",
        )
        self._noted.killed_rotation = watch.snapshot.subject(MESH)["open_rotation"]["id"]
        self._pin()
        stage.daemon.kill()
        self._mark(MarkerKind.KILLED, "SIGKILL", "SIGKILL to the daemon in the middle of the CA rotation")
        back_at = watch.seconds() + self._timeline.down_for
        self._until(lambda snapshot: snapshot.at >= back_at, watch, tasks, by=back_at + 5, what="the clock")
        status = self._status_of(stage)
        stage.start_daemon(ready=lambda: _answers(status))
        self._mark(MarkerKind.RESTARTED, "daemon restarted", "the daemon is back and decides from what it sees")

    def _until_all_was_shown(self, watch: Watch, tasks: TaskLedger) -> None:
        """Wait until the killed rotation is complete and each worker has shown a new serial after a roll."""

        def shown(snapshot: Snapshot) -> bool:
            seen = self._told(watch)
            completed = {each.id for each in seen.ca_rotations if each.completed_at is not None}
            rolls = proven(seen.rolls, sighted(task_runs(tasks, self._start), self._noted.reports), seen.lifetimes)
            rolled = {each.worker for each in rolls if each.serial is not None}
            everything = self._noted.killed_rotation in completed and rolled >= set(WORKER_NAMES)
            return everything and snapshot.at >= self._timeline.at_least

        self._until(
            shown,
            watch,
            tasks,
            by=self._timeline.completed_by,
            what="the killed rotation to complete and each worker to be seen with a new serial",
        )
        self._say("the killed rotation completed, and each worker was rolled")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _end(self, stage: Stage, watch: Watch, load: ServerProcess | None) -> None:
        """Stop load, daemon and workers in order, and let the auditor's command judge the log."""
        if load is not None:
            load.stop()
            server, client = stage.server.tls_counts(), stage.client.tls_counts()
            self._noted.sessions_resumed = server.sessions_reused + client.sessions_reused
            self._noted.handshakes = server.handshakes
        self._say("load and daemon are stopped; the log is verified against the pinned checkpoint")
        stage.stop_daemon()
        self._noted.ended_at = watch.seconds()
        stage.stop_workers()
        watch.finish()
        self._verify()

    def _verify(self) -> None:
        """Run ``rotator evidence verify`` against the pinned checkpoint."""
        if not self._places.pinned.exists():
            return
        words = ["evidence", "verify", str(self._places.ledger), "--key", str(self._places.verifier_key)]
        verified = subprocess.run(  # noqa: S603 -- our own command, without a shell
            [str(command()), *words, "--pinned", str(self._places.pinned)],
            capture_output=True,
            check=False,
            timeout=60,
        )
        output = verified.stdout.decode("utf-8", "replace")
        (self._places.logs / "verify.log").write_bytes(verified.stdout + verified.stderr)
        self._noted.evidence = Evidence(
            entries=_size_of(self._places.ledger / "checkpoint"),
            exit_code=verified.returncode,
            pinned_size=self._noted.pinned_size,
            # Its first line, without the tree's root: that stands in verify.log and in the checkpoint.
            verdict=output.partition("\n")[0].partition(", root")[0].strip() or f"exit {verified.returncode}",
        )

    def _compare(self, stage: Stage) -> None:
        """Replace the CA in one step under the same load, once; trouble here is told and changes no claim."""
        self._say("for comparison, counted apart: the CA replaced in one step, with nobody's help")
        stores = {name: DirectoryStore(self._places.certificates(name)) for name in (CLIENT, SERVER)}
        try:
            self._write_naively("naive CA 1", stores)
            serials = {name: store.material().leaf.serial for name, store in stores.items()}
            probes = {
                name: EnvoyAdminProbe(url, clock=self._clock, identity=IDENTITIES[name])
                for name, url in ((CLIENT, stage.client.admin_url), (SERVER, stage.server.admin_url))
            }
            wait_until(
                lambda: {name: probe.look().serial for name, probe in probes.items()} == serials,
                within=timedelta(seconds=5),
                what="both Envoys to use the first naive CA",
            )
            load = stage.load("control")
            began = self._clock.now()
            self._let_pass(_NAIVE_BEFORE)
            switched = self._clock.now()
            self._write_naively("naive CA 2", stores)
            self._let_pass(_NAIVE_AFTER)
            load.stop()
        except RotatorError as e:
            self._say(f"the comparison could not be made: {e}")
            return
        lines = list(TrafficLog(self._places.logs / "control.jsonl").news())
        first = min((line.at for line in lines if isinstance(line, Bucket)), default=began.timestamp())
        start = datetime.fromtimestamp(first, tz=UTC)
        self._noted.control = load_of(lines, start)
        self._noted.control_switch_at = (switched - start).total_seconds()

    def _let_pass(self, length: timedelta) -> None:
        """Let time pass under load: this is what is measured, not a wait for something."""
        self._clock.wait(threading.Event(), length)

    def _write_naively(self, name: str, stores: Mapping[str, DirectoryStore]) -> None:
        now = self._clock.now()
        replace_in_one_step(NaiveAuthority(name, now), stores, IDENTITIES, now)

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _until(
        self, condition: Callable[[Snapshot], bool], watch: Watch, tasks: TaskLedger, *, by: float, what: str
    ) -> None:
        """Wait until *condition* holds of the newest snapshot, giving out tasks meanwhile, *by* a second of the run."""

        def holds() -> bool:
            self._give_out(watch, tasks)
            self._read_reports(watch)
            return condition(watch.snapshot)

        within = timedelta(seconds=max(by - watch.seconds(), 0.1))
        wait_until(
            holds, within=within, what=f"{what} (by second {by:.0f} of the run)", every=timedelta(milliseconds=100)
        )

    def _give_out(self, watch: Watch, tasks: TaskLedger) -> None:
        """Give out one task if the next one is due."""
        now = watch.seconds()
        if self._submitting and now >= self._next_task_at:
            tasks.submit(1, seconds=self._numbers.task, task=CALL_SERVICE)
            self._next_task_at = now + self._numbers.task_every.total_seconds()

    def _read_reports(self, watch: Watch) -> None:
        """Note which serial each worker says that the server sees of it."""
        for worker in WORKER_NAMES:
            if (serial := reported_serial(self._places.report(worker))) is not None:
                self._noted.reports.setdefault((worker, serial), watch.seconds())

    def _pin(self) -> None:
        """Copy the newest checkpoint out of the log's folder, as an auditor would keep one."""
        shutil.copyfile(self._places.ledger / "checkpoint", self._places.pinned)
        self._noted.pinned_size = _size_of(self._places.pinned)
        self._mark(
            MarkerKind.PINNED,
            "checkpoint pinned",
            f"the checkpoint over {self._noted.pinned_size} records is copied outside the log",
        )

    def _status_of(self, stage: Stage) -> Callable[[], Mapping[str, Any]]:
        client = ControlClient(stage.socket, timeout=_STATUS_TIMEOUT)
        return client.status

    def _say(self, text: str) -> None:
        self._view.announce(text, at=(self._clock.now() - self._start).total_seconds())

    def _mark(self, kind: MarkerKind, short: str, text: str) -> None:
        at = (self._clock.now() - self._start).total_seconds()
        self._noted.markers.append(Marker(kind=kind, at=at, text=short))
        self._view.announce(text, at=at)

    def _told(self, watch: Watch) -> Told:
        return told(watch.records, start=self._start, domains=DOMAIN_OF)

    def _recording(self, watch: Watch, tasks: TaskLedger, seconds: float) -> Recording:
        """Return everything that was seen as one recording."""
        noted, seen = self._noted, self._told(watch)
        runs = task_runs(tasks, self._start)
        load = load_of([*watch.buckets, *watch.failures, *watch.peers], self._start)
        asked_for = [each.id for each in seen.ca_rotations if each.trigger == "request" and each.domain == MESH]
        return Recording(
            started_at=self._start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=seconds,
            ended_at=noted.ended_at,
            load=Load(
                ticks=load.ticks,
                failures=load.failures,
                peer_serials=load.peer_serials,
                sessions_resumed=noted.sessions_resumed,
                handshakes=noted.handshakes,
            ),
            control=noted.control,
            control_switch_at=noted.control_switch_at,
            lifetimes=seen.lifetimes,
            authorities=seen.authorities,
            ca_rotations=seen.ca_rotations,
            phases=watch.phases(),
            rolls=proven(seen.rolls, sighted(runs, noted.reports), seen.lifetimes),
            tasks=runs,
            tasks_submitted=len(tasks.submitted),
            tasks_lost=len(tasks.lost()),
            markers=tuple(noted.markers),
            killed_rotation=noted.killed_rotation,
            requested_rotation=asked_for[0] if asked_for else None,
            evidence=noted.evidence,
            trouble=noted.trouble,
            versions=versions(),
            mesh=MESH,
            workers=WORKER_NAMES,
            subjects=(CLIENT, SERVER, WORKERS),
        )


def _answers(status: Callable[[], Mapping[str, Any]]) -> bool:
    try:
        status()
    except RotatorError:
        return False
    return True


def _size_of(checkpoint: Path) -> int:
    """Return how many records *checkpoint* covers, 0 if it is not there."""
    if not checkpoint.exists():
        return 0
    return Checkpoint.parse(Note.parse(checkpoint.read_bytes()).text).size
