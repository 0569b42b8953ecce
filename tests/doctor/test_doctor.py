"""What the doctor says of a real OpenBao, a stand-in control plane and this machine, sound and unsound."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.adapters.kuma.control_plane import ProxyReport
from rotator.adapters.vault.examination import clock_offset, missing_rights
from rotator.cli import main
from rotator.clock import SystemClock
from rotator.doctor import Finding, Grade, examine
from rotator.doctor.findings import attempted
from rotator.doctor.meshes import certificates_ending
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import free_port
from rotator.errors import ConfigError, Conflict, Denied, Rejected, RotatorError, Unavailable
from rotator.evidence.signer import LocalSigner
from rotator.ports import Clock
from rotator.settings import load
from tests.e2e.installation import DaemonInstallation
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.fixtures_kuma import NewStandIn, with_proxies
from tests.fixtures_openbao import VaultDomain, VaultMesh, new_domain, new_mesh

_meshes = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """An installation and what surrounds it."""

    installation: DaemonInstallation
    clock: Clock

    def findings(self) -> list[Finding]:
        """Return what the doctor says now."""
        return list(examine(load(self.installation.configuration), clock=self.clock))

    def said(self, *grades: Grade) -> list[str]:
        """Return the findings of *grades*, all but the fine ones if none is named."""
        wanted = grades or (Grade.WARNING, Grade.BROKEN)
        return [each.what for each in self.findings() if each.grade in wanted]


@pytest.fixture(scope="module")
def vault(openbao: OpenBaoServer, tmp_path_factory: pytest.TempPathFactory) -> VaultMesh:
    """Give the trust domain of a mesh with a root of its own."""
    return new_mesh(openbao, tmp_path_factory.mktemp("mesh"), lifetimes=(timedelta(days=30),))


@pytest.fixture
def standin(new_standin: NewStandIn) -> StandIn:
    """Give a stand-in with five proxies in virtual time that begins now."""
    return with_proxies(new_standin(clock=ManualClock(SystemClock().now())))


@pytest.fixture
def led(vault: VaultMesh, standin: StandIn, tmp_path: Path) -> Examined:
    """Give an installation over the stand-in's mesh."""
    token = tmp_path / "kuma-token"
    token.write_text(standin.admin_token)
    installation = DaemonInstallation(
        tmp_path,
        vault,
        trust_domain={
            "model": "identity",
            "issuer": "corporate",
            "ca": {"lifetime": "30d"},
            "longest_leaf": "24h",
            "trust_deadline": {"after": "2h"},
            "mesh": {"name": "default", "control_plane": {"url": standin.url, "token_file": str(token)}},
        },
    )
    # Virtual time runs ahead of Vault's.
    installation.document["timing"]["skew"] = "5m"
    installation.write()
    return Examined(installation=installation, clock=standin.clock)


@pytest.mark.external
def test_a_sound_mesh_has_nothing_broken(led: Examined) -> None:
    """Where everything can be reached, is allowed and in step, nothing is broken, and the proxies come first."""
    findings = led.findings()

    assert [] == [each for each in findings if each.grade is Grade.BROKEN]
    assert "every proxy is in step with its control plane and can be asked what it trusts" == findings[0].what
    assert ["issuer corporate", "ledger.path", "ledger.signing_key_file", "socket", "store"] == sorted(
        {each.about for each in findings} - {f"trust_domain {led.installation.domain}"}
    )


@pytest.mark.external
def test_a_mesh_that_rotator_does_not_lead_is_named_with_the_command(led: Examined) -> None:
    """Until somebody adopts it, a mesh without a CA of rotator's is a warning whose mend is the command."""
    mends = [each.mend for each in led.findings() if "rotator does not lead it yet" in each.what]

    assert [f"rotator adopt {led.installation.domain} --reason TEXT --dry-run"] == mends


