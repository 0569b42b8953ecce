"""Paths: what each answers to whom, and that none of them changes or gives away anything else."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.daemon.life import Role
from rotator.doctor import Grade
from rotator.doctor.service import service_findings
from rotator.errors import JournalError
from rotator.evidence.verify import verify
from rotator.settings.service import Readers
from rotator.web.app import Routes
from rotator.web.gate import Gate
from rotator.web.listener import Listener
from rotator.web.metrics import Metrics, Tallies
from rotator.web.tiles import log_file
from tests.web.callers import Answer, ask
from tests.web.house import House, settings_of
from tests.web.test_gate import KnowsPeople

OPEN = ("/healthz", "/readyz", "/metrics")
GUARDED = ("/", "/api/v1/status", "/log/checkpoint")
PEOPLE = {"operator": frozenset({"status"}), "auditor": frozenset({"log"})}


@contextlib.contextmanager
def serving(house: House, readers: Readers = "cluster") -> Iterator[int]:
    """Give the port at which *house* answers."""
    tallies = Tallies(house.world.clock)
    routes = Routes(
        house.life,
        gate=Gate(readers, clock=house.world.clock, reviewer=KnowsPeople(dict(PEOPLE))),
        metrics=Metrics(house.life, tallies),
        tallies=tallies,
        status=house.life.desk.status,
    )
    listener = Listener(routes.application(), ("127.0.0.1", 0))
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop()


def as_bearer(token: str) -> dict[str, str]:
    """Return the header that shows *token*."""
    return {"authorization": f"Bearer {token}"}


def test_what_is_open_and_what_is_not(house: House) -> None:
    """Health and metrics answer everybody; the rest wants a token, a right to it, and the right one."""
    house.sign()
    with serving(house) as port:
        assert [200] * 3 == [ask(port, each).code for each in OPEN]
        assert [401] * 3 == [ask(port, each).code for each in GUARDED]
        assert [401] * 3 == [ask(port, each, headers=as_bearer("made-up")).code for each in GUARDED]
        assert [200, 200, 403] == [ask(port, each, headers=as_bearer("operator")).code for each in GUARDED]
        assert [403, 403, 200] == [ask(port, each, headers=as_bearer("auditor")).code for each in GUARDED]


def test_a_browser_may_show_the_token_as_a_password(house: House) -> None:
    """Basic authentication with any name opens the page, and a 401 asks for it."""
    word = base64.b64encode(b"anybody:operator").decode()
    with serving(house) as port:
        refused = ask(port, "/")
        assert (401, True) == (refused.code, "Basic" in refused.headers["www-authenticate"])
        assert ask(port, "/", headers={"authorization": f"Basic {word}"}).code == 200
        assert ask(port, "/", headers={"authorization": "Basic %%%"}).code == 401


def test_status_is_what_the_socket_says(house: House) -> None:
    """`/api/v1/status` and ``rotator --json status`` are the same document."""
    house.sign()
    with serving(house) as port:
        got = json.loads(ask(port, "/api/v1/status", headers=as_bearer("operator")).body)
    assert json.loads(json.dumps(house.life.desk.status())) == got


def test_a_store_that_does_not_answer_is_no_crash(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the status cannot be read the answer says so, and health and metrics go on."""

    def unreadable() -> dict[str, object]:
        raise JournalError("the database is away")

    monkeypatch.setattr(house.life.desk, "status", unreadable)
    with serving(house, "loopback") as port:
        codes = [ask(port, each).code for each in ("/api/v1/status", "/", "/healthz", "/metrics")]
    assert [503, 503, 200, 200] == codes


def test_closed_unless_the_settings_open_it(house: House) -> None:
    """Where nobody may read, a good token opens nothing; on loopback, where the settings say so, none is needed."""
    house.sign()
    with serving(house, "nobody") as port:
        assert [403] * 3 == [ask(port, each, headers=as_bearer("operator")).code for each in GUARDED]
        assert [200] * 3 == [ask(port, each).code for each in OPEN]
    with serving(house, "loopback") as port:
        assert [200] * 3 == [ask(port, each).code for each in GUARDED]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_but_reading(house: House, method: str) -> None:
    """Other methods are refused on every path, with the ones that are allowed."""
    with serving(house, "loopback") as port:
        for path in (*OPEN, *GUARDED):
            answer = ask(port, path, method=method)
            assert (405, "GET, HEAD") == (answer.code, ", ".join(sorted(answer.headers["allow"].split(", ")))), path


