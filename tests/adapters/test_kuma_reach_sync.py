"""Reports and views made into relying parties, and what a control plane says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.adapters.kuma.about import Model, about_of, model_used, version_of
from rotator.adapters.kuma.alike import covers, digest
from rotator.adapters.kuma.control_plane import About, Document, Environment, Kind, Mode, ProxyReport, ProxyView
from rotator.adapters.kuma.overview import moment, report_of
from rotator.adapters.kuma.sync import PLAIN_TRUST, Lag, Seen, out_of_sync, parties
from rotator.core.model import Generation, IssuerId, RelyingParty, Serial, SubjectName, TrustDomainName
from tests.fakes.certificate_authority import FakeCA

DOMAIN = TrustDomainName("td.example")
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LATER, LAST = NOW + timedelta(hours=3), NOW + timedelta(hours=7)
LONGEST = timedelta(hours=12)
OLD, NEW, ROOT = FakeCA("old", DOMAIN), FakeCA("new", DOMAIN), FakeCA("root", DOMAIN)
HELD = (
    Generation(number=1, authority=OLD.authority, reference="g1"),
    Generation(number=2, authority=NEW.authority, reference="g2"),
)
BOTH = frozenset({OLD.authority.id, NEW.authority.id})


def shas(*authorities: FakeCA) -> frozenset[str]:
    return frozenset(each.authority.sha256 for each in authorities)


def report(name: str = "web", **changed: Any) -> ProxyReport:
    whole = ProxyReport(
        name=name,
        zone="east",
        online=True,
        connection="1/1",
        certificate_not_after=LATER,
        responses_sent=5,
        responses_acknowledged=5,
    )
    return replace(whole, **changed)


def view(*trusted: FakeCA, served: FakeCA | None = OLD, domain: TrustDomainName = DOMAIN) -> ProxyView:
    return ProxyView(
        bundles={domain: shas(*trusted)},
        leaf_serial=Serial("1") if served else None,
        leaf_issuer=served.authority.id if served else None,
        leaf_not_after=LATER if served else None,
    )


def seen(
    *reports: ProxyReport,
    views: Mapping[str, ProxyView | None] | None,
    domain: TrustDomainName = DOMAIN,
    given: frozenset[IssuerId] | None = BOTH,
) -> Seen:
    return parties(
        mesh="default",
        domain=domain,
        reports=reports,
        views=views,
        held=HELD,
        active=NEW.authority.id,
        given=given,
        longest_leaf=LONGEST,
        now=NOW,
    )


# --- parties --------------------------------------------------------------------------------------------------------


def test_the_mesh_itself_comes_first() -> None:
    """What joiners are given is a party that has acknowledged it."""
    mesh = RelyingParty(name=SubjectName("mesh:default"), published=BOTH, acknowledged=BOTH)
    assert Seen(parties=(mesh,)) == seen(views={})


def test_a_mesh_without_a_ca_gave_nothing() -> None:
    """Nothing was published, and nobody acknowledged anything."""
    (mesh,) = seen(views={}, given=None).parties
    assert (None, frozenset()) == (mesh.published, mesh.acknowledged)


def test_a_proxy_acknowledges_what_its_own_configuration_holds() -> None:
    """Held generations that it trusts; the mesh's root, and what nobody holds, are no generation."""
    _, party = seen(report(), views={"web": view(OLD, ROOT)}).parties
    assert party == RelyingParty(
        name=SubjectName("web"),
        published=BOTH,
        acknowledged=frozenset({OLD.authority.id}),
        served_issuer=OLD.authority.id,
        last_leaf_not_after=LATER,
    )


def test_the_model_says_which_validators_count() -> None:
    """In the provided model the plain validator's CAs do, in the other those of the trust domain."""
    shown = {"web": ProxyView(bundles={PLAIN_TRUST: shas(OLD), DOMAIN: shas(NEW)})}
    acknowledged = [seen(report(), views=shown, domain=each).parties[1].acknowledged for each in (PLAIN_TRUST, DOMAIN)]
    assert [frozenset({OLD.authority.id}), frozenset({NEW.authority.id})] == acknowledged


