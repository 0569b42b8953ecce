"""
A directory in which publications lie side by side and one symlink says which counts.

Rules that must stay true here:

- What is published moves as one (law 9): a publication is complete, synced to disk and read back before the symlink
  names it, and never written to afterwards.
- A reader that opens ``CURRENT`` at any moment, also after a crash at any moment, finds a whole publication.
- Two writers exclude each other by a file lock, and a writer that decided on an older publication gets `Conflict`
  (law 14).
- A secret is never readable by everyone, not even for a moment (law 10).
- No symlink but ``CURRENT`` is followed, and that one only to a publication of this very directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rotator.adapters.directory.files import File, remove, write_files
from rotator.adapters.directory.publication import digest_of, files_of
from rotator.core.model import Publication
from rotator.errors import ConfigError, Conflict, Denied, Rejected, Unavailable

CURRENT = "CURRENT"

_SWITCH = ".CURRENT.tmp"
_LOCK = ".lock"
_PUBLICATION = re.compile(r"publication-([1-9][0-9]{0,17})", re.ASCII)
_DRAFT = re.compile(r"\.publication-[0-9]+\.tmp", re.ASCII)

# Reading again if somebody switched meanwhile; more often than this is a writer gone mad.
_READS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whose the published files are and who may read them."""

    owner: str | int | None = None
    """User of the consumer; None leaves them to rotator's own."""
    group: str | int | None = None
    key_mode: int = 0o600
    file_mode: int = 0o644
    directory_mode: int = 0o755


Reading = Callable[[Mapping[str, File], int], Publication]
"""Says what the files of one publication mean; everything that is wrong becomes its problem."""


