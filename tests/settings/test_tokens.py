"""Tokens in the configuration: what is taken, what is refused, with its line, and what it means."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.model import TokenKind
from rotator.errors import ConfigError
from rotator.settings import Settings, load, managed_token, signing_key_policy, token_policy

BASE = """\
version: 1
environment: test
store: sqlite:////var/lib/rotator/state.db
socket: /run/rotator/control.sock
ledger: {path: /var/lib/rotator/ledger, origin: example/test, signing_key_file: /etc/rotator/ledger.key}
issuers:
  corporate: {vault: {address: "https://vault.example:8200",auth: {token: {token_file: /t}}, mount: pki_int, issuer: c}}
trust_domains:
  mesh:
    model: identity
    issuer: corporate
    ca: {lifetime: 30d}
    longest_leaf: 24h
    trust_deadline: {after: 2h}
    mesh: {name: airflow, control_plane: {url: "https://kuma.example:5682"}}
  plain:
    issuer: corporate
    ca: {mount: pki_plain, role: workload, lifetime: 7d}
    longest_leaf: 12h
    trust_deadline: {after: 2h}
tokens:
  web:
    trust_domain: mesh
    dataplane: {name: web, tags: {kuma.io/service: [web, api]}}
    lifetime: 24h
    publish: [{directory: /etc/kuma/web}]
  east:
    trust_domain: mesh
    zone: {zone: east, scope: [egress]}
    lifetime: 24h
    publish: [{directory: /etc/kuma/east}]
signing_keys:
  proxies: {trust_domain: mesh, signs: dataplane, rotate_every: 90d, others_live: 30d}
"""


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """Write the good file with *changes* (old text, new text) and return its path."""
    text = BASE
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the good file"
        text = text.replace(old, new)
    path = tmp_path / "rotator.yaml"
    path.write_text(text)
    return path


def loaded(tmp_path: Path, *changes: tuple[str, str]) -> Settings:
    """Return the settings of the good file with *changes*."""
    return load(written(tmp_path, *changes))


def test_what_a_token_is_for(tmp_path: Path) -> None:
    """A proxy's token is of its trust domain's mesh unless it says otherwise; the order of tags says nothing."""
    settings = loaded(tmp_path)
    web, east = managed_token(settings, "web"), managed_token(settings, "east")
    assert (TokenKind.DATAPLANE, "airflow", (("kuma.io/service", ("api", "web")),)) == (
        web.grant.kind,
        web.grant.mesh,
        web.grant.tags,
    )
    assert (TokenKind.ZONE, "east", ("egress",)) == (east.grant.kind, east.grant.zone, east.grant.scope)
    assert (True, timedelta(minutes=2)) == (web.revoke, web.revoke_after)
    assert timedelta() == token_policy(settings, "web").budget.drain
    assert timedelta(days=30) == signing_key_policy(settings, "proxies").others_live


REFUSED = {
    "no mesh": (
        ("  web:\n    trust_domain: mesh", "  web:\n    trust_domain: plain"),
        (
            "tokens.web.trust_domain: found plain; allowed a trust domain with a mesh (mesh), whose control plane "
            "issues tokens; do mend the name, or add the mesh"
        ),
    ),
    "a token for everybody": (
        ("{name: web, tags: {kuma.io/service: [web, api]}}", "{}"),
        (
            "tokens.web.dataplane: found a token that every proxy of the mesh could use; allowed with at least one of "
            "name, tags, workload; do say whose it is"
        ),
    ),
    "two kinds": (
        ("    zone: {zone: east", "    user: {name: u}\n    zone: {zone: east"),
        "tokens.east: found zone and user; allowed exactly one of dataplane, zone, user; do choose one",
    ),
    "too short a life": (
        ("[web, api]}}\n    lifetime: 24h", "[web, api]}}\n    lifetime: 8m"),
        "renew_at",
    ),
    "a place of another's": (
        ("/etc/kuma/east", "/etc/kuma/web/"),
        (
            "tokens.east.publish[0].directory: found /etc/kuma/web, which token web uses; allowed a place for each "
            "token; do choose another"
        ),
    ),
    "a Secret without a cluster": (
        ("{directory: /etc/kuma/east}", "{kubernetes_secret: {namespace: a, name: b}}"),
        "found an object of a cluster, and no cluster",
    ),
    "a row of keys where every key is seen": (
        ("others_live: 30d}", "others_live: 30d, first_serial: 40}"),
        "signing_keys.proxies.first_serial: found 40; allowed where the control plane is on Kubernetes",
    ),
    "keys that never rest": (
        ("rotate_every: 90d", "rotate_every: 31d"),
        "signing_keys.proxies.rotate_every: found 31d; allowed more than",
    ),
    "a name that is taken": (("  east:\n", "  plain:\n"), "tokens.plain: found plain, also under trust_domains"),
}


@pytest.mark.parametrize(("change", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """One line says where it stands, what was found, what is allowed and what to do."""
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, change)
    assert expected in str(refused.value)


def test_a_control_plane_on_kubernetes_keeps_lists_and_keys_too(tmp_path: Path) -> None:
    """Its revocation lists and signing keys are taken as those of a Universal one, from the serial that is named on."""
    path = written(
        tmp_path,
        ('{url: "https://kuma.example:5682"}', '{url: "https://kuma.example:5682", kubernetes: {}}'),
        ("others_live: 30d}", "others_live: 30d, first_serial: 40}"),
    )
    settings = load(path)
    assert settings.tokens["web"].revoke
    assert 40 == settings.signing_keys["proxies"].first_serial
