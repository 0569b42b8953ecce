"""Meshes in the configuration: what is taken, what is refused, with its line, and what it means."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.model import KeyType
from rotator.errors import ConfigError
from rotator.settings import Settings, load

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
    mesh:
      name: airflow
      control_plane: {url: "https://kuma.example:5682"}
  plain:
    issuer: corporate
    ca: {mount: pki_plain, role: workload, lifetime: 7d}
    longest_leaf: 12h
    trust_deadline: {after: 2h}
certificates:
  web:
    trust_domain: plain
    identity: spiffe://plain/web
    lifetime: 12h
    also_trust: [mesh]
    publish: [{directory: /etc/web/tls}]
    probes: [{envoy_admin: "http://127.0.0.1:9901"}]
"""
ADDRESS = '{url: "https://kuma.example:5682"}'


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


def test_a_mesh_needs_neither_mount_nor_role(tmp_path: Path) -> None:
    """A mesh's CA keys are made here and its leaves by the control plane: Vault holds nothing but the parent."""
    domain = loaded(tmp_path).trust_domains["mesh"]

    assert (None, None, KeyType.ECDSA_P256) == (domain.ca.mount, domain.ca.role, domain.ca.key)
    assert domain.mesh is not None
    assert ("airflow", "https://kuma.example:5682", timedelta(seconds=10)) == (
        domain.mesh.name,
        domain.mesh.control_plane.address,
        domain.mesh.control_plane.timeout,
    )


@pytest.mark.parametrize(
    ("control_plane", "expected"),
    [
        ("{kubernetes: {}}", "http://kuma-control-plane.kuma-system.svc:5681"),
        ("{kubernetes: {namespace: mesh}, ca_file: /ca}", "https://kuma-control-plane.mesh.svc:5682"),
        ('{kubernetes: {}, url: "https://kuma.example:5682"}', "https://kuma.example:5682"),
    ],
    ids=["its service", "its service over TLS", "as given"],
)
def test_a_control_plane_on_kubernetes_is_asked_at_its_service(
    tmp_path: Path, control_plane: str, expected: str
) -> None:
    """Documents go through the Kubernetes API; the proxies are seen at the control plane's own service or as given."""
    mesh = loaded(tmp_path, (ADDRESS, control_plane)).trust_domains["mesh"].mesh

    assert mesh is not None
    assert expected == mesh.control_plane.address