@pytest.mark.external
def test_a_model_that_names_proxies_by_the_mesh_is_told(led: Examined) -> None:
    """The doctor names the model, and says where the provided one calls proxies otherwise than the trust domain."""
    assert "model identity, as configured" in led.said(Grade.FINE)
    led.installation.document["trust_domains"][led.installation.domain]["model"] = "auto"
    led.installation.write()

    assert "model provided, as the control plane shows" in led.said(Grade.FINE)
    assert (
        "its proxies are called spiffe://default/..., because Kuma's provided model names them by the mesh"
        in led.said(Grade.WARNING)
    )


@pytest.mark.external
def test_a_proxy_that_does_not_follow_comes_first(led: Examined, standin: StandIn) -> None:
    """A proxy that does not acknowledge is named first, once two looks have found it so; one that is away follows."""
    standin.proxies["web"].is_frozen = True
    standin.edit_mesh(routing={"zoneEgress": False}, metrics=None)
    standin.stop_proxy("worker-1")
    standin.run(15)

    said = [each.what for each in led.findings()]

    assert any(each.startswith("proxy worker-1") and "out of contact" in each for each in said)
    assert said[0].startswith("proxy ")


@pytest.mark.external
def test_a_control_plane_that_is_away_stops_no_other_check(led: Examined, standin: StandIn) -> None:
    """Without an answer that is the finding, and issuers and places are looked at all the same."""
    standin.down()

    findings = led.findings()

    mesh = [each for each in findings if each.about == f"trust_domain {led.installation.domain}" and each.mend]
    assert {"see that it runs and can be reached from here, then ask again"} == {each.mend for each in mesh}
    assert "issuer corporate" in {each.about for each in findings if each.grade is Grade.FINE}


@pytest.mark.external
def test_a_secret_that_is_referred_to_and_not_there_is_found(led: Examined, standin: StandIn) -> None:
    """A MeshIdentity whose key is not there is named with the secret."""
    standin.apply(
        {
            "type": "MeshIdentity",
            "mesh": "default",
            "name": "somebody",
            "spec": {
                "selector": {},
                "provider": {
                    "type": "Bundled",
                    "bundled": {
                        "meshTrustCreation": "Disabled",
                        "ca": {
                            "certificate": {"type": "Secret", "secretRef": {"kind": "Secret", "name": "no-cert"}},
                            "privateKey": {"type": "Secret", "secretRef": {"kind": "Secret", "name": "no-key"}},
                        },
                    },
                },
            },
        }
    )

    said = led.said(Grade.BROKEN)

    for name in ("no-cert", "no-key"):
        assert f"MeshIdentity somebody refers to secret {name}, which is not there" in said


@pytest.mark.external
def test_a_refusal_is_broken_with_its_mend(led: Examined, standin: StandIn) -> None:
    """What the engine would refuse is what the doctor calls broken, cut into finding and mend."""
    standin.edit_mesh(meshServices={"mode": "Disabled"})

    found = [each for each in led.findings() if each.mend == "set meshServices.mode to Exclusive"]

    assert [Grade.BROKEN] == [each.grade for each in found]


@pytest.mark.external
def test_secrets_that_nothing_refers_to_are_named(led: Examined, standin: StandIn) -> None:
    """Left-over bundles are a warning, from the second on: one may wait for the write that refers to it."""
    for name in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        standin.keep_secret(f"rotator-bundle-{name}", b"-")

    assert "nothing refers to 2 of rotator's bundle secrets: bundle-aaaaaaaaaaaa, bundle-bbbbbbbbbbbb" in led.said(
        Grade.WARNING
    )


@pytest.mark.parametrize(
    ("left", "online", "expected"),
    [
        (timedelta(hours=3), True, []),
        (timedelta(hours=2), True, [Grade.WARNING]),
        (timedelta(hours=2), False, []),
        (timedelta(0), True, [Grade.BROKEN]),
    ],
    ids=["renewed in time", "a tenth left", "out of contact", "ended"],
)
def test_a_certificate_near_its_end_is_named(left: timedelta, online: bool, expected: list[Grade]) -> None:  # noqa: FBT001 -- a table's column
    """Kuma renews when a fifth is left: with less than a tenth something is wrong; who is away is named elsewhere."""
    now = datetime(2030, 1, 1, tzinfo=UTC)
    report = ProxyReport(
        name="web",
        zone="",
        online=online,
        certificate_not_after=now + left,
        certificate_issued_at=now + left - timedelta(hours=24),
    )

    assert expected == [each.grade for each in certificates_ending("mesh", [report], now)]


