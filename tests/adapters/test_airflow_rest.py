"""
Airflow's REST API as Airflow 3.3.2 and 2.10.5 answered it, replayed by a server on this machine.

Rules that must stay true here:

- Shapes are those that real servers gave; the real Airflow 3 itself is asked in `tests/stack/test_airflow.py`.
- Nothing secret is seen outside: neither the password nor a token stands in an error or a ``repr``.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from rotator.adapters.airflow.api import AirflowAPI, Endpoint, Version
from rotator.adapters.airflow.rest import AirflowTasks
from rotator.clock import SystemClock
from rotator.errors import ConfigError, Denied, Rejected, Unavailable

JSON = dict[str, Any]
PASSWORD = "hunter2hunter2"  # noqa: S105 -- nobody else knows it

ATTEMPT: JSON = {
    "dag_id": "etl", "dag_run_id": "r1", "task_id": "load", "map_index": -1, "try_number": 1, "state": "running",
    "hostname": "airflow-worker-0", "queue": "heavy", "executor": None, "start_date": "2026-11-27T15:03:06.380009Z",
    "end_date": None, "rendered_fields": {"env": "PASSWORD=secret"}, "unixname": "root", "pid": 1514,
}  # fmt: skip


def token(life: float) -> str:
    claims = {"sub": "rotator", "exp": datetime.now(UTC).timestamp() + life}
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"eyJhbGciOiJub25lIn0.{middle}.c2lnbmF0dXJl"


@dataclass
class Told:
    """What the server answers, and what it was asked."""

    attempts: list[JSON] = field(default_factory=lambda: [ATTEMPT])
    v1: bool = False
    life: float = 3600
    logins: int = 0
    tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, dict[str, list[str]]]] = field(default_factory=list)
    answer: Callable[[str, str], tuple[int, object] | None] = lambda _method, _path: None

    def respond(self, method: str, path: str, query: dict[str, list[str]], body: JSON, who: str) -> tuple[int, object]:
        self.asked.append((method, path, query))
        if (told := self.answer(method, path)) is not None:
            return told
        if path == "/auth/token" and not self.v1:
            self.logins += 1
            if body != {"username": "rotator", "password": PASSWORD}:
                return 401, {"detail": f"Invalid credentials {body}"}
            fresh = token(self.life)
            self.tokens.add(f"Bearer {fresh}")
            return 201, {"access_token": fresh}
        if path == f"/api/{'v1' if self.v1 else 'v2'}/version":
            return 200, {"version": "2.10.5" if self.v1 else "3.3.2", "git_version": None}
        if not path.startswith("/api/v1/" if self.v1 else "/api/v2/"):
            return 404, {"error": "/api/v1 has been removed in Airflow 3"}
        basic = base64.b64encode(f"rotator:{PASSWORD}".encode()).decode()
        if self.v1 and who != f"Basic {basic}":
            return 401, {"detail": None, "title": "Unauthorized"}
        if not self.v1 and who not in self.tokens:
            return 403, {"detail": "Invalid JWT token"}
        if path.endswith("/taskInstances"):
            offset, limit = int(query["offset"][0]), int(query["limit"][0])
            page = self.attempts[offset : offset + limit]
            return 200, {"task_instances": page, "total_entries": len(self.attempts)}
        if path.endswith("/dagRuns/r1"):
            return 200, {
                "dag_id": "etl", "dag_run_id": "r1", "run_type": "manual", "triggered_by": "rest_api",
                "triggering_user_name": "alice", "conf": {"password": "secret"}, "note": "secret",
                "dag_versions": [{"bundle_name": "dags", "bundle_version": "abc"}],
            }  # fmt: skip
        return 404, {"detail": "The DagRun was not found"}


class Server(ThreadingHTTPServer):
    told: Told


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _respond(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        who = self.headers.get("Authorization", "")
        status, found = self.server.told.respond(self.command, url.path, parse_qs(url.query), body, who)
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _respond  # noqa: N815 -- the library's own names

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@pytest.fixture
def told() -> Iterator[tuple[Told, str]]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.told = Told()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.told, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    return file


def api_of(url: str, password: Path, *, page: int = 100) -> AirflowAPI:
    endpoint = Endpoint(url=url, username="rotator", password_file=password, timeout=timedelta(seconds=30))
    return AirflowAPI(endpoint, clock=SystemClock(), page=page)


@pytest.mark.parametrize("v1", [False, True])
def test_running_tasks_of_both_interfaces(told: tuple[Told, str], password: Path, *, v1: bool) -> None:
    """Both name the same; which it is, is asked once, and what a task was given is not kept."""
    server, url = told
    server.v1 = v1
    api = api_of(url, password)
    tasks = AirflowTasks(api)
    for _ in range(2):
        (found,) = tasks.running()
    assert "etl/r1/load#1" == found.key
    assert ("airflow-worker-0", "heavy", "running") == (found.host, found.queue, found.state)
    assert (Version.V1 if v1 else Version.V2) is api.version
    assert "secret" not in repr(found)
    assert 1 == [path for _, path, _ in server.asked].count(f"/api/{'v1' if v1 else 'v2'}/version")
    asked = next(query for _, path, query in server.asked if path.endswith("/taskInstances"))
    assert ("order_by" in asked) != v1, "2.10 refuses what it does not know"
    api.close()


def test_what_the_server_does_not_filter_is_filtered_here(told: tuple[Told, str], password: Path) -> None:
    """A filter that Airflow ignores in silence must not make an ended task run."""
    server, url = told
    server.attempts = [ATTEMPT, {**ATTEMPT, "task_id": "other", "state": "success"}]
    api = api_of(url, password)
    assert ["etl/r1/load#1"] == [each.key for each in AirflowTasks(api).running()]
    api.close()


def test_lists_are_read_to_their_end(told: tuple[Told, str], password: Path) -> None:
    """Page by page, also where a server gives smaller pages than it was asked for."""
    server, url = told
    server.attempts = [{**ATTEMPT, "task_id": f"t{number}"} for number in range(7)]
    api = api_of(url, password, page=3)
    assert 7 == len(AirflowTasks(api).running())
    api.close()


def test_law_17_half_a_list_is_an_error(told: tuple[Told, str], password: Path) -> None:
    """Fewer than were promised, or one twice: never taken for "nothing else runs"."""
    server, url = told
    api = api_of(url, password)
    api.version  # noqa: B018 -- asked before the server answers one thing only
    short = {"task_instances": [], "total_entries": 3}
    server.answer = lambda _method, path: (200, short) if path.endswith("/taskInstances") else None
    with pytest.raises(Unavailable, match="changed while it was read"):
        AirflowTasks(api).running()
    twice = {"task_instances": [ATTEMPT, ATTEMPT], "total_entries": 2}
    server.answer = lambda _method, path: (200, twice) if path.endswith("/taskInstances") else None
    with pytest.raises(Unavailable, match="changed while it was read"):
        AirflowTasks(api).running()
    api.close()


def test_a_token_is_renewed_before_its_end_and_when_it_is_refused(told: tuple[Told, str], password: Path) -> None:
    """One log-in serves many calls; a token that Airflow no longer takes is replaced at once."""
    server, url = told
    api = api_of(url, password)
    tasks = AirflowTasks(api)
    tasks.running()
    tasks.running()
    assert 1 == server.logins
    server.tokens.clear()  # its signing key changed
    tasks.running()
    assert 2 == server.logins
    server.life = 0.001
    server.tokens.clear()
    tasks.running()
    before = server.logins
    threading.Event().wait(1.0)
    tasks.running()
    assert before + 1 == server.logins
    api.close()


def test_a_right_that_is_missing_is_told_after_one_fresh_token(told: tuple[Told, str], password: Path) -> None:
    """It is Denied in Airflow's own words, and the password is in no error."""
    server, url = told
    server.answer = lambda _method, path: (403, {"detail": "Forbidden"}) if path.endswith("/taskInstances") else None
    api = api_of(url, password)
    with pytest.raises(Denied, match="denied listing the running tasks: Forbidden") as caught:
        AirflowTasks(api).running()
    assert 2 == server.logins
    password.write_text("wrong-password")
    with pytest.raises(Denied) as wrong:
        AirflowTasks(api_of(url, password)).running()
    for error in (caught, wrong):
        assert PASSWORD not in repr(error.value) + repr(error.value.__cause__)
        assert "wrong-password" not in repr(error.value)
    api.close()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, {"detail": "x"}, Unavailable),
        (503, b"<html>", Unavailable),
        (429, {}, Unavailable),
        (200, b"<html>a proxy's page</html>", Rejected),
        (302, b"", Rejected),
        (400, {"detail": "Extra query parameter(s) order_by not in spec"}, Rejected),
    ],
)
def test_answers_that_are_none(
    told: tuple[Told, str], password: Path, status: int, body: object, error: type[Exception]
) -> None:
    """Each is an error of ours; none is an empty list."""
    server, url = told
    server.answer = lambda _method, path: (status, body) if path.endswith("/taskInstances") else None
    api = api_of(url, password)
    with pytest.raises(error):
        AirflowTasks(api).running()
    api.close()


