"""
Real servers as children of this process: started, waited for, stopped, never left behind.

Rules that must stay true here:

- A server dies with the process that started it, also when that one is killed: the kernel is asked to
  (``PR_SET_PDEATHSIG``), by a tiny launcher that then becomes the server, so no code runs between fork and exec.
  The kernel means the *thread* that started it: start servers in a thread that lives as long as they should.
- Readiness is a condition with a deadline, never a sleep; a server that ends before it is ready is an error that
  shows the end of its log.
- A server runs in a session of its own, so that Ctrl-C reaches whoever started it, and whatever it started itself
  is killed with it.
- Everything listens on 127.0.0.1, on ports chosen at run time.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rotator.clock import SystemClock
from rotator.errors import Unavailable

LOOPBACK = "127.0.0.1"

_POLL = timedelta(milliseconds=20)

_FIRST_PORT, _PORTS = 12_000, 18_000
"""Below 32768, where Linux begins to choose by itself, and below 30000, where Kubernetes has its node ports."""
_TRIES = 1_000

# argv: the pid of whoever starts the server, then the server's own command line. The parent may have died before
# prctl took effect, then nobody would ever be told: hence the comparison after it.
_LAUNCHER = """
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, int(signal.SIGKILL), 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[1]):
    sys.exit("whoever started this server is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as e:
    sys.exit(f"cannot start {sys.argv[2]}: {e.strerror}")
"""


def free_port() -> int:
    """
    Return a TCP port of 127.0.0.1 that nobody listens on now. Somebody else may take it before it is used.

    It lies below the ports that the kernel gives to outgoing connections: under load one of those would take it.
    """
    for _ in range(_TRIES):
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise Unavailable("no TCP port is free on this machine: stop what takes them")


def listening(port: int) -> bool:
    """Return whether something accepts TCP connections on *port* of 127.0.0.1: the simplest readiness condition."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], *, within: timedelta, what: str, every: timedelta = _POLL) -> None:
    """
    Return as soon as *condition* holds, asking every 20 ms unless told otherwise.

    Raises:
        Unavailable: If it does not hold *within* the time; *what* completes "waited 5 s for ...".
    """
    clock, never = SystemClock(), threading.Event()
    deadline = clock.monotonic() + within.total_seconds()
    while not condition():
        if clock.monotonic() >= deadline:
            raise Unavailable(f"waited {within.total_seconds():g} s for {what}")
        clock.wait(never, every)


class ServerProcess:
    """
    One real server.

    It may be started again after `stop` or `kill`; its log file is appended to.
    As a context manager it only stops: call `start` inside.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stop_within: timedelta = timedelta(seconds=10),
    ) -> None:
        """
        Describe the server without starting it.

        Args:
            name: What errors call it.
            command: Program and arguments; the process listing shows them, so no secret may stand there.
            log: Where its standard output and error go.
            env: Added to this process's environment.
            cwd: Its working directory.
            stop_within: How long TERM may take before KILL.
        """
        self.name = name
        self.command = tuple(str(word) for word in command)
        self.log = log
        self._env = dict(env or {})
        self._cwd = cwd
        self._stop_within = stop_within
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return the pid of the running server."""
        if self._process is None:
            raise Unavailable(f"{self.name} is not running")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether it runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Return the status that it ended with by itself, negative for a signal; None if it runs or was stopped."""
        return self._process.poll() if self._process is not None else None

    def start(self, *, ready: Callable[[], bool], within: timedelta = timedelta(seconds=30)) -> None:
        """
        Start the server and return once *ready* holds.

        *ready* is asked again and again, so it must not block for long; what it raises ends the start.

        Raises:
            Unavailable: If the server ends first, or is not ready *within* the time. It is killed then.
        """
        if self.alive:
            raise Unavailable(f"{self.name} is running already as pid {self.pid}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._env},
                cwd=self._cwd,
                start_new_session=True,
            )
        try:
            wait_until(lambda: self._ended() or ready(), within=within, what=f"{self.name} to be ready")
            self._ended()
        except Unavailable as e:
            self.kill()
            raise Unavailable(f"{e}; the end of its log {self.log}:\n{self.log_tail()}") from e
        except BaseException:
            self.kill()
            raise

    def _ended(self) -> bool:
        """Return False; raise if the server has ended, though nobody stopped it."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise Unavailable(f"{self.name} ended with status {status} before it was ready")
        return False

    def stop(self) -> None:
        """Stop the server: TERM, then KILL when its time is over. Stopping twice is no error."""
        if self._process is None:
            return
        if self.alive:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_within.total_seconds())
        self.kill()

    def kill(self) -> None:
        """Kill the server and all it started, as a crash would, and reap it. Killing twice is no error."""
        if self._process is None:
            return
        # The group outlives its leader only while the leader's own children do; its number is not given away till then.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(self._stop_within.total_seconds())
        self._process = None

    def log_tail(self, lines: int = 20) -> str:
        """Return the last *lines* of its log; empty if there is none."""
        try:
            with self.log.open(encoding="utf-8", errors="replace") as log:
                return "".join(deque(log, maxlen=lines)).rstrip()
        except FileNotFoundError:
            return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
