"""
The one door through which a running daemon takes orders on a machine: a Unix socket whose peer is known.

Rules that must stay true here:

- Nothing is done before the peer is known and has the right for it; refusals are logged with the uid, never the words
  of the request.
- The socket is never open to more than owner and group (0660), not even between being made and being restricted.
- A stranger costs little: bounded connections, one deadline and one size limit for the request, no thread that outlives
  its connection.
- What a dead daemon left behind is replaced; a socket that somebody answers on is never taken away.
"""

from __future__ import annotations

import errno
import grp
import os
import selectors
import socket
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import structlog

from rotator.clock import SystemClock
from rotator.control.peer import peer_of
from rotator.control.requests import (
    Operations,
    Person,
    Right,
    Rights,
    adopt_request,
    apply_request,
    approve_request,
    no_fields,
    only_horizon,
    only_name,
    pause_request,
    reject_request,
    rollback_request,
    rotate_request,
    undo_request,
)
from rotator.control.wire import LARGEST_REQUEST, BrokenLine, error_content, reachable, read_line, write_line
from rotator.core.model import SubjectName
from rotator.errors import ConfigError, Conflict, Denied, RotatorError, Unavailable
from rotator.ports import Clock
from rotator.telemetry import LogEvent

_MODE: Final = 0o660
_BACKLOG: Final = 64
_FULL: Final = timedelta(milliseconds=200)
"""How long a caller that is turned away may take to hear it; the accepting thread waits that long."""

_BREATH: Final = 0.1
"""Seconds until the next try to accept after the machine had no descriptor left."""

_TURN: Final = 0.5
"""Seconds in which a place may come free: who has its answer may ask again before its thread has ended."""


