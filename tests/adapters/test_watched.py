"""What rotator does not manage, seen where it is: Secrets, files, servers, issuers; and never its key."""

from __future__ import annotations

import base64
import contextlib
import gc
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.kubernetes.watched import (
    TLS_SECRET,
    WatchedSecret,
    WatchedSecrets,
    labelled_rights,
    named_rights,
)
from rotator.adapters.probes.watched import WatchedEndpoint, WatchedFile
from rotator.adapters.vault.watched import WatchedIssuer
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rights import Rights
from rotator.errors import Denied, Rejected, Unavailable
from rotator.pki.certificates import Material
from rotator.pki.foreign import certificates_among, foreign
from tests.fakes.certificate_authority import FakeCA
from tests.fixtures_openbao import VaultDomain
from tests.stack.cluster import Cluster

NOW = datetime.now(tz=UTC).replace(microsecond=0)
DAY = timedelta(days=1)
QUICK = timedelta(seconds=2)


@pytest.fixture(scope="module")
def root() -> FakeCA:
    """A CA that lives for ten days more."""
    return FakeCA("Foreign Root", "elsewhere", NOW - DAY, NOW + 10 * DAY)


def leaf(root: FakeCA, *, days: float = 5) -> Material:
    """Return a leaf of *root* that ends in *days*."""
    return root.material("spiffe://elsewhere/web", (days + 1) * DAY, NOW - DAY)


def pem(material: Material, root: FakeCA) -> bytes:
    """Return leaf and root as a server's file has them, the key between them as some keep it."""
    return material.chain_pem + material.key_pem + root.pem


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_earliest_end_of_the_chain_counts(root: FakeCA) -> None:
    """The leaf's own where it ends first, else that of whoever does, with its name."""
    short, long = leaf(root, days=2), leaf(root, days=9)
    (own,) = [foreign(certificates_among(pem(short, root), source="x"))]
    assert (NOW + 2 * DAY, "", "Foreign Root") == (own.not_after, own.ends_first, own.issuer)
    early = FakeCA("Early", "elsewhere", NOW - DAY, NOW + 3 * DAY)
    (above,) = [foreign(certificates_among(pem(long, early), source="x"))]
    assert (NOW + 3 * DAY, "Early") == (above.not_after, above.ends_first)


def test_law_10_a_key_beside_a_certificate_is_passed_over(tmp_path: Path, root: FakeCA) -> None:
    """A file with both is read, and nothing that is kept holds a byte of the key."""
    material = leaf(root)
    file = tmp_path / "both.pem"
    file.write_bytes(material.key_pem + pem(material, root))
    watched = WatchedFile(file)
    (seen,) = watched.look()
    assert seen.serial == material.leaf.serial
    secret = material.key_pem.splitlines()[1]
    gc.collect()
    kept = [*gc.get_referents(watched), *gc.get_referents(seen), seen, watched._known]
    assert not [each for each in kept if secret in repr(each).encode()]


@pytest.mark.parametrize(
    "content", [b"", b"nothing", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_is_said(content: bytes) -> None:
    """Without quoting it."""
    with pytest.raises(Rejected, match="the thing holds"):
        certificates_among(content, source="the thing")


# --- a file -----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_again_once_it_changes(tmp_path: Path, root: FakeCA) -> None:
    """Replaced by another one, and gone."""
    file = tmp_path / "site.pem"
    watched = WatchedFile(file)
    with pytest.raises(Unavailable, match="no such file"):
        watched.look()
    file.write_bytes(pem(leaf(root, days=1), root))
    assert NOW + DAY == watched.look()[0].not_after
    fresh = tmp_path / "fresh"
    fresh.write_bytes(pem(leaf(root, days=4), root))
    fresh.rename(file)
    assert NOW + 4 * DAY == watched.look()[0].not_after
    assert f"file:{file}" == watched.place


# --- a server ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(directory: Path, content: bytes, *, version: ssl.TLSVersion | None = None) -> Iterator[str]:
    """Serve TLS with *content* (chain and key) and asking for a client certificate; give the address."""
    file = directory / "server.pem"
    file.write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=content.partition(b"-----BEGIN PRIVATE")[0].decode())
    if version is not None:
        context.maximum_version = version
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.1)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                        tls.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        thread.join(60)
        listener.close()