class SwitchedDirectory:
    """
    One directory of publications. Every call looks at the disk.

    Kept in memory is only what the files last read mean, found again by their digest.
    """

    def __init__(
        self, path: Path, *, names: tuple[str, ...], secret: frozenset[str], reading: Reading, access: Access | None
    ) -> None:
        """
        Name the directory; it is made when something is first published.

        *names* are the files of a publication, those in *secret* have the key's mode.

        Raises:
            ConfigError: If *access* lets everyone read a secret, or names a user or group that does not exist.
        """
        self._path = path
        self._names = names
        self._secret = secret
        self._reading = reading
        self._access = access or Access()
        if self._access.key_mode & 0o007:
            raise ConfigError(
                f"mode {self._access.key_mode:04o} would let everyone at {' and '.join(secret)} in {path}"
            )
        self._uid = _number_of(self._access.owner, "user")
        self._gid = _number_of(self._access.group, "group")
        self._understood: tuple[bytes, Publication] | None = None

    @property
    def path(self) -> Path:
        """Return the directory that holds ``CURRENT``."""
        return self._path

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        return f"directory:{self._path}"

    def read(self) -> Publication | None:
        """
        Return what ``CURRENT`` names, parsed; None if nothing was ever published.

        Unreadable, mismatched or edited material is a `Publication.problem`.

        Raises:
            Rejected: If ``CURRENT`` is not a symlink to a publication of this directory: a person must look.
            Denied: If rotator may not read it.
        """
        with self._translated("reading"):
            try:
                root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                return None
            try:
                for _ in range(_READS):
                    number = self._current(root)
                    if number == 0:
                        return None
                    seen = self._understand(files_of(root, _name(number), self._names), number)
                    if number == self._current(root):
                        return seen
            finally:
                os.close(root)
        raise Unavailable(f"{self.target} is switched faster than it can be read")

    def contents(self) -> tuple[int, Mapping[str, bytes]]:
        """Return number and files of what is published now. Raises `Rejected` if nothing is."""
        if self.read() is None:
            raise Rejected(f"nothing is published in {self.target}")
        with self._translated("reading"), self._opened() as root:
            number = self._current(root)
            found = files_of(root, _name(number), self._names)
            return number, {name: file.content for name, file in found.items()}

    def publish(
        self,
        contents: Callable[[int], Mapping[str, bytes]],
        is_wanted: Callable[[Publication], bool],
        *,
        expected: int,
    ) -> Publication:
        """
        Publish what *contents* gives for the next number, switch to it and read it back; *is_wanted* judges that.

        Raises:
            Conflict: If another publication than *expected* is current, or another process is writing.
            Denied: If a right is missing or the file system is read-only.
            Unavailable: If the disk is full or fails. Nothing half-written is ever current.
        """
        with self._translated("publishing"):
            self._path.mkdir(mode=0o755, parents=True, exist_ok=True)
            with self._opened() as root, self._locked(root):
                self._refuse_open_directory(root)
                current = self._current(root)
                if current != expected:
                    raise Conflict(f"publication {current} is current in {self.target}, expected was {expected}")
                self._clear(root)
                number = max([current, *_numbers(root)]) + 1
                try:
                    seen = self._write(root, number, contents(number), is_wanted)
                    self._switch(root, number)
                except BaseException:
                    # Best effort: what is left is found by the next put, and no reader looks at it.
                    with contextlib.suppress(OSError):
                        self._clear(root)
                    raise
        return seen

    def forget(self, *, keep: frozenset[int]) -> None:
        """Remove publications that are neither current nor in *keep*, and what a crash left."""
        with self._translated("clearing"):
            if not self._path.exists():
                return
            with self._opened() as root, self._locked(root):
                self._clear(root)
                spared = keep | {self._current(root)}
                for number in _numbers(root):
                    if number not in spared:
                        remove(root, _name(number))

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(
        self, root: int, number: int, contents: Mapping[str, bytes], is_wanted: Callable[[Publication], bool]
    ) -> Publication:
        """Make publication *number*: complete, on disk and read back before it has its name."""
        draft = f".publication-{number}.tmp"
        os.mkdir(draft, 0o700, dir_fd=root)
        folder = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        try:
            modes = {
                name: self._access.key_mode if name in self._secret else self._access.file_mode for name in contents
            }
            write_files(folder, contents, modes=modes, uid=self._uid, gid=self._gid)
            os.fchown(folder, self._uid, self._gid)
            os.fchmod(folder, self._access.directory_mode)
            os.fsync(folder)
        finally:
            os.close(folder)
        files = files_of(root, draft, self._names)
        seen = self._understand(files, number)
        same = {name: file.content for name, file in files.items()} == contents
        if not same or seen.problem is not None or not is_wanted(seen):
            raise Unavailable(
                f"publication {number} in {self.target} reads back otherwise than written: "
                f"{seen.problem or 'another content'}"
            )
        # Synced together with the switch: a journalled file system keeps the order of two changes of one directory, and
        # where one does not, a power cut shows as a missing publication, which is published anew.
        os.rename(draft, _name(number), src_dir_fd=root, dst_dir_fd=root)
        return seen

    def _switch(self, root: int, number: int) -> None:
        """Let ``CURRENT`` name publication *number*: one rename, seen by watchers as a move into the directory."""
        os.symlink(_name(number), _SWITCH, dir_fd=root)
        os.rename(_SWITCH, CURRENT, src_dir_fd=root, dst_dir_fd=root)
        os.fsync(root)

    def _clear(self, root: int) -> None:
        """Remove what a crashed writer left: half a draft, or a symlink that was never moved."""
        for name in os.listdir(root):
            if name == _SWITCH or _DRAFT.fullmatch(name):
                remove(root, name)

    def _refuse_open_directory(self, root: int) -> None:
        """Refuse a directory in which anyone could replace the symlink."""
        mode = os.fstat(root).st_mode
        if mode & stat.S_IWOTH:
            raise Denied(f"everyone may write in {self._path}: take that right away (chmod o-w) before keys go there")

    def _understand(self, files: Mapping[str, File], number: int) -> Publication:
        """Return what *files* mean; the same files mean the same, so they are parsed once."""
        digest = digest_of(files)
        if self._understood is not None and (digest, number) == (self._understood[0], self._understood[1].number):
            return self._understood[1]
        seen = self._reading(files, number)
        self._understood = (digest, seen)
        return seen

    # --- reading ----------------------------------------------------------------------------------------------------

    def _current(self, root: int) -> int:
        """Return which publication ``CURRENT`` names, 0 for none."""
        try:
            name = os.readlink(CURRENT, dir_fd=root)
        except FileNotFoundError:
            return 0
        except OSError as e:
            if e.errno == errno.EINVAL:
                raise Rejected(f"{self._path / CURRENT} is no symlink: somebody else put it there") from e
            raise
        match = _PUBLICATION.fullmatch(name)
        if match is None:
            raise Rejected(f"{self._path / CURRENT} leads out of the publications of {self._path}")
        return int(match[1])

    # --- the outside --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the directory itself, so that every name below means this very one."""
        root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield root
        finally:
            os.close(root)

    @contextlib.contextmanager
    def _locked(self, root: int) -> Iterator[None]:
        """Hold the writers' lock; the kernel gives it back when the process ends, however it ends."""
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Conflict(f"another process is writing to {self.target}") from e
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Run file calls; *doing* completes "... failed while publishing directory:/x"."""
        try:
            yield
        except OSError as e:
            reason = e.strerror or "unknown error"
            match e.errno:
                case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                    raise Unavailable(f"no space left while {doing} {self.target}: free some ({reason})") from e
                case errno.EACCES | errno.EPERM:
                    raise Denied(
                        f"rotator may not do this while {doing} {self.target}: "
                        f"let uid {os.geteuid()} read, write and search it ({reason})"
                    ) from e
                case errno.EROFS:
                    raise Denied(f"{self.target} is on a read-only file system: mount it writable") from e
                case errno.ENOTDIR | errno.ELOOP | errno.EISDIR:
                    raise Rejected(f"{self.target} is not a directory of publications ({reason})") from e
                case _:
                    raise Unavailable(f"the file system failed while {doing} {self.target}: {reason}") from e


def _name(number: int) -> str:
    """Return the name of publication *number*."""
    return f"publication-{number}"


def _numbers(root: int) -> tuple[int, ...]:
    """Return the numbers of the publications that lie there."""
    return tuple(int(match[1]) for name in os.listdir(root) if (match := _PUBLICATION.fullmatch(name)))


def _number_of(name: str | int | None, kind: str) -> int:
    """Return the uid or gid of *name*, -1 (leave it) for None."""
    match name:
        case None:
            return -1
        case int():
            return name
        case _:
            try:
                return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
            except KeyError as e:
                raise ConfigError(f"there is no {kind} {name!r} on this machine") from e
