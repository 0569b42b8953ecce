"""
The HTTP service's connections: uvicorn's HTTP/1.1 on a socket of our own, in one thread of its own.

Rules that must stay true here:

- A stranger costs little: bounded connections, bounded headers, no bodies, a deadline for the handshake, for each
  request and for each answer. Where all places are taken the connection that has said nothing for longest gives way,
  so that probes always get in.
- Nothing here touches signals. `stop` returns within its bound: answers under way are finished if they can be.
- The thread answers nothing itself that may block: blocking handlers run in worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timedelta
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from rotator.errors import ConfigError, Unavailable
from rotator.telemetry import LogEvent

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]
"""An ASGI application."""

CERTIFIED: Final = "rotator.certified"
"""Key of the request's scope: whether its connection showed a certificate that was verified."""

MOST_CONNECTIONS: Final = 128
"""Probes, a few Prometheus and some readers need a dozen."""
LARGEST_HEADERS: Final = 24 * 1024
"""Request line and headers together: a token with many groups in it is some kilobytes."""
_BACKLOG: Final = 64
_LOOK_EVERY: Final = 0.5
_STARTS_WITHIN: Final = 30.0
"""Seconds for a thread and its loop, on a machine that is busy with everything else."""


class Bounds:
    """How long a caller may take; tests shorten them."""

    def __init__(
        self,
        *,
        handshake: timedelta = timedelta(seconds=10),
        request: timedelta = timedelta(seconds=10),
        answer: timedelta = timedelta(seconds=60),
        idle: timedelta = timedelta(seconds=75),
        connections: int = MOST_CONNECTIONS,
    ) -> None:
        """*idle* is longer than a minute: Prometheus then scrapes over one connection."""
        self.handshake = handshake.total_seconds()
        self.request = request.total_seconds()
        self.answer = answer.total_seconds()
        self.idle = idle.total_seconds()
        self.connections = connections