def test_a_silent_proxy_is_out_of_reach_and_may_hold_any_leaf() -> None:
    """Online without an answer: nothing is acknowledged, and the old generation is in use until its last leaf ends."""
    found = seen(report(), views={"web": None})
    assert (False, frozenset(), None) == (
        found.parties[1].reachable,
        found.parties[1].acknowledged,
        found.parties[1].served_issuer,
    )
    assert {OLD.authority.id: LATER} == dict(found.stray_until)


def test_an_offline_proxy_counts_until_its_last_leaf_has_ended() -> None:
    """The insight says when that is; where it has forgotten, the longest leaf from when it left bounds it."""
    gone = report(online=False, disconnected_at=NOW)
    forgotten = report("db", online=False, disconnected_at=NOW, certificate_not_after=None)
    found = seen(gone, forgotten, views={})
    assert [NOW + LONGEST, LATER] == [each.last_leaf_not_after for each in found.parties[1:]]
    assert {OLD.authority.id: NOW + LONGEST} == dict(found.stray_until)
    assert not any(each.reachable for each in found.parties[1:])


def test_a_zone_egress_that_cannot_be_asked_is_waited_for() -> None:
    """Nobody reports when its leaf ends: while it is online, that may be the longest leaf from now."""
    found = seen(report("zoneegress:east", certificate_not_after=None), views={})
    assert (False, NOW + LONGEST) == (found.parties[1].reachable, found.parties[1].last_leaf_not_after)
    assert {OLD.authority.id: NOW + LONGEST} == dict(found.stray_until)


def test_a_proxy_that_never_connected_holds_no_leaf() -> None:
    """It is out of reach and nobody waits for it: it starts with what is given then."""
    fresh = report(online=False, connection="", certificate_not_after=None)
    found = seen(fresh, views={})
    assert (None, {}) == (found.parties[1].last_leaf_not_after, dict(found.stray_until))


def test_whoever_serves_a_leaf_of_nobody_we_hold_serves_none_of_ours() -> None:
    """Its issuer is known to be none of the held generations: unknown to the engine, and no stray."""
    found = seen(report(), views={"web": view(OLD, served=ROOT)})
    assert (None, {}) == (found.parties[1].served_issuer, dict(found.stray_until))


def test_a_proxy_that_uses_no_mtls_relies_on_nothing() -> None:
    """It was seen to hold nothing of the mesh: nothing was given to it, nothing is waited for."""
    found = seen(report(), views={"web": ProxyView(bundles={}, relies=False)})
    assert RelyingParty(name=SubjectName("web"), published=None, acknowledged=frozenset()) == found.parties[1]
    assert {} == dict(found.stray_until)


def test_without_asking_nobody_has_acknowledged_and_nobody_is_out_of_reach() -> None:
    """A look without proofs takes contact from the reports and leaves are unknown."""
    found = seen(report(), report("db", online=False), views=None)
    assert [("db", False), ("web", True)] == [(str(each.name), each.reachable) for each in found.parties[1:]]
    assert not any(each.acknowledged for each in found.parties[1:])
    assert {OLD.authority.id: LATER} == dict(found.stray_until)


def test_the_latest_leaf_counts() -> None:
    """Report and view are taken at two moments: the later end of the two is the one to wait for."""
    shown = {"web": replace(view(OLD), leaf_not_after=LAST)}
    assert LAST == seen(report(), views=shown).parties[1].last_leaf_not_after


# --- out of step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "lag", "words"),
    [
        ({"online": False, "connection": ""}, Lag.NEVER_CONNECTED, "it has never connected to a control plane"),
        (
            {"online": False, "disconnected_at": NOW},
            Lag.OFFLINE,
            "it has been out of contact since 2026-06-01T12:00:00Z",
        ),
        (
            {"responses_rejected": 2, "responses_acknowledged": 3},
            Lag.REJECTING,
            "it has rejected 2 of 5 configurations",
        ),
        ({"responses_acknowledged": 3}, Lag.BEHIND, "it has not acknowledged 2 of 5 configurations"),
        ({}, Lag.UNREADABLE, "it is online and cannot be asked what it trusts"),
    ],
)
def test_a_proxy_out_of_step_is_named(changed: Mapping[str, Any], lag: Lag, words: str) -> None:
    """One row a way to lag."""
    (finding,) = out_of_sync([report(**changed)], {})
    assert ("web", "east", lag, words) == (finding.proxy, finding.zone, finding.lag, finding.detail)


