"""The report is whole in itself, says what happened, and never paints over a failure."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from rotator.demo.claims import claims
from rotator.demo.picture import control, timeline
from rotator.demo.recording import Evidence, Recording
from rotator.demo.report import document, page, write
from tests.demo.fabricated import failed_run, run

CONTRACT = {
    "type": "object",
    "required": [
        "requests",
        "failed_requests",
        "sessions_resumed",
        "leaf_rotations",
        "ca_rotations",
        "killed_rotation_completed",
        "rotate_now",
        "tasks_completed",
        "tasks_lost",
        "control",
        "evidence",
        "seconds",
        "versions",
    ],
    "properties": {
        "requests": {"type": "integer"},
        "failed_requests": {"type": "integer"},
        "sessions_resumed": {"type": "integer"},
        "leaf_rotations": {"type": "integer"},
        "ca_rotations": {"type": "integer"},
        "killed_rotation_completed": {"type": "boolean"},
        "rotate_now": {"type": "boolean"},
        "tasks_completed": {"type": "integer"},
        "tasks_lost": {"type": "integer"},
        "control": {
            "type": "object",
            "required": ["requests", "failed_requests"],
            "properties": {"requests": {"type": "integer"}, "failed_requests": {"type": "integer"}},
        },
        "evidence": {
            "type": "object",
            "required": ["entries", "verified"],
            "properties": {"entries": {"type": "integer"}, "verified": {"type": "boolean"}},
        },
        "seconds": {"type": "number"},
        "versions": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Balanced(HTMLParser):
    """Fails on an element that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 -- the base class gives it
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("recording", [run(), failed_run()], ids=["good", "failed"])
def test_report_json_keeps_the_contract(recording: Recording) -> None:
    """Every field of the contract is there with its type, in a file that can be read back."""
    jsonschema.validate(json.loads(json.dumps(document(recording))), CONTRACT)


def test_report_json_says_what_was_recorded() -> None:
    """The figures are those of the recording."""
    recording = run()
    said = document(recording)
    assert sum(tick.ok for tick in recording.load.ticks) == said["requests"]
    assert 0 == said["failed_requests"]
    assert 2 == said["ca_rotations"]
    assert said["killed_rotation_completed"] is True
    assert said["rotate_now"] is True
    assert {"requests": 1250, "failed_requests": 26} == said["control"]


def test_a_rotation_that_never_completed_is_said_so() -> None:
    """A killed rotation without an end is false in the report and no CA move."""
    said = document(failed_run())
    assert said["killed_rotation_completed"] is False
    assert 1 == said["ca_rotations"]
    assert 6 == said["failed_requests"]


@pytest.mark.parametrize("recording", [run(), failed_run()], ids=["good", "failed"])
def test_the_page_is_well_formed_and_whole_in_itself(recording: Recording) -> None:
    """Every element is closed in turn, and nothing is loaded from anywhere."""
    text = page(recording)
    parser = Balanced()
    parser.feed(text)
    assert [] == parser.open
    loading = [value for name, value in parser.attributes if name in {"src", "href", "srcset", "data"}]
    assert [] == loading
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text


def test_the_timeline_has_a_bar_for_every_certificate_run_and_drain() -> None:
    """The picture is valid XML and holds each leaf, each drain, the gap of the kill, and every marker."""
    recording = run()
    svg = ET.fromstring(timeline(recording))  # noqa: S314 -- our own text
    titles = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    for leaf in recording.lifetimes:
        assert any(f"serial {leaf.serial[:16]}" in title for title in titles)
    assert len(recording.rolls) == sum("draining for" in title for title in titles)
    assert 1 == sum("killed: down for 3.4 s" in title for title in titles)
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    for marker in recording.markers:
        assert marker.text in texts


def test_nothing_is_drawn_outside_the_picture() -> None:
    """Every bar lies between the gutter and the right edge."""
    for svg in (timeline(run()), control(run())):
        for left, width in re.findall(r'<rect class="[^"]+" x="([\d.-]+)" y="[\d.-]+" width="([\d.-]+)"', svg):
            assert float(left) >= 140
            assert float(left) + float(width) <= 1180


def test_every_failed_request_is_marked_and_escaped() -> None:
    """A failure is a red dot with its reason; what a server said cannot break the page."""
    svg = timeline(failed_run())
    assert 'class="dot failed"' in svg
    assert "upstream: 503 &lt;TLS error&gt; &amp; more" in svg
    assert 'class="dot failed"' not in timeline(run())


def test_every_claim_holds_in_a_good_run() -> None:
    """The fabricated good run breaks no claim."""
    assert [] == [claim.text for claim in claims(run()) if not claim.held]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (failed_run(), "no request failed"),
        (failed_run(), "killed in the middle"),
        (failed_run(), "no task was lost"),
        (replace(run(), rolls=run().rolls[:1]), "worker-2"),
        (replace(run(), rolls=tuple(replace(each, serial=None) for each in run().rolls)), "worker-1"),
        (replace(run(), load=replace(run().load, sessions_resumed=1)), "new mutual TLS"),
        (replace(run(), load=replace(run().load, handshakes=3)), "new mutual TLS"),
        (replace(run(), load=replace(run().load, ticks=run().load.ticks[::2])), "new mutual TLS"),
        (replace(run(), requested_rotation=None), "person asked"),
        (replace(run(), ca_rotations=run().ca_rotations[:2]), "on schedule"),
        (replace(run(), lifetimes=()), "renewed"),
        (replace(run(), evidence=None), "pinned"),
        (replace(run(), evidence=Evidence(entries=1, exit_code=3, pinned_size=1, verdict="unwitnessed")), "pinned"),
        (replace(run(), tasks_submitted=99), "no task was lost"),
    ],
)
def test_a_claim_breaks_when_what_it_says_is_not_so(broken: Recording, word: str) -> None:
    """One row a claim: take away what it rests on, and it does not hold."""
    assert [False] == sorted({claim.held for claim in claims(broken) if word in claim.text and not claim.held})


def test_a_run_that_broke_off_early_still_makes_a_report(tmp_path: Path) -> None:
    """Without load, certificates or evidence the report is written and no claim about them holds."""
    nothing = replace(
        run(),
        load=replace(run().load, ticks=()),
        control=replace(run().control, ticks=()),
        control_switch_at=None,
        lifetimes=(),
        authorities=(),
        ca_rotations=(),
        phases=(),
        rolls=(),
        tasks=(),
        tasks_submitted=0,
        markers=(),
        evidence=None,
        ended_at=0.0,
    )
    write(nothing, tmp_path)
    said = json.loads((tmp_path / "report.json").read_text())
    assert 0 == said["requests"]
    assert [] == [claim["text"] for claim in said["claims"] if claim["held"]]
    assert "claims did not hold" in (tmp_path / "report.html").read_text()
