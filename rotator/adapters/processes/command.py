"""
Members that rotator starts itself: a command, its pid file, its log.

Rules that must stay true here:

- What is started belongs to nobody: own session, no parent here, so it survives rotator's end and SIGKILL.
- The pid file is written by the process itself *before* it becomes the command: at no moment does a worker run that
  a restarted rotator could not find. A lock, held until then, keeps two from starting one member twice.
- TERM goes to the main process alone, never to its group: its children are the work (law 17).
- The command line holds no secret: those travel in the environment, which is not rotator's own but a short list,
  the configuration and a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rotator.adapters.processes.seen import Process, boot_id, held, process, session_of, started_at
from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable
from rotator.ports import Clock
from rotator.redaction import redacted_text

# What a worker inherits of rotator's environment. The rest may hold rotator's own credentials.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")

# After KILL only the kernel's own clean-up remains.
_KILL_TAKES = timedelta(seconds=10)

# A pid file may be a moment older than it should be by the file system's coarser clock.
_FILE_CLOCK_SLACK = timedelta(seconds=2)

_LOG_LINES = 15

# argv: lock descriptor, pid file, boot id, moment of the start, log file, command. The one that stays is the child:
# the parent tells what went wrong before the command took over (the pipe closes by itself when it does) and leaves.
_LAUNCHER = """
import json, os, signal, sys
lock, pid_file, boot, moment, log_file = int(sys.argv[1]), *sys.argv[2:6]
command = sys.argv[6:]
os.set_inheritable(lock, False)
told, tell = os.pipe()
child = os.fork()
if child:
    os.close(tell)
    problem = os.read(told, 1000)
    if problem:
        os.waitpid(child, 0)  # its pid file must not name a process that still runs for a moment
    os.write(1, problem)
    os._exit(1 if problem else 0)
