"""
The secrets of a control plane that tokens depend on, by name: Secrets of a mesh, and GlobalSecrets.

Rules that must stay true here:

- Only what is asked for by name is read, and what a listing by name shows besides is passed over.
- A write carries what was read (law 14). Kuma's HTTP API knows no precondition, so there it is read back; a value never
  shows in an error (law 10).
- Where both kinds share one name space (Kubernetes), only the kind that Kuma's code reads is kept (`Shelves`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from rotator.adapters.kuma.api import ControlPlaneAPI, Json
from rotator.adapters.kuma.overview import moment
from rotator.errors import Conflict, Rejected
from rotator.http_exchange import segment


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSecret:
    """One secret as it is kept."""

    name: str
    value: bytes = field(repr=False)
    created_at: datetime | None = None
    revision: str = ""
    """What changes with every edit, where the other side knows such a thing."""


class Shelf(Protocol):
    """The secrets of one mesh, or those of the whole control plane."""

    @property
    def title(self) -> str:
        """Return what one of them is called: ``GlobalSecret``, ``Secret of mesh default``."""
        ...

    def read(self, name: str) -> NamedSecret | None:
        """Return one secret, None if it is absent; `Rejected` if something else has its name."""
        ...

    def numbered(self, beginning: str) -> Iterator[NamedSecret]:
        """Yield every secret whose name is *beginning* and a number."""
        ...

    def write(self, name: str, value: bytes, *, seen: NamedSecret | None) -> None:
        """
        Create one secret (*seen* is None), or replace what was *seen*, and read it back.

        Raises `Conflict` if somebody else wrote meanwhile; `Denied` if a tool of somebody else's keeps it; `Rejected`
        if it is a number beyond those that rotator may write.
        """
        ...

    def remove(self, name: str, *, seen: NamedSecret | None = None) -> None:
        """Delete one secret, as it was *seen* or else as it is now; absent is no error, changed since a `Conflict`."""
        ...


class Shelves(Protocol):
    """Every shelf of one control plane."""

    def of_mesh(self, mesh: str) -> Shelf:
        """Return the secrets of *mesh*."""
        ...

    def everywhere(self) -> Shelf:
        """Return the GlobalSecrets."""
        ...

    def lists_of(self, mesh: str) -> tuple[Shelf, ...]:
        """Return where lists of revoked dataplane tokens of *mesh* are kept."""
        ...


class HTTPShelves:
    """Implements `Shelves` over Kuma's HTTP API."""

    def __init__(self, api: ControlPlaneAPI) -> None:
        """Keep secrets at *api*."""
        self._api = api

    def of_mesh(self, mesh: str) -> Shelf:
        """Return the secrets of *mesh*."""
        return SecretShelf(self._api, mesh)

    def everywhere(self) -> Shelf:
        """Return the GlobalSecrets."""
        return SecretShelf(self._api)

    def lists_of(self, mesh: str) -> tuple[Shelf, ...]:
        """Return both that may count: what Kuma documents, and what its code reads (2.12 to 3.0)."""
        return self.of_mesh(mesh), self.everywhere()


class SecretShelf:
    """Implements `Shelf` over the HTTP API; with an empty mesh name the secrets of the whole control plane."""

    def __init__(self, api: ControlPlaneAPI, mesh: str = "") -> None:
        """Keep secrets of *mesh*."""
        self._api = api
        self._mesh = mesh
        self._folder = f"/meshes/{segment(mesh)}/secrets" if mesh else "/global-secrets"
        self.title = f"Secret of mesh {mesh}" if mesh else "GlobalSecret"

    def read(self, name: str) -> NamedSecret | None:
        """Return one secret, None if it is absent."""
        found = self._api.get(self._path(name), doing=f"reading {self.title} {name}")
        return None if found is None else _secret(found, name)

    def numbered(self, beginning: str) -> Iterator[NamedSecret]:
        """Yield every secret whose name is *beginning* and a number."""
        items = self._api.listed(
            self._folder, doing=f"listing every {self.title} {beginning}*", query={"name": beginning}
        )
        for item in items or ():
            name = str(item.get("name", ""))
            # The filter is "contains", and an old version has none.
            if (
                name.startswith(beginning)
                and name.removeprefix(beginning).isdecimal()
                and item.get("mesh", self._mesh) == self._mesh
            ):
                yield _secret(item, name)

    def write(self, name: str, value: bytes, *, seen: NamedSecret | None) -> None:
        """Create or replace one secret and read it back. Raises `Conflict` if somebody else wrote meanwhile."""
        self._expect(name, seen)
        body: Json = {
            "type": "Secret" if self._mesh else "GlobalSecret",
            "name": name,
            "data": base64.b64encode(value).decode("ascii"),
        }
        if self._mesh:
            body["mesh"] = self._mesh
        self._api.put(self._path(name), body, doing=f"writing {self.title} {name}", secret=True)
        back = self.read(name)
        if back is None or back.value != value:
            raise Conflict(f"{self.title} {name} does not read back as it was written: somebody else writes it too")

    def remove(self, name: str, *, seen: NamedSecret | None = None) -> None:
        """Delete one secret and see that it is gone; absent is no error."""
        if seen is not None:
            self._expect(name, seen)
        self._api.delete(self._path(name), doing=f"removing {self.title} {name}")
        if self.read(name) is not None:
            raise Conflict(f"{self.title} {name} was removed and is there again")

    def _expect(self, name: str, seen: NamedSecret | None) -> None:
        """Raise `Conflict` unless what is there now is what was *seen*."""
        present = self.read(name)
        if (present.value if present is not None else None) != (seen.value if seen is not None else None):
            raise Conflict(f"{self.title} {name} was changed since it was read: somebody else writes it too")

    def _path(self, name: str) -> str:
        return f"{self._folder}/{segment(name)}"


def _secret(item: dict[str, Any], name: str) -> NamedSecret:
    try:
        value = base64.b64decode(str(item.get("data") or ""), validate=True)
    except (binascii.Error, ValueError) as e:
        raise Rejected(f"secret {name} holds no base64") from e
    return NamedSecret(name=name, value=value, created_at=moment(item.get("creationTime")))
