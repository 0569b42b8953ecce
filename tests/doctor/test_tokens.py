"""What the doctor says of tokens: lists and keys that it can read, places, and proxies that read their token once."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rotator.bootstrap import Sessions
from rotator.doctor.findings import Grade
from rotator.doctor.tokens import token_findings
from rotator.settings import Settings, load
from tests.fakes.kuma.standin import StandIn
from tests.settings.test_tokens import BASE


def settings_for(standin: StandIn, directory: Path, *, token: str) -> Settings:
    """Return settings whose control plane is *standin*, entered with *token*."""
    login = directory / "login"
    login.write_text(token)
    text = BASE.replace('{url: "https://kuma.example:5682"}', f'{{url: "{standin.url}", token_file: {login}}}')
    text = text.replace("name: airflow, control_plane", "name: default, control_plane")
    text = text.replace("/etc/kuma", str(directory))
    path = directory / "rotator.yaml"
    path.write_text(text)
    return load(path)


def found(standin: StandIn, directory: Path, *, token: str) -> dict[Grade, str]:
    """Return everything that is found, by grade."""
    settings = settings_for(standin, directory, token=token)
    with contextlib.closing(Sessions(standin.clock, 1, {})) as sessions:
        said: dict[Grade, str] = {}
        for each in token_findings(settings, sessions, standin.clock):
            said[each.grade] = said.get(each.grade, "") + f"{each.about}: {each.what}\n"
        return said


def test_all_is_well(standin: StandIn, tmp_path: Path) -> None:
    """Lists can be read, the keys are named by the newest, and nothing is issued for it."""
    standin.tokens.issue("dataplane", {"mesh": "default", "name": "web", "validFor": "1h"})
    said = found(standin, tmp_path, token=standin.admin_token)
    assert {Grade.FINE} == set(said)
    assert "token web: its revocation list can be read and names 0" in said[Grade.FINE]
    assert "the newest is 1" in said[Grade.FINE]


def test_a_missing_right_and_missing_keys_are_found(standin: StandIn, tmp_path: Path) -> None:
    """Who may not read secrets is told so; a mesh without a first key is named."""
    denied = found(standin, tmp_path, token=standin.viewer_token)
    assert "the control plane denied reading Secret of mesh default" in denied[Grade.BROKEN]
    early = found(standin, tmp_path, token=standin.admin_token)
    assert "is not there" in early[Grade.WARNING]


def test_proxies_that_read_their_token_once_are_found(standin: StandIn, tmp_path: Path) -> None:
    """A control plane that says so in its configuration is believed."""
    standin.reloads_tokens = False
    said = found(standin, tmp_path, token=standin.admin_token)
    assert "a renewed one does not reach them" in said[Grade.WARNING]
