"""
A person's YAML file read into plain values, each with the line it came from.

Rules that must stay true here:

- Hostile input costs no more than its size: bounded bytes, depth, aliases and what aliases unfold to; no recursion into
  the parser, no tag ever builds an object.
- Scalars are read as YAML 1.2 reads them: ``01:00``, ``0640`` and ``no`` are text, so quotes never change a meaning.
- What is wrong is collected with its line, not raised one by one; only what leaves nothing to go on with is raised.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NoReturn

import yaml

from rotator.errors import ConfigError

Place = tuple[str | int, ...]
"""Where in the file: the keys and list indexes from the root."""

MOST_BYTES: Final = 8 * 1024 * 1024
"""Ten thousand certificates written at length take 4 MiB."""
DEEPEST: Final = 24
MOST_ALIASES: Final = 1000
MOST_UNFOLDED: Final = 20_000
"""Values that aliases may add. A "billion laughs" file unfolds to 10^9."""
MOST_SHOWN: Final = 200
"""One mistake in an anchor can be thousands of lines."""

_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_NUMBER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}")
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_PLAIN_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """One thing that is wrong with the file."""

    line: int
    field: str
    """The place as people write it: ``certificates.web.publish[0].directory``."""
    says: str
    """``found X; allowed Y; do Z``."""


@dataclass(slots=True, kw_only=True)
class Document:
    """The file as plain values."""

    name: str
    root: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line_of(self, place: Place) -> int:
        """Return the line of *place*, or of the nearest thing above it that is in the file."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return 1

    def refuse(self, place: Place, says: str, line: int | None = None) -> None:
        """Note that what stands at *place* cannot be used."""
        problem = Problem(line=line or self.line_of(place), field=written_place(place), says=says)
        self.problems.append(problem)

    def complain(self) -> None:
        """Raise one `ConfigError` with every problem, one line each, in the file's order; return if there is none."""
        if not self.problems:
            return
        lines = [f"{self.name}:{each.line}: {each.field}: {each.says}" for each in sorted(self.problems)]
        if len(lines) > MOST_SHOWN:
            lines[MOST_SHOWN:] = [f"{self.name}: and {len(lines) - MOST_SHOWN} more like these"]
        raise ConfigError("\n".join(lines))


def written_place(place: Place) -> str:
    """Return *place* as people write it: ``certificates.web.publish[0].directory``; the root is ``(file)``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(file)"


def read_document(path: Path) -> Document:
    """
    Return what *path* holds, with the problems that leave the rest readable (a key given twice, an unknown tag).

    Raises:
        ConfigError: If there is no such file, or nothing in it can be read.
    """
    name = str(path)
    text = _text_of(path, name)
    document = Document(name=name)
    try:
        document.root = _Reader(document, text).read()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{name}:{line}: (file): found {_syntax(e, text, line)}") from e
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise ConfigError(
            f"{name}:{line}: (file): found a control character; allowed printable text; do remove it"
        ) from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{name}:1: (file): found what is not YAML; allowed one YAML mapping; do mend it") from e
    return document


def _text_of(path: Path, name: str) -> str:
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as e:
        why = "no file there" if e.errno == errno.ENOENT else (e.strerror or "an error").lower()
        raise ConfigError(
            f"{name}:1: (file): found {why}; allowed a readable YAML file; "
            "do name one with --config or ROTATOR_CONFIG, or mend its rights"
        ) from e
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ConfigError(f"{name}:1: (file): found no regular file; allowed a YAML file; do name one")
    with os.fdopen(handle, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"{name}:1: (file): found more than {MOST_BYTES} bytes; allowed at most that; do name the right file"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise ConfigError(
            f"{name}:{line}: (file): found bytes that are not UTF-8; allowed UTF-8 text; do save the file as UTF-8"
        ) from e


def _syntax(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    rows = text.splitlines()
    row = rows[line - 1] if 0 < line <= len(rows) else ""
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return "a tab in the indentation; allowed spaces; do replace it with spaces"
    said = (error.problem or "a mistake").removeprefix("found ").lower()
    return f"what is not YAML ({said}); allowed one YAML mapping; do look for a missing colon, quote or bracket near it"


@dataclass(slots=True, kw_only=True)
class _Node:
    """One value of the file, before aliases are unfolded."""

    line: int
    shape: Literal["scalar", "sequence", "mapping", "alias"]
    value: object = None
    """A scalar's value."""
    children: list[_Node] = field(default_factory=list)
    """A sequence's items, a mapping's keys and values by turns, or the one node that an alias stands for."""


