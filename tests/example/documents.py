"""
The example as it stands in ``deploy/example``: its configuration, and the documents that were rendered of it.

Rules that must stay true here:

- Documents are read as anybody's tool would read them: YAML, of either form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from rotator.cli import main
from rotator.platform.model import Platform
from rotator.settings import load, platform_of
from tests.fakes.kuma.store import Json

HOME = Path(__file__).parents[2] / "deploy" / "example"
_KUMA = "kuma.io/v1alpha1"
_MESH = "kuma.io/mesh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One configuration of the example."""

    configuration: Path
    rendered: Path
    """The folder with what was rendered of it."""

    @property
    def platform(self) -> Platform:
        """Return what the configuration says of the platform."""
        found = platform_of(load(self.configuration))
        assert found is not None, f"{self.configuration} has no platform"
        return found

    def documents(self) -> Iterator[Json]:
        """Yield Kuma's documents as its HTTP API takes them, file by file."""
        for path in sorted(self.rendered.rglob("*.yaml")):
            for said in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                if isinstance(said, dict) and said.get("apiVersion") == _KUMA:
                    yield _from_kubernetes(said)
                elif isinstance(said, dict) and "type" in said:
                    yield said


def with_provided_ca(example: Example, work: Path) -> Example:
    """Return *example* as it is in a mesh of the older form, whose CA is provided, rendered anew below *work*."""
    said = yaml.safe_load(example.configuration.read_text(encoding="utf-8"))
    for domain in said["trust_domains"].values():
        domain["model"] = "provided"
    # Their claims are others there: by tags.
    said.pop("tokens", None)
    said.pop("signing_keys", None)
    configuration, rendered = work / "rotator.yaml", work / "rendered"
    configuration.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
    assert 0 == main(["--config", str(configuration), "platform", "render", "--output", str(rendered)])
    return Example(configuration=configuration, rendered=rendered)


ON_KUBERNETES = Example(configuration=HOME / "rotator.yaml", rendered=HOME / "rendered")
ON_MACHINES = Example(configuration=HOME / "machines.yaml", rendered=HOME / "rendered-machines")
EXAMPLES = (ON_KUBERNETES, ON_MACHINES)


def _from_kubernetes(said: Json) -> Json:
    labels = said["metadata"].get("labels") or {}
    mesh = {"mesh": labels[_MESH]} if _MESH in labels else {}
    return {"type": said["kind"], **mesh, "name": said["metadata"]["name"], "labels": labels, "spec": said["spec"]}
