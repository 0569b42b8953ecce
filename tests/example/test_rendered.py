"""
The worked example as it is committed: rendering it again changes nothing, and it says what its README says.

Rules that must stay true here:

- What is compared is whole folders, byte by byte: a file too many is a difference, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rotator.cli import main
from rotator.platform.check import Grade, check
from rotator.platform.reach import reach
from tests.example.documents import EXAMPLES, ON_MACHINES, Example


def contents(directory: Path) -> dict[str, str]:
    """Return every file's text by its path below *directory*."""
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.configuration.stem))
def test_rendering_again_gives_the_same_bytes(example: Example, tmp_path: Path) -> None:
    """What is committed is what `rotator platform render` writes of the configuration now."""
    words = ["--config", str(example.configuration), "platform", "render", "--output", str(tmp_path)]
    assert 0 == main(words)
    assert contents(example.rendered) == contents(tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: str(example.configuration.stem))
def test_nothing_is_permitted_across_environments_and_nothing_is_broken(example: Example) -> None:
    """The check finds nothing broken; every permitted pair is of one environment."""
    platform = example.platform
    assert [] == [each.what for each in check(platform) if each.grade is Grade.BROKEN]
    permitted = [each for each in reach(platform) if each.allowed]
    assert permitted
    assert all(each.caller.environment == each.service.environment for each in permitted)


def test_both_say_the_same_of_who_may_call_what() -> None:
    """On Kubernetes and on machines it is one platform: only its places differ."""
    said = [
        {(each.caller.qualified, each.service.qualified): each.allowed for each in reach(example.platform)}
        for example in EXAMPLES
    ]
    assert said[0] == said[1]


def test_every_machine_has_its_token_in_the_configuration() -> None:
    """What is rendered as needed for the proxies is what the configuration has rotator issue, and its keys sign it."""
    said = yaml.safe_load(ON_MACHINES.configuration.read_text(encoding="utf-8"))
    needed: dict[str, object] = {}
    for path in sorted(ON_MACHINES.rendered.rglob("tokens.yaml")):
        needed |= yaml.safe_load(path.read_text(encoding="utf-8"))["tokens"]
    assert needed == said["tokens"]
    assert {"dataplane"} == {each["signs"] for each in said["signing_keys"].values()}