class _Reader:
    """
    Reads parser events; the nesting is kept in a list, so depth cannot exhaust the stack.

    An anchor is known only once its value is complete, so that nothing can contain itself.
    """

    def __init__(self, document: Document, text: str) -> None:
        self._document = document
        # C where there is one: the pure reader takes ten times as long, which only large files notice.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events = yaml.parse(text, Loader=loader)
        self._anchors: dict[str, _Node] = {}
        self._aliases = 0
        self._unfolded = 0

    def read(self) -> object:
        """Return the one document's value."""
        tree = self._tree()
        if tree is None or (tree.shape == "scalar" and tree.value is None):
            self._stop(1, "found an empty file; allowed a mapping; do start from config/rotator.yaml")
        if tree.shape != "mapping":
            kind = "a list" if tree.shape == "sequence" else "a single value"
            self._stop(tree.line, f"found {kind}; allowed a mapping; do start from config/rotator.yaml")
        return self._plain(tree, (), aliased=False)

    def _tree(self) -> _Node | None:
        root: _Node | None = None
        open_nodes: list[tuple[_Node, str | None]] = []
        documents = 0
        for event in self._events:
            line = event.start_mark.line + 1 if event.start_mark else 1
            node: _Node | None = None
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        self._stop(line, "found a second document; allowed one; do remove everything after ---")
                case yaml.AliasEvent():
                    node = self._aliased(event.anchor or "", line)
                case yaml.ScalarEvent():
                    node = _Node(line=line, shape="scalar", value=self._scalar(event, line))
                    self._remember(event.anchor, node)
                case yaml.CollectionStartEvent():
                    self._check_tag(event.tag, line)
                    mapping = isinstance(event, yaml.MappingStartEvent)
                    open_nodes.append((_Node(line=line, shape="mapping" if mapping else "sequence"), event.anchor))
                    if len(open_nodes) > DEEPEST:
                        self._stop(line, f"found more than {DEEPEST} levels; allowed fewer; do look for stray brackets")
                case yaml.CollectionEndEvent():
                    node, anchor = open_nodes.pop()
                    self._remember(anchor, node)
                case _:
                    pass
            if node is None:
                continue
            if open_nodes:
                open_nodes[-1][0].children.append(node)
            else:
                root = node
        return root

    def _plain(self, node: _Node, place: Place, *, aliased: bool) -> object:
        """Return *node* as dicts, lists and scalars; depth is bounded, so this may recurse."""
        self._document.lines.setdefault(place, node.line)
        if node.shape == "alias":
            node, aliased = node.children[0], True
        self._unfolded += aliased
        if self._unfolded > MOST_UNFOLDED:
            says = f"found aliases that unfold to more than {MOST_UNFOLDED} values; allowed fewer; do write them out"
            self._stop(self._document.line_of(place), says)
        if len(place) > DEEPEST:
            says = f"found more than {DEEPEST} levels; allowed fewer; do write the aliases out"
            self._stop(self._document.line_of(place), says)
        match node.shape:
            case "mapping":
                return self._mapping(node.children, place, aliased=aliased)
            case "sequence":
                return [self._plain(child, (*place, at), aliased=aliased) for at, child in enumerate(node.children)]
            case _:
                return node.value

    def _mapping(self, children: list[_Node], place: Place, *, aliased: bool) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, child in zip(children[::2], children[1::2], strict=True):
            key = key_node.value
            if key_node.shape != "scalar" or not isinstance(key, str):
                says = "found a key that is no text; allowed names; do put it in quotes"
                self._document.refuse(place, says, key_node.line)
                continue
            if key == "<<":
                says = "found a merge key; allowed plain keys; do write the keys out"
                self._document.refuse((*place, key), says, key_node.line)
                continue
            if key in found:
                first = self._document.lines[*place, key]
                says = f"found the same key as on line {first}; allowed each key once; do remove one of them"
                self._document.refuse((*place, key), says, key_node.line)
                continue
            self._document.lines[*place, key] = key_node.line
            found[key] = self._plain(child, (*place, key), aliased=aliased)
        return found

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> object:
        self._check_tag(event.tag, line)
        text: str = event.value
        if not event.implicit[0] or event.tag:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _NUMBER.fullmatch(text):
            return float(text)
        return text

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag and tag not in _PLAIN_TAGS:
            says = f"found the tag {tag[:60]}; allowed plain values; do remove the tag"
            self._document.refuse((), says, line)

    def _remember(self, anchor: str | None, node: _Node) -> None:
        if anchor:
            self._anchors[anchor] = node

    def _aliased(self, anchor: str, line: int) -> _Node:
        self._aliases += 1
        if self._aliases > MOST_ALIASES:
            self._stop(line, f"found more than {MOST_ALIASES} aliases; allowed fewer; do write the values out")
        if anchor not in self._anchors:
            name = f"*{anchor[:60]}"
            says = f"found the alias {name} before its anchor is complete; allowed earlier anchors; do write it out"
            self._stop(line, says)
        return _Node(line=line, shape="alias", children=[self._anchors[anchor]])

    def _stop(self, line: int, says: str) -> NoReturn:
        raise ConfigError(f"{self._document.name}:{line}: (file): {says}")
