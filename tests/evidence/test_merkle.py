"""
The tree, against the definition of RFC 6962 and against other people's code.

Rules that must stay true here:

- The naive tree below is the definition, written down word for word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import metamorphic_log
import pymerkle
from hypothesis import given
from hypothesis import strategies as st

from rotator.evidence.merkle import RightEdge, inclusion_path, leaf_hash, root_by_path, root_of

RECORDS = [f"record {number}".encode() for number in range(600)]
LEAVES = [leaf_hash(record) for record in RECORDS]


def naive(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1 over leaf hashes."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive(leaves[:split]) + naive(leaves[split:])).digest()


def test_the_root_is_that_of_the_definition_at_every_size_to_600() -> None:
    """Growing leaf by leaf gives the root of RFC 6962 at each size from 0 on."""
    edge = RightEdge()
    for size in range(601):
        assert naive(LEAVES[:size]) == edge.root()
        if size < 600:
            edge.append(LEAVES[size])


def test_the_root_is_that_of_pymerkle() -> None:
    """Another library finds the same root over the same records."""
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for size, record in enumerate(RECORDS, start=1):
        tree.append_entry(record)
        if size in {1, 2, 3, 255, 256, 257, 512, 600}:
            assert tree.get_root(size) == root_of(LEAVES[:size])


@given(size=st.integers(1, 600), at=st.data())
def test_a_path_leads_to_the_root_and_nowhere_else(size: int, at: st.DataObject) -> None:
    """Every audit path is accepted, by another implementation too, and none for another leaf or index."""
    index = at.draw(st.integers(0, size - 1))
    path = inclusion_path(index, size, lambda start, stop: naive(LEAVES[start:stop]))
    root = naive(LEAVES[:size])
    assert root == root_by_path(LEAVES[index], index, size, path)
    metamorphic_log.verify_inclusion(index, size, LEAVES[index], path, root)
    assert root_by_path(leaf_hash(b"another"), index, size, path) != root
    for other in {index - 1, index + 1, size, size - index - 1} - {index}:
        assert root_by_path(LEAVES[index], other, size, path) != root
    assert root_by_path(LEAVES[index], index, size, [*path, root]) is None
