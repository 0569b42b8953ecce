"""Secrets as rotator publishes them: drift, owners, lost replies and crashes, over an API server in memory."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from rotator.adapters.kubernetes.bundles import BundleStore
from rotator.adapters.kubernetes.notes import Dress
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.core.model import Publication, SubjectName
from rotator.errors import Conflict, Rejected, Unavailable
from rotator.pki.certificates import Material
from rotator.ports import Stamp
from tests.fakes.certificate_authority import EPOCH, FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.faults import Crash, Faults
from tests.fakes.objects import FakeObjects

HOUR = timedelta(hours=1)
WORKER = SubjectName("worker")
PATH = "/api/v1/namespaces/airflow/secrets/web-tls"
PREVIOUS = f"{PATH}-previous"
TRUST = "/api/v1/namespaces/airflow/configmaps/trust"


@pytest.fixture(scope="module")
def ca() -> FakeCA:
    return FakeCA("one", "td.example")


@pytest.fixture
def objects() -> FakeObjects:
    return FakeObjects()


def store(objects: FakeObjects, **words: Any) -> SecretStore:
    """Return a store as a new process has it."""
    wanted: dict[str, Any] = {"subject": WORKER, "clock": ManualClock()} | words
    return SecretStore(objects, namespace="airflow", name="web-tls", **wanted)


def leaf(ca: FakeCA) -> Material:
    return ca.material("spiffe://td.example/worker", HOUR, EPOCH)


def stamp(rotation: str = "r-1") -> Stamp:
    return Stamp(subject=WORKER, rotation_id=rotation, leaf_published_at=EPOCH, bundle_published_at=EPOCH)


def coded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def seen(place: SecretStore) -> Publication:
    found = place.read()
    assert found is not None
    return found


DRIFTS: dict[str, tuple[dict[str, Any], str]] = {
    "bundle emptied": ({"data": {"ca.crt": ""}}, "ca.crt was changed"),
    "bundle removed": ({"data": {"ca.crt": None}}, "ca.crt is missing"),
    "note removed": (
        {"metadata": {"annotations": {"rotator.io/generation": None}}},
        "annotation rotator.io/generation",
    ),
    "note spoiled": ({"metadata": {"annotations": {"rotator.io/leaf-published-at": "soon"}}}, "leaf-published-at"),
    "label changed": ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}, "managed-by"),
    "label removed": ({"metadata": {"labels": None}}, "managed-by"),
    "immutable": ({"immutable": True}, "immutable"),
}

SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "chain changed": ({"data": {"tls.crt": coded(b"nothing")}}, "tls.crt was changed"),
    "chain emptied": ({"data": {"tls.crt": ""}}, "tls.crt was changed"),
    "key emptied": ({"data": {"tls.key": ""}}, "tls.key holds no readable"),
    "key removed": ({"data": {"tls.key": None}}, "tls.key is missing"),
}


@pytest.mark.parametrize(("change", "says"), DRIFTS.values(), ids=DRIFTS)
def test_what_stands_beside_the_leaf_is_drift(
    objects: FakeObjects, ca: FakeCA, change: dict[str, Any], says: str
) -> None:
    """An edit that leaves leaf and key whole is drift: found at the next look, by old and new processes alike."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    objects.edit(PATH, change)
    for process in (place, store(objects)):
        found = seen(process)
        assert found.drift is not None
        assert says in found.drift
        assert (None, True) == (found.problem, found.key_matches)
        assert any("kubectl-edit" in each for each in found.writers)


@pytest.mark.parametrize(("change", "says"), SPOILED.values(), ids=SPOILED)
def test_a_spoiled_leaf_or_key_is_a_problem(
    objects: FakeObjects, ca: FakeCA, change: dict[str, Any], says: str
) -> None:
    """An edit of leaf or key makes the publication unusable, in words."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    objects.edit(PATH, change)
    assert says in (seen(place).problem or "")


def test_a_swapped_pair_is_a_problem(objects: FakeObjects, ca: FakeCA) -> None:
    """Somebody else's whole pair is told from ours by the noted hash; a swapped key by the leaf."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    other = leaf(ca)
    objects.edit(PATH, {"data": {"tls.key": coded(other.key_pem)}})
    assert (False, True) == (seen(place).key_matches, "does not belong" in (seen(place).problem or ""))
    objects.edit(PATH, {"data": {"tls.crt": coded(other.chain_pem)}})
    assert (True, True) == (seen(place).key_matches, "tls.crt was changed" in (seen(place).problem or ""))


