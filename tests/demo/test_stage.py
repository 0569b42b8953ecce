"""The demonstration clears what it made, and touches nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.directory import DirectoryStore
from rotator.cli import main
from rotator.demo.naive import NaiveAuthority, replace_in_one_step
from rotator.demo.stage import MARK, cleared, command
from rotator.errors import ConfigError, Rejected
from rotator.exits import ExitCode
from rotator.pki.certificates import parse_certificates
from rotator.pki.chain import verify


def test_a_directory_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    """Files without the demonstration's mark are an error, and stay."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    with pytest.raises(ConfigError, match="did not make"):
        cleared(tmp_path)
    assert "mine" == precious.read_text()
    assert [precious] == list(tmp_path.iterdir())


def test_its_own_output_is_cleared_and_it_runs_again_at_once(tmp_path: Path) -> None:
    """A second call finds the first one's output and removes it; links are removed, not followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    places = cleared(tmp_path / "demo")
    places.ledger.mkdir()
    (places.ledger / "checkpoint").write_text("old")
    (places.root / "link").symlink_to(elsewhere)
    again = cleared(tmp_path / "demo")
    assert sorted([MARK, "logs", "state"]) == sorted(entry.name for entry in again.root.iterdir())
    assert (elsewhere / "kept").exists()


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "demo").symlink_to(tmp_path / "real")
    with pytest.raises(ConfigError, match="no directory"):
        cleared(tmp_path / "demo")


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A directory that may not be used ends the command with status 2 and one line."""
    (tmp_path / "precious").touch()
    assert ExitCode.USAGE == main(["demo", "--directory", str(tmp_path)])
    said = capfd.readouterr()
    assert 1 == len(said.err.splitlines())
    assert "name another --directory" in said.err


def test_the_installed_command_is_the_one_that_is_driven() -> None:
    assert "rotator" == command().name


def test_the_naive_way_leaves_two_sides_that_do_not_trust_each_other(tmp_path: Path) -> None:
    """A leaf of the new CA does not verify under the old bundle: that is what the comparison shows."""
    now = datetime.now(tz=UTC)
    stores = {"client": DirectoryStore(tmp_path / "client"), "server": DirectoryStore(tmp_path / "server")}
    identities = {"client": "spiffe://mesh.demo/client", "server": "spiffe://mesh.demo/server"}
    first = replace_in_one_step(NaiveAuthority("one", now), stores, identities, now)
    old = stores["server"].material()
    assert {"client": stores["client"].material().leaf.serial, "server": old.leaf.serial} == first
    replace_in_one_step(NaiveAuthority("two", now), {"client": stores["client"]}, identities, now)
    new = stores["client"].material()
    chain = parse_certificates(new.chain_pem, source="client")
    verify(chain, parse_certificates(new.bundle_pem, source="client"), at=now + timedelta(seconds=1))
    with pytest.raises(Rejected):
        verify(chain, parse_certificates(old.bundle_pem, source="server"), at=now + timedelta(seconds=1))
