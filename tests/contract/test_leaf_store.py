"""What every `LeafStore` keeps to: the directory on disk, the Secret in a real cluster and the fake in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from rotator.adapters.directory import DirectoryStore
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.clock import SystemClock
from rotator.core.model import SubjectName
from rotator.errors import Conflict, Rejected
from rotator.pki.certificates import Material
from rotator.ports import LeafStore, Stamp
from tests.fakes.certificate_authority import EPOCH, FakeCA
from tests.fakes.leaf_store import MemoryLeafStore
from tests.fakes.objects import FakeObjects
from tests.stack.cluster import Cluster
from tests.stack.published import published_secret

HOUR = timedelta(hours=1)


Opened = Callable[[Path], AbstractContextManager[LeafStore]]


@pytest.fixture(
    scope="module", params=["directory", "memory", "fake-secret", pytest.param("secret", marks=pytest.mark.stack)]
)
def opened(request: pytest.FixtureRequest) -> Opened:
    """Give what opens one kind of place; its server, if it has one, starts before the first test."""
    if request.param == "directory":
        return lambda directory: nullcontext(DirectoryStore(directory / "tls"))
    if request.param == "memory":
        return lambda _: nullcontext(MemoryLeafStore())
    if request.param == "fake-secret":
        return lambda _: nullcontext(_fake_secret())
    cluster: Cluster = request.getfixturevalue("cluster")

    @contextmanager
    def secret(directory: Path) -> Iterator[LeafStore]:
        with published_secret(cluster, directory) as place:
            yield place.store()

    return secret


def _fake_secret() -> LeafStore:
    return SecretStore(FakeObjects(), namespace="a", name="b", subject=SubjectName("worker"), clock=SystemClock())


@pytest.fixture
def store(opened: Opened, tmp_path: Path) -> Iterator[LeafStore]:
    """Give one place in which nothing was ever published."""
    with opened(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def ca() -> FakeCA:
    return FakeCA("one", "td.example")


def leaf(ca: FakeCA) -> Material:
    return ca.material("spiffe://td.example/worker", HOUR, EPOCH)


def stamp(rotation: str = "r-1", at: datetime = EPOCH) -> Stamp:
    return Stamp(
        subject=SubjectName("worker"), rotation_id=rotation, leaf_published_at=at, bundle_published_at=at + HOUR
    )


def number(store: LeafStore) -> int:
    seen = store.read()
    return 0 if seen is None else seen.number


def test_nothing_is_none(store: LeafStore) -> None:
    """A place where nothing was ever published reads as None and holds no material."""
    assert store.read() is None
    with pytest.raises(Rejected, match="nothing is published"):
        store.material()
    store.forget(keep=frozenset())


def test_what_was_put_is_read(store: LeafStore, ca: FakeCA) -> None:
    """Leaf, bundle, pair and stamp come back as they were put."""
    made = leaf(ca)
    put = store.put(made, expected=0, stamp=stamp("r-7"))
    seen = store.read()
    assert put == seen
    assert seen is not None
    assert (made.leaf, made.bundle, True, None) == (seen.leaf, seen.bundle, seen.key_matches, seen.problem)
    assert ("worker", "r-7", EPOCH, EPOCH + HOUR) == (
        seen.subject,
        seen.rotation_id,
        seen.leaf_published_at,
        seen.bundle_published_at,
    )
    assert store.target == seen.target


def test_material_comes_back_whole(store: LeafStore, ca: FakeCA) -> None:
    """Material, key included, comes back to be published again with another bundle."""
    made = leaf(ca)
    store.put(made, expected=0, stamp=stamp())
    assert made == store.material()


def test_law_14_writes_are_fenced(store: LeafStore, ca: FakeCA) -> None:
    """A writer that decided on another publication than the current one changes nothing."""
    first = store.put(leaf(ca), expected=0, stamp=stamp("r-1"))
    for stale in (0, first.number + 1, -1):
        with pytest.raises(Conflict):
            store.put(leaf(ca), expected=stale, stamp=stamp("r-2"))
    assert first == store.read()


def test_numbers_only_grow(store: LeafStore, ca: FakeCA) -> None:
    """Every publication has a higher number than all before, forgotten ones included."""
    numbers = [0]
    for _ in range(3):
        numbers.append(store.put(leaf(ca), expected=numbers[-1], stamp=stamp()).number)
        store.forget(keep=frozenset())
    assert sorted(set(numbers)) == numbers


def test_forgetting_never_touches_what_is_current_or_kept(store: LeafStore, ca: FakeCA) -> None:
    """Forgetting keeps the current publication; forgetting twice is no error."""
    for _ in range(3):
        store.put(leaf(ca), expected=number(store), stamp=stamp())
    before = store.read()
    for _ in range(2):
        store.forget(keep=frozenset({2}))
        assert before == store.read()
