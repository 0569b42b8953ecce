"""
A world whose certificates are Secrets, each with a ConfigMap of its bundle beside it, at an API server in memory.

Rules that must stay true here:

- A restart makes new stores: nothing that one remembered survives it.
- Consumers open the Secret at every use, as what reads a mounted volume does.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

from rotator.adapters.kubernetes.bundles import BundleStore
from rotator.adapters.kubernetes.secrets import SecretStore
from rotator.adapters.probes import ReadBackProbe
from rotator.core.model import SubjectName
from rotator.engine.engine import Engine
from rotator.pki.certificates import key_matches
from tests.engine.world import World
from tests.fakes.objects import FakeObjects

SERVICE = SubjectName("service-0")


class SecretWorld(World):
    """As `World`, over Secrets."""

    def __init__(self, directory: Path, **wanted: Any) -> None:
        self.objects = FakeObjects()
        super().__init__(directory, certificates=1, **wanted)

    def restart(self) -> Engine:
        """Return a fresh engine with fresh stores over the same world; faults are over."""
        self.objects.faults = self.faults
        self.consumers = {}
        for name, target in self.certificates.items():
            where: dict[str, Any] = {"namespace": "airflow", "subject": name, "clock": self.clock}
            secret = SecretStore(self.objects, name=name, **where)
            bundle = BundleStore(self.objects, name=name, **where)
            probe = ReadBackProbe(secret.just_read, clock=self.clock)
            self.certificates[name] = replace(target, stores=(secret, bundle), probes=(probe,))
        return super().restart()

    def path(self, plural: str = "secrets") -> str:
        """Return where the service's object is."""
        return f"/api/v1/namespaces/airflow/{plural}/{SERVICE}"

    def data(self, plural: str = "secrets") -> dict[str, Any]:
        """Return the content of the service's object."""
        found: dict[str, Any] = self.objects.stored[self.path(plural)]["data"]
        return found

    def is_pair(self) -> bool:
        """Return whether the Secret's key belongs to its leaf."""
        held = self.data()
        return key_matches(base64.b64decode(held["tls.key"]), base64.b64decode(held["tls.crt"]))

    def is_level(self) -> bool:
        """Return whether the ConfigMap holds the Secret's bundle."""
        bundle = base64.b64decode(self.data()["ca.crt"])
        return bundle == str(self.data("configmaps")["ca.crt"]).encode()