def test_head_is_a_get_without_its_body(house: House) -> None:
    """HEAD answers with the code and the headers of GET."""
    house.sign()
    with serving(house, "loopback") as port:
        for path in ("/healthz", "/api/v1/status", "/log/checkpoint"):
            get, head = ask(port, path), ask(port, path, method="HEAD")
            assert (200, b"", get.headers["content-type"], get.headers["content-length"]) == (
                head.code, head.body, head.headers["content-type"], head.headers["content-length"]
            )  # fmt: skip


def test_a_body_is_refused_unread(house: House) -> None:
    """Nothing here takes a body: a request with one is answered before it is read, and its connection ends."""
    with serving(house) as port:
        answer = ask(port, "/healthz", body=b"x")
        assert (413, "close") == (answer.code, answer.headers["connection"])
        chunked = {"transfer-encoding": "chunked"}
        assert ask(port, "/healthz", headers=chunked, body=b"0\r\n\r\n").code == 413


def test_the_hygiene_of_every_answer(house: House) -> None:
    """No answer is sniffed, framed, scripted, kept or says what serves it, errors included."""
    with serving(house) as port:
        for path in (*OPEN, *GUARDED, "/nothing", "/healthz/"):
            headers = ask(port, path).headers
            assert ("nosniff", "DENY", "no-store", "no-referrer", None) == (
                headers["x-content-type-options"],
                headers["x-frame-options"],
                headers["cache-control"],
                headers["referrer-policy"],
                headers.get("server"),
            ), path
            assert "default-src 'none'" in headers["content-security-policy"]


def test_what_is_not_there(house: House) -> None:
    """An unknown path is not found, a slash too many is no redirect, and neither is echoed."""
    with serving(house) as port:
        for path in ("/<script>", "/healthz/", "//example.com/healthz", "/metrics/x"):
            answer = ask(port, path)
            assert (404, b"not found\n") == (answer.code, answer.body), path


# --- health ----------------------------------------------------------------------------------------------------------


def probed(house: House) -> tuple[int, int, dict[str, object]]:
    """Return what both probes say, and the first one's document."""
    with serving(house) as port:
        live, ready = ask(port, "/healthz"), ask(port, "/readyz")
    document: dict[str, object] = json.loads(live.body)
    return live.code, ready.code, document


def test_a_daemon_that_sweeps_is_live_and_ready(house: House) -> None:
    """All is well: both probes say so, with the role."""
    live, ready, document = probed(house)
    assert (200, 200, "leader", []) == (live, ready, document["role"], document["problems"])


def test_a_stuck_sweep_is_not_live(house: House) -> None:
    """Thirty sweeps that did not end, five minutes at least, are a restart; until then they are none."""
    house.world.clock.advance(timedelta(minutes=5))
    assert (200, 200) == probed(house)[:2]
    house.world.clock.advance(timedelta(seconds=1))
    live, ready, document = probed(house)
    assert (503, 503, ["no sweep has ended for 301 s"]) == (live, ready, document["problems"])


def test_visits_none_of_which_ends_are_not_live(house: House) -> None:
    """The sweep goes on and every thread hangs: that is found too."""
    pool = house.world.engine.pool
    pool._turns[pool.known()[0]].running = True
    pool._moved = house.world.clock.monotonic()
    house.world.clock.advance(timedelta(minutes=6))
    house.life.beat()
    live, _, document = probed(house)
    assert (503, ["no visit has ended for 360 s"]) == (live, document["problems"])


def test_a_standby_is_ready(house: House) -> None:
    """A replica that stands by may be counted on."""
    house.life.role = Role.STANDBY
    live, ready, document = probed(house)
    assert (200, 200, "standby") == (live, ready, document["role"])


def test_what_stops_is_live_and_not_ready(house: House) -> None:
    """A daemon that finishes its last steps is not killed for it, and not counted on."""
    house.life.role = Role.STOPPING
    house.world.clock.advance(timedelta(hours=1))
    assert (200, 503) == probed(house)[:2]


def test_a_leader_that_cannot_write_its_ledger_is_live_and_says_so(house: House) -> None:
    """A restart would not mend the disk: it stays up, and its probes and metrics stay in reach."""
    house.life.signed.problem = "no space left on device at /var/lib/rotator/secret-place"
    live, ready, document = probed(house)
    assert (200, 200, ["the evidence log cannot be signed"]) == (live, ready, document["problems"])


# --- the log ---------------------------------------------------------------------------------------------------------


def fetched(port: int, path: str) -> Answer:
    """Return one file of the log."""
    return ask(port, f"/log/{path}", headers=as_bearer("auditor"))