def test_a_proxy_in_step_is_not_named() -> None:
    """Whoever acknowledged all is in step, whether it was asked or not."""
    assert () == out_of_sync([report()])
    assert () == out_of_sync([report()], {"web": view(OLD)})


# --- reports --------------------------------------------------------------------------------------------------------

OVERVIEW: Mapping[str, Any] = {
    "type": "DataplaneOverview",
    "mesh": "default",
    "name": "web-5d4-x8z7c",
    "labels": {"kuma.io/zone": "east", "app": "web"},
    "dataplane": {"networking": {"address": "10.0.0.1", "inbound": [{"port": 80, "tags": {"kuma.io/service": "web"}}]}},
    "dataplaneInsight": {
        "subscriptions": [
            {
                "id": "1",
                "connectTime": "2026-06-01T10:00:00.123456789Z",
                "disconnectTime": "2026-06-01T11:00:00.5Z",
                "status": {"total": {"responsesSent": "90"}},
            },
            {
                "id": "2",
                "generation": 3,
                "connectTime": "2026-06-01T11:30:00Z",
                "status": {
                    "total": {"responsesSent": "12", "responsesAcknowledged": "11", "responsesRejected": "1"},
                },
                "version": {"kumaDp": {"version": "2.14.3"}, "envoy": {"version": "1.38.2"}},
            },
        ],
        "mTLS": {
            "certificateExpirationTime": "2026-06-01T15:00:00Z",
            "lastCertificateRegeneration": "2026-06-01T03:00:00.987654321Z",
            "issuedBackend": "ca-1",
        },
    },
}


def test_a_report_says_what_the_insight_says() -> None:
    """The open subscription counts, counters come as text, moments in whole seconds."""
    assert report_of(OVERVIEW) == ProxyReport(
        name="web-5d4-x8z7c",
        zone="east",
        online=True,
        connection="2/3",
        certificate_not_after=LATER,
        certificate_issued_at=NOW - timedelta(hours=9),
        issued_by="ca-1",
        responses_sent=12,
        responses_acknowledged=11,
        responses_rejected=1,
        version="kuma-dp 2.14.3, Envoy 1.38.2",
        workload={"kuma.io/service": "web", "kuma.io/zone": "east", "app": "web"},
    )


def test_a_proxy_whose_subscriptions_have_all_ended_is_offline() -> None:
    """It left when the last of them ended."""
    ended = [{"id": "1", "connectTime": "2026-06-01T10:00:00Z", "disconnectTime": "2026-06-01T12:00:00.5Z"}]
    found = report_of({**OVERVIEW, "dataplaneInsight": {"subscriptions": ended}})
    assert (False, "1/0", NOW, None) == (
        found.online,
        found.connection,
        found.disconnected_at,
        found.certificate_not_after,
    )


def test_the_connection_is_the_open_one() -> None:
    """Wherever in the list it stands."""
    insight = OVERVIEW["dataplaneInsight"]
    turned = {**insight, "subscriptions": insight["subscriptions"][::-1]}
    assert report_of(OVERVIEW) == report_of({**OVERVIEW, "dataplaneInsight": turned})


def test_labels_count_before_tags() -> None:
    """A workload is what its labels say; tags fill in."""
    labelled = {**OVERVIEW, "labels": {"kuma.io/service": "labelled"}}
    assert "labelled" == report_of(labelled).workload["kuma.io/service"]


def test_a_proxy_without_insight_never_connected() -> None:
    """It is offline and has no connection."""
    found = report_of({"name": "web", "dataplane": {}})
    assert ProxyReport(name="web", zone="", online=False) == found


