"""
The platform on a whole mesh: what is applied decides who reaches whom, on the stand-in and on a released Kuma.

Rules that must stay true here:

- Real proxies, the real daemon and its commands; whether a call is let through is seen by calling.
- A released Kuma takes part where the environment names its programs (`tests.stack.kuma.released`); without, the test
  says so and is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import free_port, wait_until
from tests.stack.kuma.load import answered
from tests.stack.kuma.plane import Model
from tests.stack.kuma.stage import LoadedStage
from tests.stack.test_kuma_scenarios import IDENTITY_3, RELEASED, Case, on_stage

pytestmark = [pytest.mark.stack, pytest.mark.external]

PATIENCE = timedelta(minutes=2)
ASKED = ("--reason", "a test asks", "--wait", "--wait-at-most", "120s")


def _platform(trust_domain: str) -> Mapping[str, Any]:
    """Return a platform in which service-0 may call service-2, and service-1 may not."""

    def at(workload: str) -> Mapping[str, Any]:
        return {"machines": {"workload": workload, "addresses": ["127.0.0.1"]}}

    return {
        "settle": "2s",
        "environments": {"production": {"trust_domain": trust_domain}},
        "identities": {
            "worker": {"component": "worker", "queue": "finance", "place": at("service-0")},
            "triggerer": {"component": "triggerer", "place": at("service-1")},
        },
        "services": {"ledger": {"protocol": "tcp", "port": free_port(), "place": at("service-2")}},
        "permissions": {
            "finance": {
                "callers": {"identities": ["worker"]},
                "may_call": {"services": ["ledger"]},
                "reason": "the worker writes the ledger",
            }
        },
    }


def _reaches(stage: LoadedStage, *, worker: bool, triggerer: bool) -> None:
    """Wait until the one reaches the ledger or not, and the other."""
    ports = stage.plane.outbounds()

    def seen() -> tuple[bool, bool]:
        return answered(ports["service-0>service-2"]), answered(ports["service-1>service-2"])

    wanted = (worker, triggerer)
    wait_until(lambda: wanted == seen(), within=PATIENCE, what=f"worker and triggerer: {wanted}")


@pytest.mark.parametrize("case", [IDENTITY_3, *(each for each in RELEASED if each.model is Model.IDENTITY)], ids=str)
def test_what_is_applied_decides_who_reaches_whom(case: Case, tmp_path: Path, openbao: OpenBaoServer) -> None:
    """Shown, taken by the control plane, in force for real calls, nothing to do afterwards, and undone."""
    with on_stage(case, tmp_path, openbao, proxies=3, rate=20.0) as stage:
        # From here on calls are refused on purpose.
        stage.load.under({})
        daemon = stage.daemon
        daemon.document["platform"] = dict(_platform(daemon.domain))
        daemon.write()
        wait_until(
            lambda: (daemon.status() or {}).get("platform") is not None, within=PATIENCE, what="the configuration"
        )
        stage.api("DELETE", f"/meshes/{stage.mesh}/meshtrafficpermissions/everybody")
        _reaches(stage, worker=False, triggerer=False)

        shown = daemon.command("--json", "platform", "diff")
        assert 3 == shown.returncode, shown.stderr
        assert "MeshTrafficPermission" in {each["kind"] for each in json.loads(shown.stdout)["plan"]}
        applied = daemon.command("platform", "apply", *ASKED)
        assert 0 == applied.returncode, applied.stderr + applied.stdout
        _reaches(stage, worker=True, triggerer=False)
        again = daemon.command("--json", "platform", "diff")
        assert (0, [], []) == (again.returncode, *(json.loads(again.stdout)[part] for part in ("plan", "drift")))

        status = daemon.status()
        assert status is not None
        change = status["platform"]["changes"][0]["id"]
        undone = daemon.command("platform", "undo", change, *ASKED)
        assert 0 == undone.returncode, undone.stderr + undone.stdout
        _reaches(stage, worker=False, triggerer=False)
