"""
Resident memory of an engine that looks after very many certificates.

    python -m tests.bench.memory COUNT

Rules that must stay true here:

- Each count has a process of its own: what an earlier one freed would be counted as free.
- Journal and engine are real. The stores are not: each gives one publication, parsed and kept as a directory's store
  does, of its own texts and one shared bundle; 100,000 directories would take longer to write than they say.
- Per certificate it is compared with the bare PEM bytes of leaf, key and bundle.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rotator.core.model import Publication, Serial, SubjectName
from rotator.errors import Rejected
from rotator.pki.certificates import Material
from rotator.ports import Issuance, IssuanceKind, IssuanceState, Stamp
from tests.bench.figures import Figure
from tests.bench.fleet import ROTATION, begin, published, save, trust_domain
from tests.bench.installation import DOMAIN, Installation, certificate
from tests.fakes.clock import ManualClock
from tests.fakes.leaf_store import MemoryLeafStore
from tests.fakes.vault import FakeVault

COUNTS = (1_000, 10_000, 100_000)


class OnePublication:
    """A `LeafStore` that holds one publication and takes no other."""

    def __init__(self, publication: Publication) -> None:
        """Hold *publication*."""
        self._publication = publication

    @property
    def target(self) -> str:
        """Return the place as people name it."""
        return self._publication.target

    def read(self) -> Publication | None:
        """Return what is published."""
        return self._publication

    def material(self) -> Material:
        """Refuse: nothing is published again here."""
        raise Rejected("the bench publishes nothing")

    def put(self, material: Material, *, expected: int, stamp: Stamp) -> Publication:
        """Refuse: nothing is due here."""
        raise Rejected(f"the bench publishes nothing: {material.leaf.serial}, {expected}, {stamp.subject}")

    def forget(self, *, keep: frozenset[int]) -> None:
        """Forget nothing."""


def resident() -> int:
    """Return the bytes of memory that this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def measure(count: int, directory: Path) -> dict[str, int]:
    """Return resident bytes before and after *count* certificates are known and seen, and the bytes of one's PEMs."""
    clock = ManualClock()
    domain = trust_domain(FakeVault(clock))
    signer = begin(directory, domain, clock)
    example = MemoryLeafStore()
    row = published(certificate(0, example), domain, signer, clock)
    made, model = example.material(), example.read()
    assert model is not None, "nothing was published"
    assert model.leaf is not None, "no leaf was published"
    leaf = model.leaf

    def publication(number: int) -> Publication:
        name = SubjectName(f"service-{number}")
        own = replace(
            leaf,
            serial=Serial(f"{number:040x}"),
            sha256=f"{number:064x}",
            spki_sha256=f"{number:064x}",
            spiffe_id=f"spiffe://{DOMAIN}/{name}",
        )
        return replace(
            model, target=f"directory:/var/lib/rotator/published/{name}", subject=name, leaf=own, rotation_id=ROTATION
        )

    def rows() -> Iterator[Issuance]:
        for number in range(count):
            name = SubjectName(f"service-{number}")
            yield replace(row, subject=name, spki_sha256=f"{number:064x}", serial=Serial(f"{number:040x}"))

    with Installation(directory, domain, (), clock) as installation:
        save(installation, [replace(row, state=IssuanceState.LAPSED, kind=IssuanceKind.LEAF), *rows()])
    before = resident()
    targets = [certificate(number, OnePublication(publication(number))) for number in range(count)]
    with Installation(directory, domain, targets, clock) as installation:
        del targets
        installation.engine.sweep()
        installation.engine.sweep()
        after = resident()
        seen = sum(installation.engine.leaves.view(name) is not None for name in installation.engine.fleet.certificates)
        opened = len(installation.store.rotations())
    assert (count, 1) == (seen, opened), f"{seen} were seen, {opened} rotations were opened"
    pem = len(made.chain_pem) + len(made.key_pem) + len(made.bundle_pem)
    return {"before": before, "after": after, "pem": pem}


def bench(_directory: Path, _seconds: float) -> list[Figure]:
    """Measure each count in a process of its own."""
    figures: list[Figure] = []
    for count in COUNTS:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.bench.memory", str(count)],
            capture_output=True,
            text=True,
            timeout=1800,
            check=True,
        )
        found: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
        own = (found["after"] - found["before"]) / count
        mebi = found["after"] / 2**20
        figures += [
            Figure(
                bench="memory", name=f"{count:,}: per certificate / bare PEM", value=own / found["pem"], unit="ratio"
            ),
            Figure(bench="memory", name=f"{count:,}: a certificate", value=own / 1024, unit="KiB"),
            Figure(bench="memory", name=f"{count:,}: the whole process", value=mebi, unit="MiB"),
        ]
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rotator-bench-memory-") as place:
        print(json.dumps(measure(int(sys.argv[1]), Path(place))))
