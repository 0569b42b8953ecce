"""
The stand-in for Kuma behaves as Kuma is known to, the awkward parts first.

Rules that must stay true here:

- Each test is one fact of Kuma's own sources, in virtual time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.kuma.admission import Invalid
from tests.fakes.kuma.signing import KeyPair, new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import DATAPLANE, IDENTITY, SECRET, TRUST, Json
from tests.fakes.kuma.virtual import Meeting
from tests.fixtures_kuma import NewStandIn, with_proxies

DOMAIN = "airflow.test"


def provided(cert: str, key: str, **more: Any) -> Json:
    """Return ``Mesh.mtls`` with one provided backend."""
    conf = {"cert": {"secret": cert}, "key": {"secret": key}}
    return {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "provided", "conf": conf, **more}]}


def generation(standin: StandIn, number: int) -> KeyPair:
    """Keep a new CA in secrets ``g<n>-cert`` and ``g<n>-key``."""
    pair = new_root(f"generation {number}", DOMAIN, standin.clock.now(), by_rsa=False)
    standin.keep_secret(f"g{number}-cert", pair.certificate_pem)
    standin.keep_secret(f"g{number}-key", pair.key_pem)
    return pair


def identity(name: str, number: int, selector: Json, **bundled: Any) -> Json:
    """Return a MeshIdentity that issues by generation *number*."""
    ca = {
        part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": f"g{number}-{what}"}}
        for part, what in (("certificate", "cert"), ("privateKey", "key"))
    }
    settings = {"meshTrustCreation": "Disabled", "insecureAllowSelfSigned": True, "ca": ca, **bundled}
    spec = {
        "selector": selector,
        "spiffeID": {"trustDomain": DOMAIN},
        "provider": {"type": "Bundled", "bundled": settings},
    }
    return {"type": IDENTITY, "mesh": "default", "name": name, "spec": spec}


def trust(name: str, *pairs: KeyPair) -> Json:
    """Return a MeshTrust of the tests' trust domain."""
    bundles = [{"type": "Pem", "pem": {"value": pair.certificate_pem.decode()}} for pair in pairs]
    return {
        "type": TRUST,
        "mesh": "default",
        "name": name,
        "spec": {"trustDomain": DOMAIN, "caBundles": bundles},
    }


EVERYONE: Json = {"dataplane": {"matchLabels": {}}}
NOBODY: Json = {}


@pytest.fixture
def by_mtls(standin: StandIn) -> StandIn:
    """Return the stand-in on a provided CA, generation 1."""
    generation(standin, 1)
    standin.edit_mesh(mtls=provided("g1-cert", "g1-key"))
    standin.run(3)
    return standin


@pytest.fixture(params=["2.14.3", "3.0.1"])
def by_identity(request: pytest.FixtureRequest, new_standin: NewStandIn) -> StandIn:
    """Return a stand-in on a MeshIdentity, generation 1, in both lines of Kuma."""
    standin = with_proxies(new_standin(version=request.param))
    standin.apply(trust("own", generation(standin, 1)))
    standin.apply(identity("b-1", 1, EVERYONE))
    standin.run(20)
    return standin


