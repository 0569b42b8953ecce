"""
Asks the running daemon over its control socket.

Rules that must stay true here:

- Every call has a deadline; no answer is `Unavailable` and says how to start the daemon.
- What the daemon refused is raised here as the same class of error, so that a command's exit code is the daemon's word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, cast

from rotator.clock import SystemClock
from rotator.control.requests import (
    AdoptRequest,
    ApplyRequest,
    ApproveRequest,
    PauseRequest,
    RejectRequest,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.control.wire import LARGEST_ANSWER, BrokenLine, raise_error, reachable, read_line, write_line
from rotator.core.window import written
from rotator.durations import moment_text
from rotator.errors import Denied, Unavailable


class ControlClient:
    """The daemon, as seen through its control socket. One connection a call; safe from several threads."""

    plans_first: ClassVar[bool] = True
    """A plan changes nothing and is asked for apart."""

    def __init__(self, path: Path, *, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Reach the socket at *path*; *timeout* is for each call as a whole."""
        self._path = path
        self._timeout = timeout
        self._clock = SystemClock()

    def status(self) -> dict[str, Any]:
        """Return every subject and the ledger's state (contract ``status --json``)."""
        return cast("dict[str, Any]", self._ask("status"))

    def plan(self, horizon: timedelta) -> list[dict[str, Any]]:
        """Return what will happen within *horizon*, soonest first."""
        return cast("list[dict[str, Any]]", self._ask("plan", horizon=written(horizon)))

    def progress(self, rotation_id: str) -> dict[str, Any]:
        """Return where one rotation stands."""
        return cast("dict[str, Any]", self._ask("progress", rotation_id=rotation_id))

    def rotate(self, request: RotateRequest) -> dict[str, Any]:
        """Open rotations, or only plan them."""
        return cast("dict[str, Any]", self._ask("rotate", **dataclasses.asdict(request)))

    def pause(self, request: PauseRequest) -> dict[str, Any]:
        """Hold a subject."""
        return cast("dict[str, Any]", self._ask("pause", **dataclasses.asdict(request)))

    def resume(self, subject: str) -> dict[str, Any]:
        """Take a hold away."""
        return cast("dict[str, Any]", self._ask("resume", subject=subject))

    def rollback(self, request: RollbackRequest) -> dict[str, Any]:
        """Walk a CA rotation back."""
        return cast("dict[str, Any]", self._ask("rollback", **dataclasses.asdict(request)))

    def adopt(self, request: AdoptRequest) -> dict[str, Any]:
        """Lead a mesh from now on, or only plan it."""
        return cast("dict[str, Any]", self._ask("adopt", **dataclasses.asdict(request)))

    def apply(self, request: ApplyRequest) -> dict[str, Any]:
        """Write the platform's documents, or only plan it."""
        return cast("dict[str, Any]", self._ask("apply", **dataclasses.asdict(request)))

    def undo(self, request: UndoRequest) -> dict[str, Any]:
        """Take a change of the platform's documents back, or only plan it."""
        return cast("dict[str, Any]", self._ask("undo", **dataclasses.asdict(request)))

    def request(self, request_id: str) -> dict[str, Any]:
        """Return where one request stands."""
        return cast("dict[str, Any]", self._ask("request", request_id=request_id))

    def approve(self, request: ApproveRequest) -> dict[str, Any]:
        """Agree to what somebody else asks."""
        return cast("dict[str, Any]", self._ask("approve", **dataclasses.asdict(request)))

    def reject(self, request: RejectRequest) -> dict[str, Any]:
        """End what somebody asks with a no."""
        return cast("dict[str, Any]", self._ask("reject", **dataclasses.asdict(request)))

    def _ask(self, operation: str, **fields: object) -> object:
        wire = {key: moment_text(value) if isinstance(value, datetime) else value for key, value in fields.items()}
        with self._connected() as connection:
            # A daemon that is busy answers before it has read; what it said is worth more than the broken pipe.
            with contextlib.suppress(BrokenLine):
                write_line(connection, {"operation": operation, "request": wire}, within=self._timeout)
            try:
                answer = read_line(connection, limit=LARGEST_ANSWER, within=self._timeout, clock=self._clock)
            except BrokenLine as e:
                raise Unavailable(
                    f"the daemon at {self._path} took the request but gave no answer ({e}): "
                    "look at rotator status before asking again"
                ) from e
        error = answer.get("error")
        if isinstance(error, Mapping):
            raise_error(error)
        return answer.get("answer")

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(self._timeout.total_seconds())
            with reachable(self._path) as address:
                connection.connect(address)
        except OSError as e:
            connection.close()
            if e.errno in {errno.EACCES, errno.EPERM}:
                raise Denied(
                    f"you may not open the control socket {self._path}: join its group, or ask somebody who is in it"
                ) from e
            raise Unavailable(
                f"no daemon answers at {self._path}: start it with `systemctl start rotator` or `rotator run`"
            ) from e
        return connection
