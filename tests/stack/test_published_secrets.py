"""What only a real API server can show of Secrets: who owns which field, what rights suffice, what is never let in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.adapters.kubernetes.notes import Dress
from rotator.adapters.kubernetes.publishing_rights import secret_rights
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.clock import SystemClock
from rotator.cluster.objects import ClusterAccess, ObjectAPI
from rotator.cluster.rbac import Account
from rotator.cluster.rights import Rights
from rotator.errors import Conflict, Denied, Rejected, RotatorError
from rotator.pki.certificates import Material
from rotator.ports import Stamp
from tests.fakes.certificate_authority import EPOCH, FakeCA
from tests.stack.cluster import Cluster
from tests.stack.published import SECRET, SUBJECT, PublishedSecret, dressed, grant, published_secret

pytestmark = pytest.mark.stack


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[PublishedSecret]:
    """Give a namespace in which rotator may publish one Secret and one ConfigMap."""
    with published_secret(cluster, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def ca() -> FakeCA:
    return FakeCA("one", "td.example")


def leaf(ca: FakeCA) -> Material:
    return ca.material("spiffe://td.example/worker", timedelta(hours=1), EPOCH)


def stamp() -> Stamp:
    return Stamp(subject=SUBJECT, rotation_id="r-1", leaf_published_at=EPOCH, bundle_published_at=EPOCH)


def test_a_label_that_is_configured_no_more_is_taken_away(place: PublishedSecret, ca: FakeCA) -> None:
    """What a first publication created is owned as what later ones apply: dropped from the file, it goes."""
    place.store(dress=dressed(a="1", b="1")).put(leaf(ca), expected=0, stamp=stamp())
    place.edit({"metadata": {"labels": {"theirs": "x"}}})
    place.store(dress=dressed(b="2")).put(leaf(ca), expected=1, stamp=stamp())
    held = place.held()["metadata"]
    assert {"app.kubernetes.io/managed-by": "rotator", "b": "2", "theirs": "x"} == held["labels"]
    mine = [(each["manager"], each["operation"]) for each in held["managedFields"] if each["manager"] == "rotator"]
    assert [("rotator", "Apply")] == mine


def test_fields_taken_by_others_are_taken_back(place: PublishedSecret, ca: FakeCA) -> None:
    """A manager that applies over our fields by force owns them until the next write, and is named in the drift."""
    store = place.store()
    store.put(leaf(ca), expected=0, stamp=stamp())
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": place.namespace, "name": SECRET},
        "type": "kubernetes.io/tls",
        "data": {"ca.crt": ""},
    }
    place.cluster.apply(theirs, manager="argocd-controller")
    seen = store.read()
    assert seen is not None
    assert ("ca.crt" in (seen.drift or ""), True) == (True, any("argocd-controller (Apply" in w for w in seen.writers))
    made = leaf(ca)
    put = store.put(made, expected=seen.number, stamp=stamp())
    assert (None, made.bundle) == (put.drift, put.bundle)


@pytest.mark.parametrize(
    "change",
    [{"data": {"ca.crt": ""}}, {"metadata": {"annotations": None}}, {"metadata": {"labels": None}}],
    ids=["bundle", "notes", "labels"],
)
def test_an_edit_is_found_with_its_writer(place: PublishedSecret, ca: FakeCA, change: dict[str, object]) -> None:
    """A kubectl edit of what is ours is drift, to the process that wrote it and to a new one."""
    store = place.store()
    store.put(leaf(ca), expected=0, stamp=stamp())
    place.edit(change)
    for process in (store, place.store()):
        seen = process.read()
        assert seen is not None
        assert (True, None) == (seen.drift is not None, seen.problem)
        # Whoever only takes fields away owns none: the server then names nobody.
        assert "data" not in change or any("kubectl-edit (Update" in each for each in seen.writers)


def test_a_person_behind_a_field_manager_is_not_named(place: PublishedSecret, ca: FakeCA) -> None:
    """A field manager may be given on a command line: what is no well-known program is not written down (law 24)."""
    store = place.store()
    store.put(leaf(ca), expected=0, stamp=stamp())
    place.edit({"data": {"ca.crt": ""}}, manager="jane.doe")
    seen = store.read()
    assert seen is not None
    assert "jane" not in str(seen)
    assert any(each.startswith("another field manager (Update") for each in seen.writers)


def test_somebody_elses_secret_is_left_without_the_word(place: PublishedSecret, ca: FakeCA) -> None:
    """A Secret that was there is refused; with adopt it is taken over in place, and what else it bears stays."""
    theirs = leaf(ca)
    data = {"tls.crt": theirs.chain_pem, "tls.key": theirs.key_pem}
    place.make(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "labels": {"theirs": "x"}},
            "type": "kubernetes.io/tls",
            "data": {key: base64.b64encode(content).decode() for key, content in data.items()},
        }
    )
    before = place.held()
    with pytest.raises(Rejected, match="adopt: true"):
        place.store().read()
    with pytest.raises(Rejected, match="adopt: true"):
        place.store().put(leaf(ca), expected=0, stamp=stamp())
    assert before == place.held()
    store, made = place.store(adopt=True), leaf(ca)
    store.read()
    assert made.leaf == store.put(made, expected=0, stamp=stamp()).leaf
    assert (before["metadata"]["uid"], "x") == (
        place.held()["metadata"]["uid"],
        place.held()["metadata"]["labels"]["theirs"],
    )
    assert [SECRET] == place.names()


def test_an_immutable_secret_says_its_mend(place: PublishedSecret, ca: FakeCA) -> None:
    """It is found at the next look, refused with what to do, and made anew once deleted."""
    store = place.store()
    store.put(leaf(ca), expected=0, stamp=stamp())
    place.edit({"immutable": True})
    seen = store.read()
    assert seen is not None
    assert "immutable" in (seen.drift or "")
    with pytest.raises(Rejected, match="immutable: delete it"):
        store.put(leaf(ca), expected=1, stamp=stamp())
    place.remove()
    assert store.read() is None
    assert 2 == store.put(leaf(ca), expected=0, stamp=stamp()).number


def test_two_first_publications_make_one(place: PublishedSecret, ca: FakeCA) -> None:
    """Of two processes that both saw nothing the second fails (law 14): a creation never overwrites."""
    one, two = place.store(), place.store()
    assert None is one.read() is two.read()
    made = leaf(ca)
    one.put(made, expected=0, stamp=stamp())
    with pytest.raises(Conflict):
        two.put(leaf(ca), expected=0, stamp=stamp())
    seen = one.read()
    assert seen is not None
    assert made.leaf == seen.leaf


def _all(place: PublishedSecret, api: ObjectAPI, ca: FakeCA) -> None:
    """Do everything that a Secret's life takes."""
    store = SecretStore(
        api, namespace=place.namespace, name=SECRET, subject=SUBJECT, clock=SystemClock(), dress=Dress()
    )
    for number in range(2):
        store.put(leaf(ca), expected=number, stamp=stamp())
    store.read()
    store.material()
    store.forget(keep=frozenset({2}))


