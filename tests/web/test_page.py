"""The status page: it says what the status says, and nothing that comes from outside becomes part of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from rotator.web.markup import MOST_ROWS
from rotator.web.page import STYLE_HASH, status_page
from rotator.web.seen import Health
from tests.web.house import House

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
WELL = Health(live=True, ready=True, role="leader", silent_seconds=3, problems=())
HOSTILE = "<script>alert('x')</script>\"&"
CHANGE = ("id", "kind", "undoes", "documents", "state", "opened_at", "finished_at", "outcome", "ticket", "requested_by")
REQUEST = ("id", "operation", "state", "requested_by", "reason", "asked_at", "expires_at", "approvals_needed")


def moment(**span: float) -> str:
    """Return a moment *span* from now, as the status writes it."""
    return (NOW + timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%SZ")


def subject(name: str = "web", **more: Any) -> dict[str, Any]:
    """Return one certificate's row, in mid-life."""
    return {
        "name": name,
        "kind": "certificate",
        "phase": "in_use",
        "not_before": moment(hours=-1),
        "not_after": moment(hours=3),
        "renew_at": moment(hours=1),
        "safety_line": moment(hours=2),
        "waiting_on": [],
        **more,
    }


def page(*subjects: dict[str, Any], health: Health = WELL, **more: Any) -> str:
    """Return the page of *subjects*."""
    return status_page({"subjects": list(subjects), **more}, now=NOW, health=health, environment="test")


class Tags(HTMLParser):
    """Collects tags and words, and notes what does not close."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.open: list[str] = []
        self.broken: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in {"meta", "br", "rect", "line", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note what does not close in order."""
        if tag in {"rect", "line"}:
            return
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data: str) -> None:
        """Keep what people read."""
        self.words += data


def parsed(html: str) -> Tags:
    """Return *html*, parsed."""
    tags = Tags()
    tags.feed(html)
    return tags


def test_a_real_status_is_a_whole_page(house: House) -> None:
    """What a running engine says becomes a page whose every tag closes, with every subject on it."""
    house.sign()
    html = status_page(house.life.desk.status(), now=house.world.clock.now(), health=WELL, environment="test")
    tags = parsed(html)
    assert ([], []) == (tags.broken, tags.open)
    assert [] == [name for name in (*house.world.certificates, "mesh.test") if name not in tags.words]


def test_nothing_from_outside_becomes_part_of_it() -> None:
    """Names, errors and reasons are words, whatever stands in them."""
    html = page(
        subject(HOSTILE, error=HOSTILE, why=HOSTILE, waiting_on=[HOSTILE], spiffe_id=HOSTILE, serial=HOSTILE),
        alerts=[{"subject": HOSTILE, "summary": HOSTILE, "severity": HOSTILE, "since": HOSTILE, "key": HOSTILE}],
        workloads=[{"name": HOSTILE, "members": [{"name": HOSTILE}], "why": HOSTILE, "error": HOSTILE}],
        watched=[{"name": HOSTILE, "place": HOSTILE, "problem": HOSTILE, "count": HOSTILE}],
        ledger={"size": HOSTILE, "witness": HOSTILE},
        platform={
            "meshes": [
                {
                    "trust_domain": HOSTILE,
                    "mesh": HOSTILE,
                    "problem": HOSTILE,
                    "environments": [{"environment": HOSTILE, "applied": HOSTILE, "to_apply": HOSTILE}],
                }
            ],
            "drift": [{"what": HOSTILE, "says": HOSTILE, "diff": HOSTILE}],
            "changes": [dict.fromkeys(CHANGE, HOSTILE) | {"approved_by": [HOSTILE]}],
            "waiting_on": [HOSTILE],
            "why": HOSTILE,
        },
        requests=[dict.fromkeys(REQUEST, HOSTILE) | {"subjects": ["platform"]}],
    )
    tags = parsed(html)
    assert ("script" in tags.names, [], []) == (False, tags.broken, tags.open)
    assert HOSTILE in tags.words


def test_it_needs_nothing_else() -> None:
    """No script, nothing from another host, nothing styled in place: the content policy would stop it."""
    tags = parsed(page(subject()))
    assert set() == tags.names & {"script", "link", "img", "iframe", "form", "object"}
    assert set() == tags.attributes & {"style", "src", "onclick", "onload", "action"}
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", STYLE_HASH)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ({}, "3 h left"),
        ({"not_after": moment(minutes=5, seconds=7)}, "5 min 7 s left"),
        ({"not_after": moment(minutes=-30)}, "ended 30 min ago"),
        ({"not_before": None, "not_after": None}, "nothing yet"),
    ],
)
def test_a_life_in_words(at: dict[str, Any], expected: str) -> None:
    """What is left, or since when it is over, without looking at the bar."""
    assert expected in parsed(page(subject(**at))).words


def test_who_is_waited_on_and_what_fails_comes_first() -> None:
    """Of many, those that are in trouble stand on top; names beyond a few are counted."""
    troubled = subject("last-by-name", waiting_on=[f"proxy-{number}" for number in range(9)], phase="published")
    words = parsed(page(subject("a"), subject("b"), troubled)).words
    assert words.index("last-by-name") < words.rindex("in use")
    assert "proxy-5 and 3 more" in words


def test_a_large_fleet_is_cut_and_says_so() -> None:
    """Of six hundred the most urgent five hundred are shown."""
    tags = parsed(page(*(subject(f"service-{number}") for number in range(MOST_ROWS + 100))))
    assert "100 more" in tags.words
    assert sum(1 for _ in re.finditer(r"service-\d+", tags.words)) <= MOST_ROWS + 1


def test_what_is_wrong_with_the_daemon_stands_on_top() -> None:
    """Problems of the probes are on the page, in words."""
    health = Health(live=False, ready=False, role="leader", silent_seconds=900, problems=("no sweep for 900 s",))
    words = parsed(page(subject(), health=health)).words
    assert ("not live" in words, "no sweep for 900 s" in words) == (True, True)
