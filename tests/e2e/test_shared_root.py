"""An accepted root that is not the mesh's own stands in the evidence, once for each wording (law 6)."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.core.event import EventType
from rotator.embedded.openbao import OpenBaoServer
from rotator.embedded.process import free_port
from rotator.evidence.ledger import records
from rotator.store.sql import SQLStore
from tests.e2e.installation import DaemonInstallation
from tests.fixtures_openbao import new_mesh

pytestmark = pytest.mark.external


def exceptions(installation: DaemonInstallation) -> list[tuple[str, str]]:
    """Return subject and result of every exception that was opened."""
    with contextlib.closing(SQLStore(installation.document["store"], environment="test")) as store:
        return [
            (str(each.event.subject), each.event.result)
            for each in records(store)
            if each.event.type is EventType.EXCEPTION_OPENED
        ]


def test_law_06_an_accepted_root_is_recorded_once(openbao: OpenBaoServer, tmp_path: Path) -> None:
    """Two starts with the same words make one record, other words another; no control plane need answer for it."""
    vault = new_mesh(openbao, tmp_path / "credentials", lifetimes=(timedelta(hours=6),))
    mesh = {
        "accept_shared_root": "it was so before us",
        "control_plane": {"url": f"http://127.0.0.1:{free_port()}", "timeout": "1s"},
    }
    installation = DaemonInstallation(
        tmp_path,
        vault,
        trust_domain={
            "model": "identity",
            "issuer": "corporate",
            "ca": {"lifetime": "6h"},
            "longest_leaf": "30m",
            "trust_deadline": {"after": "30s"},
            "mesh": mesh,
        },
    )
    opened = (str(vault.trust_domain), "shared root accepted")
    for words, expected in (
        ("it was so before us", [opened]),
        ("it was so before us", [opened]),
        ("until May, when the other mesh goes", [opened, opened]),
    ):
        mesh["accept_shared_root"] = words
        installation.write()
        installation.start()
        installation.daemon.stop()
        assert expected == exceptions(installation)