def _without(rights: Rights, namespace: str) -> Iterator[tuple[str, Rights]]:
    """Yield *rights* with one verb less, for every verb."""
    rules = rights.namespaces[namespace]
    for at, rule in enumerate(rules):
        for verb in rule["verbs"]:
            fewer = {**rule, "verbs": [each for each in rule["verbs"] if each != verb] or ["watch"]}
            yield (
                f"{verb} {rule.get('resourceNames', '')}",
                Rights(namespaces={namespace: (*rules[:at], fewer, *rules[at + 1 :])}, confined=rights.confined),
            )


def test_the_rights_suffice_and_each_is_needed(cluster: Cluster, tmp_path: Path, ca: FakeCA) -> None:
    """With what `secret_rights` says a whole life works, with any verb less it does not; nothing else is allowed."""
    with published_secret(cluster, tmp_path) as place:
        whole = secret_rights(place.namespace, SECRET)
        failed = {}
        for number, (left_out, fewer) in enumerate([("", whole), *_without(whole, place.namespace)]):
            account = Account(namespace=place.namespace, name=f"account-{number}")
            kubeconfig = cluster.kubeconfig_for(grant(cluster, account, fewer), place.namespace, tmp_path / str(number))
            api = ObjectAPI(ClusterAccess(namespace=place.namespace, kubeconfig_file=kubeconfig))
            try:
                _all(place, api, ca)
            except RotatorError as error:
                failed[left_out] = type(error)
            finally:
                if not left_out:
                    _refused(api, place)
                api.close()
            for name in place.names():
                place.remove(name)
        assert 4 == len(failed), failed
        assert "" not in failed
        assert {Denied} == set(failed.values())


def _refused(api: ObjectAPI, place: PublishedSecret) -> None:
    """Try what is none of rotator's business."""
    secrets = f"/api/v1/namespaces/{place.namespace}/secrets"
    other = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}, "type": "kubernetes.io/tls"}
    wrong_type = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{SECRET}-previous"}, "type": "Opaque"}
    for attempt in (
        lambda: api.listed(secrets),
        lambda: api.get(f"{secrets}/other"),
        lambda: api.get(f"/api/v1/namespaces/default/secrets/{SECRET}"),
        lambda: api.create(secrets, {**other, "data": {"tls.crt": "", "tls.key": ""}}),
        lambda: api.create(secrets, wrong_type),
        lambda: api.delete(f"{secrets}/{SECRET}", revision="1"),
    ):
        with pytest.raises((Denied, Rejected)):
            attempt()


def test_no_key_is_in_the_audit_log_nor_in_an_error(place: PublishedSecret, ca: FakeCA) -> None:
    """What the server says of a Secret that it refuses is quoted by the names of fields alone (law 10)."""
    made = leaf(ca)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "labels": {"a": "not a label!"}},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": "", "tls.key": made.key_pem.decode()},
    }
    with pytest.raises(RotatorError) as refused:
        place.api.create(f"/api/v1/namespaces/{place.namespace}/secrets", body, secret=True)
    middle = made.key_pem.decode().splitlines()[1]
    assert middle not in str(refused.value)
    assert middle not in json.dumps(list(place.cluster.audit()))
