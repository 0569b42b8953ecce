"""The daemon as operators meet it: start, reload, refuse, stop; and Vault on a bad day."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import ServerProcess, wait_until
from rotator.store.sql import SQLStore
from tests.e2e.installation import PATIENCE, Installation
from tests.fixtures_openbao import new_domain

pytestmark = pytest.mark.external


@pytest.fixture
def installation(tmp_path: Path, openbao: OpenBaoServer) -> Iterator[Installation]:
    """A daemon with two services, all in use."""
    made = Installation(tmp_path, new_domain(openbao, tmp_path))
    made.start()
    made.wait_settled()
    yield made
    made.daemon.stop()


def _serial(installation: Installation, name: str) -> str:
    """Return the serial that the daemon shows for *name*."""
    status = installation.status()
    assert status is not None
    found: str = next(row["serial"] for row in status["subjects"] if row["name"] == name)
    return found


def test_rotate_now_waits_until_the_last_consumer_is_proven(installation: Installation) -> None:
    """``rotate-now --wait`` ends with 0 once the new certificate is in use, and ``explain`` tells why it came."""
    before = _serial(installation, "service-0")
    done = installation.run("rotate-now", "service-0", "--reason", "quarterly", "--ticket", "OPS-7", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _serial(installation, "service-0") != before
    told = installation.run("explain", "service-0")
    assert told.returncode == 0
    assert "quarterly" not in installation.run("--json", "explain", "service-0").stdout


def test_a_dry_run_prints_the_plan_and_changes_nothing(installation: Installation) -> None:
    """``rotate-now --dry-run`` prints what would happen; serials stay."""
    before = _serial(installation, installation.domain)
    done = installation.run("rotate-now", installation.domain, "--reason", "look", "--dry-run")
    assert done.returncode == 0
    assert "prepare generation 2" in done.stdout
    assert _serial(installation, installation.domain) == before


def test_status_json_is_the_contract(installation: Installation) -> None:
    """Every field that the contract names stands in ``status --json``."""
    shown = json.loads(installation.run("status", "--json").stdout)
    fields = {
        "name", "kind", "phase", "generation", "serial", "spiffe_id", "issuer", "not_before", "not_after", "renew_at",
        "safety_line", "waiting_on", "longest_leaf_seconds", "skew_seconds", "trust_deadline", "last_rotation",
        "paused_until",
    }  # fmt: skip
    for row in shown["subjects"]:
        assert fields <= set(row), row["name"]
    assert set(shown["ledger"]) >= {"size", "root", "checkpoint_at", "witness"}


def test_a_second_daemon_on_the_same_state_refuses(installation: Installation) -> None:
    """A second daemon on one state file ends with 1 and names who holds it; the first one goes on."""
    second = installation.run("run")
    assert second.returncode == 1
    assert str(installation.daemon.pid) in second.stderr
    assert installation.status() is not None


def test_a_second_daemon_that_may_stand_by_takes_over(installation: Installation) -> None:
    """With `stand_by` it waits; once the first one has ended it leads, with the same certificates in use."""
    before = {name: _serial(installation, name) for name in installation.names}
    installation.document["stand_by"] = "200ms"
    standby = installation.configuration.with_name("standby.yaml")
    standby.write_text(yaml.safe_dump(installation.document))
    log = installation.directory / "standby.log"
    second = ServerProcess("standby", [sys.executable, "-m", "rotator", "--config", str(standby), "run"], log=log)
    with second:
        second.start(ready=lambda: "standing_by" in log.read_text())
        installation.daemon.stop()
        wait_until(lambda: "daemon_started" in log.read_text(), within=PATIENCE, what="the second one to lead")
        installation.wait_settled()
        assert before == {name: _serial(installation, name) for name in installation.names}
        second.stop()


def test_law_14_a_lost_lease_ends_a_life_and_not_the_daemon(installation: Installation) -> None:
    """Somebody removes the lock's file: everything stops, and the same process begins anew and issues nothing."""
    before = {name: _serial(installation, name) for name in installation.names}
    pid, log = installation.daemon.pid, installation.directory / "rotator.log"
    (installation.directory / "state.db.lock").unlink()
    wait_until(lambda: log.read_text().count("daemon_started") == 2, within=PATIENCE, what="the next life")
    assert "lease_lost" in log.read_text()
    installation.wait_settled()
    assert (pid, before) == (
        installation.daemon.pid,
        {name: _serial(installation, name) for name in installation.names},
    )
    assert installation.daemon.alive


def test_law_12_sigterm_finishes_and_leaves_nothing_open(installation: Installation) -> None:
    """TERM in the middle of a rotation stops within the budget; the next daemon completes it."""
    installation.rotate(installation.domain)
    installation.daemon.stop()
    installation.start()
    installation.wait_accounted()
    installation.daemon.stop()
    assert installation.wrong() == []


