"""The reference configuration, the examples and the schema say what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from rotator.settings import json_schema, load
from rotator.settings.document import read_document

CONFIG = Path(__file__).parents[2] / "config"
EXAMPLES = sorted((CONFIG / "examples").glob("*.yaml"))


def keys_of(schema: object) -> Iterator[str]:
    """Yield every key that a person may write."""
    if isinstance(schema, Mapping):
        for name, inner in schema.items():
            if name == "properties":
                yield from inner
            yield from keys_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from keys_of(inner)


def test_reference_shows_every_key() -> None:
    """Every key of the schema stands in config/rotator.yaml, in use or commented out."""
    text = (CONFIG / "rotator.yaml").read_text()
    assert [] == sorted(key for key in set(keys_of(json_schema())) if not re.search(rf"(?<![\w]){key}:", text))


def test_reference_explains_every_key() -> None:
    """Every key of config/rotator.yaml is explained where it first stands: on its line or on the one above."""
    lines = (CONFIG / "rotator.yaml").read_text().splitlines()
    explained: set[str] = set()
    bare = []
    for before, line in zip(["", *lines], lines, strict=False):
        found = re.match(r"\s*(?:- )?([a-z_]+):", line)
        if found is None:
            continue
        if "#" in line or before.strip().startswith("#"):
            explained.add(found[1])
        elif found[1] not in explained:
            bare.append(line)
    assert [] == bare


@pytest.mark.parametrize("path", [CONFIG / "rotator.yaml", *EXAMPLES], ids=lambda path: path.name)
def test_examples_load_and_fit_the_schema(path: Path) -> None:
    """What we show loads without a complaint, and an editor that knows the schema has none either."""
    load(path)
    jsonschema.validate(read_document(path).root, json_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", [CONFIG / "rotator.yaml", *EXAMPLES], ids=lambda path: path.name)
def test_other_readers_see_the_same(path: Path) -> None:
    """An ordinary YAML reader finds the same keys: nothing here hangs on our own reading."""
    ordinary = yaml.safe_load(path.read_text())
    assert shape(read_document(path).root) == shape(ordinary)


def shape(value: object) -> object:
    """Return *value* with every scalar taken out."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return None


def test_schema_file_is_current() -> None:
    """config/rotator.schema.json is what `rotator config schema > config/rotator.schema.json` writes."""
    assert json_schema() == json.loads((CONFIG / "rotator.schema.json").read_text())


def test_schema_describes_every_key() -> None:
    """Every key has a sentence for editors to show."""
    fields = list(fields_of(json_schema()))
    # A reference without a description of its own has its class's.
    assert [] == [name for name, each in fields if "$ref" not in each and not each.get("description")]


def fields_of(schema: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every key with its schema."""
    if isinstance(schema, Mapping):
        yield from schema.get("properties", {}).items()
        for inner in schema.values():
            yield from fields_of(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from fields_of(inner)
