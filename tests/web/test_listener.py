"""Connections: what a rude caller costs, and that everybody else is served meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from rotator.errors import ConfigError
from rotator.web.listener import LARGEST_HEADERS, Bounds, Listener, Scope
from tests.web.callers import PATIENCE, ask, closed

SHORT = timedelta(milliseconds=300)


async def hello(scope: Scope, _receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer with what was asked."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": scope["path"].encode()[:5].ljust(5)})


@contextlib.contextmanager
def listening(bounds: Bounds | None = None, application: Any = hello) -> Iterator[Listener]:
    """Give a listener of *application* at a free port."""
    listener = Listener(application, ("127.0.0.1", 0), bounds=bounds)
    listener.start()
    try:
        yield listener
    finally:
        listener.stop()


@contextlib.contextmanager
def connected(port: int, said: bytes = b"") -> Iterator[socket.socket]:
    """Give a connection over which *said* was sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        if said:
            connection.sendall(said)
        yield connection


@pytest.mark.parametrize(
    "said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\nx: "], ids=["silent", "half a line", "half the headers"]
)
def test_a_request_that_does_not_come_ends_its_connection(said: bytes) -> None:
    """Whoever connects and does not finish a request is closed, wherever it stopped."""
    with listening(Bounds(request=SHORT)) as listener, connected(listener.port, said) as connection:
        assert closed(connection)


def test_dripping_buys_no_time() -> None:
    """A byte now and then does not lengthen a request's time: its first byte starts the clock."""
    with listening(Bounds(request=SHORT)) as listener, connected(listener.port, b"GET / HTTP/1.1\r\n") as connection:
        ended = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    connection.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert closed(connection)
        finally:
            ended.set()
            dripping.join()


def test_probes_get_in_where_every_place_is_taken() -> None:
    """A full house of silent connections gives way, the longest silent first; nobody waits for their time to end."""
    bounds = Bounds(connections=8, request=timedelta(seconds=PATIENCE))
    with listening(bounds) as listener, contextlib.ExitStack() as held:
        silent = [held.enter_context(connected(listener.port)) for _ in range(8)]
        assert [200] * 3 == [ask(listener.port).code for _ in range(3)]
        assert closed(silent[0])


def test_an_answer_that_is_not_read_ends_its_connection() -> None:
    """A caller that asks for much and reads nothing is closed when the answer's time is over."""

    async def much(_scope: Scope, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})

    with (
        listening(Bounds(answer=SHORT), much) as listener,
        connected(listener.port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n") as connection,
    ):
        # It reads nothing until the other side has given up; what lies in the buffers then ends early.
        ended = threading.Event()
        ended.wait(1.5)
        assert closed(connection)


def test_headers_are_bounded() -> None:
    """Headers without end are refused before they are held."""
    endless = b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (4 * LARGEST_HEADERS)
    with listening() as listener, connected(listener.port) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(endless)
        assert closed(connection)


def test_one_connection_serves_many_requests() -> None:
    """Prometheus scrapes over one connection; pipelined requests are answered in order."""
    asked = b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(3))
    with listening() as listener, connected(listener.port, asked) as connection:
        connection.settimeout(PATIENCE)
        got = b""
        while got.count(b"HTTP/1.1 200") < 3 or not got.endswith(b"/2   "):
            got += connection.recv(4096)
        assert [b"/0", b"/1", b"/2"] == [each for each in (b"/0", b"/1", b"/2") if each in got]


def test_stopping_finishes_what_is_being_answered_and_leaves_no_thread() -> None:
    """An answer under way arrives whole; a connection that waits is closed; the thread is gone."""
    begun, go_on = threading.Event(), threading.Event()

    async def slow(scope: Scope, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        import asyncio  # noqa: PLC0415 -- of this one application

        begun.set()
        await asyncio.to_thread(go_on.wait, PATIENCE)
        await hello(scope, receive, send)

    codes: list[int] = []
    with listening(application=slow) as listener:
        asking = threading.Thread(target=lambda: codes.append(ask(listener.port).code))
        asking.start()
        assert begun.wait(PATIENCE)
        stopping = threading.Thread(target=listener.stop, kwargs={"within": timedelta(seconds=PATIENCE)})
        stopping.start()
        go_on.set()
        stopping.join()
        asking.join()
    assert [200] == codes
    assert [] == [each.name for each in threading.enumerate() if each.name == "http"]


def test_an_address_that_is_taken_is_a_person_s_mistake() -> None:
    """Two services at one address: the second says so and does not start."""
    with listening() as listener:
        second = Listener(hello, ("127.0.0.1", listener.port))
        with pytest.raises(ConfigError, match="cannot listen at"):
            second.start()
        second.stop()