def test_a_zone_egress_is_a_proxy_of_another_name() -> None:
    """No Dataplane can be called so."""
    found = report_of(
        {
            "type": "ZoneEgressOverview",
            "name": "egress-1",
            "zoneEgress": {"zone": "east"},
            "zoneEgressInsight": {"subscriptions": [{"id": "7", "connectTime": "2026-06-01T10:00:00Z"}]},
        }
    )
    assert ("zoneegress:egress-1", "east", True, "7/0") == (found.name, found.zone, found.online, found.connection)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-01T12:00:00Z", NOW),
        ("2026-06-01T14:00:00.999999999+02:00", NOW),
        ("0001-01-01T00:00:00Z", None),
        ("2026-06-01T12:00:00", None),
        ("soon", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_a_moment_is_whole_and_in_utc(text: object, expected: datetime | None) -> None:
    """The year 1 is none, and so is a moment without its zone."""
    assert expected == moment(text)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
PARTS = sorted({"name", "labels", "dataplane", "dataplaneInsight", "zoneEgress", "zoneEgressInsight", "type"})
INSIGHT = sorted({"subscriptions", "mTLS", "id", "connectTime", "disconnectTime", "status", "total", "responsesSent"})
NOISE: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INSIGHT), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(PARTS), NOISE))
def test_noise_is_a_report_of_nothing_and_no_crash(item: Mapping[str, Any]) -> None:
    """A control plane of another version may say anything; nobody has a leaf by it."""
    found = report_of(item)
    assert (None, None) == (found.certificate_not_after, found.certificate_issued_at)


# --- alike ----------------------------------------------------------------------------------------------------------

NOBODY: Mapping[str, Any] = {"selector": {}}
EVERYBODY: Mapping[str, Any] = {"selector": {"dataplane": {"matchLabels": {}}}}


@pytest.mark.parametrize(
    ("kind", "found", "wanted", "expected"),
    [
        (Kind.IDENTITY, NOBODY, NOBODY, True),
        (Kind.IDENTITY, EVERYBODY, EVERYBODY, True),
        (Kind.IDENTITY, EVERYBODY, NOBODY, False),
        (Kind.IDENTITY, NOBODY, EVERYBODY, False),
        (Kind.IDENTITY, {"selector": {"dataplane": {}}}, EVERYBODY, True),
        (Kind.IDENTITY, {"selector": {"dataplane": {"matchLabels": None}}}, EVERYBODY, True),
        (Kind.IDENTITY, {"selector": {"dataplane": {"matchLabels": {"app": "web"}}}}, EVERYBODY, False),
        (Kind.IDENTITY, {"selector": {"dataplane": None}}, EVERYBODY, False),
        (Kind.IDENTITY, {}, NOBODY, False),
        (Kind.IDENTITY, {"expiry": "24h0m0s"}, {"expiry": "24h"}, True),
        (Kind.IDENTITY, {"expiry": "1h30m0s"}, {"expiry": "1.5h"}, True),
        (Kind.IDENTITY, {"expiry": "12h0m0s"}, {"expiry": "24h"}, False),
        (Kind.IDENTITY, {"a": 1, "added": {"by": "the server"}}, {"a": 1}, True),
        (Kind.IDENTITY, {"a": True}, {"a": 1}, False),
        (Kind.IDENTITY, {}, {"a": None}, True),
        (Kind.IDENTITY, {}, {"a": False}, False),
        (Kind.TRUST, {"caBundles": [{"pem": "a"}]}, {"caBundles": [{"pem": "a"}, {"pem": "b"}]}, False),
        (Kind.TRUST, {"caBundles": [{"pem": "b"}, {"pem": "a"}]}, {"caBundles": [{"pem": "a"}, {"pem": "b"}]}, False),
        (Kind.TRUST, {"caBundles": [{"pem": "a"}, {"pem": "b"}]}, {"caBundles": [{"pem": "a"}]}, False),
        (Kind.MESH, {}, {"mtls": {}, "a": False, "b": "", "c": 0, "d": []}, True),
        (Kind.MESH, {}, {"mtls": {"enabledBackend": "ca-1"}}, False),
        (
            Kind.MESH,
            {"mtls": {"backends": [{"name": "a", "mode": "STRICT"}]}},
            {"mtls": {"backends": [{"name": "a"}]}},
            True,
        ),
    ],
)
def test_what_the_server_adds_is_no_edit(
    kind: Kind, found: Mapping[str, Any], wanted: Mapping[str, Any], *, expected: bool
) -> None:
    """One row a way of the server's, and one for each that is somebody's edit."""
    assert expected == covers(kind, found, wanted)


