"""What the doctor says of the platform's documents over a control plane's HTTP API, before anything is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from rotator.doctor.findings import Finding, Grade
from rotator.doctor.platform import platform_findings
from rotator.settings import Settings, load
from tests.fakes.kuma.http_api import COLLECTIONS
from tests.fakes.kuma.standin import StandIn
from tests.fakes.kuma.store import PERMISSION
from tests.fixtures_kuma import NewStandIn
from tests.settings.test_platform import written

_NOBODYS = "of.nobody.here"


def settings_for(standin: StandIn, directory: Path, *, token: str) -> Settings:
    """Return settings with a platform whose control plane is *standin*, entered with *token*."""
    login = directory / "login"
    login.write_text(token)
    path = written(directory)
    text = path.read_text()
    assert 1 == text.count("url: http://127.0.0.1:5681")
    path.write_text(text.replace("url: http://127.0.0.1:5681", f"url: {standin.url}\n        token_file: {login}"))
    return load(path)


def found(standin: StandIn, directory: Path, *, token: str | None = None) -> list[Finding]:
    """Return everything that is found."""
    settings = settings_for(standin, directory, token=token or standin.admin_token)
    return list(platform_findings(settings, standin.clock))


def test_a_platform_that_can_be_applied_is_fine(standin: StandIn, tmp_path: Path) -> None:
    """The documents are read with the token, none of them stands there yet, and nothing is written."""
    (said,) = found(standin, tmp_path)
    assert Grade.FINE == said.grade
    assert "platform mesh.prod" == said.about
    assert "its documents can be read; 0 of the configuration's stand there" == said.what
    assert () == standin.store.list(PERMISSION, "default")


def test_a_token_that_nobody_knows_is_refused_here(standin: StandIn, tmp_path: Path) -> None:
    """Not first at apply."""
    said = found(standin, tmp_path, token=_NOBODYS)
    assert {Grade.BROKEN} == {each.grade for each in said}
    assert all("the control plane denied" in each.what for each in said)
    assert all("mend the file it logs in with" in each.mend for each in said)


def test_a_control_plane_that_takes_no_changes_is_named(new_standin: NewStandIn, tmp_path: Path) -> None:
    """One on Kubernetes, reached over HTTP alone, would refuse each write: the mend can be pasted."""
    said = found(new_standin(environment="kubernetes"), tmp_path)
    assert [
        (
            "its control plane runs on Kubernetes, where the HTTP API takes no changes",
            "mesh.control_plane: {kubernetes: {namespace: kuma-system}}",
        )
    ] == [(each.what, each.mend) for each in said if each.grade is Grade.BROKEN]


def test_a_control_plane_that_is_read_only_is_named(standin: StandIn, tmp_path: Path) -> None:
    """What it says of itself is believed."""
    standin.says_read_only = True
    said = found(standin, tmp_path)
    assert ["KUMA_API_SERVER_READ_ONLY=false at the control plane"] == [each.mend for each in said if each.mend]


def test_a_kind_that_the_control_plane_does_not_know_is_named(
    standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing it would be refused at apply, after half of the change."""
    monkeypatch.delitem(COLLECTIONS, "meshtrafficpermissions")
    (broken,) = (each for each in found(standin, tmp_path) if each.grade is Grade.BROKEN)
    assert "the control plane does not know MeshTrafficPermission, which the configuration takes" == broken.what
