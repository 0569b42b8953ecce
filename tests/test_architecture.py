"""
The house holds itself to its own words: directions, time, timeouts, laws, docs.

Rules that must stay true here:

- What is checked is read from the code and the docs themselves; a list kept here by hand would be a second truth.
- A finding names file and line, so that it can be mended without reading this file.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "rotator").rglob("*.py"))
TESTS = sorted(set((ROOT / "tests").rglob("*.py")) - set((ROOT / "tests" / "stack" / "bin").rglob("*.py")))
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


@cache
def tree(path: Path) -> ast.Module:
    """Return the parsed module."""
    return ast.parse(path.read_text(), str(path))


def name_of(node: ast.expr) -> str:
    """Return ``a.b.c`` for a chain of names, ``.c`` where the chain starts with something else."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return f"{name_of(node.value)}.{node.attr}"
        case _:
            return ""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call with the dotted name of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield name_of(node.func), node


def at(path: Path, node: ast.stmt | ast.expr) -> str:
    """Return ``file:line`` as an editor opens it."""
    return f"{path.relative_to(ROOT)}:{node.lineno}"


# --- the house --------------------------------------------------------------------------------------------------------


def test_imports_point_down_only() -> None:
    """Every import-linter contract is kept."""
    lint = Path(sys.executable).with_name("lint-imports")
    ran = subprocess.run([lint, "--no-logo"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (ran.returncode, "" if ran.returncode == 0 else ran.stdout)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_its_rules(path: Path) -> None:
    """Every module has a docstring, and one with code in it states the rules that must stay true there."""
    text = ast.get_docstring(tree(path)) or ""
    defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree(path).body)
    assert text, "no docstring"
    assert not defines or "must stay true" in text, "the docstring does not state the rules"


def test_time_is_read_in_one_place() -> None:
    """Nothing but clock.py reads a clock."""
    readers = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "time.monotonic")
    found = [
        at(path, call)
        for path in PACKAGE
        if path != ROOT / "rotator/clock.py"
        for name, call in calls(path)
        if name.endswith(readers)
    ]
    assert [] == found


def test_nothing_sleeps() -> None:
    """Waiting is for an event, a process or a clock, never a guess of how long."""
    found = [at(path, call) for path in PACKAGE for name, call in calls(path) if name in {"time.sleep", "sleep"}]
    assert [] == found


# Which calls leave the process, and at which position each takes its timeout (None: by keyword only).
OUTSIDE = {
    "subprocess.run": None,
    "subprocess.call": None,
    "subprocess.check_call": None,
    "subprocess.check_output": None,
    "urllib.request.urlopen": 2,
    "urlopen": 2,
    "http.client.HTTPConnection": 2,
    "http.client.HTTPSConnection": None,
    "HTTPConnection": 2,
    "HTTPSConnection": None,
    "socket.create_connection": 1,
    "urllib3.PoolManager": None,
    "urllib3.HTTPConnectionPool": 2,
    "urllib3.HTTPSConnectionPool": 2,
    "requests.get": None,
    "requests.post": None,
    "requests.request": None,
    "hvac.Client": None,
}
# Calls that wait for ever when they are given nothing: threads, processes, events, futures.
WAITS = {"wait": 0, "join": 0, "communicate": 1, "result": 0}


def test_every_outside_call_has_a_timeout() -> None:
    """No call that leaves the process, and no wait, can last for ever."""
    found = []
    for path in PACKAGE:
        for name, call in calls(path):
            # A pool carries its own timeout, and is looked at where it is made.
            if any(keyword.arg in {"timeout", "pool", None} for keyword in call.keywords):
                continue
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            position = OUTSIDE[name] if name in OUTSIDE else WAITS.get(method, -1)
            if position is None or len(call.args) <= position:
                found.append(f"{at(path, call)}: {name or method}")
    assert [] == found


def test_exceptions_to_a_rule_say_why() -> None:
    """Every noqa and every type: ignore names its rule and gives a reason after it, as in ``# noqa: S101 -- why``."""
    excuse = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<rest>.*)")
    told = re.compile(r"(: ?[A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*|\[[a-z, -]+\])\s+(--|#) \S")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*PACKAGE, *TESTS]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := excuse.search(line)) and not told.match(match["rest"])
    ]
    assert [] == found


def test_nothing_swallows_everything() -> None:
    """A handler of every exception passes it on, or says in a comment on its line or the next why it does not."""
    found = []
    for path in PACKAGE:
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or name_of(node.type) in {"Exception", "BaseException"}
            ):
                passes_on = isinstance(node.body[-1], ast.Raise)
                says_why = any("#" in line for line in lines[node.lineno - 1 : node.lineno + 1])
                if not passes_on and not says_why:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [] == found


def test_fakes_pass_the_suite_of_the_real_ones() -> None:
    """Every fake of a port (FakeIssuer for Issuer) is named in tests/contract."""
    ports = {
        f"Fake{node.name}"
        for path in sorted((ROOT / "rotator/ports").glob("*.py"))
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
    }
    suites = "".join(path.read_text() for path in sorted((ROOT / "tests/contract").glob("*.py")))
    fakes = [
        node.name
        for path in sorted((ROOT / "tests/fakes").glob("*.py"))
        for node in tree(path).body
        if isinstance(node, ast.ClassDef) and node.name in ports
    ]
    assert [] == [name for name in fakes if name not in suites]


# --- the laws ---------------------------------------------------------------------------------------------------------

