"""A process that dies at any write to a control plane, or never hears of its effect: the next one goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from rotator.adapters.kuma.about import Model
from rotator.adapters.kuma.control_plane import ControlPlane, Document, Documents, Kind, Secrets, StoredSecret
from rotator.core.model import AuthorityIntent, IntentKind
from rotator.errors import Unavailable
from rotator.ports import MeshView
from tests.adapters.kuma_meshes import MeshWorld
from tests.fakes.kuma.store import IDENTITY, TRUST


class Crash(Exception):
    """The process has died."""


class Fuse:
    """Lets the process die at write number *at*, before or after it took effect."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.count = 0

    def burn(self, *, after: bool) -> None:
        """Die if it is time."""
        if not after:
            self.count += 1
        if self.count == self.at and after is self.after:
            self.at = 0
            raise Crash


class FusedDocuments:
    """Documents whose writes pass the fuse."""

    def __init__(self, inner: Documents, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse
        self.read = inner.read
        self.listed = inner.listed

    def write(self, document: Document) -> Document:
        self._fuse.burn(after=False)
        written = self._inner.write(document)
        self._fuse.burn(after=True)
        return written

    def remove(self, document: Document) -> None:
        self._fuse.burn(after=False)
        self._inner.remove(document)
        self._fuse.burn(after=True)


class FusedSecrets:
    """Secrets whose writes pass the fuse."""

    def __init__(self, inner: Secrets, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse
        self.read = inner.read

    def held(self) -> tuple[StoredSecret, ...]:
        return self._inner.held()

    def create(self, purpose: str, value: bytes) -> str:
        self._fuse.burn(after=False)
        name = self._inner.create(purpose, value)
        self._fuse.burn(after=True)
        return name

    def remove(self, name: str) -> None:
        self._fuse.burn(after=False)
        self._inner.remove(name)
        self._fuse.burn(after=True)


def fused(plane: ControlPlane, fuse: Fuse) -> ControlPlane:
    return replace(plane, documents=FusedDocuments(plane.documents, fuse), secrets=FusedSecrets(plane.secrets, fuse))


def walk(world: MeshWorld, intent: AuthorityIntent) -> None:
    """Go on, as one process after the other, until the walk is over."""
    for _ in range(4):
        try:
            world.rotate(intent)
        except (Crash, Unavailable):
            world.tick()
            world.mesh = world.again()
        else:
            return
    raise AssertionError("it goes on dying")


def has_activated(world: MeshWorld) -> Callable[[MeshView], bool]:
    """Return what is true of a look once the new generation signs."""
    return lambda _: world.steps[-1:] == ["activate"]


def is_tidy(world: MeshWorld, number: int) -> None:
    """Hold that generation *number* alone is left, and that nothing lies about once another one is prepared."""
    assert ([], (number,), number) == (world.broken, world.numbers(), world.active())
    next_one = max(number, world.highest) + 1
    world.mesh.prepare(world.order(next_one))
    wanted = {f"g{each}-{part}" for each in (number, next_one) for part in ("cert", "key")}
    assert wanted == {each.purpose for each in world.plane.secrets.held()}
    assert () == world.look().refusals


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("model", [Model.PROVIDED, Model.IDENTITY])
def test_law_13_a_crash_at_any_write_of_a_rotation_is_survived(model: Model, *, after: bool) -> None:
    """Whatever was lost, the rotation ends with one generation and no pair was ever refused."""
    for at in itertools.count(1):
        with MeshWorld(model=model) as world:
            world.first()
            fuse = Fuse(at, after=after)
            whole, world.plane = world.plane, fused(world.plane, fuse)
            walk(world, world.intent())
            world.plane = whole
            is_tidy(world, world.active() or 0)
            if fuse.at:
                assert at > 8
                return


@pytest.mark.parametrize("model", [Model.PROVIDED, Model.IDENTITY])
def test_law_13_a_crash_at_any_write_of_a_rollback_is_survived(model: Model) -> None:
    """The old generation signs again, and the new one is gone."""
    for at in itertools.count(1):
        with MeshWorld(model=model) as world:
            world.first()
            world.rotate(until=has_activated(world))
            world.tick(15)
            fuse = Fuse(at, after=at % 2 == 0)
            intent = world.intent(IntentKind.ROLL_BACK)
            whole, world.plane = world.plane, fused(world.plane, fuse)
            walk(world, intent)
            world.plane = whole
            is_tidy(world, 1)
            if fuse.at:
                assert at > 4
                return


@pytest.mark.parametrize("found", ["builtin", "identity"])
def test_law_13_a_crash_at_any_write_of_an_adoption_is_survived(found: str) -> None:
    """What was there before signs until rotator's own does, and is let go of once."""
    for at in itertools.count(1):
        with MeshWorld(model=Model.PROVIDED if found == "builtin" else Model.IDENTITY) as world:
            if found == "builtin":
                world.on_builtin()
            else:
                world.on_own_identity()
            fuse = Fuse(at, after=at % 2 == 0)
            intent = world.intent()
            whole, world.plane = world.plane, fused(world.plane, fuse)
            walk(world, intent)
            world.plane = whole
            assert [] == world.broken
            number = world.active() or 0
            assert number > 0
            is_tidy(world, number)
            # What a crash between the trust and the identity leaves wins nobody and goes with the next preparation.
            left = {each.name for kind in (IDENTITY, TRUST) for each in world.standin.store.list(kind, "default")}
            assert all(name.startswith("rotator-default") for name in left), left
            if fuse.at:
                assert at > 6
                return


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [1, 2])
def test_law_13_a_crash_while_an_adopted_identity_is_removed_leaves_nothing(at: int, *, after: bool) -> None:
    """Its MeshTrust goes before it does; what is left is removed before the next generation is made."""
    with MeshWorld(version="3.0.1", model=Model.IDENTITY) as world:
        world.on_own_identity()
        fuse = Fuse(at, after=after)
        intent = world.intent()
        documents = FusedDocuments(world.plane.documents, fuse)
        documents.write = world.plane.documents.write  # type: ignore[method-assign] # only removals pass the fuse
        whole, world.plane = world.plane, replace(world.plane, documents=documents)
        walk(world, intent)
        world.plane = whole
        assert 0 == fuse.at
        is_tidy(world, 1)
        assert {"rotator-default"} == {each.name for each in world.standin.store.list(TRUST, "default")}
        names = [each.name for each in world.standin.store.list(IDENTITY, "default")]
        assert ["rotator-default-999997-g2", "rotator-default-999998-g1"] == sorted(names)


def test_a_document_that_somebody_else_wrote_in_between_is_read_again() -> None:
    """A write that somebody else's came before is a conflict, and nothing of theirs is lost."""
    with MeshWorld() as world:
        world.first()
        mesh = world.plane.documents.read(Kind.MESH, "default")
        assert mesh is not None
        world.standin.edit_mesh(routing={"localityAwareLoadBalancing": True})
        world.rotate()
        shown = world.standin.document("Mesh", "default")
        assert shown is not None
        assert ([], 2, {"localityAwareLoadBalancing": True}) == (world.broken, world.active(), shown["routing"])