def test_what_is_not_ours_is_left_alone(objects: FakeObjects, ca: FakeCA) -> None:
    """Labels, annotations and keys of others are no drift, and stay through a rotation."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    objects.edit(
        PATH, {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}, "data": {"store.p12": "AA=="}}
    )
    found = seen(place)
    assert (None, None, 1) == (found.drift, found.problem, found.number)
    place.put(leaf(ca), expected=1, stamp=stamp())
    held = objects.stored[PATH]
    assert ("a", "b", "AA==") == (
        held["metadata"]["labels"]["team"],
        held["metadata"]["annotations"]["note"],
        held["data"]["store.p12"],
    )


def test_a_drifted_bundle_still_gives_back_leaf_and_key(objects: FakeObjects, ca: FakeCA) -> None:
    """Whoever emptied ca.crt has not cost a certificate: leaf and key come back to be published again."""
    place = store(objects)
    made = leaf(ca)
    place.put(made, expected=0, stamp=stamp())
    objects.edit(PATH, {"data": {"ca.crt": ""}})
    held = place.material()
    assert (made.leaf, made.key_pem, ()) == (held.leaf, held.key_pem, held.bundle)
    place.put(made, expected=seen(place).number, stamp=stamp())
    assert (None, made.bundle) == (seen(place).drift, seen(place).bundle)


@pytest.mark.parametrize("change", [{"metadata": {"annotations": None}}, {"metadata": {"managedFields": None}}])
def test_a_trace_is_enough(objects: FakeObjects, ca: FakeCA, change: dict[str, Any]) -> None:
    """Annotations or field owners taken away alone do not make our Secret somebody else's."""
    store(objects).put(leaf(ca), expected=0, stamp=stamp())
    objects.edit(PATH, change)
    assert store(objects).read() is not None


def foreign(objects: FakeObjects, ca: FakeCA, kind: str = "kubernetes.io/tls") -> Material:
    """Put somebody else's Secret at the name and return its content."""
    made = leaf(ca)
    data = {"tls.crt": coded(made.chain_pem), "tls.key": coded(made.key_pem)}
    body = {"metadata": {"name": "web-tls", "uid": "theirs", "resourceVersion": "9000"}, "type": kind, "data": data}
    objects.stored[PATH] = body
    return made


def test_somebody_elses_secret_is_refused_and_left(objects: FakeObjects, ca: FakeCA) -> None:
    """Without the operator's word neither a look nor a write touches it, and the mend is said."""
    foreign(objects, ca)
    before = dict(objects.stored)
    with pytest.raises(Rejected, match="was not made by rotator: delete it, or set adopt: true"):
        store(objects).read()
    with pytest.raises(Rejected, match="was not made by rotator"):
        store(objects).put(leaf(ca), expected=0, stamp=stamp())
    assert before == objects.stored


def test_adopted_it_is_taken_over(objects: FakeObjects, ca: FakeCA) -> None:
    """With the word it is unusable until it is overwritten, and ours from then on."""
    foreign(objects, ca)
    place = store(objects, adopt=True)
    assert (0, True) == (seen(place).number, "taken over" in (seen(place).problem or ""))
    made = leaf(ca)
    put = place.put(made, expected=0, stamp=stamp())
    assert (1, made.leaf, None) == (put.number, put.leaf, put.problem)
    assert seen(store(objects)) == put
    assert PREVIOUS not in objects.stored


def test_another_type_is_never_adopted(objects: FakeObjects, ca: FakeCA) -> None:
    """A type can never be changed: the word does not help, and the refusal says what does."""
    foreign(objects, ca, kind="Opaque")
    with pytest.raises(Rejected, match="of type Opaque, which can never be changed: delete it"):
        store(objects, adopt=True).read()


def test_another_certificates_secret_is_refused(objects: FakeObjects, ca: FakeCA) -> None:
    """A Secret that rotator published for another certificate is not overwritten either."""
    store(objects).put(leaf(ca), expected=0, stamp=stamp())
    other = store(objects, subject=SubjectName("other"))
    with pytest.raises(Rejected, match="holds certificate worker of rotator, not other"):
        other.read()