# --- Vault ------------------------------------------------------------------------------------------------------------


@pytest.mark.external
def test_the_shipped_policies_lack_nothing(vault: VaultMesh, vault_domain: VaultDomain) -> None:
    """With the shipped policies a token has every right, for a mesh and standalone."""
    for domain in (vault, vault_domain):
        with domain.session() as session:
            assert () == missing_rights(session, domain.rights)
            assert timedelta() == clock_offset(session, SystemClock())


@pytest.mark.external
def test_a_missing_right_is_named(openbao: OpenBaoServer, led: Examined, vault: VaultMesh) -> None:
    """A policy without the right to revoke is found before anything has to be revoked."""
    name = f"rotator-poor-{next(_meshes)}"
    policy = Path(__file__).parents[2].joinpath("deploy/vault/rotator-mesh-prod.hcl").read_text()
    policy = policy.replace("pki_mesh_prod", vault.rights.corporate_mount).replace("mesh.prod", vault.trust_domain)
    start = policy.index("# Revoke a CA generation")
    files = openbao.provision_approle({name: policy[:start]}, directory=led.installation.directory / "poor", name=name)
    login = led.installation.document["issuers"]["corporate"]["vault"]["auth"]["approle"]
    login |= {"role_id_file": str(files.role_id_file), "secret_id_file": str(files.secret_id_file)}
    led.installation.write()

    said = led.said(Grade.BROKEN)

    assert [f"its token lacks create, update on {vault.rights.corporate_mount}/revoke"] == said


@pytest.mark.external
def test_a_clock_that_is_wrong_is_named(led: Examined) -> None:
    """A machine whose clock is an hour behind Vault's is told how far, and what to do."""
    late = ManualClock(SystemClock().now() - timedelta(hours=1))

    said = [each.what for each in Examined(installation=led.installation, clock=late).findings()]

    assert any("its clock is" in each and "ahead of ours, more than timing.skew 5m" in each for each in said)


# --- this machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def alone(openbao: OpenBaoServer, tmp_path: Path) -> Callable[..., Examined]:
    """Give what installs one standalone trust domain with one certificate."""
    domain = new_domain(openbao, tmp_path / "credentials")

    def install(**certificate: Any) -> Examined:
        wanted = {
            "trust_domain": domain.trust_domain,
            "identity": f"spiffe://{domain.trust_domain}/web",
            "lifetime": "30m",
            "publish": [{"directory": str(tmp_path / "tls")}],
            "probes": [{"read_back": {}}],
            **certificate,
        }
        installation = DaemonInstallation(
            tmp_path,
            domain,
            trust_domain={
                "issuer": "corporate",
                "ca": {"mount": domain.mount, "role": domain.rights.role, "lifetime": "6h"},
                "longest_leaf": "30m",
                "trust_deadline": {"after": "30s"},
            },
            certificates={"web": wanted},
        )
        return Examined(installation=installation, clock=SystemClock())

    return install


@pytest.mark.external
def test_a_sound_machine_misses_its_daemon_alone(alone: Callable[..., Examined]) -> None:
    """Before the first start the daemon is what is missing, and the publication that nobody has made yet."""
    said = alone().said()

    assert [each for each in said if each.startswith("no daemon answers")] == said[-1:]
    assert all("does not answer" in each for each in said[:-1])


