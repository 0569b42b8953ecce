"""The control socket over real sockets: who is there, what they may do, and what noise costs."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.control import (
    ControlClient,
    ControlServer,
    PauseRequest,
    Person,
    Right,
    Rights,
    RollbackRequest,
    RotateRequest,
)
from rotator.control.wire import LARGEST_REQUEST, reachable
from rotator.core.model import SubjectName
from rotator.errors import (
    ConfigError,
    Conflict,
    Denied,
    InvariantBroken,
    JournalError,
    Rejected,
    RotatorError,
    Unavailable,
)
from tests.fakes.operations import FakeOperations

WEB = SubjectName("web")
ROTATE = RotateRequest(subjects=(WEB,), reason="a test")
AS_ROOT = os.geteuid() == 0
NOBODY = 65534


@pytest.fixture
def operations() -> FakeOperations:
    return FakeOperations()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def server(path: Path, operations: FakeOperations) -> Iterator[ControlServer]:
    with ControlServer(path, operations, request_within=timedelta(seconds=1), connections=2) as running:
        yield running


@pytest.fixture
def client(path: Path) -> ControlClient:
    return ControlClient(path, timeout=timedelta(seconds=60))


def raw(path: Path, *chunks: bytes, end: bool = False) -> dict[str, object]:
    """Send *chunks* as they are and return the answer."""
    with socket.socket(socket.AF_UNIX) as connection, reachable(path) as address:
        connection.settimeout(10)
        connection.connect(address)
        with contextlib.suppress(BrokenPipeError):
            for chunk in chunks:
                connection.sendall(chunk)
        if end:
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            found = json.loads(answer.readline())
    assert isinstance(found, dict)
    return found


def message(answer: dict[str, object]) -> str:
    """Return the message of an error answer."""
    error = answer["error"]
    assert isinstance(error, dict)
    return str(error["message"])


# --- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
def test_every_operation_arrives_whole(client: ControlClient, operations: FakeOperations) -> None:
    """What is asked arrives as it was asked, with the person who asked; what is answered comes back."""
    operations.shown = {"subjects": [{"name": "web"}], "ledger": {"size": 7}}
    operations.planned = [{"subject": "web"}]
    operations.steps = [{"state": "done"}]
    until = datetime(2031, 1, 1, tzinfo=UTC)
    rotate = RotateRequest(everything=True, reason="grüße, 漢字", ticket="T-1", emergency=True)
    pause = PauseRequest(subject=WEB, until=until, reason="wait", past_safety_line=True)
    rollback = RollbackRequest(subject=WEB, reason="back")
    assert operations.shown == client.status()
    assert [{"subject": "web", "horizon": 5400.0}] == client.plan(timedelta(hours=1, minutes=30))
    assert {"id": "r-1", "state": "done"} == client.progress("r-1")
    client.rotate(rotate)
    client.pause(pause)
    client.rollback(rollback)
    assert {"subject": "web", "was_paused": True} == client.resume("web")
    assert [rotate, pause, rollback, "web"] == [order for order, _ in operations.asked]
    me = pwd.getpwuid(os.geteuid())
    assert {(me.pw_uid, me.pw_name)} == {(person.uid, person.name) for _, person in operations.asked}
    assert grp.getgrgid(me.pw_gid).gr_name in operations.asked[0][1].groups


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no such subject"),
        InvariantBroken(5, "a rotation is under way"),
        Denied("not you"),
        Unavailable("not now"),
        Conflict("somebody else"),
        Rejected("never"),
        JournalError("disk full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_as_itself(client: ControlClient, operations: FakeOperations, error: RotatorError) -> None:
    """What the daemon raises is raised by the client: the same class, the same words."""
    operations.refuse = error
    with pytest.raises(type(error)) as caught:
        client.rotate(ROTATE)
    assert str(error) == str(caught.value)


@pytest.mark.usefixtures("server")
def test_an_unexpected_error_stays_inside(client: ControlClient, operations: FakeOperations) -> None:
    """A defect in one answer is told without its details, and the next request is served."""
    operations.refuse = ZeroDivisionError("secret detail")
    with pytest.raises(RotatorError, match="an error that nobody expected") as caught:
        client.rotate(ROTATE)
    operations.refuse = None
    assert ("secret" in str(caught.value), "r-web") == (False, client.rotate(ROTATE)["rotations"][0]["id"])


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        (Person(uid=0, name="root", groups=frozenset()), (True, True, True)),
        (Person(uid=7, name="rotator", groups=frozenset()), (True, True, False)),
        (Person(uid=8, name="ann", groups=frozenset({"ops"})), (True, True, False)),
        (Person(uid=9, name="bob", groups=frozenset({"sos"})), (True, True, True)),
        (Person(uid=10, name="eve", groups=frozenset({"users"})), (True, False, False)),
    ],
    ids=lambda value: value.name if isinstance(value, Person) else "",
)
def test_rights_go_by_group(person: Person, expected: tuple[bool, bool, bool]) -> None:
    """Reading is for whoever can open the socket, operating for a group, emergencies for another."""
    rights = Rights(operate=frozenset({"ops"}), emergency=frozenset({"sos"}), own_uid=7)
    assert expected == tuple(rights.permits(person, right) for right in (Right.READ, Right.OPERATE, Right.EMERGENCY))


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (RotateRequest(subjects=(WEB,), reason="r", dry_run=True, emergency=True), Right.READ),
        (RotateRequest(subjects=(WEB,), reason="r"), Right.OPERATE),
        (RotateRequest(subjects=(WEB,), reason="r", emergency=True), Right.EMERGENCY),
        (RotateRequest(subjects=(WEB,), reason="r", compromised=True), Right.EMERGENCY),
        (PauseRequest(subject=WEB, until=datetime.max.replace(tzinfo=UTC), reason="r"), Right.OPERATE),
        (
            PauseRequest(subject=WEB, until=datetime.max.replace(tzinfo=UTC), reason="r", past_safety_line=True),
            Right.EMERGENCY,
        ),
    ],
)
def test_what_a_request_takes(request_: RotateRequest | PauseRequest, expected: Right) -> None:
    """Skipping windows, declaring a compromise and letting something expire take a right of their own."""
    assert expected == request_.right


def ask_as(uid: int, gid: int, path: Path, *, emergency: bool = False) -> list[str]:
    """Let a child that has become another user ask for status and a rotation; return what it got."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # A fork, not a program: other users may not be able to start this interpreter.
        said = ""
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            client = ControlClient(path, timeout=timedelta(seconds=60))
            said += f"{client.status()['ledger']['size']}\n"
            client.rotate(RotateRequest(subjects=(WEB,), reason="r", emergency=emergency))
            said += "done"
        except RotatorError as e:
            said += f"{type(e).__name__} {e}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said.splitlines()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Give a directory that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not AS_ROOT, reason="only root can ask as somebody else")
