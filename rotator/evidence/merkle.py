"""
The tree under the log: RFC 6962 hashes, computed leaf by leaf.

Rules that must stay true here:

- Pure arithmetic on hashes: no file, no clock, no signature.
- Leaves and nodes are hashed apart (prefix 0x00 and 0x01), or a node could pass for a record.
- Nothing here recurses deeper than the height of the tree, nor holds more than what it was given and one path.

Source: RFC 6962 section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

HASH_BYTES = 32

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(record: bytes) -> bytes:
    """Return the hash of one record as a leaf."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above *left* and *right*."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class RightEdge:
    """
    The roots of the complete subtrees of a growing tree, largest first: enough to know the root at every size.

    Holds one hash per bit set in the size.
    """

    def __init__(self) -> None:
        self.size = 0
        self._subtrees: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        node, size = leaf, self.size
        # Each trailing one bit of the size is a complete subtree of the same height, waiting for its sibling.
        while size & 1:
            node = node_hash(self._subtrees.pop(), node)
            size >>= 1
        self._subtrees.append(node)
        self.size += 1

    @property
    def subtrees(self) -> tuple[bytes, ...]:
        """Return the roots of the complete subtrees, largest first."""
        return tuple(self._subtrees)

    def root(self) -> bytes:
        """Return the root of the tree as it stands."""
        return fold(self._subtrees)


def fold(subtrees: Sequence[bytes]) -> bytes:
    """Return the root above complete *subtrees* of falling size, as the bits of the tree's size give them."""
    if not subtrees:
        return EMPTY_ROOT
    *others, root = subtrees
    for subtree in reversed(others):
        root = node_hash(subtree, root)
    return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    """Return the root of the tree over *leaves*, which are leaf hashes or the roots of equally high subtrees."""
    edge = RightEdge()
    for leaf in leaves:
        edge.append(leaf)
    return edge.root()


Subtree = Callable[[int, int], bytes]
"""Gives the root over leaves ``start <= n < stop`` of a subtree that RFC 6962's splitting reaches."""


def split(size: int) -> int:
    """Return the largest power of two smaller than *size* (which is 2 or more): the size of the left half."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return the audit path of leaf *index* in a tree of *size* leaves, from the leaf's sibling upwards."""
    path: list[bytes] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + split(stop - start)
        if index < middle:
            path.append(subtree(middle, stop))
            stop = middle
        else:
            path.append(subtree(start, middle))
            start = middle
    path.reverse()
    return path


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that *path* leads to from *leaf*; None if a path of a tree of *size* cannot look like that."""
    node, position, last = leaf, index, size - 1
    if not 0 <= index < size:
        return None
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            # A rightmost node without a sibling rises unchanged until it has one.
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return node if last == 0 else None