def test_the_log_that_is_served_verifies(house: House, tmp_path: Path) -> None:
    """Every file under its path, fetched over HTTP into a directory, is the log: whole, and signed."""
    house.world.run(span=timedelta(hours=2), tick=timedelta(minutes=1))
    house.sign()
    source, copy = house.wired.settings.ledger.path, tmp_path / "copy"
    files = [each for each in sorted(source.rglob("*")) if each.is_file()]
    names = [str(each.relative_to(source)) for each in files]
    with serving(house) as port:
        for name in names:
            if name == "checkpoint" or name.startswith("tile/"):
                answer = fetched(port, name)
                assert answer.code == 200, name
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                (copy / name).write_bytes(answer.body)
    found = verify(copy, house.wired.signer.verifier_key)
    assert house.wired.store.size() == found.size


def test_files_say_what_they_are_and_how_long_they_hold(house: House) -> None:
    """A checkpoint is text and asked for anew; a full tile is kept for ever, a partial one is not."""
    directory = house.wired.settings.ledger.path
    house.sign()
    for name in ("tile/0/000", "tile/entries/x001/234", "tile/0/001.p/5"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"\0" * 32)
    with serving(house) as port:
        answers = [
            fetched(port, each) for each in ("checkpoint", "tile/0/000", "tile/entries/x001/234", "tile/0/001.p/5")
        ]
    assert [
        ("text/plain; charset=utf-8", "no-store"),
        ("application/octet-stream", "private, max-age=31536000, immutable"),
        ("application/octet-stream", "private, max-age=31536000, immutable"),
        ("application/octet-stream", "private, max-age=60"),
    ] == [(each.headers["content-type"], each.headers["cache-control"]) for each in answers]


@pytest.mark.parametrize(
    "path",
    [
        "../state.db", "tile/../../log.key", "tile/0/%2e%2e/%2e%2e/log.key", "%2e%2e/log.key", "/etc/passwd",
        "tile/0/000/../../../log.key", "tile/0", "tile", "", "checkpoints/1.note", "tile/0/link", "tile/64/000",
        "tile/0/000.p/256", "tile/0/000.p/0", "tile/0/0000", "tile/entries/x1/000", "checkpoint\0", "checkpoint/",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_log(house: House, path: str) -> None:
    """Only the forms that a log has are looked for; nothing else of the disk is reached."""
    directory = house.wired.settings.ledger.path
    house.sign()
    (directory / "tile" / "0").mkdir(parents=True, exist_ok=True)
    (directory / "tile" / "0" / "link").symlink_to(house.directory / "log.key")
    assert log_file(directory, path) is None
    with serving(house) as port:
        assert ask(port, f"/log/{path}".replace("\0", "%00"), headers=as_bearer("auditor")).code == 404


def test_a_link_in_the_log_is_not_followed(house: House) -> None:
    """Whoever can lay a link where a tile belongs still shows nothing else of the disk."""
    directory = house.wired.settings.ledger.path
    house.sign()
    (directory / "tile" / "5").mkdir(parents=True)
    (directory / "tile" / "5" / "000").symlink_to(house.directory / "log.key")
    with serving(house) as port:
        assert fetched(port, "tile/5/000").code == 404


def test_requests_are_counted_by_route_and_code(house: House) -> None:
    """What strangers make up is one series."""
    with serving(house) as port:
        for path in ("/a", "/b", "/healthz", "/log/x", "/log/y"):
            ask(port, path)
        house.world.clock.advance(timedelta(seconds=2))
        text = ask(port, "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("rotator_http_requests_total")]
    assert sorted(lines) == [
        'rotator_http_requests_total{code="200",route="/healthz"} 1.0',
        'rotator_http_requests_total{code="401",route="/log/{path:path}"} 2.0',
        'rotator_http_requests_total{code="404",route="none"} 2.0',
    ]


# --- the doctor ------------------------------------------------------------------------------------------------------


def test_the_doctor_asks_the_service_how_it_is(house: House, tmp_path: Path) -> None:
    """Well, live with trouble, not live, and nobody there: each is a finding of its own grade."""
    with serving(house) as port:
        settings = settings_of(tmp_path, {"listen": f"127.0.0.1:{port}"})
        found = [*service_findings(settings)]
        house.life.signed.problem = "no space"
        found += service_findings(settings)
        house.world.clock.advance(timedelta(hours=1))
        found += service_findings(settings)
    found += service_findings(settings)
    assert [Grade.FINE, Grade.WARNING, Grade.BROKEN, Grade.WARNING] == [each.grade for each in found]
