"""A person's file, broken and hostile: each ends in one clear line, and none costs more than its size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import ConfigError
from rotator.settings.document import MOST_BYTES, read_document

LAUGHS = b"a: &a [" + b",".join([b"1"] * 10) + b"]\n" + b"".join(
    b"%c: &%c [%s]\n" % (letter, letter, b",".join([b"*%c" % (letter - 1)] * 10)) for letter in range(98, 107)
)  # fmt: skip

BROKEN = {
    "a tab": (
        b"a:\n\tb: 1\n",
        "2: (file): found a tab in the indentation; allowed spaces; do replace it with spaces",
    ),
    "billion laughs": (
        LAUGHS,
        "1: (file): found aliases that unfold to more than 20000 values; allowed fewer; do write them out",
    ),
    "many aliases": (
        b"a: &a 1\nb: [" + b"*a, " * 1001 + b"]\n",
        "2: (file): found more than 1000 aliases; allowed fewer; do write the values out",
    ),
    "deep list": (
        b"[" * 100_000,
        "1: (file): found more than 24 levels; allowed fewer; do look for stray brackets",
    ),
    "deep mapping": (
        b"{a: " * 100_000,
        "1: (file): found more than 24 levels; allowed fewer; do look for stray brackets",
    ),
    "contains itself": (
        b"a: &x\n  b: *x\n",
        "2: (file): found the alias *x before its anchor is complete; allowed earlier anchors; do write it out",
    ),
    "no such anchor": (
        b"a: *x\n",
        "1: (file): found the alias *x before its anchor is complete; allowed earlier anchors; do write it out",
    ),
    "a list": (b"- 1\n", "1: (file): found a list; allowed a mapping; do start from config/rotator.yaml"),
    "one word": (b"hello\n", "1: (file): found a single value; allowed a mapping; do start from config/rotator.yaml"),
    "nothing": (b"", "1: (file): found an empty file; allowed a mapping; do start from config/rotator.yaml"),
    "comments": (b"# a\n", "1: (file): found an empty file; allowed a mapping; do start from config/rotator.yaml"),
    "UTF-16": (
        "a: 1".encode("utf-16"),
        "1: (file): found bytes that are not UTF-8; allowed UTF-8 text; do save the file as UTF-8",
    ),
    "Latin-1": (
        b"a: 1\nb: \xe9\n",
        "2: (file): found bytes that are not UTF-8; allowed UTF-8 text; do save the file as UTF-8",
    ),
    "a zero byte": (
        b"a: 1\nb: \x00\n",
        "2: (file): found a control character; allowed printable text; do remove it",
    ),
    "two documents": (
        b"a: 1\n---\nb: 2\n",
        "2: (file): found a second document; allowed one; do remove everything after ---",
    ),
    "an open brace": (
        b"a: {b: 1\nc: 2\n",
        (
            "2: (file): found what is not YAML (did not find expected ',' or '}'); allowed one YAML mapping; "
            "do look for a missing colon, quote or bracket near it"
        ),
    ),
    "an object": (
        b"a: 1\nb: !!python/object/apply:os.system ['true']\n",
        (
            "2: (file): found the tag tag:yaml.org,2002:python/object/apply:os.system; allowed plain values; "
            "do remove the tag"
        ),
    ),
    "a merge key": (
        b"x: &x {a: 1}\ny:\n  <<: *x\n",
        "3: y.<<: found a merge key; allowed plain keys; do write the keys out",
    ),
    "a key twice": (
        b"a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n",
        "5: b.c: found the same key as on line 3; allowed each key once; do remove one of them",
    ),
    "a number as key": (b"1: 2\n", "1: (file): found a key that is no text; allowed names; do put it in quotes"),
    "a list as key": (
        b"a: 1\n? [b]\n: 2\n",
        "2: (file): found a key that is no text; allowed names; do put it in quotes",
    ),
}


def complaint(path: Path) -> str:
    """Return what reading *path* complains about."""
    with pytest.raises(ConfigError) as caught:
        read_document(path).complain()
    return str(caught.value)


@pytest.mark.parametrize(("content", "expected"), BROKEN.values(), ids=BROKEN)
def test_broken_files_end_in_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    """Every broken or hostile file is one line with its place, what was found, what is allowed and what to do."""
    path = tmp_path / "rotator.yaml"
    path.write_bytes(content)
    assert f"{path}:{expected}" == complaint(path)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Problems that leave the rest readable come together, in the file's order."""
    path = tmp_path / "rotator.yaml"
    path.write_text("a: 1\nb: !x 2\na: 3\n2: 4\n")
    assert [2, 3, 4] == [int(line.removeprefix(f"{path}:").split(":")[0]) for line in complaint(path).splitlines()]


def test_scalars_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    """Times of day, file modes and the word no stay text, with or without quotes."""
    path = tmp_path / "rotator.yaml"
    path.write_text("a: 01:00\nb: 0640\nc: no\nd: 1.5\ne: '12'\nf: 12\ng: ~\nh: true\ni: 0x10\nj: 2026-12-20\n")
    expected = {"a": "01:00", "b": "0640", "c": "no", "d": 1.5, "e": "12", "f": 12, "g": None, "h": True, "i": "0x10"}
    assert {**expected, "j": "2026-12-20"} == read_document(path).root


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    """Every key and list entry knows its line, those that an alias brings the alias's."""
    path = tmp_path / "rotator.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &x\n  - 1\n  -\n    b: 2\nc:\n  d: *x\n")
    lines = read_document(path).lines
    places: list[tuple[str | int, ...]] = [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",), ("c", "d")]
    assert [1, 2, 4, 4, 5, 6] == [lines[place] for place in places]


def test_no_file_no_hang(tmp_path: Path) -> None:
    """What is no readable regular file of a sane size is refused, and a pipe is not waited for."""
    pipe, large = tmp_path / "pipe", tmp_path / "large"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MOST_BYTES + 1))
    said = [complaint(path) for path in (tmp_path / "absent", tmp_path, pipe, Path("/dev/zero"), large)]
    assert [
        (
            "found no file there; allowed a readable YAML file; do name one with --config or ROTATOR_CONFIG, "
            "or mend its rights"
        ),
        "found no regular file; allowed a YAML file; do name one",
        "found no regular file; allowed a YAML file; do name one",
        "found no regular file; allowed a YAML file; do name one",
        "found more than 8388608 bytes; allowed at most that; do name the right file",
    ] == [line.partition("(file): ")[2] for line in said]


def assert_refused_or_read(content: bytes) -> None:
    """Assert that reading *content* gives a mapping or a ConfigError."""
    path = Path(f"/proc/self/fd/{os.memfd_create('noise')}")
    try:
        path.write_bytes(content)
        try:
            found = read_document(path).root
        except ConfigError as e:
            found = {"refused": str(e)}
        assert isinstance(found, dict)
    finally:
        os.close(int(path.name))


@given(st.binary(max_size=400))
def test_noise_is_refused_or_read(content: bytes) -> None:
    """Whatever the bytes are, reading them gives a mapping or a ConfigError, never anything else."""
    assert_refused_or_read(content)


@given(st.text(alphabet="ab:{}[]&*!<'\"|>-?#,\n 1~%@`", max_size=80))
def test_almost_yaml_is_refused_or_read(text: str) -> None:
    """Text made of YAML's own signs gives a mapping or a ConfigError, never anything else."""
    assert_refused_or_read(text.encode())