def test_a_changed_file_is_read_and_a_bad_one_refused(installation: Installation) -> None:
    """A new certificate in the file is issued without a restart; a broken file changes nothing and is told."""
    installation.document["certificates"]["joiner"] = {
        **installation.document["certificates"]["service-0"],
        "identity": f"spiffe://{installation.domain}/joiner",
        "publish": [{"directory": str(installation.directory / "joiner")}],
    }
    installation.write()
    wait_until(
        (installation.directory / "joiner" / "CURRENT" / "tls.crt").exists,
        within=PATIENCE,
        what="the joiner's certificate",
    )
    installation.document["certificates"]["joiner"]["lifetime"] = "10d"
    installation.write()
    os.kill(installation.daemon.pid, signal.SIGHUP)
    wait_until(
        lambda: "settings_refused" in (installation.directory / "rotator.log").read_text(),
        within=PATIENCE,
        what="the refusal",
    )
    assert installation.settled()


def test_a_sealed_vault_is_survived(installation: Installation) -> None:
    """While Vault is sealed a request fails and is tried again; after the unsealing it completes."""
    before = _serial(installation, "service-0")
    installation.vault.server.seal()
    try:
        installation.rotate("service-0")
        wait_until(
            lambda: "target_failed" in (installation.directory / "rotator.log").read_text(),
            within=PATIENCE,
            what="the failure",
        )
        assert _serial(installation, "service-0") == before
    finally:
        installation.vault.server.unseal()
    installation.wait_settled()
    assert _serial(installation, "service-0") != before
    installation.wait_accounted()
    installation.daemon.stop()
    assert installation.wrong() == []


def test_a_directory_that_cannot_be_written_is_told_and_mended(installation: Installation) -> None:
    """A target that is a file in the way fails that certificate alone; once it is mended the rotation completes."""
    blocked = installation.directory / "service-0"
    aside = installation.directory / "aside"
    blocked.rename(aside)
    blocked.write_text("in the way")
    installation.rotate("service-0")
    wait_until(
        lambda: "certificate:service-0" in (installation.directory / "rotator.log").read_text(),
        within=PATIENCE,
        what="the failure to be told",
    )
    blocked.unlink()
    aside.rename(blocked)
    installation.wait_settled()


def test_law_10_no_private_key_leaves_its_publication(installation: Installation) -> None:
    """Neither journal, ledger, log nor the process list holds a private key, a token or a secret id."""
    installation.rotate(installation.domain)
    installation.wait_settled()
    secrets = [
        (installation.directory / name / "CURRENT" / "tls.key").read_bytes().splitlines()[1]
        for name in installation.names
    ]
    secrets += [installation.vault.files.secret_id_file.read_bytes().strip(), b"PRIVATE KEY-----", b"hvs."]
    processes = b"".join(entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline") if _readable(entry))
    installation.daemon.stop()
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        ledger = b"".join(store.entries(0, store.size()))
    held = [ledger, processes, (installation.directory / "rotator.log").read_bytes()]
    held += [each.read_bytes() for each in installation.directory.glob("state.db*")]
    held += [each.read_bytes() for each in (installation.directory / "ledger").rglob("*") if each.is_file()]
    for secret in secrets:
        assert not [index for index, content in enumerate(held) if secret in content]


def _readable(entry: Path) -> bool:
    with contextlib.suppress(OSError):
        entry.read_bytes()
        return True
    return False


def test_evidence_verifies_against_a_pin(installation: Installation) -> None:
    """The log verifies with exit 0 against a checkpoint pinned before, and with 3 without one."""
    checkpoint = installation.directory / "ledger" / "checkpoint"
    wait_until(checkpoint.exists, within=PATIENCE, what="the first checkpoint")
    pinned = installation.directory / "pinned"
    pinned.write_bytes(checkpoint.read_bytes())
    installation.rotate("service-0")
    installation.wait_settled()
    installation.daemon.stop()
    words = ["evidence", "verify", str(installation.directory / "ledger"), "--key", str(installation.verifier_key)]
    assert installation.run(*words, "--pinned", str(pinned)).returncode == 0
    assert installation.run(*words).returncode == 3


def test_pause_and_resume(installation: Installation) -> None:
    """A pause shows in status until it is taken away."""
    paused = installation.run("pause", "service-0", "--until", "2099-01-01T00:00:00Z", "--reason", "audit")
    assert paused.returncode == 0, paused.stderr
    status = installation.status()
    assert status is not None
    row = next(each for each in status["subjects"] if each["name"] == "service-0")
    assert row["paused_until"] == "2099-01-01T00:00:00Z"
    assert installation.run("resume", "service-0").returncode == 0
    status = installation.status()
    assert status is not None
    assert next(each for each in status["subjects"] if each["name"] == "service-0")["paused_until"] is None


def test_stopping_is_prompt(installation: Installation) -> None:
    """A daemon with nothing to do ends at TERM and says so."""
    installation.daemon.stop()
    assert "daemon_stopped" in (installation.directory / "rotator.log").read_text()
    assert timedelta(0) < PATIENCE


def test_the_verifier_key_is_printed_for_auditors(installation: Installation) -> None:
    """``evidence key`` prints what verifies the log; ``--make`` never replaces a key that exists."""
    shown = installation.run("evidence", "key")
    assert shown.stdout == installation.verifier_key.read_text()
    again = installation.run("evidence", "key", "--make")
    assert again.returncode == 2
    assert "cannot make the log's signing key" in again.stderr