def test_the_kernel_says_who_asks(operations: FakeOperations, open_directory: Path) -> None:
    """Another user reads, and operates only by a group; the request itself can claim nothing."""
    path = open_directory / "control.sock"
    nobody = pwd.getpwuid(NOBODY)
    group = grp.getgrgid(nobody.pw_gid).gr_name
    with ControlServer(path, operations, socket_group=group) as server:
        denied = (
            f"Denied {nobody.pw_name} may not rotate: the right `operate` belongs to people.operate "
            "(no group is named in the configuration)"
        )
        assert ["0", denied] == ask_as(NOBODY, nobody.pw_gid, path)
        assert [("rotate", nobody.pw_name, Right.OPERATE)] == operations.denials
        server.allow(operate=[group], emergency=["sos"])
        assert ["0", "done"] == ask_as(NOBODY, nobody.pw_gid, path)
        assert "Denied" in ask_as(NOBODY, nobody.pw_gid, path, emergency=True)[1]
    (_, person), *others = operations.asked
    assert (NOBODY, nobody.pw_name, True, []) == (person.uid, person.name, group in person.groups, others)


@pytest.mark.skipif(not AS_ROOT, reason="only root can ask as somebody else")
def test_strangers_cannot_open_the_socket(operations: FakeOperations, open_directory: Path) -> None:
    """Owner and group may connect, others may not, and are told so."""
    path = open_directory / "control.sock"
    with ControlServer(path, operations):
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        said = ask_as(NOBODY, NOBODY, path)
    assert [f"Denied you may not open the control socket {path}: join its group, or ask somebody who is in it"] == said