def test_a_server_shows_its_whole_chain(tmp_path: Path, root: FakeCA) -> None:
    """Expired or not, whoever signed it, also where it asks for a client certificate (TLS 1.3)."""
    material = leaf(root, days=-0.5)
    early = FakeCA("Early", "elsewhere", NOW - 3 * DAY, NOW - DAY)
    with server(tmp_path, material.chain_pem + early.pem + material.key_pem) as address:
        watched = WatchedEndpoint(address, server_name="kafka.example", timeout=timedelta(seconds=20))
        (seen,) = watched.look()
    assert (material.leaf.serial, NOW - DAY, "Early") == (seen.serial, seen.not_after, seen.ends_first)
    assert f"tls:{address}#kafka.example" == watched.place


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    """No connection, or silence: bounded, and said in a few words."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match="no answer in time"):
            WatchedEndpoint(address, server_name=None, timeout=timedelta(milliseconds=300)).look()
    with pytest.raises(Unavailable):
        WatchedEndpoint(address, server_name=None, timeout=QUICK).look()


# --- an issuer --------------------------------------------------------------------------------------------------------


@pytest.mark.external
def test_issuers_are_read_with_the_rights_that_rotator_has(vault_domain: VaultDomain) -> None:
    """The corporate one where the signing of CAs reads it, another one where everybody may; a wrong name is said."""
    mount, issuer = vault_domain.rights.corporate_mount, vault_domain.rights.corporate_issuer
    with vault_domain.session() as session:
        own = WatchedIssuer(session, mount, issuer, is_corporate=True).look()
        other = WatchedIssuer(session, mount, issuer).look()
        with pytest.raises((Rejected, Denied, Unavailable)):
            WatchedIssuer(session, mount, "nobody").look()
    assert own == other
    assert own[0].not_after > NOW


# --- Secrets ----------------------------------------------------------------------------------------------------------


def put(cluster: Cluster, namespace: str, name: str, content: bytes, *, label: str = "") -> None:
    """Write one TLS Secret as somebody else does."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": TLS_SECRET,
            "metadata": {"namespace": namespace, "name": name, "labels": {"team": label} if label else {}},
            "data": {"tls.crt": base64.b64encode(content).decode(), "tls.key": base64.b64encode(b"key").decode()},
        }
    )


def with_rights(cluster: Cluster, namespace: str, rights: Rights, directory: Path) -> ObjectAPI:
    """Return the API server as an account with exactly *rights*."""
    token = cluster.service_account(namespace, "watcher")
    where = {"namespace": namespace, "name": "watcher"}
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": where}
    cluster.apply({**kind, "kind": "Role", "rules": list(rights.namespaces[namespace])})
    cluster.apply(
        {
            **kind,
            "kind": "RoleBinding",
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "watcher"},
            "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": "watcher"}],
        }
    )
    kubeconfig = cluster.kubeconfig_for(token, namespace, directory / f"{namespace}.kubeconfig")
    return ObjectAPI(ClusterAccess(namespace=namespace, kubeconfig_file=kubeconfig))


@pytest.mark.stack
def test_a_secret_is_read_by_name_with_the_right_to_that_name_alone(
    cluster: Cluster, tmp_path: Path, root: FakeCA
) -> None:
    """What stands in it, what stands in it after a change, that it is absent, and that no other one may be read."""
    cluster.namespace("watch-named")
    api = with_rights(cluster, "watch-named", named_rights("watch-named", "ingress-tls"), tmp_path)
    watched = WatchedSecret(api, "watch-named", "ingress-tls")
    with pytest.raises(Rejected, match="is not there"):
        watched.look()
    put(cluster, "watch-named", "ingress-tls", leaf(root, days=1).chain_pem)
    assert NOW + DAY == watched.look()[0].not_after
    assert watched.look()[0] is watched.look()[0]
    put(cluster, "watch-named", "ingress-tls", leaf(root, days=3).chain_pem)
    assert NOW + 3 * DAY == watched.look()[0].not_after
    with pytest.raises(Denied):
        WatchedSecret(api, "watch-named", "other").look()
    with pytest.raises(Denied):
        WatchedSecrets(api, ["watch-named"], "team=platform").look()
    api.close()


@pytest.mark.stack
def test_secrets_are_found_by_label_page_by_page(cluster: Cluster, tmp_path: Path, root: FakeCA) -> None:
    """A hundred and twenty of one label, the others not; one that cannot be read hides nobody; a change is seen."""
    cluster.namespace("watch-label")
    api = with_rights(cluster, "watch-label", labelled_rights(["watch-label"]), tmp_path)
    content = leaf(root, days=4).chain_pem
    for number in range(120):
        put(cluster, "watch-label", f"tls-{number}", content, label="platform")
    put(cluster, "watch-label", "stranger", content)
    put(cluster, "watch-label", "broken", b"no certificate", label="platform")
    watched = WatchedSecrets(api, ["watch-label"], "team=platform")
    first = watched.look()
    assert {f"watch-label/tls-{number}" for number in range(120)} == {each.which for each in first}
    put(cluster, "watch-label", "tls-7", leaf(root, days=1).chain_pem, label="platform")
    changed = [each for each in watched.look() if each not in first]
    assert [("watch-label/tls-7", NOW + DAY)] == [(each.which, each.not_after) for each in changed]
    api.close()