REFUSED = {
    "a mount": (
        ("ca: {lifetime: 30d}", "ca: {lifetime: 30d, mount: pki_mesh}"),
        ("12: trust_domains.mesh.ca.mount: found pki_mesh with a mesh; allowed nothing; do remove it: the control "
        "plane signs the leaves, and the CA's key is made by rotator"),
    ),
    "a key that proxies do not verify": (
        ("ca: {lifetime: 30d}", "ca: {lifetime: 30d, key: ed25519}"),
        ("12: trust_domains.mesh.ca.key: found ed25519; allowed ecdsa-p256, rsa-2048, rsa-3072 for a mesh; do choose "
        "one that every proxy verifies"),
    ),
    "standalone with a mesh": (
        ("model: identity", "model: standalone"),
        ("10: trust_domains.mesh.model: found standalone with a mesh; allowed auto, provided, identity; do choose one, "
        "or remove the mesh"),
    ),
    "a model without a mesh": (
        ("  plain:\n", "  plain:\n    model: provided\n"),
        ("19: trust_domains.plain.model: found provided without a mesh; allowed auto, standalone; do name the mesh, or "
        "write standalone"),
    ),
    "standalone without a mount": (
        ("mount: pki_plain, ", ""),
        ("20: trust_domains.plain.ca.mount: found nothing; allowed the PKI mount of its own at the issuer; do add it: "
        "leaves are signed there"),
    ),
    "standalone without a role": (
        ("role: workload, ", ""),
        ("20: trust_domains.plain.ca.role: found nothing; allowed the role of that mount; do add it: leaves are signed "
        "there"),
    ),
    "nowhere": (
        (ADDRESS, "{timeout: 5s}"),
        ("17: trust_domains.mesh.mesh.control_plane: found neither url nor kubernetes; allowed one of them, or both; "
        "do say where it is"),
    ),
    "half a client certificate": (
        (ADDRESS, '{url: "https://kuma.example:5682", client_certificate_file: /c}'),
        ("17: trust_domains.mesh.mesh.control_plane.client_key_file: found nothing; allowed the other half of the "
        "pair; do name both or neither"),
    ),
    "a token that travels readably": (
        (ADDRESS, "{kubernetes: {}, token_file: /t}"),
        ("17: trust_domains.mesh.mesh.control_plane.token_file: found a token with "
        "http://kuma-control-plane.kuma-system.svc:5681, where it would travel readably; allowed with https; do name "
        "the API's https address, or the ca_file of the control plane's service"),
    ),
    "TLS files without TLS": (
        (ADDRESS, '{url: "http://127.0.0.1:5681", ca_file: /ca}'),
        ("17: trust_domains.mesh.mesh.control_plane.ca_file: found a file for TLS with http://127.0.0.1:5681; allowed "
        "with https; do use https, or remove it"),
    ),
    "plain HTTP to elsewhere": (
        (ADDRESS, '{url: "http://kuma.example:5681"}'),
        ("17: trust_domains.mesh.mesh.control_plane.url: found http://kuma.example:5681; allowed https://HOST[:PORT], "
        "or http:// on this machine; do use https: what is said there decides who is trusted"),
    ),
    "no mesh's name": (
        ("name: airflow", "name: Air Flow"),
        ("16: trust_domains.mesh.mesh.name: found Air Flow; allowed a name of lower-case letters, digits and dashes, "
        "at most 63, as Kubernetes has them; do write the name as it stands there"),
    ),
    "one mesh twice": (
        ("    ca: {mount: pki_plain, role: workload, lifetime: 7d}\n",
         '    ca: {lifetime: 7d}\n    mesh: {name: airflow, control_plane: {url: "https://kuma.example:5682"}}\n'),
        ("21: trust_domains.plain.mesh: found mesh airflow, which trust domain mesh leads; allowed one trust domain "
        "for each mesh; do remove one of them"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    REFUSED.values(),
    ids=REFUSED,
)
def test_what_cannot_work_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    """Each mistake is a line that names key, finding, what is allowed and what to do."""
    path = written(tmp_path, change)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert expected in [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_a_meshs_leaves_are_not_ours_to_order(tmp_path: Path) -> None:
    """A certificate of a mesh's trust domain is refused: the control plane signs those; trusting it is allowed."""
    path = written(tmp_path, ("trust_domain: plain\n    identity: spiffe://plain/web\n",
                              "trust_domain: mesh\n    identity: spiffe://mesh/web\n"),
                   ("also_trust: [mesh]", "also_trust: [plain]"))  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load(path)

    assert [
        (
            f"{path}:25: certificates.web.trust_domain: found mesh, whose leaves the control plane of mesh airflow "
            "signs; allowed a standalone trust domain; do choose one, and name the mesh's under also_trust"
        )
    ] == str(caught.value).splitlines()


@pytest.mark.parametrize("key", ["identity_path: /workload/x", "accept_shared_root: it was so before us"])
def test_what_the_provided_model_cannot_have_is_refused(tmp_path: Path, key: str) -> None:
    """Keys of the identity model beside the provided one are refused, not ignored."""
    changes = (("model: identity", "model: provided"), ("name: airflow", f"name: airflow\n      {key}"))
    with pytest.raises(ConfigError, match="with model provided; allowed nothing"):
        load(written(tmp_path, *changes))


def test_the_arithmetic_of_law_4_binds_meshes_too(tmp_path: Path) -> None:
    """A mesh's CA that lives too short for its leaves is refused at load with the arithmetic."""
    with pytest.raises(ConfigError, match=r"trust_domains\.mesh\.ca: found that lifetime 4d is less than 6 x"):
        load(written(tmp_path, ("ca: {lifetime: 30d}", "ca: {lifetime: 4d}")))