class TestMeshMTLS:
    """Certificates by ``Mesh.mtls``."""

    def test_a_mesh_without_mtls_speaks_plaintext(self, standin: StandIn) -> None:
        """Nobody has a certificate, everybody is reached."""
        assert {Meeting.PLAINTEXT} == {found.meeting for found in standin.encounters().values()}

    def test_a_provided_ca_gives_everyone_a_leaf_within_three_seconds(self, by_mtls: StandIn) -> None:
        """A trigger reaches proxies in the time of two caches and a tick."""
        assert {} == by_mtls.failures()
        assert 1 == len({proxy.leaf_issuer for proxy in by_mtls.proxies.values()})

    def test_a_secret_overwritten_changes_nobody_and_breaks_joiners(self, by_mtls: StandIn) -> None:
        """In-place content renews no bundle: who joins later has another CA than everyone else."""
        served = {name: proxy.leaf_issuer for name, proxy in by_mtls.proxies.items()}
        other = new_root("generation 2", DOMAIN, by_mtls.clock.now())
        by_mtls.keep_secret("g1-cert", other.certificate_pem)
        by_mtls.keep_secret("g1-key", other.key_pem)
        by_mtls.run(60)
        assert served == {name: proxy.leaf_issuer for name, proxy in by_mtls.proxies.items()}
        by_mtls.add_proxy("joiner")
        by_mtls.run(3)
        assert {"joiner"} == set.intersection(*[set(pair) for pair in by_mtls.failures()])
        assert 10 == len(by_mtls.failures())

    def test_at_four_fifths_of_its_life_the_leaf_alone_is_renewed(self, by_mtls: StandIn) -> None:
        """The new leaf is of the CA that the secrets hold then, the bundle stays as it was."""
        other = new_root("generation 2", DOMAIN, by_mtls.clock.now())
        by_mtls.keep_secret("g1-cert", other.certificate_pem)
        by_mtls.keep_secret("g1-key", other.key_pem)
        by_mtls.run(timedelta(hours=19))
        assert {} == by_mtls.failures()
        by_mtls.run(timedelta(hours=1))
        assert 20 == len(by_mtls.failures())

    def test_one_write_of_the_mesh_moves_leaf_and_bundle(self, by_mtls: StandIn) -> None:
        """Trust, then sign, then prune, by new names: nobody is ever refused."""
        one, two = by_mtls.secret("g1-cert"), generation(by_mtls, 2).certificate_pem
        assert one is not None
        by_mtls.keep_secret("old-new", one + two)
        by_mtls.keep_secret("new-old", two + one)
        for cert, key in (("old-new", "g1-key"), ("new-old", "g2-key"), ("g2-cert", "g2-key")):
            by_mtls.edit_mesh(mtls=provided(cert, key))
            for _ in range(6):
                by_mtls.run(0.5)
                assert {} == by_mtls.failures()

    def test_pruning_without_trust_first_breaks_while_proxies_follow(self, by_mtls: StandIn) -> None:
        """Control: a switch without overlap is refused by whoever has not followed yet."""
        generation(by_mtls, 2)
        by_mtls.proxies["web"].is_frozen = True
        by_mtls.edit_mesh(mtls=provided("g2-cert", "g2-key"))
        by_mtls.run(3)
        assert {"web"} == set.intersection(*[set(pair) for pair in by_mtls.failures()])

    @pytest.mark.parametrize(
        ("mtls", "field"),
        [
            (
                {"enabledBackend": "a", "backends": [{"name": name, "type": "builtin"} for name in "ab"]},
                "mtls.backends",
            ),
            ({"enabledBackend": "b", "backends": [{"name": "b", "type": "builtin"}]}, "mtls.enabledBackend"),
            (provided("g1-cert", "absent"), "mtls.backends[0].conf.key"),
            (provided("g1-cert", "g2-key"), "mtls.backends[0].conf.cert"),
            (provided("g1-cert", "g1-key", dpCert={"rotation": {"expiration": "1h30m"}}), "mtls.dpcert"),
        ],
    )
    def test_admission_refuses(self, by_mtls: StandIn, mtls: Json, field: str) -> None:
        """Two backends, another name while mTLS is on, a pair that is none, a duration of two units."""
        generation(by_mtls, 2)
        with pytest.raises(Invalid) as refused:
            by_mtls.edit_mesh(mtls=mtls)
        assert refused.value.violations[0].field.startswith(field)

    def test_a_secret_in_use_cannot_be_deleted(self, by_mtls: StandIn) -> None:
        """One that the Mesh no longer names can."""
        with pytest.raises(Invalid):
            by_mtls.delete(SECRET, "g1-cert")
        generation(by_mtls, 2)
        by_mtls.edit_mesh(mtls=provided("g2-cert", "g2-key"))
        assert by_mtls.delete(SECRET, "g1-cert")

    def test_who_cannot_be_issued_anything_keeps_what_it_runs_and_backs_off(self, by_mtls: StandIn) -> None:
        """A torn pair is mended at once and tried again no sooner than the backoff says."""
        key = by_mtls.secret("g1-key")
        assert key is not None
        by_mtls.keep_secret("g1-key", new_root("else", DOMAIN, by_mtls.clock.now()).key_pem)
        by_mtls.edit_mesh(mtls={**provided("g1-cert", "g1-key"), "skipValidation": True})
        by_mtls.run(1)
        by_mtls.run(1)
        assert {} == by_mtls.failures()
        before = by_mtls.proxies["web"].leaf
        by_mtls.keep_secret("g1-key", key)
        by_mtls.run(2)
        assert before == by_mtls.proxies["web"].leaf
        by_mtls.run(30)
        assert before != by_mtls.proxies["web"].leaf

    def test_a_restarted_control_plane_issues_everything_afresh(self, by_mtls: StandIn) -> None:
        """What was given to whom is kept in memory only."""
        before = {name: proxy.leaf for name, proxy in by_mtls.proxies.items()}
        by_mtls.restart()
        by_mtls.run(3)
        assert {} == by_mtls.failures()
        assert not {name for name, proxy in by_mtls.proxies.items() if before[name] == proxy.leaf}

    def test_on_kuma_three_it_is_dropped_and_the_mesh_is_plaintext(self, new_standin: NewStandIn) -> None:
        """``Mesh.mtls`` is accepted, not stored, and issues nothing."""
        standin = with_proxies(new_standin(version="3.0.1"))
        standin.edit_mesh(mtls={"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]})
        standin.run(10)
        assert {Meeting.PLAINTEXT} == {found.meeting for found in standin.encounters().values()}
        assert "mtls" not in (standin.document("Mesh", "default") or {})


class TestMeshIdentity:
    """Certificates by MeshIdentity and MeshTrust."""

    def test_everyone_speaks_mutual_tls(self, by_identity: StandIn) -> None:
        """One MeshIdentity and one MeshTrust are enough."""
        assert {} == by_identity.failures()

    def test_a_smaller_name_takes_over_without_a_failure(self, by_identity: StandIn) -> None:
        """Trust both, create the next identity for nobody, let it select, delete the old one, trust one."""
        one, two = by_identity.secret("g1-cert"), generation(by_identity, 2)
        assert one is not None
        old = KeyPair(certificate_pem=one, key_pem=b"", not_after=two.not_after, issued_at=two.issued_at)

        def no_failures() -> None:
            for _ in range(30):
                by_identity.run(0.5)
                assert {} == by_identity.failures()

        for step in (trust("own", two, old), identity("a-2", 2, NOBODY)):
            by_identity.apply(step)
            no_failures()
        # What is sent without its status has none, and is not Ready until the next look at it.
        status = (by_identity.document(IDENTITY, "a-2") or {})["status"]
        by_identity.apply({**identity("a-2", 2, EVERYONE), "status": status})
        no_failures()
        issuers = {proxy.leaf_issuer for proxy in by_identity.proxies.values()}
        by_identity.delete(IDENTITY, "b-1")
        no_failures()
        by_identity.apply(trust("own", two))
        no_failures()
        assert 1 == len(issuers)
        assert issuers == {proxy.leaf_issuer for proxy in by_identity.proxies.values()}

    def test_a_winner_that_is_not_ready_strips_its_proxies(self, by_identity: StandIn) -> None:
        """Selection does not look at conditions."""
        generation(by_identity, 2)
        by_identity.apply(identity("a-2", 2, EVERYONE, insecureAllowSelfSigned=False))
        by_identity.run(3)
        assert {None} == {proxy.leaf for proxy in by_identity.proxies.values()}

    def test_a_secret_overwritten_renews_nobody(self, by_identity: StandIn) -> None:
        """The identity has not changed, so nothing is issued."""
        before = {name: proxy.leaf for name, proxy in by_identity.proxies.items()}
        generation(by_identity, 1)
        by_identity.run(60)
        assert before == {name: proxy.leaf for name, proxy in by_identity.proxies.items()}

    def test_the_ca_is_kept_five_seconds_by_the_identitys_name(self, by_identity: StandIn) -> None:
        """An identity edited right after an issuance gives out leaves of the CA before."""
        by_identity.add_proxy("joiner")
        by_identity.run(1)
        generation(by_identity, 2)
        by_identity.apply(identity("b-1", 2, EVERYONE))
        before = by_identity.proxies["web"].leaf
        by_identity.run(2)
        assert before != by_identity.proxies["web"].leaf
        assert 1 == len({proxy.leaf_issuer for proxy in by_identity.proxies.values()})

    def test_trust_creation_appends_and_never_removes(self, by_identity: StandIn) -> None:
        """Enabled, a swapped CA joins the MeshTrust of the identity's name."""
        by_identity.apply(identity("b-1", 1, EVERYONE, meshTrustCreation="Enabled"))
        by_identity.run(6)
        generation(by_identity, 1)
        by_identity.run(6)
        made = by_identity.document(TRUST, "b-1")
        assert made is not None
        assert 2 == len(made["spec"]["caBundles"])

    def test_before_three_it_wants_mesh_services(self, new_standin: NewStandIn) -> None:
        """Without ``meshServices.mode: Exclusive`` it is not Ready."""
        standin = new_standin()
        standin.edit_mesh()
        generation(standin, 1)
        standin.apply(identity("b-1", 1, NOBODY))
        standin.run(6)
        found = standin.document(IDENTITY, "b-1")
        assert found is not None
        reasons = {each["type"]: each["reason"] for each in found["status"]["conditions"]}
        assert {"DependenciesReady": "MeshServicesDisabled", "Ready": "Failure"} == reasons

    def test_on_three_a_pair_that_is_none_is_not_ready(self, by_identity: StandIn) -> None:
        """2.x with self-signed CAs allowed does not look."""
        generation(by_identity, 1)
        by_identity.keep_secret("g1-key", new_root("else", DOMAIN, by_identity.clock.now()).key_pem)
        by_identity.run(8)
        stripped = {proxy.leaf is None for proxy in by_identity.proxies.values()}
        assert {by_identity.version == "3.0.1"} == stripped


class TestInsights:
    """What the control plane says of proxies."""

    def insight(self, standin: StandIn, name: str = "web") -> Json:
        """Return one proxy's insight."""
        found = standin.store.get("DataplaneInsight", "default", name)
        assert found is not None
        return found.spec

    def test_it_is_ten_seconds_late(self, by_mtls: StandIn) -> None:
        """The leaf is new at once, the insight says so at its next flush."""
        by_mtls.run(10)
        before = self.insight(by_mtls)["mTLS"]
        generation(by_mtls, 2)
        by_mtls.edit_mesh(mtls=provided("g2-cert", "g2-key"))
        by_mtls.run(3)
        assert before == self.insight(by_mtls)["mTLS"]
        by_mtls.run(10)
        assert before["certificateRegenerations"] + 1 == self.insight(by_mtls)["mTLS"]["certificateRegenerations"]

    def test_a_proxy_that_never_answers_is_out_of_step(self, by_mtls: StandIn) -> None:
        """Sent counts more than acknowledged, and nothing further is sent."""
        by_mtls.proxies["web"].is_frozen = True
        for number in (2, 3):
            generation(by_mtls, number)
            by_mtls.edit_mesh(mtls=provided(f"g{number}-cert", f"g{number}-key"))
            by_mtls.run(12)
        total = self.insight(by_mtls)["subscriptions"][-1]["status"]["total"]
        assert 1 == int(total["responsesSent"]) - int(total["responsesAcknowledged"])

    def test_a_stopped_proxy_is_offline_and_a_pods_is_gone(self, by_mtls: StandIn) -> None:
        """Somebody's own Dataplane stays; one that came with its proxy goes with it."""
        by_mtls.run(10)
        by_mtls.stop_proxy("web")
        by_mtls.stop_proxy("scheduler", keeps_dataplane=False)
        by_mtls.run(3)
        assert "disconnectTime" in self.insight(by_mtls)["subscriptions"][-1]
        assert "certificateExpirationTime" in self.insight(by_mtls)["mTLS"]
        assert {"web", "triggerer", "worker-1", "worker-2"} == {
            each.name for each in by_mtls.store.list(DATAPLANE, "default")
        }

    def test_a_crash_leaves_streams_open_until_the_proxies_come_back(self, by_mtls: StandIn) -> None:
        """Whoever reads an insight meanwhile sees proxies online that nobody serves."""
        by_mtls.run(10)
        by_mtls.down()
        assert "disconnectTime" not in self.insight(by_mtls)["subscriptions"][-1]
        by_mtls.up()
        by_mtls.run(1)
        old, new = self.insight(by_mtls)["subscriptions"]
        assert ("disconnectTime" in old, "disconnectTime" in new) == (True, False)


def test_a_global_control_plane_shows_its_zones_proxies(new_standin: NewStandIn) -> None:
    """Meshes go down, proxies come up under longer names, statuses stay where they are made."""
    top = new_standin(mode="global", zones=("east", "west"))
    top.edit_mesh(meshServices={"mode": "Exclusive"})
    top.apply(trust("own", generation(top, 1)))
    top.apply(identity("b-1", 1, EVERYONE))
    top.add_proxy("web", zone="east")
    top.add_proxy("api", zone="west")
    top.run(20)
    shown = {each.labels["kuma.io/display-name"]: each for each in top.store.list(DATAPLANE, "default")}
    assert {"web": "east", "api": "west"} == {name: each.labels["kuma.io/zone"] for name, each in shown.items()}
    assert shown["web"].name.startswith("web-")
    assert (top.document(IDENTITY, "b-1") or {}).get("status") is None
    assert {} == top.failures()
    assert 2 == len(top.encounters())