LAWS = (ROOT / "docs/laws.md").read_text()
LAW = re.compile(r"^### (\d+)\. (.+?)$(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
KEPT_BY = re.compile(r"Kept by (.+)\.$", re.MULTILINE)


def laws() -> list[tuple[int, bool, list[str]]]:
    """Return number, whether it applies, and the modules that keep it, as docs/laws.md has them."""
    found = []
    for number, _, body in LAW.findall(LAWS):
        kept = KEPT_BY.search(body)
        found.append((int(number), "\nApplies." in body, re.findall(r"`([^`]+)`", kept[1]) if kept else []))
    return found


def module(name: str) -> list[Path]:
    """Return the files of a module or a package that the docs name."""
    path = ROOT / name
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    path = path if path.suffix else path.with_suffix(".py")
    return [path] if path.exists() else []


def test_there_are_twenty_four_laws() -> None:
    """docs/laws.md has every law once, in order, and says of each whether it applies and who keeps it."""
    assert list(range(1, 25)) == [number for number, _, _ in laws()]
    assert [] == [number for number, applies, kept in laws() if applies and not kept]


@pytest.mark.parametrize("number", [number for number, applies, _ in laws() if applies])
def test_a_law_has_a_test_named_after_it(number: int) -> None:
    """A law that applies is held by at least one test that carries its number."""
    name = re.compile(rf"\bdef test_law_{number:02}_\w+")
    assert any(name.search(path.read_text()) for path in TESTS), f"no test_law_{number:02}_... in tests/"


@pytest.mark.parametrize(("number", "kept"), [(number, kept) for number, applies, kept in laws() if applies])
def test_who_keeps_a_law_exists_and_says_so(number: int, kept: list[str]) -> None:
    """Every module that docs/laws.md names exists, and names the law in its opening rules."""
    said = re.compile(rf"\blaws?\b[^.;()]*?\b{number}\b")
    missing = [name for name in kept if not module(name)]
    silent = [
        name
        for name in kept
        if name not in missing and not any(said.search(ast.get_docstring(tree(path)) or "") for path in module(name))
    ]
    assert ([], []) == (missing, silent)


# --- docs and files ---------------------------------------------------------------------------------------------------


def commands() -> dict[str, set[str]]:
    """Return every command that can be typed, with its options."""
    import typer.main  # noqa: PLC0415 -- the command tree is built only here

    from rotator.cli import app  # noqa: PLC0415 -- as above

    def walk(command: object, path: str) -> Iterator[tuple[str, set[str]]]:
        inner = getattr(command, "commands", None)
        if inner:
            for name, child in inner.items():
                yield from walk(child, f"{path} {name}")
        elif not getattr(command, "hidden", False):
            options = {text for parameter in getattr(command, "params", []) for text in parameter.opts}
            yield path, {text for text in options if text.startswith("--")}

    return dict(walk(typer.main.get_command(app), "rotator"))


def promised() -> dict[str, set[str]]:
    """Return every command that docs/contract.md promises, with the options it names."""
    text = (ROOT / "docs/contract.md").read_text()
    rows = re.findall(r"^\| `(rotator [^`]+)` \|", text, re.MULTILINE)
    plain = [(re.match(r"rotator(?: [a-z][a-z-]*)+", row), row) for row in rows]
    return {match[0]: set(re.findall(r"--[a-z][a-z-]*", row)) for match, row in plain if match}


def test_docs_name_every_command() -> None:
    """A command that can be typed stands in docs/contract.md, and the other way round."""
    assert sorted(promised()) == sorted(commands())


def test_promised_options_exist() -> None:
    """Every option that docs/contract.md names is one that the command takes."""
    real = commands()
    assert {} == {name: gone for name, options in promised().items() if (gone := options - real.get(name, set()))}


def test_make_targets_exist() -> None:
    """Every make target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in DOCS for name in re.findall(r"`make ([a-z-]+)", page.read_text())}
    assert set() == named - targets


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link in the docs leads to a file that exists, and its anchor to a heading."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert [] == broken


def test_every_dependency_has_its_reason() -> None:
    """Each package that rotator declares is explained in docs/adr/0002-dependencies.md."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=]", text)[0] for texts in lists for text in texts} - {"rotator"}
    reasons = (ROOT / "docs/adr/0002-dependencies.md").read_text()
    assert set() == {name for name in names if name not in reasons}


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_requirements_are_pins_with_hashes_and_name_no_host(path: Path) -> None:
    """Every line is a pin or a hash: where packages come from is the installing machine's business."""
    pin = re.compile(r"^[a-z0-9][a-z0-9._-]*==[^\s;]+( ; [^\\]+)? \\$|^    --hash=sha256:[0-9a-f]{64}( \\)?$")
    assert [] == [line for line in path.read_text().splitlines() if not pin.match(line)]


def test_stopping_the_daemon_stops_no_worker() -> None:
    """The shipped unit ends the main process alone, keeps trying, and leaves no core dump with keys in it."""
    unit = (ROOT / "deploy/systemd/rotator.service").read_text().splitlines()
    wanted = {
        "KillMode=process",
        "StartLimitIntervalSec=0",
        "LimitCORE=0",
        "NoNewPrivileges=true",
        "ProtectSystem=strict",
    }
    assert set() == wanted - set(unit)


def test_each_decision_has_a_number_of_its_own() -> None:
    """The number in a decision's file name is no other's, and its title begins with it."""
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    numbers = [int(file.name.partition("-")[0]) for file in files]
    assert sorted(set(numbers)) == numbers
    assert [] == [file.name for file in files if not file.read_text().startswith(f"# {int(file.name[:4])}. ")]