doing = ""
try:
    os.setsid()
    doing = f"open the log file {log_file}"
    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    os.dup2(log, 1)
    os.dup2(log, 2)
    doing = f"write the pid file {pid_file}"
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    half = f"{pid_file}.{os.getpid()}"
    with open(half, "w") as file:
        json.dump({"pid": os.getpid(), "start_ticks": ticks, "boot_id": boot, "started_at": moment}, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(half, pid_file)
    doing = f"run {command[0]}"
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(command[0], command)
except OSError as e:
    os.write(tell, f"cannot {doing}: {e.strerror}".encode())
os._exit(127)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandMember:
    """A worker that is a command."""

    name: str
    command: tuple[str, ...]
    pid_file: Path
    log_file: Path
    directory: Path | None = None
    """Its working directory."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment_file: Path | None = None
    """``NAME=value`` lines, read at each start: the place for what is secret."""
    spare: bool = False
    """It runs only for the time of a roll."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A command that runs."""

    process: Process
    at: datetime


def find(member: CommandMember, clock: Clock) -> Started | None:
    """
    Return the running process of *member*; None if it does not run.

    A plain pid file (a number, as workers write themselves) is believed if the process is older than the file.

    Raises:
        Rejected: If the pid file holds neither; whether the worker runs is not guessed.
    """
    try:
        text = member.pid_file.read_text(encoding="utf-8").strip()
        written = datetime.fromtimestamp(member.pid_file.stat().st_mtime, tz=UTC)
    except FileNotFoundError:
        return None
    except PermissionError as e:
        raise Denied(f"the pid file {member.pid_file} may not be read by this user") from e
    except (OSError, UnicodeDecodeError) as e:
        raise Rejected(f"the pid file {member.pid_file} cannot be read") from e
    noted = _parsed(member, text)
    if isinstance(noted, int):
        one = process(noted)
        if one is None:
            return None
        at = started_at(one, clock.now())
        return Started(process=one, at=at) if at <= written + _FILE_CLOCK_SLACK else None
    if noted.boot != boot_id():
        return None
    one = process(noted.pid)
    if one is None or one.start_ticks != noted.start_ticks:
        return None
    return Started(process=one, at=noted.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noted:
    """What a pid file of ours says."""

    pid: int
    start_ticks: int
    boot: str
    at: datetime


def _parsed(member: CommandMember, text: str) -> int | _Noted:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        noted = json.loads(text)
        return _Noted(
            pid=int(noted["pid"]),
            start_ticks=int(noted["start_ticks"]),
            boot=str(noted["boot_id"]),
            at=datetime.fromisoformat(noted["started_at"]),
        )
    except (ValueError, TypeError, KeyError) as e:
        raise Rejected(
            f"the pid file {member.pid_file} of {member.name} does not name a process: "
            "remove it if the worker does not run, or write its number there"
        ) from e


def stop(member: CommandMember, started: Started, *, within: timedelta, forced: bool) -> None:
    """
    Tell the main process of *member* to end, and return once it is gone.

    Raises:
        Unavailable: If it is not gone *within* the time; it goes on ending. With *forced* it is killed then, and
            so is what it leaves behind in its session, lest work go on beside its replacement.
    """
    with held(started.process) as main:
        if main is None:
            return
        main.send(signal.SIGTERM)
        if main.ended(within):
            return
        pid, seconds = started.process.pid, within.total_seconds()
        if not forced:
            raise Unavailable(
                f"{member.name} (process {pid}) has not ended {seconds:g} s after TERM: "
                "its work goes on, it is looked at again"
            )
        with ExitStack() as stack:
            # Taken before the kill: afterwards the session cannot be told from a later one with the same number.
            rest = [stack.enter_context(held(child)) for child in session_of(started.process)]
            main.send(signal.SIGKILL)
            if not main.ended(_KILL_TAKES):
                raise Unavailable(f"{member.name} (process {pid}) has not ended after KILL: it hangs in the kernel")
            for child in rest:
                if child is not None:
                    child.send(signal.SIGKILL)


@contextmanager
def locked(member: CommandMember) -> Iterator[int]:
    """Hold the right to start and stop *member*; give its descriptor. Raises `Conflict` if somebody else has it."""
    path = member.pid_file.with_name(f"{member.pid_file.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as e:
        raise Denied(f"{path.parent} may not be written by this user: the pid file of {member.name} lies there") from e
    except OSError as e:
        raise Unavailable(f"the lock {path} of {member.name} cannot be opened: {e.strerror}") from e
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise Conflict(f"{member.name} is being replaced by another thread or process") from e
        yield descriptor
    finally:
        os.close(descriptor)


def start(member: CommandMember, *, lock: int, clock: Clock, within: timedelta, settle: timedelta) -> None:
    """
    Start *member* and return once it has run for *settle*; whether it takes work is for others to prove.

    Raises:
        Rejected: If the command cannot be run at all.
        Unavailable: If it ends at once; the end of its log is shown, without secrets.
    """
    # Before the start, not after: a publication in between must not look as if the worker had loaded it.
    moment = clock.now()
    environment = _environment(member)
    try:
        member.log_file.parent.mkdir(parents=True, exist_ok=True)
        log_began = member.log_file.stat().st_size if member.log_file.exists() else 0
        launcher = subprocess.Popen(  # noqa: S603 -- the operator's own command, without a shell
            [
                *(sys.executable, "-I", "-S", "-c", _LAUNCHER),
                *(str(lock), str(member.pid_file), boot_id(), moment.isoformat(), str(member.log_file)),
                *member.command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=member.directory,
            pass_fds=(lock,),
        )
    except OSError as e:
        raise Rejected(f"{member.name} cannot be started: {e.filename or member.command[0]}: {e.strerror}") from e
    with launcher:
        try:
            problem, _ = launcher.communicate(timeout=within.total_seconds())
        except subprocess.TimeoutExpired as e:
            launcher.kill()
            raise Unavailable(f"{member.name} could not be started within {within.total_seconds():g} s") from e
    if launcher.returncode != 0:
        raise Rejected(f"{member.name} cannot be started: {problem.decode(errors='replace') or 'the launcher failed'}")
    started = find(member, clock)
    if started is not None:
        with held(started.process) as main:
            if main is not None and not main.ended(settle):
                return
    raise Unavailable(
        f"{member.name} ended as soon as it was started; run {member.command[0]} by hand, or see {member.log_file}, "
        f"which ends:\n{_tail(member.log_file, log_began)}"
    )


def _environment(member: CommandMember) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **member.environment, **_from_file(member)}


def _from_file(member: CommandMember) -> dict[str, str]:
    if member.environment_file is None:
        return {}
    try:
        lines = member.environment_file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"the environment file {member.environment_file} cannot be read") from None
    values = {}
    for number, line in enumerate(lines, start=1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith("#"):
            continue
        if not equals or not name.isidentifier():
            # The line itself is not shown: it may be a secret.
            raise ConfigError(f"{member.environment_file}:{number}: not of the form NAME=value")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        values[name] = value[1:-1] if quoted else value
    return values


def _tail(log: Path, begin: int) -> str:
    """Return the last lines written since *begin*, without secrets."""
    try:
        with log.open("rb") as file:
            file.seek(begin)
            lines = deque(file, maxlen=_LOG_LINES)
    except OSError:
        return "(the log cannot be read)"
    return redacted_text(b"".join(lines).decode("utf-8", errors="replace")).rstrip() or "(nothing)"