def test_nobody_there(password: Path) -> None:
    """No answer is Unavailable, whatever is asked."""
    with pytest.raises(Unavailable):
        AirflowTasks(api_of("http://127.0.0.1:9", password)).running()


def test_who_set_a_run_off(told: tuple[Told, str], password: Path) -> None:
    """The person and the way are told; what a run was given is not even looked at; a forgotten run is absent."""
    _, url = told
    api = api_of(url, password)
    found = AirflowTasks(api).runs([("etl", "r1"), ("etl", "forgotten"), ("etl", "r1")])
    assert [("etl", "r1")] == list(found)
    run = found["etl", "r1"]
    assert ("manual", "rest_api", "alice", "dags abc") == (
        run.run_type, run.triggered_by, run.triggering_user, run.bundle,
    )  # fmt: skip
    assert "secret" not in repr(run)
    api.close()


def event(owner: str, *, name: str = "trigger", run: str | None = None, second: float = 0) -> JSON:
    """Return an entry of Airflow 2.10's audit log, with what was sent along."""
    when = datetime(2026, 11, 27, 15, 3, 6, tzinfo=UTC) + timedelta(seconds=second)
    return {
        "event_log_id": 7, "when": when.isoformat(), "dag_id": "etl", "task_id": None, "event": name, "run_id": run,
        "owner": owner, "extra": '{"conf": "secret"}', "execution_date": None, "try_number": None, "map_index": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("events", "asker"),
    [
        ([event("bob", run="r1"), event("carol")], ("bob", "ui")),
        ([event("bob", name="post_dag_run", second=2)], ("bob", "rest_api")),
        ([event("bob"), event("bob", second=1)], ("bob", "ui")),
        ([event("bob"), event("carol", second=3)], ("", "")),
        ([event("bob", second=9)], ("", "")),
        ([event("bob", run="another")], ("", "")),
        ([{**event("bob"), "dag_id": "other"}, event("eve", name="delete")], ("", "")),
        ([], ("", "")),
        (None, ("", "")),
    ],
    ids=["by run", "by moment", "twice", "two people", "too late", "another run", "another DAG", "nobody", "denied"],
)
def test_who_set_a_run_of_airflow_2_off(
    told: tuple[Told, str], password: Path, events: list[JSON] | None, asker: tuple[str, str]
) -> None:
    """Its audit log tells, by the run or by the moment, and only if it names one; without the right nobody is named."""
    server, url = told
    server.v1 = True
    run = {"dag_id": "etl", "dag_run_id": "r1", "run_type": "manual", "execution_date": "2026-11-27T15:03:06+00:00"}

    def answer(_method: str, path: str) -> tuple[int, object] | None:
        if path.endswith("/dagRuns/r1"):
            return 200, run
        if path == "/api/v1/eventLogs":
            return (200, {"event_logs": events}) if events is not None else (403, {"detail": "Forbidden"})
        return None

    server.answer = answer
    api = api_of(url, password)
    found = AirflowTasks(api).runs([("etl", "r1")])["etl", "r1"]
    assert asker == (found.triggering_user, found.triggered_by)
    assert "secret" not in repr(found)
    run["run_type"] = "scheduled"
    assert "" == AirflowTasks(api).runs([("etl", "r1")])["etl", "r1"].triggering_user
    api.close()


