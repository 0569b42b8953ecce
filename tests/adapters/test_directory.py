"""The directory under crashes, intruders, full disks and missing rights; a reader always finds a whole publication."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from rotator.adapters.directory import Access, DirectoryStore
from rotator.core.model import SubjectName
from rotator.errors import ConfigError, Conflict, Denied, Rejected, RotatorError, Unavailable
from rotator.pki.certificates import Material, key_matches
from rotator.ports import Stamp
from tests.fakes.certificate_authority import EPOCH, FakeCA
from tests.small_files import files_of_at_most

HOUR = timedelta(hours=1)
STAMP = Stamp(
    subject=SubjectName("worker"), rotation_id="r-1", leaf_published_at=EPOCH, bundle_published_at=EPOCH + HOUR
)


@pytest.fixture(scope="module")
def ca() -> FakeCA:
    return FakeCA("one", "td.example")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "tls")


def leaf(ca: FakeCA) -> Material:
    return ca.material("spiffe://td.example/worker", HOUR, EPOCH)


def put(store: DirectoryStore, material: Material) -> int:
    seen = store.read()
    return store.put(material, expected=0 if seen is None else seen.number, stamp=STAMP).number


def problem(store: DirectoryStore) -> str:
    seen = store.read()
    assert seen is not None
    return seen.problem or ""


def names(store: DirectoryStore) -> set[str]:
    return {each.name for each in store.path.iterdir()}


# --- what lies there -------------------------------------------------------------------------------------------------


def test_files_are_as_the_contract_says(store: DirectoryStore, ca: FakeCA) -> None:
    """CURRENT names publication-N with tls.crt, tls.key (0600), ca.crt and the note."""
    made = leaf(ca)
    put(store, made)
    current = store.path / "CURRENT"
    assert Path("publication-1") == current.readlink()
    assert {
        "tls.crt": made.chain_pem,
        "tls.key": made.key_pem,
        "ca.crt": made.bundle_pem,
    } == {name: (current / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in current.iterdir()}
    assert {"tls.crt": 0o644, "tls.key": 0o600, "ca.crt": 0o644, "publication.json": 0o644} == modes
    note = json.loads((current / "publication.json").read_text(encoding="utf-8"))
    assert (1, "worker", "r-1", made.leaf.serial) == (
        note["number"],
        note["subject"],
        note["rotation_id"],
        note["serial"],
    )
    assert {"CURRENT", "publication-1", ".lock"} == names(store)


def test_modes_do_not_depend_on_the_umask(store: DirectoryStore, ca: FakeCA) -> None:
    """A daemon with a tight umask still publishes certificates that the consumer can read."""
    before = os.umask(0o077)
    try:
        put(store, leaf(ca))
    finally:
        os.umask(before)
    assert 0o755 == stat.S_IMODE((store.path / "publication-1").stat().st_mode)
    assert 0o644 == stat.S_IMODE((store.path / "CURRENT" / "tls.crt").stat().st_mode)


def test_the_previous_publication_stays_until_forgotten(store: DirectoryStore, ca: FakeCA) -> None:
    """The generation before lies beside the current one until cut-over is proven; kept ones stay longer (law 9)."""
    for _ in range(3):
        put(store, leaf(ca))
    assert {"CURRENT", ".lock", "publication-1", "publication-2", "publication-3"} == names(store)
    store.forget(keep=frozenset({1}))
    assert {"CURRENT", ".lock", "publication-1", "publication-3"} == names(store)
    store.forget(keep=frozenset())
    assert {"CURRENT", ".lock", "publication-3"} == names(store)


def test_owner_and_group_are_given_to_the_consumer(tmp_path: Path, ca: FakeCA) -> None:
    """The files belong to the configured user and group; the key may be opened to the group, never to all."""
    access = Access(owner=os.geteuid(), group=os.getegid(), key_mode=0o640)
    store = DirectoryStore(tmp_path / "tls", access=access)
    put(store, leaf(ca))
    key = (store.path / "CURRENT" / "tls.key").stat()
    assert (os.geteuid(), os.getegid(), 0o640) == (key.st_uid, key.st_gid, stat.S_IMODE(key.st_mode))


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access(key_mode=0o644), "let everyone at tls.key"),
        (Access(owner="no-such-user"), "no user 'no-such-user'"),
        (Access(group="no-such-group"), "no group 'no-such-group'"),
    ],
)
def test_senseless_access_is_refused(tmp_path: Path, access: Access, message: str) -> None:
    """A key for everyone, or an owner who does not exist, is refused before anything is written."""
    with pytest.raises(ConfigError, match=message):
        DirectoryStore(tmp_path, access=access)


# --- what others did to it -------------------------------------------------------------------------------------------


def spoil_json(current: Path) -> None:
    (current / "publication.json").write_text("{", encoding="utf-8")


def naive_moment(current: Path) -> None:
    note = json.loads((current / "publication.json").read_text(encoding="utf-8"))
    note["leaf_published_at"] = "2026-01-01T00:00:00"
    (current / "publication.json").write_text(json.dumps(note), encoding="utf-8")


def swap_bundle(current: Path) -> None:
    (current / "ca.crt").write_bytes(FakeCA("intruder", "td.example").pem)


def foreign_key(current: Path) -> None:
    (current / "tls.key").write_bytes(leaf(FakeCA("other", "td.example")).key_pem)


def symlinked_key(current: Path) -> None:
    (current / "tls.key").rename(current.parent / "elsewhere")
    (current / "tls.key").symlink_to("../elsewhere")


def pipe(current: Path) -> None:
    (current / "tls.crt").unlink()
    os.mkfifo(current / "tls.crt")


SPOILED: list[tuple[Callable[[Path], object], str]] = [
    (lambda current: (current / "tls.crt").write_bytes(b""), "tls.crt holds no readable certificate"),
    (lambda current: (current / "tls.crt").write_bytes((current / "ca.crt").read_bytes()), "starts with an authority"),
    (lambda current: (current / "tls.crt").unlink(), "tls.crt is missing"),
    (lambda current: (current / "tls.key").write_bytes(b"nonsense"), "tls.key holds no readable"),
    (lambda current: (current / "tls.key").chmod(0o644), r"tls.key is open to others \(mode 0644\)"),
    (lambda current: (current / "ca.crt").write_bytes((current / "tls.key").read_bytes()), "holds a private key"),
    (lambda current: (current / "ca.crt").write_bytes((current / "tls.crt").read_bytes()), "is no authority"),
    (lambda current: (current / "tls.crt").write_bytes(b"A" * (1 << 21)), "tls.crt is missing"),
    (lambda current: shutil.rmtree(current.resolve()), "tls.crt is missing"),
    (foreign_key, "tls.key does not belong to tls.crt"),
    (swap_bundle, "ca.crt was changed by somebody else"),
    (symlinked_key, "tls.key is missing"),
    (pipe, "tls.crt is missing"),
    (spoil_json, "publication.json cannot be read"),
    (naive_moment, "publication.json cannot be read"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILED)
def test_damage_is_a_problem_in_words_and_mended_by_the_next_put(
    store: DirectoryStore, ca: FakeCA, spoil: Callable[[Path], object], message: str
) -> None:
    """Whatever was done to the files is said, with the same publication number, and the next put mends it."""
    put(store, leaf(ca))
    spoil(store.path / "CURRENT")
    seen = store.read()
    assert seen is not None
    assert seen.number == 1
    assert seen.problem is not None
    assert re.search(message, seen.problem)
    assert "BEGIN" not in seen.problem
    made = leaf(ca)
    assert 2 == put(store, made)
    assert made == store.material()


def test_a_file_in_place_of_the_symlink_is_refused(store: DirectoryStore, ca: FakeCA) -> None:
    """CURRENT that is no symlink was not made by rotator: a person must look, nothing is overwritten."""
    store.path.mkdir()
    (store.path / "CURRENT").mkdir()
    for call in (store.read, lambda: store.put(leaf(ca), expected=0, stamp=STAMP)):
        with pytest.raises(Rejected, match="is no symlink"):
            call()
    assert (store.path / "CURRENT").is_dir()


@pytest.mark.parametrize("where", ["/etc", "../elsewhere", "publication-0", "publication-1/..", "publication-\u0661"])
def test_a_symlink_out_of_the_directory_is_refused(store: DirectoryStore, ca: FakeCA, where: str) -> None:
    """CURRENT that leads anywhere else is refused, read or written."""
    put(store, leaf(ca))
    (store.path / "CURRENT").unlink()
    (store.path / "CURRENT").symlink_to(where)
    for call in (store.read, store.material, lambda: store.put(leaf(ca), expected=1, stamp=STAMP)):
        with pytest.raises(Rejected, match="leads out of"):
            call()


def test_a_publication_that_is_a_symlink_is_not_followed(store: DirectoryStore, ca: FakeCA, tmp_path: Path) -> None:
    """A publication replaced by a symlink to another directory is not read."""
    put(store, leaf(ca))
    (store.path / "publication-1").rename(tmp_path / "moved")
    (store.path / "publication-1").symlink_to(tmp_path / "moved")
    assert "tls.crt is missing" in problem(store)


def test_a_directory_that_everyone_may_write_gets_no_key(store: DirectoryStore, ca: FakeCA) -> None:
    """Where anyone could replace the symlink no key is published."""
    store.path.mkdir()
    store.path.chmod(0o777)
    with pytest.raises(Denied, match="chmod o-w"):
        put(store, leaf(ca))


# --- two writers -----------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told(store: DirectoryStore, ca: FakeCA) -> None:
    """While another process holds the lock nothing is written (law 14)."""
    put(store, leaf(ca))
    before = store.read()
    with (store.path / ".lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for call in (lambda: put(store, leaf(ca)), lambda: store.forget(keep=frozenset())):
            with pytest.raises(Conflict, match="another process is writing"):
                call()
    assert before == store.read()
    assert 2 == put(store, leaf(ca))


def test_of_many_writers_with_one_view_exactly_one_wins(store: DirectoryStore, ca: FakeCA) -> None:
    """Eight writers that decided on the same publication: one publishes, seven are told."""
    put(store, leaf(ca))
    material, outcomes = leaf(ca), list[str]()
    start = threading.Barrier(8)

    def write() -> None:
        start.wait(20)
        try:
            store.put(material, expected=1, stamp=STAMP)
            outcomes.append("won")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert ["conflict"] * 7 + ["won"] == sorted(outcomes)


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_law_09_a_crash_at_any_moment_leaves_a_whole_publication(tmp_path: Path, ca: FakeCA) -> None:
    """Killed at any file system change: the old or the new publication is whole, and the next writer finishes."""
    old, new = leaf(ca), leaf(ca)
    survived = 0
    for n in range(1, 100):
        store = DirectoryStore(tmp_path / str(n))
        put(store, old)
        finished = _put_killed_at(store, new, n)
        seen = store.material()
        assert seen in (old, new)
        assert (None, True) == ((found := store.read()) and (found.problem, found.key_matches))
        third = leaf(ca)
        put(store, third)
        store.forget(keep=frozenset())
        assert third == store.material()
        assert {"CURRENT", ".lock"} == {name for name in names(store) if not name.startswith("publication-")}
        if finished:
            assert new == seen
            survived = n
            break
    # mkdir, four files of several calls each, rename, symlink, rename: fewer would mean that the count sees nothing.
    assert survived > 15


def _put_killed_at(store: DirectoryStore, material: Material, n: int) -> bool:
    """Publish in a child that is killed right before its n-th change of the file system; return whether it finished."""
    child = os.fork()
    if child == 0:
        changes = {"os.mkdir", "open", "os.rename", "os.symlink", "os.chmod", "os.chown", "os.remove", "os.rmdir"}
        count = 0

        def hook(event: str, _: tuple[object, ...]) -> None:
            nonlocal count
            if event in changes:
                count += 1
                if count == n:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            store.put(material, expected=1, stamp=STAMP)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def test_leftovers_of_a_crash_are_cleared(store: DirectoryStore, ca: FakeCA) -> None:
    """Half a draft and a symlink that was never moved are in nobody's way and go with the next put."""
    put(store, leaf(ca))
    draft = store.path / ".publication-2.tmp"
    draft.mkdir()
    (draft / "tls.key").write_bytes(b"half")
    (store.path / ".CURRENT.tmp").symlink_to("publication-9")
    (store.path / "publication-2").mkdir()
    assert "" == problem(store)
    assert 3 == put(store, leaf(ca))
    assert {"CURRENT", ".lock", "publication-1", "publication-2", "publication-3"} == names(store)


