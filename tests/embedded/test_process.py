"""Servers that a test or the demonstration starts never outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.embedded.process import ServerProcess, free_port, listening, wait_until
from rotator.errors import Unavailable

SOON = timedelta(seconds=20)


def exists(pid: int) -> bool:
    """Return whether *pid* runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def http_server(tmp_path: Path, port: int) -> ServerProcess:
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    return ServerProcess("web", command, log=tmp_path / "web.log", cwd=tmp_path)


def test_starts_when_ready_stops_and_starts_again(tmp_path: Path) -> None:
    """A server is ready when its condition holds, gone after stop, and may be started again."""
    port = free_port()
    with http_server(tmp_path, port) as server:
        for _ in range(2):
            server.start(ready=lambda: listening(port), within=SOON)
            pid = server.pid
            assert (True, True) == (server.alive, exists(pid))
            server.stop()
            server.stop()
            assert (False, False, False) == (server.alive, exists(pid), listening(port))


def test_the_pid_is_the_servers_own(tmp_path: Path) -> None:
    """The launcher becomes the server: a signal to the pid reaches the server itself."""
    port = free_port()
    with http_server(tmp_path, port) as server:
        server.start(ready=lambda: listening(port), within=SOON)
        assert "http.server" in Path(f"/proc/{server.pid}/cmdline").read_text(encoding="utf-8").split("\0")


def test_a_server_that_ends_early_shows_its_log(tmp_path: Path) -> None:
    """Ending before being ready is an error at once, with the end of the log."""
    program = [sys.executable, "-c", "import sys; sys.exit('cannot read its configuration')"]
    server = ServerProcess("broken", program, log=tmp_path / "logs" / "x.log")
    with pytest.raises(Unavailable, match=r"(?s)broken ended with status 1 .*cannot read its configuration"):
        server.start(ready=lambda: False, within=SOON)
    assert not server.alive


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """A program that is not there is named in the error."""
    server = ServerProcess("nobody", ["/no/such/program"], log=tmp_path / "x.log")
    with pytest.raises(Unavailable, match="cannot start /no/such/program"):
        server.start(ready=lambda: False, within=SOON)


def test_a_server_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    """Not ready in time: an error, and no process is left."""
    server = ServerProcess("deaf", [sys.executable, "-c", "import signal; signal.pause()"], log=tmp_path / "x.log")
    pids: list[int] = []

    def never() -> bool:
        pids.append(server.pid)
        return False

    with pytest.raises(Unavailable, match=r"waited 0\.2 s for deaf to be ready"):
        server.start(ready=never, within=timedelta(seconds=0.2))
    assert not exists(pids[0])


def test_a_server_that_ignores_term_is_killed(tmp_path: Path) -> None:
    """TERM is asked for, KILL follows."""
    marker = tmp_path / "up"
    program = f"import signal, pathlib; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(marker)!r}).touch()\n"
    program += "while True: signal.pause()"
    server = ServerProcess(
        "stubborn", [sys.executable, "-c", program], log=tmp_path / "x.log", stop_within=timedelta(seconds=0.5)
    )
    server.start(ready=marker.exists, within=SOON)
    pid = server.pid
    server.stop()
    assert not exists(pid)


def test_a_killed_parent_takes_its_server_along(tmp_path: Path) -> None:
    """SIGKILL to whoever started a server leaves no orphan."""
    pid_file = tmp_path / "pid"
    parent = textwrap.dedent(f"""
        import pathlib, signal, sys
        from rotator.embedded.process import ServerProcess
        server = ServerProcess("s", [sys.executable, "-c", "import signal; signal.pause()"],
                               log=pathlib.Path({str(tmp_path / "s.log")!r}))
        server.start(ready=lambda: True)
        pathlib.Path({str(pid_file)!r} + ".tmp").write_text(str(server.pid))
        pathlib.Path({str(pid_file)!r} + ".tmp").rename({str(pid_file)!r})
        signal.pause()
    """)
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        try:
            wait_until(pid_file.exists, within=SOON, what="the parent to start its server")
            pid = int(pid_file.read_text(encoding="ascii"))
            # The launcher must have become the server, else it may not have asked the kernel yet.
            wait_until(
                lambda: (
                    Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3]
                    == [b"-c", b"import signal; signal.pause()"]
                ),
                within=SOON,
                what="the launcher to become the server",
            )
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
    wait_until(lambda: not exists(pid), within=SOON, what="the orphan to be killed")