# --- noise ------------------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, str]] = {
    "garbage": (b"\xff\xfe hello\n", "the request was not understood: the line is no JSON"),
    "no object": (b"[1]\n", "the request was not understood: the line is no JSON object"),
    "deep": (b"[" * 50_000 + b"\n", "the request was not understood: the line is no JSON"),
    "endless number": (
        b'{"operation":' + b"9" * 50_000 + b"}\n",
        "the request was not understood: the line is no JSON",
    ),
    "no number": (b'{"operation": NaN}\n', "the request was not understood: the line is no JSON"),
    "no operation": (b"{}\n", "the request was not understood: the line names no operation"),
    "fields that are none": (
        b'{"operation":"status","request":[]}\n',
        "the request was not understood: the line names no operation",
    ),
    "two lines": (
        b'{"operation":"status"}\n{"operation":"status"}\n',
        "the request was not understood: more than one line came",
    ),
    "too large": (
        b'{"operation":"' + b"x" * LARGEST_REQUEST + b'"}\n',
        f"the request was not understood: the line is longer than {LARGEST_REQUEST} bytes",
    ),
    "unknown operation": (
        b'{"operation":"explode"}\n',
        "the daemon does not know this operation: use a client of its own version",
    ),
    "unknown field": (
        b'{"operation":"resume","request":{"subject":"a","person":"root"}}\n',
        "'person': found an unknown field; allowed subject; do use a client of the daemon's own version",
    ),
    "no reason": (
        b'{"operation":"rotate","request":{"subjects":["web"],"reason":" "}}\n',
        "reason: found a str; allowed text; do give it",
    ),
    "a reason with a line break": (
        b'{"operation":"rotate","request":{"subjects":["web"],"reason":"a\\nb"}}\n',
        "reason: found control characters; allowed one line of text; do remove them",
    ),
    "an endless reason": (
        b'{"operation":"rotate","request":{"subjects":["web"],"reason":"' + b"a" * 1001 + b'"}}\n',
        "reason: found 1001 characters; allowed at most 1000; do shorten it",
    ),
    "no subject": (
        b'{"operation":"rotate","request":{"reason":"a"}}\n',
        "subjects: found both or neither of names and everything; allowed one; do choose one",
    ),
    "a compromise of everything": (
        b'{"operation":"rotate","request":{"everything":true,"compromised":true,"reason":"a"}}\n',
        "compromised: found no single trust domain; allowed exactly one; do name it",
    ),
    "a flag that is none": (
        b'{"operation":"rotate","request":{"subjects":["web"],"reason":"a","emergency":"yes"}}\n',
        "emergency: found a str; allowed true or false; do choose one",
    ),
    "no moment": (
        b'{"operation":"pause","request":{"subject":"a","until":"soon","reason":"a"}}\n',
        "until: found no moment; allowed RFC 3339 such as 2026-12-20T00:00:00Z; do write one",
    ),
}


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("line", "expected"), BROKEN.values(), ids=BROKEN)
def test_noise_is_answered_and_changes_nothing(
    path: Path, client: ControlClient, operations: FakeOperations, line: bytes, expected: str
) -> None:
    """Whatever comes is answered in one line, orders nothing, and the next caller is served."""
    assert (expected, []) == (message(raw(path, line)), operations.asked)
    assert 0 == client.status()["ledger"]["size"]


@pytest.mark.usefixtures("server")
def test_a_slow_caller_keeps_nobody_waiting(path: Path, client: ControlClient) -> None:
    """A caller that never ends its line is told so at the deadline, and others are served meanwhile."""
    answers: list[str] = []
    slow = threading.Thread(target=lambda: answers.append(message(raw(path, b'{"operation":'))))
    slow.start()
    assert 0 == client.status()["ledger"]["size"]
    slow.join(60)
    assert ["the request was not understood: no whole line came in time"] == answers


@pytest.mark.usefixtures("server")
def test_a_caller_that_hangs_up_is_forgotten(path: Path, client: ControlClient) -> None:
    """A half line and a closed end are an end, not an error that stays."""
    assert "the connection ended before a whole line came" in message(raw(path, b'{"oper', end=True))
    assert 0 == client.status()["ledger"]["size"]


