"""In which order documents are written, what a plan's digest covers, and what counts as letting somebody in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rotator.core.model import TrustDomainName
from rotator.platform.changes import Plan, Stage, difference, plan_of, reached, steps_in, steps_text, widens
from rotator.platform.documents import Address, Document, document_of, document_with
from rotator.platform.drift import DriftKind, drifts
from rotator.platform.openings import opened_by_others
from rotator.platform.rendering import rendered
from rotator.platform.resources import MANAGED_BY, ROTATOR
from tests.platform.platforms import AT, example

OURS = {MANAGED_BY: ROTATOR}
EVERYBODY = {"targetRef": {"kind": "Mesh"}, "default": {"action": "Deny"}}


def document(kind: str, name: str, spec: Mapping[str, Any], labels: Mapping[str, str] = OURS) -> Document:
    """Return a document of one mesh."""
    return document_with(Address(trust_domain=TrustDomainName("a"), mesh="default", kind=kind, name=name), labels, spec)


def by_rules(*allow: str, deny: tuple[str, ...] = (), to: str = "ledger") -> Document:
    """Return a permission in the form of SPIFFE IDs."""
    default: dict[str, Any] = {"allow": [{"spiffeID": each} for each in allow]}
    if deny:
        default["deny"] = [{"spiffeID": each} for each in deny]
    spec = {"targetRef": {"kind": "Dataplane", "labels": {"app": to}}, "rules": [{"default": default}]}
    return document("MeshTrafficPermission", "rotator-ledger", spec)


def by_from(*allow: str) -> Document:
    """Return a permission in the older form, which begins with a refusal for everybody."""
    lets = [
        {"targetRef": {"kind": "MeshSubset", "tags": {"kuma.io/service": each}}, "default": {"action": "Allow"}}
        for each in allow
    ]
    spec = {"targetRef": {"kind": "Dataplane", "labels": {"app": "ledger"}}, "from": [EVERYBODY, *lets]}
    return document("MeshTrafficPermission", "rotator-ledger", spec)


def planned(before: Document | None, after: Document | None) -> Plan:
    """Return the plan from *before* to *after*."""
    of = {each.address: each for each in (before, after) if each is not None}
    return plan_of(
        {} if after is None else {after.address: of[after.address]},
        {} if before is None else {before.address: before},
    )


@pytest.mark.parametrize(
    ("before", "after", "stages"),
    [
        (by_rules("a"), by_rules("a", "b"), [Stage.WIDEN]),
        (by_rules("a", "b"), by_rules("a"), [Stage.NARROW]),
        (by_rules("a"), by_rules("b"), [Stage.WIDEN, Stage.NARROW]),
        (by_rules("a", deny=("x",)), by_rules("a"), [Stage.WIDEN]),
        (by_rules("a"), by_rules("a", deny=("x",)), [Stage.NARROW]),
        (by_rules("a", deny=("x",)), by_rules("b", deny=("y",)), [Stage.WIDEN, Stage.NARROW]),
        (by_from("a"), by_from("a", "b"), [Stage.WIDEN]),
        (by_from("a"), by_from("b"), [Stage.WIDEN, Stage.NARROW]),
        (None, by_rules("a"), [Stage.WIDEN]),
        (None, by_from("a"), [Stage.WIDEN, Stage.NARROW]),
        (by_rules("a"), None, [Stage.REMOVE]),
        (by_rules("a"), by_rules("a"), []),
    ],
)
def test_a_permission_widens_before_it_narrows(
    before: Document | None, after: Document | None, stages: list[Stage]
) -> None:
    """Whoever is let in before or after is let in in between; whoever only one of them refuses is not refused."""
    plan = planned(before, after)
    assert stages == [each.stage for each in plan.steps]
    for first, second in zip(plan.steps, plan.steps[1:], strict=False):
        between = first.after
        assert between == second.before
        # Nobody of either is refused in between, and from there to the end nobody is let in anew.
        assert between is not None
        assert not widens(between, before)
        assert not widens(between, after)


def test_a_refusal_for_everybody_outlives_the_time_in_between() -> None:
    """The older form's first entry, which both refuse, is there in between, before whom it lets in."""
    between = planned(by_from("a"), by_from("b")).steps[0].after
    assert between is not None
    first, *rest = between.spec["from"]
    assert (EVERYBODY, 2) == (first, len(rest))