@pytest.mark.external
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_named(alone: Callable[..., Examined], tmp_path: Path) -> None:
    """A place that cannot be written is broken, with the user who asked."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)

    said = alone(publish=[{"directory": str(closed / "tls")}]).said(Grade.BROKEN)

    assert [f"nothing can be written in {closed} by the user who asks (uid {os.geteuid()})"] == said


@pytest.mark.external
def test_a_place_below_a_file_is_named(alone: Callable[..., Examined], tmp_path: Path) -> None:
    """A directory that could never be made, and an owner that this machine does not have, are broken."""
    (tmp_path / "file").write_text("")
    places = [{"directory": {"path": str(tmp_path / "file" / "tls"), "owner": "nobody-has-this-name"}}]

    said = alone(publish=places).said(Grade.BROKEN)

    assert [f"{tmp_path / 'file'} is no directory", "there is no user 'nobody-has-this-name' on this machine"] == said


@pytest.mark.external
def test_a_broker_that_does_not_answer_is_named(alone: Callable[..., Examined], tmp_path: Path) -> None:
    """Nobody could be drained through a broker that is not there; it is found before a certificate waits for it."""
    broker = tmp_path / "broker"
    broker.write_text(f"redis://127.0.0.1:{free_port()}/0")
    examined = alone(rolls=["workers"])
    examined.installation.document["workloads"] = {
        "workers": {
            "processes": [
                {
                    "name": "one",
                    "command": ["/bin/true"],
                    "pid_file": str(tmp_path / "one.pid"),
                    "log_file": str(tmp_path / "one.log"),
                    "node": "celery@one",
                }
            ],
            "drain": {"celery": {"broker_file": str(broker), "queues": ["default"], "deadline": "1m", "timeout": "1s"}},
        }
    }
    examined.installation.write()

    found = [each for each in examined.findings() if each.about == "workload workers"]

    assert [(Grade.BROKEN, "see that it runs and can be reached from here, then ask again")] == [
        (each.grade, each.mend) for each in found
    ]


@pytest.mark.external
def test_a_worker_that_does_not_run_is_named(alone: Callable[..., Examined], tmp_path: Path) -> None:
    """A member that does not run is a warning: somebody may have stopped it."""
    examined = alone(rolls=["workers"])
    process = {
        "name": "one",
        "command": ["/bin/true"],
        "pid_file": str(tmp_path / "p"),
        "log_file": str(tmp_path / "l"),
    }
    examined.installation.document["workloads"] = {"workers": {"processes": [process]}}
    examined.installation.write()

    assert ["one does not run"] == [each.what for each in examined.findings() if each.about == "workload workers"]


@pytest.mark.external
def test_a_key_that_others_may_read_is_named(alone: Callable[..., Examined]) -> None:
    """The log's key is looked at: one that others may read is broken."""
    examined = alone()
    (examined.installation.directory / "log.key").chmod(0o644)

    assert [True] == ["log.key" in each for each in examined.said(Grade.BROKEN)]


@pytest.mark.external
def test_the_command_ends_with_1_if_anything_is_broken(
    alone: Callable[..., Examined], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and JSON with each finding; 0 with warnings alone."""
    examined = alone()
    arguments = ["--config", str(examined.installation.configuration), "--json", "doctor"]
    assert 0 == main(arguments)
    assert 0 == json.loads(capsys.readouterr().out)["broken"]

    (examined.installation.directory / "log.key").unlink()
    assert 1 == main(arguments)

    said = json.loads(capsys.readouterr().out)
    assert 1 == said["broken"]
    assert ["broken"] == [each["grade"] for each in said["findings"] if each["about"] == "ledger.signing_key_file"]
    LocalSigner.generate(examined.installation.directory / "log.key", "rotator.example/test")


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (Unavailable("gone"), "see that it runs and can be reached from here, then ask again"),
        (Denied("no"), "give rotator the right, or mend the file it logs in with; look there"),
        (ConfigError("odd"), "mend the configuration"),
        (Conflict("moved"), "ask again: somebody wrote at the same time"),
        (Rejected("wrong"), "look there"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, RotatorError) else "",
)
def test_what_a_check_raises_is_a_finding(error: RotatorError, mend: str) -> None:
    """An error of the world ends no examination: its class says what to do."""

    def check() -> list[Finding]:
        raise error

    assert [Finding(about="x", grade=Grade.BROKEN, what=str(error), mend=mend)] == list(
        attempted("x", check, otherwise="look there")
    )