@pytest.mark.usefixtures("server")
def test_more_callers_than_served_hear_that_it_is_busy(
    path: Path, client: ControlClient, operations: FakeOperations
) -> None:
    """Connections are bounded: one too many is told to come again, and is served later."""
    operations.hold = threading.Event()
    waiting = [threading.Thread(target=client.status) for _ in range(2)]
    for thread in waiting:
        thread.start()
    until(lambda: len(operations.held) == len(waiting))
    with pytest.raises(Unavailable, match="as many requests as it may: ask again in a moment"):
        client.resume("web")
    operations.hold.set()
    for thread in waiting:
        thread.join(60)
    until(lambda: is_served(path))
    assert ["web"] == [order for order, _ in operations.asked]


def is_served(path: Path) -> bool:
    """Return whether a caller is answered: a connection is free again only after its answer was sent."""
    try:
        ControlClient(path, timeout=timedelta(seconds=60)).resume("web")
    except Unavailable:
        return False
    return True


def until(is_so: Callable[[], bool]) -> None:
    """Wait until *is_so*, at most ten seconds."""
    for _ in range(1000):
        if is_so():
            return
        threading.Event().wait(0.01)
    pytest.fail("it never came to be")


# --- the socket itself ------------------------------------------------------------------------------------------------


def test_no_daemon_says_how_to_start_one(client: ControlClient, path: Path) -> None:
    """Without a daemon the one line says how to start it."""
    with pytest.raises(Unavailable) as caught:
        client.status()
    expected = f"no daemon answers at {path}: start it with `systemctl start rotator` or `rotator run`"
    assert expected == str(caught.value)


def test_a_dead_daemons_socket_is_replaced(path: Path, client: ControlClient, operations: FakeOperations) -> None:
    """What a killed daemon left behind does not keep the next one from starting."""
    code = (
        "import sys, threading; from pathlib import Path; from rotator.control import ControlServer\n"
        "from tests.fakes.operations import FakeOperations\n"
        "ControlServer(Path(sys.argv[1]), FakeOperations()).start(); print('up', flush=True)\n"
        "threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=Path.cwd()) as killed:
        assert killed.stdout is not None
        assert b"up\n" == killed.stdout.readline()
        with pytest.raises(Conflict, match="another process answers"):
            ControlServer(path, operations).start()
        assert 0 == client.status()["ledger"]["size"]
        killed.send_signal(signal.SIGKILL)
    assert path.is_socket()
    with ControlServer(path, operations):
        assert 0 == client.status()["ledger"]["size"]
    assert [] == list(path.parent.iterdir())


def test_what_is_no_socket_is_left_alone(path: Path, operations: FakeOperations) -> None:
    """A file of somebody else is never replaced."""
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is not a socket"):
        ControlServer(path, operations).start()
    assert "mine" == path.read_text()


def test_a_long_path_works(tmp_path: Path, operations: FakeOperations) -> None:
    """A path longer than a socket address holds is no obstacle."""
    path = tmp_path / ("d" * 120) / "control.sock"
    with ControlServer(path, operations):
        assert 0 == ControlClient(path).status()["ledger"]["size"]


def test_an_unknown_group_is_a_mistake_in_the_file(path: Path, operations: FakeOperations) -> None:
    """A group that does not exist is named, and nothing is left behind."""
    with pytest.raises(ConfigError, match=r"people\.socket_group: there is no group nosuchgroup"):
        ControlServer(path, operations, socket_group="nosuchgroup").start()
    assert [] == list(path.parent.iterdir())


def test_stopping_ends_every_thread(path: Path, operations: FakeOperations) -> None:
    """Stopping waits for what is under way and cuts off who still writes; the socket is gone."""
    server = ControlServer(path, operations, request_within=timedelta(seconds=30))
    server.start()
    with socket.socket(socket.AF_UNIX) as idle, reachable(path) as address:
        idle.connect(address)
        idle.sendall(b"{")
        until(lambda: any(thread.name == "control-request" for thread in threading.enumerate()))
        server.stop(within=timedelta(milliseconds=200))
        assert [] == [each.name for each in threading.enumerate() if each.name.startswith("control")]
    assert not path.exists()


def test_a_server_that_never_started_stops(path: Path, operations: FakeOperations) -> None:
    """Stopping is safe at any moment."""
    ControlServer(path, operations).stop()
    assert not path.exists()
