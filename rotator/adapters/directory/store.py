"""
A directory in which one certificate is published: versions side by side, one symlink says which counts.

::

    CURRENT -> publication-7        replaced by rename: what Envoy's watched_directory and every reader sees
    publication-7/tls.crt           leaf, then intermediates
    publication-7/tls.key           PKCS#8, 0600
    publication-7/ca.crt            trust bundle
    publication-7/publication.json  whose it is, since when, and what the files should hash to
    publication-6/                  the one before, until `forget`

Rules that must stay true here: those of `rotator.adapters.directory.switched`, and:

- Key, certificate and chain are one publication (law 9).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rotator.adapters.directory.publication import FILES, contents_of, publication_of
from rotator.adapters.directory.switched import CURRENT, Access, SwitchedDirectory
from rotator.core.model import Publication
from rotator.errors import Rejected
from rotator.pki.certificates import Material, material
from rotator.pki.published import BUNDLE, CHAIN, KEY
from rotator.ports import Stamp

__all__ = ["CURRENT", "Access", "DirectoryStore"]


class DirectoryStore(SwitchedDirectory):
    """`LeafStore` over one directory."""

    def __init__(self, path: Path, *, access: Access | None = None) -> None:
        """Name the directory, as `SwitchedDirectory` does."""
        chosen = access or Access()
        reading = partial(publication_of, target=f"directory:{path}", key_mode=chosen.key_mode)
        super().__init__(path, names=FILES, secret=frozenset({KEY}), reading=reading, access=chosen)

    def material(self) -> Material:
        """Return what is published now, key included. Raises `Rejected` if there is nothing, or nothing usable."""
        number, files = self.contents()
        if missing := [name for name in (CHAIN, KEY, BUNDLE) if name not in files]:
            raise Rejected(f"publication {number} in {self.target} lacks {', '.join(missing)}")
        return material(files[CHAIN], files[KEY], files[BUNDLE])

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """Publish *material* as the publication after *expected*; errors as `SwitchedDirectory.publish`."""
        return self.publish(
            lambda number: contents_of(material, number, stamp),
            lambda seen: (material.leaf, material.bundle) == (seen.leaf, seen.bundle),
            expected=expected,
        )
