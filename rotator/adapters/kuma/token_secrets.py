"""
The secrets of a control plane that tokens depend on, by name: Secrets of a mesh, and GlobalSecrets.

Rules that must stay true here:

- Only what is asked for by name is read, and what a listing by name shows besides is passed over.
- The API knows no precondition: what is written is read back (law 14), and a value never shows in an error (law 10).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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


class SecretShelf:
    """The secrets of one mesh, or with an empty mesh name those of the whole control plane."""

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

    def named(self, beginning: str) -> Iterator[NamedSecret]:
        """Yield every secret whose name begins like that."""
        items = self._api.listed(
            self._folder, doing=f"listing every {self.title} {beginning}*", query={"name": beginning}
        )
        for item in items or ():
            name = str(item.get("name", ""))
            # The filter is "contains", and an old version has none.
            if name.startswith(beginning) and item.get("mesh", self._mesh) == self._mesh:
                yield _secret(item, name)

    def write(self, name: str, value: bytes) -> None:
        """Create or replace one secret and read it back. Raises `Conflict` if somebody else wrote meanwhile."""
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

    def remove(self, name: str) -> None:
        """Delete one secret and see that it is gone; absent is no error."""
        self._api.delete(self._path(name), doing=f"removing {self.title} {name}")
        if self.read(name) is not None:
            raise Conflict(f"{self.title} {name} was removed and is there again")

    def _path(self, name: str) -> str:
        return f"{self._folder}/{segment(name)}"


def _secret(item: dict[str, Any], name: str) -> NamedSecret:
    try:
        value = base64.b64decode(str(item.get("data") or ""), validate=True)
    except (binascii.Error, ValueError) as e:
        raise Rejected(f"secret {name} holds no base64") from e
    return NamedSecret(name=name, value=value, created_at=moment(item.get("creationTime")))
