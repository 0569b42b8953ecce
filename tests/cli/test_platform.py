"""``rotator platform``: files by environment and part, and sentences."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.cli import main
from rotator.settings import load
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.standin import StandIn
from tests.settings.test_load import BASE
from tests.settings.test_platform import written

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    config = written(tmp_path, old="      port: 8080", new="      port: 8080\n      hostname: ledger.internal")

    def go(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--config", str(config), "platform", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


def test_render_writes_files_by_environment_and_part(run: Run, tmp_path: Path) -> None:
    """One environment's stand in its folder; twice the same bytes."""
    for name in ("one", "other"):
        code, out, _ = run("render", "--output", str(tmp_path / name))
        assert 0 == code
        assert out.endswith(f"files below {tmp_path / name}\n")
    once = {path.relative_to(tmp_path / "one"): path.read_bytes() for path in (tmp_path / "one").rglob("*.yaml")}
    again = {path.relative_to(tmp_path / "other"): path.read_bytes() for path in (tmp_path / "other").rglob("*.yaml")}
    assert once == again
    assert {"production", "staging", "mesh.prod"} == {path.parts[0] for path in once}
    (permission,) = yaml.safe_load_all(once[Path("production/permissions.yaml")])
    assert ("MeshTrafficPermission", "rotator-production-ledger") == (permission["type"], permission["name"])


def test_render_of_one_environment_leaves_out_the_others(run: Run) -> None:
    """And the form can be chosen."""
    code, out, _ = run("render", "--environment", "staging", "--form", "kubernetes", "--json")
    assert 0 == code
    paths = {each["path"]: each["text"] for each in json.loads(out)["files"]}
    assert not any(path.startswith("production/") for path in paths)
    (permission,) = yaml.safe_load_all(paths["staging/permissions.yaml"])
    assert ("kuma.io/v1alpha1", "kuma-system") == (permission["apiVersion"], permission["metadata"]["namespace"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--environment", "test"), "--environment: found test; allowed production, staging"),
        (("--form", "helm"), "--form: found helm; allowed universal, kubernetes"),
    ],
)
def test_what_is_not_known_is_refused(run: Run, words: tuple[str, ...], expected: str) -> None:
    """Exit code 2 and one line."""
    code, _, err = run("render", *words)
    assert (2, True) == (code, expected in err), err


def test_without_a_platform_nothing_is_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says where to describe it."""
    config = tmp_path / "rotator.yaml"
    config.write_text(BASE)
    assert 2 == main(["--config", str(config), "platform", "render"])
    assert "the configuration has no platform" in capsys.readouterr().err


def test_check_says_who_may_call_what_and_why(run: Run, tmp_path: Path) -> None:
    """And draws it; a warning breaks nothing."""
    code, out, _ = run("check", "--picture", str(tmp_path / "reach.svg"))
    assert 0 == code
    assert (
        "finance (queue finance, production) may call ledger (production): finance-uses-its-own, because its own books"
        in out.splitlines()
    )
    assert "warning: scheduler (scheduler, production) may call nothing: " in out
    assert "3 of 10 pairs permitted; 0 broken, 2 warnings" == out.splitlines()[-1]
    svg = ET.fromstring((tmp_path / "reach.svg").read_text())  # noqa: S314 -- written here
    titles = [each.text for each in svg.iter("{http://www.w3.org/2000/svg}title")]
    # Cells stand in groups, the legend does not.
    groups = list(svg.iter("{http://www.w3.org/2000/svg}g"))
    marks = [each for each in groups if each.find("{http://www.w3.org/2000/svg}polyline") is not None]
    assert (10, 3) == (len(titles), len(marks))


def test_check_as_json_names_every_pair(run: Run) -> None:
    """Of one environment: those who may call its services."""
    code, out, _ = run("check", "--environment", "staging", "--json")
    said = json.loads(out)
    assert 0 == code
    assert {"staging/ledger"} == {each["service"] for each in said["reach"]}
    assert ["staging/finance"] == [each["caller"] for each in said["reach"] if each["allowed"]]
    assert [("idle", "warning", "staging/scheduler")] == [
        (each["kind"], each["grade"], each["about"]) for each in said["findings"]
    ]


def test_rendered_tokens_are_what_rotator_itself_takes(run: Run, tmp_path: Path) -> None:
    """The entries for proxies on machines go into the same configuration as they are."""
    code, out, _ = run("render", "--environment", "production", "--json")
    assert 0 == code
    (tokens,) = [each["text"] for each in json.loads(out)["files"] if each["path"] == "production/tokens.yaml"]
    config = tmp_path / "rotator.yaml"
    config.write_text(config.read_text() + tokens.removeprefix("---\n"))
    assert ["rotator-production-backfill-production-10-0-0-7"] == list(load(config).tokens)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[tuple[StandIn, Run]]:
    """Give a stand-in control plane, and commands whose configuration leads there."""
    with StandIn(clock=ManualClock(), version="3.0.1", local_is_admin=True) as standin:
        standin.edit_mesh("default", meshServices={"mode": "Exclusive"})
        config = written(tmp_path)
        config.write_text(config.read_text().replace("http://127.0.0.1:5681", standin.url))

        def go(*words: str) -> tuple[int, str, str]:
            said = io.StringIO()
            with redirect_stdout(said):
                code = main(["--config", str(config), "platform", *words])
            return code, said.getvalue(), ""

        yield standin, go


def test_check_judges_what_stands_on_the_control_plane(plane: tuple[StandIn, Run]) -> None:
    """What was not applied keeps people out; what somebody else wrote lets people in; both are broken."""
    standin, run = plane
    code, out, _ = run("check", "--control-plane")
    assert 1 == code
    assert "should be able to call ledger (production), and no permission lets it" in out

    api = ControlPlaneAPI(Endpoint(url=standin.url))
    _, documents, _ = run("render", "--form", "universal", "--json")
    for each in json.loads(documents)["files"]:
        for document in yaml.safe_load_all(each["text"]):
            if isinstance(document, dict) and document.get("type") == "MeshTrafficPermission":
                path = f"/meshes/default/meshtrafficpermissions/{document['name']}"
                api.put(path, document, doing="applying")
    assert 0 == run("check", "--control-plane")[0]

    everybody = {
        "rules": [{"default": {"allow": [{"spiffeID": {"type": "Prefix", "value": "spiffe://mesh.prod/ns"}}]}}]
    }
    document = {"type": "MeshTrafficPermission", "mesh": "default", "name": "open", "spec": everybody}
    api.put("/meshes/default/meshtrafficpermissions/open", document, doing="opening it by hand")
    code, out, _ = run("check", "--control-plane")
    assert 1 == code
    assert "broken: open lets finance (queue finance, staging) call ledger (production): nobody asked for it" in out