class ControlServer:
    """
    Serves *operations* on the socket at *path*.

    Use as a context manager, or call `start` and `stop`.
    """

    def __init__(
        self,
        path: Path,
        operations: Operations,
        *,
        operate: Iterable[str] = (),
        emergency: Iterable[str] = (),
        approve: Iterable[str] = (),
        socket_group: str | None = None,
        clock: Clock | None = None,
        connections: int = 16,
        request_within: timedelta = timedelta(seconds=5),
        answer_within: timedelta = timedelta(seconds=10),
        orders_refused: Callable[[], str | None] = lambda: None,
    ) -> None:
        """
        Name everything; nothing is opened yet.

        Args:
            path: Where the socket stands.
            operations: Who answers; called from several threads.
            operate: Unix groups that may operate, besides root and the service's own user.
            emergency: Unix groups with the right of emergencies, besides root.
            approve: Unix groups that may approve and reject what others ask, besides root.
            socket_group: Unix group of the socket; the process's own if None.
            clock: Measures deadlines.
            connections: How many are served at the same time; further ones hear that it is busy.
            request_within: Deadline for a request to arrive whole.
            answer_within: Deadline for the caller to take the answer.
            orders_refused: Asked before each order; says in a sentence why none can be taken now, None if it can.
        """
        self._path = path
        self._operations = operations
        self.allow(operate=operate, emergency=emergency, approve=approve)
        self._clock = clock or SystemClock()
        self._group = socket_group
        self._request_within = request_within
        self._answer_within = answer_within
        self._orders_refused = orders_refused
        self._free = threading.BoundedSemaphore(connections)
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._wake: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._log = structlog.get_logger()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def allow(self, *, operate: Iterable[str], emergency: Iterable[str], approve: Iterable[str] = ()) -> None:
        """Take these rights from the next request on (the configuration was read again)."""
        self._rights = Rights(
            operate=frozenset(operate),
            emergency=frozenset(emergency),
            approve=frozenset(approve),
            own_uid=os.geteuid(),
        )

    def start(self) -> None:
        """
        Open the socket and begin to serve.

        Raises:
            Conflict: If another process answers there.
            ConfigError: If the socket cannot stand there.
        """
        self._listener = self._bound()
        self._wake, woken = socket.socketpair()
        self._accepting = threading.Thread(
            target=self._accept, args=(self._listener, woken), name="control", daemon=True
        )
        self._accepting.start()

    def stop(self, within: timedelta = timedelta(seconds=5)) -> None:
        """Take no more requests, let those under way end *within* that time, remove the socket."""
        if self._wake is not None:
            self._wake.close()
        end = self._clock.monotonic() + within.total_seconds()
        if self._accepting is not None:
            self._accepting.join(within.total_seconds())
        if self._listener is not None:
            self._listener.close()
            self._remove()
        with self._lock:
            left = dict(self._open)
        for thread in left:
            thread.join(max(0.0, end - self._clock.monotonic()))
        for thread, connection in left.items():
            if thread.is_alive():
                # Wakes a thread that still reads or writes; one inside an operation ends with it.
                self._shut(connection)
                thread.join(1.0)

    def _bound(self) -> socket.socket:
        path = self._path
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            with reachable(path) as address:
                self._refuse_living(address)
                # Made and restricted under another name, then moved into place: nobody ever sees it half-done.
                draft = Path(address).with_name(f".{path.name}.new")
                draft.unlink(missing_ok=True)
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                try:
                    listener.bind(str(draft))
                    # bind() made it under the process's umask; before listen() nobody can connect.
                    draft.chmod(_MODE)
                    if self._group is not None:
                        os.chown(draft, -1, grp.getgrnam(self._group).gr_gid)
                    listener.listen(_BACKLOG)
                    draft.rename(address)
                except BaseException:
                    listener.close()
                    draft.unlink(missing_ok=True)
                    raise
                found = os.lstat(address)
                self._identity = (found.st_dev, found.st_ino)
        except KeyError as e:
            raise ConfigError(f"people.socket_group: there is no group {self._group}: make it or name another") from e
        except OSError as e:
            why = (e.strerror or "error").lower()
            raise ConfigError(f"the control socket cannot stand at {path} ({why}): mend rights or path") from e
        listener.setblocking(False)
        return listener

    def _refuse_living(self, address: str) -> None:
        try:
            found = os.lstat(address)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(f"{self._path} is not a socket: name another path for socket, or move what stands there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(address)
        # Refused: nobody listens, the daemon that made it is gone. Everything else (also "try again": a full queue)
        # means that somebody is there.
        if code != errno.ECONNREFUSED:
            raise Conflict(f"another process answers at {self._path}: stop it first")

    def _remove(self) -> None:
        try:
            found = os.lstat(self._path)
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()
        except OSError:
            # Somebody removed it already, or the directory is gone: there is nothing left to tidy.
            return

    def _accept(self, listener: socket.socket, woken: socket.socket) -> None:
        """Hand every caller to a thread of its own, until the other end of *woken* is closed."""
        with woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if woken in ready:
                    return
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    continue
                except OSError as e:
                    # Out of descriptors or memory: the callers wait in the queue, and the daemon must not spin.
                    self._log.warning(LogEvent.REQUEST_BROKEN, error=str(e))
                    selector.unregister(listener)
                    selector.select(timeout=_BREATH)
                    selector.register(listener, selectors.EVENT_READ)
                    continue
                self._hand_over(connection)

    def _hand_over(self, connection: socket.socket) -> None:
        if not self._free.acquire(timeout=_TURN):
            busy = Unavailable("the daemon serves as many requests as it may: ask again in a moment")
            self._answer(connection, error_content(busy), within=_FULL)
            self._shut(connection)
            connection.close()
            return
        thread = threading.Thread(target=self._serve, args=(connection,), name="control-request", daemon=True)
        with self._lock:
            self._open[thread] = connection
        try:
            thread.start()
        except RuntimeError as e:
            self._log.warning(LogEvent.REQUEST_BROKEN, error=str(e))
            with self._lock:
                del self._open[thread]
            connection.close()
            self._free.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._answer(connection, self._handled(connection), within=self._answer_within)
        finally:
            connection.close()
            self._free.release()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _answer(self, connection: socket.socket, content: Mapping[str, Any], *, within: timedelta) -> None:
        try:
            write_line(connection, content, within=within)
        except BrokenLine as e:
            self._log.warning(LogEvent.REQUEST_BROKEN, error=str(e))

    def _handled(self, connection: socket.socket) -> Mapping[str, Any]:
        """Return the answer to the one request on *connection*."""
        operation, person = "", None
        try:
            person, pid = peer_of(connection)
            line = read_line(connection, limit=LARGEST_REQUEST, within=self._request_within, clock=self._clock)
            operation, fields = _parts(line)
            self._log.info(LogEvent.REQUEST_RECEIVED, operation=operation, uid=person.uid, pid=pid)
            return {"answer": self._done(operation, fields, person)}
        except BrokenLine as e:
            self._log.warning(LogEvent.REQUEST_BROKEN, error=str(e), uid=person.uid if person else None)
            return error_content(ConfigError(f"the request was not understood: {e}"))
        except RotatorError as e:
            uid = person.uid if person else None
            self._log.info(LogEvent.REQUEST_REFUSED, operation=operation, uid=uid, kind=type(e).__name__)
            return error_content(e)
        # The daemon must outlive a mistake in one answer; the traceback is in its log, not on the socket.
        except Exception:  # noqa: BLE001 -- see above
            self._log.exception(LogEvent.THREAD_FAILED, operation=operation)
            return error_content(RotatorError("the daemon met an error that nobody expected: its log has the details"))

    def _done(self, operation: str, fields: Mapping[str, object], person: Person) -> object:
        def require(right: Right) -> None:
            self._require(person, right, operation)

        operations = self._operations
        match operation:
            case "status":
                no_fields(fields)
                require(Right.READ)
                return operations.status()
            case "plan":
                require(Right.READ)
                return list(operations.plan(only_horizon(fields)))
            case "progress":
                require(Right.READ)
                return operations.progress(only_name(fields, "rotation_id"))
            case "request":
                require(Right.READ)
                return operations.request(only_name(fields, "request_id"))
            case "rotate":
                rotate = rotate_request(fields)
                require(rotate.right)
                return operations.rotate(rotate, person)
            case "pause":
                pause = pause_request(fields)
                require(pause.right)
                return operations.pause(pause, person)
            case "resume":
                require(Right.OPERATE)
                return operations.resume(SubjectName(only_name(fields, "subject")), person)
            case "rollback":
                require(Right.OPERATE)
                return operations.rollback(rollback_request(fields), person)
            case "adopt":
                adopt = adopt_request(fields)
                require(adopt.right)
                return operations.adopt(adopt, person)
            case "apply":
                apply = apply_request(fields)
                require(apply.right)
                return operations.apply(apply, person)
            case "undo":
                undo = undo_request(fields)
                require(undo.right)
                return operations.undo(undo, person)
            case "approve":
                approve = approve_request(fields)
                require(Right.APPROVE)
                return operations.approve(approve, person)
            case "reject":
                reject = reject_request(fields)
                require(Right.APPROVE)
                return operations.reject(reject, person)
            case _:
                raise ConfigError("the daemon does not know this operation: use a client of its own version")

    def _require(self, person: Person, right: Right, operation: str) -> None:
        if self._rights.permits(person, right):
            why = None if right is Right.READ else self._orders_refused()
            if why is not None:
                raise Unavailable(why)
            return
        self._operations.denied(operation, person, right)
        rights = self._rights
        groups = {Right.EMERGENCY: rights.emergency, Right.APPROVE: rights.approve}.get(right, rights.operate)
        named = ", ".join(sorted(groups)) or "no group is named in the configuration"
        raise Denied(
            f"{person.name} may not {operation}: the right `{right.value}` belongs to people.{right.value} ({named})"
        )

    @staticmethod
    def _shut(connection: socket.socket) -> None:
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Already closed by the other end.
            return


def _parts(line: Mapping[str, Any]) -> tuple[str, Mapping[str, object]]:
    operation, fields = line.get("operation"), line.get("request", {})
    if not isinstance(operation, str) or not isinstance(fields, dict):
        raise BrokenLine("the line names no operation")
    return operation[:32], fields