def test_numbers_grow_over_lost_notes_and_deletion(objects: FakeObjects, ca: FakeCA) -> None:
    """A process that has seen number n never publishes n again, whatever was taken away."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    place.put(leaf(ca), expected=1, stamp=stamp())
    objects.edit(PATH, {"metadata": {"annotations": {"rotator.io/generation": None}}})
    assert 2 == seen(place).number
    assert 3 == place.put(leaf(ca), expected=2, stamp=stamp()).number
    del objects.stored[PATH]
    assert place.read() is None
    assert 4 == place.put(leaf(ca), expected=0, stamp=stamp()).number


def test_the_publication_before_stands_apart_until_it_is_forgotten(objects: FakeObjects, ca: FakeCA) -> None:
    """Only one key ever stands in the Secret; the one before lies beside it, of a type that nothing mounts."""
    place = store(objects)
    first, second = leaf(ca), leaf(ca)
    place.put(first, expected=0, stamp=stamp("r-1"))
    objects.edit(PATH, {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "a key"}}})
    place.put(second, expected=1, stamp=stamp("r-2"))
    kept = objects.stored[PREVIOUS]
    assert ("rotator.io/previous", coded(first.key_pem)) == (kept["type"], kept["data"]["tls.key"])
    assert {"tls.crt", "tls.key", "ca.crt"} == set(objects.stored[PATH]["data"])
    assert coded(first.key_pem) not in str(objects.stored[PATH])
    assert "a key" not in str(kept)
    place.forget(keep=frozenset({2}))
    assert [PATH] == list(objects.stored)


def test_forgetting_finds_what_an_earlier_process_left(objects: FakeObjects, ca: FakeCA) -> None:
    """A copy that a crash left is removed by the next process, unless it is asked to keep it."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    place.put(leaf(ca), expected=1, stamp=stamp())
    store(objects).forget(keep=frozenset({1, 2}))
    assert PREVIOUS in objects.stored
    store(objects).forget(keep=frozenset({2}))
    assert PREVIOUS not in objects.stored


def test_a_foreign_copy_is_neither_used_nor_removed(objects: FakeObjects, ca: FakeCA) -> None:
    """Somebody else's Secret at NAME-previous stops the rotation before anything is replaced, and stays."""
    place = store(objects)
    first = place.put(leaf(ca), expected=0, stamp=stamp())
    theirs = {"metadata": {"name": "web-tls-previous", "uid": "t", "resourceVersion": "9000"}, "type": "Opaque"}
    objects.stored[PREVIOUS] = theirs
    with pytest.raises(Rejected, match="web-tls-previous was not made by rotator"):
        place.put(leaf(ca), expected=1, stamp=stamp())
    place.forget(keep=frozenset({1}))
    assert (theirs, first.leaf) == (objects.stored[PREVIOUS], seen(place).leaf)


def test_a_changed_configuration_is_outdated_and_no_drift(objects: FakeObjects, ca: FakeCA) -> None:
    """Other labels in the configuration are nobody's drift, and are put there by the next write."""
    store(objects, dress=Dress(labels={"a": "1"})).put(leaf(ca), expected=0, stamp=stamp())
    place = store(objects, dress=Dress(labels={"a": "2"}))
    assert (True, None) == (seen(place).outdated, seen(place).drift)
    assert not place.put(leaf(ca), expected=1, stamp=stamp()).outdated
    assert "2" == objects.stored[PATH]["metadata"]["labels"]["a"]


def test_a_touch_between_look_and_write_costs_nothing(objects: FakeObjects, ca: FakeCA) -> None:
    """Whoever labels the Secret between look and write makes it written again, not lost."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    touches = iter(range(3))

    def touch(call: str) -> None:
        if call == f"apply {PATH}" and next(touches, None) is not None:
            objects.edit(PATH, {"metadata": {"labels": {"touched": "yes"}}})

    objects.faults.before = touch
    assert 2 == place.put(leaf(ca), expected=1, stamp=stamp()).number


def test_an_edit_between_look_and_write_is_a_conflict(objects: FakeObjects, ca: FakeCA) -> None:
    """What somebody did to our own fields is looked at before it is overwritten."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    objects.edit(PATH, {"data": {"ca.crt": ""}})
    with pytest.raises(Conflict, match="somebody else changed"):
        place.put(leaf(ca), expected=1, stamp=stamp())


def test_law_14_a_newer_publication_between_look_and_write_stays(objects: FakeObjects, ca: FakeCA) -> None:
    """A process that was paused right before its write overwrites nothing that another wrote meanwhile."""
    place, other, newer = store(objects), store(objects), leaf(ca)
    place.put(leaf(ca), expected=0, stamp=stamp())

    def overtake(call: str) -> None:
        if call == f"apply {PATH}":
            objects.faults.clear()
            other.put(newer, expected=1, stamp=stamp())

    objects.faults.before = overtake
    with pytest.raises(Conflict, match="publication 2 is in"):
        place.put(leaf(ca), expected=1, stamp=stamp())
    assert newer.leaf == seen(store(objects)).leaf