# --- what the machine refuses ----------------------------------------------------------------------------------------


def test_a_full_disk_changes_nothing(store: DirectoryStore, ca: FakeCA) -> None:
    """No space: said so, nothing half-written is left, the old publication stays current."""
    put(store, leaf(ca))
    before, material = store.read(), leaf(ca)
    with files_of_at_most(300), pytest.raises(Unavailable, match="no space left while publishing"):
        put(store, material)
    assert before == store.read()
    assert {"CURRENT", ".lock", "publication-1"} == names(store)
    assert 2 == put(store, material)


AS_NOBODY = """
    import os, sys
    from pathlib import Path
    from rotator.adapters.directory import DirectoryStore
    from rotator.errors import RotatorError
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    store = DirectoryStore(Path(sys.argv[1]))
    try:
        {call}
    except RotatorError as e:
        print(type(e).__name__, e)
"""


@pytest.mark.parametrize("call", ["store.read()", "store.forget(keep=frozenset())"])
def test_a_missing_right_is_said(tmp_path: Path, ca: FakeCA, call: str) -> None:
    """Without rights on the directory: denied, and what to do."""
    store = DirectoryStore(tmp_path / "tls")
    put(store, leaf(ca))
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    store.path.chmod(0o000)
    try:
        program = textwrap.dedent(AS_NOBODY).format(call=call)
        done = subprocess.run(
            [sys.executable, "-c", program, str(store.path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        store.path.chmod(0o755)
    assert done.stdout.startswith("Denied rotator may not do this while"), done.stdout
    assert "let uid" in done.stdout


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, ca: FakeCA) -> None:
    """Where a file stands, no directory is made."""
    (tmp_path / "tls").write_text("mine", encoding="utf-8")
    store = DirectoryStore(tmp_path / "tls")
    for call in (store.read, lambda: store.put(leaf(ca), expected=0, stamp=STAMP)):
        with pytest.raises(RotatorError):
            call()
    assert "mine" == (tmp_path / "tls").read_text(encoding="utf-8")


# --- readers ---------------------------------------------------------------------------------------------------------


def test_law_09_readers_never_see_a_mixture(store: DirectoryStore, ca: FakeCA) -> None:
    """While publications follow each other, whoever opens CURRENT once reads a pair that matches."""
    put(store, leaf(ca))
    materials = [leaf(ca) for _ in range(10)]
    stop, mixed, reads, answers = threading.Event(), list[str](), 0, 0

    def write() -> None:
        for material in materials * 5:
            put(store, material)
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while not stop.is_set():
            folder = os.open(store.path / "CURRENT", os.O_RDONLY | os.O_DIRECTORY)
            try:
                chain, key = (_read_at(folder, name) for name in ("tls.crt", "tls.key"))
            finally:
                os.close(folder)
            reads += 1
            if not key_matches(key, chain):
                mixed.append("pair")
            # A busy machine may switch faster than our own reader looks twice: it says so, and reads nothing.
            with contextlib.suppress(Unavailable):
                mixed += [each for each in (problem(store),) if each]
                answers += 1
    finally:
        writer.join(60)
    assert [] == mixed
    assert reads > 0
    assert answers > 0


def _read_at(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def test_law_10_errors_and_problems_hold_no_key(store: DirectoryStore, ca: FakeCA) -> None:
    """No representation of what is read or written shows the private key."""
    made = leaf(ca)
    seen = store.put(made, expected=0, stamp=STAMP)
    secret = made.key_pem.splitlines()[1].decode()
    assert secret in made.key_pem.decode()
    assert secret not in f"{seen!r}{made!r}{store!r}"
    assert serialization.load_pem_private_key(made.key_pem, None) is not None