def test_what_ended_in_an_interval(told: tuple[Told, str], password: Path) -> None:
    """From the first moment on, before the last one; a moment without a zone is refused."""
    server, url = told
    since = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)
    ends = ["2026-11-27T15:00:00Z", "2026-11-27T15:59:59.999999Z", "2026-11-27T16:00:00Z", None]
    server.attempts = [{**ATTEMPT, "task_id": f"t{n}", "end_date": end} for n, end in enumerate(ends)]
    api = api_of(url, password)
    found = list(AirflowTasks(api).ended(since, since + timedelta(hours=1)))
    assert ["etl/r1/t0#1", "etl/r1/t1#1"] == [each.key for each in found]
    server.attempts = [{**ATTEMPT, "end_date": "2026-11-27T15:00:00"}]
    with pytest.raises(Rejected, match="without a zone"):
        list(AirflowTasks(api).ended(since, since + timedelta(hours=1)))
    api.close()


@pytest.mark.parametrize("v1", [False, True])
def test_long_tasks_are_found_running_and_ended(told: tuple[Told, str], password: Path, *, v1: bool) -> None:
    """Longer than asked for and ended since; a filter that is ignored makes none long, and v1 is asked no order."""
    server, url = told
    server.v1 = v1
    now = datetime(2026, 11, 27, 16, 0, tzinfo=UTC)
    began = ATTEMPT["start_date"][:19] + "Z"
    server.attempts = [
        {**ATTEMPT, "task_id": f"t{number}", "start_date": start, "end_date": end, "state": state}
        for number, (start, end, state) in enumerate(
            [
                (began, None, "running"),
                ("2026-11-27T15:59:00Z", None, "running"),
                ("2026-11-27T10:00:00Z", "2026-11-27T11:00:00Z", "success"),
                ("2026-11-27T10:00:00Z", "2026-11-27T10:00:05Z", "success"),
                ("2026-11-20T10:00:00Z", "2026-11-20T20:00:00Z", "success"),
            ]
        )
    ]
    api = api_of(url, password)
    found = AirflowTasks(api).longer(timedelta(minutes=30), since=now - timedelta(days=1), now=now)
    assert ["etl/r1/t0#1", "etl/r1/t2#1"] == [each.key for each in found]
    asked = next(query for _, path, query in server.asked if "duration_gte" in query)
    assert (["1800.000"], v1) == (asked["duration_gte"], "order_by" not in asked)
    api.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"url": "http://airflow.example"}, "use https"),
        ({"url": "https://rotator:pw@airflow.example"}, "neither user nor query"),
        ({"url": "ftp://airflow.example"}, "no address"),
        ({"url": "https://airflow.example", "token_file": Path("/t")}, "either"),
    ],
)
def test_an_address_that_would_tell_the_password_is_refused(words: dict[str, Any], says: str) -> None:
    """Plain HTTP is for this machine only."""
    with pytest.raises(ConfigError, match=says):
        Endpoint(username="rotator", password_file=Path("/p"), **words)