def test_everything_is_written_in_the_safe_order() -> None:
    """Services, wider permissions, routes, narrower permissions; then routes, permissions and services go."""
    kinds = ("MeshService", "MeshTrafficPermission", "MeshHTTPRoute")
    old = [document(kind, "rotator-old", {"of": kind}) for kind in kinds]
    new = [document(kind, "rotator-new", {"of": kind, "rules": [{"default": {"allow": [{}]}}]}) for kind in kinds]
    plan = plan_of(
        {each.address: each for each in (*new, by_rules("b"))}, {each.address: each for each in (*old, by_rules("a"))}
    )
    assert [
        "create MeshService rotator-new in mesh default",
        "widen MeshTrafficPermission rotator-ledger in mesh default",
        "create MeshTrafficPermission rotator-new in mesh default",
        "create MeshHTTPRoute rotator-new in mesh default",
        "narrow MeshTrafficPermission rotator-ledger in mesh default",
        "remove MeshHTTPRoute rotator-old in mesh default",
        "remove MeshTrafficPermission rotator-old in mesh default",
        "remove MeshService rotator-old in mesh default",
    ] == [each.in_words for each in plan.steps]


def test_a_digest_covers_before_and_after() -> None:
    """Another document before, or another after, is another plan; the order of keys is not."""
    plans = [planned(by_rules("a"), by_rules("b")), planned(by_rules("c"), by_rules("b")), planned(None, by_rules("b"))]
    assert 3 == len({each.digest for each in plans})
    turned = document("MeshTrafficPermission", "rotator-ledger", dict(reversed(list(by_rules("b").spec.items()))))
    assert planned(None, by_rules("b")).digest == planned(None, turned).digest


def test_where_a_change_stands_is_read_off_the_documents() -> None:
    """Each state of a document's way is known, the last one counts, and anything else is nobody's of ours."""
    plan = planned(by_rules("a"), by_rules("b"))
    address = by_rules("a").address
    states = [plan.steps[0].before, plan.steps[0].after, plan.steps[1].after, by_rules("mallory"), None]
    assert [0, 1, 2, None, None] == [
        reached(plan.steps, {} if each is None else {address: each})[address] for each in states
    ]


def test_a_plan_is_kept_as_it_was() -> None:
    """What the store gives back is the same plan; what cannot be read is a `ValueError`."""
    plan = planned(by_from("a"), by_from("b"))
    assert plan.steps == steps_in(steps_text(plan.steps))
    with pytest.raises(ValueError, match="not readable"):
        steps_in('[{"address": {}}]')


def test_turning_a_plan_leads_back() -> None:
    """Undoing writes what was there before, and says which documents are not as the plan left them."""
    plan = planned(by_rules("a"), by_rules("b"))
    present = {by_rules("b").address: by_rules("b")}
    back = plan.turned(present)
    assert {by_rules("a").address: (by_rules("b"), by_rules("a"))} == back.ends()
    assert ((), (by_rules("a").address,)) == (plan.differing(present), plan.differing({}))


def test_what_kuma_notes_is_no_difference() -> None:
    """Labels of Kuma's own are written and not compared; labels of people are."""
    plain = document("MeshService", "rotator-a", {}, OURS)
    assert plain == document("MeshService", "rotator-a", {}, {**OURS, "kuma.io/origin": "zone"})
    assert plain != document("MeshService", "rotator-a", {}, {**OURS, "team": "x"})
    assert "" == difference(plain, plain)


def test_drift_says_what_somebody_did_and_whether_it_lets_in() -> None:
    """Edited, removed and added are told apart; a permission that lets in more, or a refusal that is gone, is grave."""
    address = by_rules("a").address
    cases = [
        (by_rules("a"), by_rules("a", "b"), DriftKind.EDITED, True),
        (by_rules("a", "b"), by_rules("a"), DriftKind.EDITED, False),
        (by_rules("a"), by_rules("a", to="other"), DriftKind.EDITED, True),
        (by_rules("a"), None, DriftKind.REMOVED, False),
        (by_from("a"), None, DriftKind.REMOVED, True),
        (None, by_rules("a"), DriftKind.ADDED, True),
    ]
    for applied, found, kind, grave in cases:
        (drift,) = drifts({} if applied is None else {address: applied}, {} if found is None else {address: found})
        assert (kind, grave) == (drift.kind, drift.is_grave), drift.in_words
    assert () == drifts({address: by_rules("a")}, {address: by_rules("a")})


def test_a_permission_of_others_that_opens_a_service_is_named() -> None:
    """What lets in callers whom nobody named is told, with what it opens; what opens nothing new is not."""
    platform = example()
    own = [document_of(AT, each) for each in rendered(platform, AT)]
    opening = document("MeshTrafficPermission", "allow-all", {"rules": [{"default": {"allow": [
        {"spiffeID": {"type": "Prefix", "value": f"spiffe://{AT}"}}]}}]}, {})  # fmt: skip
    harmless = document("MeshTrafficPermission", "nothing", {"rules": [{"default": {"deny": []}}]}, {})
    (found,) = opened_by_others(platform, AT, own, [opening, harmless])
    assert (DriftKind.FOREIGN, "allow-all", True) == (found.kind, found.address.name, found.is_grave)
    assert "opens what nobody asked for" in found.in_words