class _Connection(H11Protocol):
    """One connection, which knows since when it waits for what."""

    def __init__(self, *, bounds: Bounds, gone: Callable[[_Connection], None], **uvicorns: Any) -> None:  # noqa: ANN401 -- handed on
        super().__init__(**uvicorns)
        self._bounds = bounds
        self._gone = gone
        self._since = self.loop.time()
        self._served = False
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        super().connection_made(transport)
        shown = transport.get_extra_info("peercert")
        self.app = functools.partial(_with_certificate, self.app, bool(shown))
        self._since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        if not self._begun and not self.answering:
            # From the first byte on the whole request has its time, however slowly it drips.
            self._begun, self._since = True, self.loop.time()
        super().data_received(data)
        if self.answering:
            self._begun, self._since = False, self.loop.time()

    def on_response_complete(self) -> None:
        self._served, self._begun, self._since = True, False, self.loop.time()
        super().on_response_complete()

    @property
    def answering(self) -> bool:
        """Return whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waiting_since(self) -> float | None:
        """Return since when it has been waiting for its caller; None while it is being answered."""
        return None if self.answering else self._since

    def is_late(self, now: float) -> bool:
        """Return whether its caller has taken too long."""
        if self.answering:
            allowed = self._bounds.answer
        elif self._begun or not self._served:
            allowed = self._bounds.request
        else:
            allowed = self._bounds.idle
        return now - self._since > allowed

    def give_up(self) -> None:
        """Close without another word."""
        if self.transport is not None:
            self.transport.abort()


class Listener:
    """Serves one application at one address until stopped."""

    def __init__(
        self,
        application: Application,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Serve *application* at *address*; plain without *tls*."""
        self._address = address
        self._tls = tls
        self._bounds = bounds or Bounds()
        self._config = uvicorn.Config(
            application,
            interface="asgi3",
            http=H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(self._bounds.idle),
            h11_max_incomplete_event_size=LARGEST_HEADERS,
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._open: set[_Connection] = set()
        self._shaking: dict[asyncio.Task[None], float] = {}
        """Handshakes under way, and since when."""

    @property
    def port(self) -> int:
        """Return the port it listens at; 0 while it does not."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def start(self) -> None:
        """
        Listen, and return once connections are answered.

        Raises:
            ConfigError: If the address cannot be listened at.
        """
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(_BACKLOG)
        except OSError as e:
            listening.close()
            raise ConfigError(f"cannot listen at {host}:{port}: {e.strerror}") from e
        listening.setblocking(False)
        self._socket = listening
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening, ready), name="http", daemon=True)
        self._thread.start()
        if not ready.wait(_STARTS_WITHIN):
            raise Unavailable(f"the service at {host}:{port} did not start in time")
        log.info(LogEvent.SERVICE_STARTED, address=f"{host}:{self.port}", tls=self._tls is not None)

    def stop(self, within: timedelta = timedelta(seconds=5)) -> None:
        """Answer nothing new, finish what is being answered, and return *within* that time whatever happens."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None or loop is None or stopping is None:
            return
        with contextlib.suppress(RuntimeError):
            # The loop may have ended by itself.
            loop.call_soon_threadsafe(_settle, stopping)
        thread.join(within.total_seconds())
        self._thread = None

    def _run(self, listening: socket.socket, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listening, ready))
        except Exception:
            # The daemon goes on without its service; probes that find none restart it.
            log.exception(LogEvent.THREAD_FAILED, doing="serving HTTP")
        finally:
            listening.close()
            ready.set()

    # --- in the loop's thread ---------------------------------------------------------------------------------------

    async def _serve(self, listening: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = self._loop.create_future()
        self._config.load()
        state = ServerState()
        accepting = asyncio.create_task(self._accept(listening, state))
        looking = asyncio.create_task(self._end_the_late())
        ready.set()
        await self._stopping
        for task in (accepting, looking):
            task.cancel()
        listening.close()
        for connection in tuple(self._open):
            # What is being answered is finished; what waits is closed.
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=3)
        for connection in tuple(self._open):
            connection.give_up()

    async def _accept(self, listening: socket.socket, state: ServerState) -> None:
        while True:
            try:
                await self._accept_one(listening, state)
            except OSError:
                # Out of descriptors, or a caller that is gone already.
                await asyncio.sleep(_LOOK_EVERY)
            except Exception:
                # A defect with one caller must not end the service for all.
                log.exception(LogEvent.THREAD_FAILED, doing="accepting a connection")
                await asyncio.sleep(_LOOK_EVERY)

    async def _accept_one(self, listening: socket.socket, state: ServerState) -> None:
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(listening)
        # What came before has its turn to begin, or to be gone.
        await asyncio.sleep(0)
        if not self._has_place():
            accepted.close()
            return
        task = asyncio.create_task(self._begin(accepted, state))
        self._shaking[task] = loop.time()
        task.add_done_callback(self._shaking.pop)

    async def _begin(self, accepted: socket.socket, state: ServerState) -> None:
        """Make one connection of *accepted*, handshake included."""
        loop = asyncio.get_running_loop()
        factory = functools.partial(
            _Connection,
            config=self._config,
            server_state=state,
            app_state={},
            bounds=self._bounds,
            gone=self._open.discard,
        )
        try:
            _, connection = await loop.connect_accepted_socket(
                factory,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=self._bounds.handshake if self._tls is not None else None,
                ssl_shutdown_timeout=1 if self._tls is not None else None,
            )
        except (OSError, asyncio.CancelledError):
            # A handshake that failed, or gave way, is its caller's business; ssl's errors are OSErrors.
            accepted.close()
            return
        if not connection.transport.is_closing():
            self._open.add(connection)

    def _has_place(self) -> bool:
        """Return whether one more may come in, after the one that has waited for longest was sent away if need be."""
        if len(self._open) + len(self._shaking) < self._bounds.connections:
            return True
        waiting: list[tuple[float, Callable[[], object]]] = [
            (each.waiting_since, functools.partial(self._send_away, each))
            for each in self._open
            if each.waiting_since is not None
        ]
        waiting += [(since, task.cancel) for task, since in self._shaking.items()]
        if not waiting:
            return False
        _, give_way = min(waiting, key=lambda each: each[0])
        give_way()
        return True

    def _send_away(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.give_up()

    async def _end_the_late(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = loop.time()
            for connection in [each for each in self._open if each.is_late(now)]:
                connection.give_up()


def _settle(stopping: asyncio.Future[None]) -> None:
    if not stopping.done():
        stopping.set_result(None)


async def _with_certificate(
    application: Application,
    certified: bool,  # noqa: FBT001 -- bound by position, before what ASGI passes
    scope: Scope,
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Tell *application* whether the connection showed a certificate that was verified."""
    scope[CERTIFIED] = certified
    await application(scope, receive, send)