def test_a_digest_follows_the_content_alone() -> None:
    """The order of keys makes no difference, any value does."""
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


# --- what a control plane is ----------------------------------------------------------------------------------------


def test_a_control_plane_is_what_it_says() -> None:
    """Version, environment, mode, and whether a Global one stands above it."""
    about = about_of(
        {"product": "Kuma", "version": "2.14.3", "instanceId": "cp-1", "basedOnKuma": ""},
        {
            "environment": "universal",
            "mode": "zone",
            "multizone": {"zone": {"name": "east", "globalAddress": "grpcs://global:5685"}},
        },
    )
    assert about == About(
        product="Kuma",
        version=(2, 14, 3),
        version_text="2.14.3",
        environment=Environment.UNIVERSAL,
        mode=Mode.ZONE,
        federated=True,
        instance="cp-1",
    )


def test_a_global_control_plane_on_kubernetes_says_so() -> None:
    """What it does itself it also says; a standalone one of old is a zone's."""
    about = about_of({"version": "3.0.1"}, {"environment": "kubernetes", "mode": "global"})
    assert (Environment.KUBERNETES, Mode.GLOBAL, False) == (about.environment, about.mode, about.federated)
    assert Mode.ZONE == about_of({"version": "2.5.0"}, {"mode": "standalone"}).mode


def test_a_product_on_kuma_has_the_version_of_its_kuma() -> None:
    """What it can do is Kuma's; what it is called is its own."""
    about = about_of({"product": "Kong Mesh", "version": "9.1.0", "basedOnKuma": "2.13.4"}, {})
    assert ((2, 13, 4), "9.1.0", "Kong Mesh") == (about.version, about.version_text, about.product)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("2.14.3", (2, 14, 3)),
        ("v3.0.1", (3, 0, 1)),
        ("3.1.0-preview.v0123abcd", (3, 1, 0)),
        ("2.14", (2, 14, 0)),
        ("unknown", (0, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_versions_are_numbers(text: str, numbers: tuple[int, int, int]) -> None:
    """A development build counts as its base version, one that names none as nothing."""
    assert numbers == version_of(text)


def about(version: tuple[int, int, int]) -> About:
    return About(product="Kuma", version=version, version_text="", environment=Environment.UNIVERSAL, mode=Mode.ZONE)


MTLS = Document(kind=Kind.MESH, name="default", spec={"mtls": {"enabledBackend": "ca-1"}})
PLAIN_MESH = Document(kind=Kind.MESH, name="default", spec={"mtls": {"backends": []}})
SELECTING = Document(kind=Kind.IDENTITY, name="a", spec=EVERYBODY)
RESTING = Document(kind=Kind.IDENTITY, name="b", spec=NOBODY)


@pytest.mark.parametrize(
    ("version", "mesh", "identities", "model"),
    [
        ((2, 14, 3), MTLS, (), Model.PROVIDED),
        ((2, 14, 3), MTLS, (RESTING,), Model.PROVIDED),
        ((2, 14, 3), MTLS, (SELECTING,), Model.IDENTITY),
        ((2, 14, 3), PLAIN_MESH, (RESTING,), Model.IDENTITY),
        ((2, 14, 3), PLAIN_MESH, (), Model.NONE),
        ((2, 14, 3), None, (), Model.NONE),
        ((3, 0, 1), MTLS, (), Model.NONE),
        ((3, 0, 1), MTLS, (RESTING,), Model.IDENTITY),
        ((3, 0, 1), PLAIN_MESH, (RESTING, SELECTING), Model.IDENTITY),
    ],
)
def test_the_model_in_use_is_seen(
    version: tuple[int, int, int], mesh: Document | None, identities: tuple[Document, ...], model: Model
) -> None:
    """A MeshIdentity that selects wins; Mesh.mtls is nothing from Kuma 3 on."""
    assert model == model_used(about(version), mesh, identities)
