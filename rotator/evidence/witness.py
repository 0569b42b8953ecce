"""
The policy that says whose cosignatures make a checkpoint witnessed.

Rules that must stay true here:

- A policy is a person's file: whatever is wrong with it is a `ConfigError` with its line number.
- A witness counts once, by its key; a group counts as one word for its members; ``quorum none`` witnesses nothing.

Source: C2SP tlog-policy (untagged, read on 2026-11-22).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from rotator.errors import ConfigError
from rotator.evidence.note import COSIGNATURE_ED25519, ED25519, Note, VerifierKey

MAX_POLICY_BYTES = 256 * 1024
_NONE = "none"
_MIN_GROUP_WORDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Counts as having witnessed when *threshold* of *members* have."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Whose word is needed."""

    logs: tuple[VerifierKey, ...]
    """Empty: any log that is known otherwise."""
    witnesses: dict[str, VerifierKey]
    groups: dict[str, Group]
    """In the order of their definition: a group knows only those before it."""
    quorum: str

    @property
    def asks_nobody(self) -> bool:
        """Return whether it asks for no witness at all."""
        return self.quorum == _NONE

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the policy in *raw*. Raises `ConfigError` naming the line that cannot be used."""
        if len(raw) > MAX_POLICY_BYTES:
            raise ConfigError("the witness policy is longer than any policy")
        reader = _PolicyReader()
        for number, line in enumerate(raw.split(b"\n"), start=1):
            words = line.replace(b"\t", b" ").decode(errors="surrogateescape").split(" ")
            words = [word for word in words if word]
            if words and not words[0].startswith("#"):
                try:
                    reader.read(words)
                except ConfigError as e:
                    raise ConfigError(f"line {number} of the witness policy: {e}") from e
        if reader.quorum is None:
            raise ConfigError("the witness policy has no quorum line")
        return cls(logs=tuple(reader.logs), witnesses=reader.witnesses, groups=reader.groups, quorum=reader.quorum)

    def cosigners(self, note: Note) -> tuple[str, ...]:
        """
        Return the names of the witnesses that cosigned *note*.

        Raises:
            LedgerTampered: If a line says that it is a known witness's and does not verify.
        """
        return tuple(name for name, key in self.witnesses.items() if note.verified_by(key))

    def met_by(self, cosigners: tuple[str, ...]) -> bool:
        """Return whether *cosigners* are the quorum that is asked for. Nobody is never a quorum."""
        spoken = set(cosigners)
        for name, group in self.groups.items():
            if len(spoken.intersection(group.members)) >= group.threshold:
                spoken.add(name)
        return self.quorum in spoken


class _PolicyReader:
    """Gathers the lines of a policy."""

    def __init__(self) -> None:
        self.logs: list[VerifierKey] = []
        self.witnesses: dict[str, VerifierKey] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self._taken: set[str] = set()

    def read(self, words: list[str]) -> None:
        """Take one line. Raises `ConfigError` without its number."""
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                key = _key(vkey, ED25519, "a log's")
                if any(key.public == other.public for other in self.logs):
                    raise ConfigError("this log's key is there already")
                self.logs.append(key)
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                key = _key(vkey, COSIGNATURE_ED25519, "a witness's")
                if any(key.public == other.public for other in self.witnesses.values()):
                    raise ConfigError("this witness's key is there already: one witness would count twice")
                self._name(name)
                self.witnesses[name] = key
            case ["group", name, threshold, *members] if len(words) >= _MIN_GROUP_WORDS:
                self._group(name, threshold, members)
            case ["quorum", name] if self.quorum is None:
                if name != _NONE and not self._known(name):
                    raise ConfigError(f"{name!r} is not defined above")
                self.quorum = name
            case ["quorum", _]:
                raise ConfigError("there is a quorum already")
            case _:
                raise ConfigError("is no log, witness, group or quorum line")

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        for member in members:
            if not self._known(member):
                raise ConfigError(f"{member!r} is not defined above")
            if member in self._taken:
                raise ConfigError(f"{member!r} is in a group already: it would count twice")
            self._taken.add(member)
        match threshold:
            case "any":
                needed = 1
            case "all":
                needed = len(members)
            case digits if digits.isascii() and digits.isdigit() and 1 <= int(digits[:6]) <= len(members):
                needed = int(digits[:6])
            case _:
                raise ConfigError(f"the threshold must be any, all or 1 to {len(members)}")
        self._name(name)
        self.groups[name] = Group(threshold=needed, members=tuple(members))

    def _name(self, name: str) -> None:
        if name == _NONE or self._known(name):
            raise ConfigError(f"the name {name!r} is taken")

    def _known(self, name: str) -> bool:
        return name in self.witnesses or name in self.groups


def _key(vkey: str, kind: int, whose: str) -> VerifierKey:
    key = VerifierKey.parse(vkey)
    if key.type != kind:
        raise ConfigError(f"{key.name} is not of {whose} type (Ed25519, {kind})")
    return key