def test_a_look_reads_no_key_unless_something_changed(objects: FakeObjects, ca: FakeCA) -> None:
    """An unchanged Secret is one request for its metadata, and a probe right after it none."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    before = objects.reads
    place.read()
    place.just_read.read()
    assert 1 == objects.reads - before
    place.just_read.read()
    assert 2 == objects.reads - before


def test_a_rotation_is_six_requests(objects: FakeObjects, ca: FakeCA) -> None:
    """Look, read, copy, write, look, remove: what docs/secrets.md says of one rotation."""
    place = store(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    place.put(leaf(ca), expected=1, stamp=stamp())
    place.forget(keep=frozenset({2}))
    reads, writes = objects.reads, len(objects.faults.calls)
    place.read()
    place.put(leaf(ca), expected=2, stamp=stamp())
    place.read()
    place.forget(keep=frozenset({3}))
    assert (3, 3) == (objects.reads - reads, len(objects.faults.calls) - writes)


FAULTS: dict[str, Callable[[Faults, int], None]] = {
    "crash before": Faults.crash_before,
    "crash after": Faults.crash_after,
    "reply lost": Faults.lose_reply,
    "refused": Faults.refuse,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_law_13_every_call_may_be_the_last(ca: FakeCA, fault: str) -> None:
    """Whichever call is the last, lost or refused: the Secret holds one whole publication, and the next try ends it."""
    for n in range(1, 6):
        objects = FakeObjects()
        first, second, third = leaf(ca), leaf(ca), leaf(ca)
        store(objects).put(first, expected=0, stamp=stamp("r-1"))
        FAULTS[fault](objects.faults, n)
        with contextlib.suppress(Crash, Unavailable):
            place = store(objects)
            put = place.put(second, expected=1, stamp=stamp("r-2"))
            assert (2, second.leaf) == (put.number, put.leaf)
            place.forget(keep=frozenset({2}))
        objects.faults.clear()
        after = store(objects)
        found = seen(after)
        assert found.leaf in {first.leaf, second.leaf}
        assert (None, None, True) == (found.problem, found.drift, found.key_matches)
        assert found.leaf == first.leaf or found.number == 2
        put = after.put(third, expected=found.number, stamp=stamp("r-3"))
        after.forget(keep=frozenset({put.number}))
        assert (third.leaf, [PATH]) == (seen(after).leaf, sorted(objects.stored)), f"{fault} {n}"


def test_a_server_that_stays_away_is_given_up(objects: FakeObjects, ca: FakeCA) -> None:
    """A write is tried for as long as it may take, and no longer."""
    clock = ManualClock()
    place = store(objects, clock=clock, patience=timedelta(seconds=5))

    def away(call: str) -> None:
        raise Unavailable(call)

    objects.faults.before = away
    began = clock.monotonic()
    with pytest.raises(Unavailable):
        place.put(leaf(ca), expected=0, stamp=stamp())
    assert 2.9 < clock.monotonic() - began < 5
    assert {} == objects.stored


def test_patience_asked_for_is_given(objects: FakeObjects, ca: FakeCA) -> None:
    """A server that names a time is not asked before it, and not waited for beyond what the write may take."""
    clock = ManualClock()
    place = store(objects, clock=clock, patience=timedelta(seconds=30))
    refusals = iter([Unavailable("busy", after=timedelta(seconds=7))])

    def busy(_: str) -> None:
        for refusal in refusals:
            raise refusal

    objects.faults.before = busy
    began = clock.monotonic()
    place.put(leaf(ca), expected=0, stamp=stamp())
    assert 7 <= clock.monotonic() - began < 8


def bundles(objects: FakeObjects, **words: Any) -> BundleStore:
    wanted: dict[str, Any] = {"subject": WORKER, "clock": ManualClock()} | words
    return BundleStore(objects, namespace="airflow", name="trust", **wanted)


def test_a_configmap_holds_the_bundle_alone(objects: FakeObjects, ca: FakeCA) -> None:
    """The bundle stands under its key, no leaf and no key with it, and what others keep there stays."""
    place = bundles(objects, key="roots.pem")
    made = leaf(ca)
    put = place.put(made, expected=0, stamp=stamp())
    objects.edit(TRUST, {"data": {"theirs": "x"}})
    put = place.put(made, expected=put.number, stamp=stamp())
    assert {"roots.pem": made.bundle_pem.decode(), "theirs": "x"} == objects.stored[TRUST]["data"]
    assert (2, False, None, made.bundle) == (put.number, put.holds_leaf, put.leaf, put.bundle)
    with pytest.raises(Rejected, match="but a bundle"):
        place.material()
    place.forget(keep=frozenset())
    assert place.read() == bundles(objects, key="roots.pem").read()


def test_an_edited_bundle_is_a_problem(objects: FakeObjects, ca: FakeCA) -> None:
    """Whoever empties or removes the bundle of a ConfigMap has made it unusable."""
    place = bundles(objects)
    place.put(leaf(ca), expected=0, stamp=stamp())
    for change in ("", None):
        objects.edit(TRUST, {"data": {"ca.crt": change}})
        found = place.read()
        assert found is not None
        assert found.problem is not None
        assert () == found.bundle
