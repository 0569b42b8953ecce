"""Who is waited for before anything is narrowed: the proxies in contact that have not acknowledged."""

from __future__ import annotations

from rotator.adapters.kuma.api import ControlPlaneAPI, Endpoint
from rotator.adapters.kuma.control_plane import About, ControlPlane, Environment, Mode, ProxyReport, ProxyView
from rotator.adapters.kuma.documents import HTTPPlatformDocuments
from rotator.adapters.kuma.universal import HTTPDocuments, HTTPSecrets
from rotator.core.model import TrustDomainName


class Reported:
    """Proxies as a test says that they are."""

    def __init__(self, *reports: ProxyReport) -> None:
        self._reports = reports

    def reports(self) -> tuple[ProxyReport, ...]:
        """Return them."""
        return self._reports

    def view(self, name: str) -> ProxyView | None:
        """Return None: nobody can be asked for what it trusts."""
        return next((None for each in self._reports if each.name == name), None)


def report(name: str, *, online: bool = True, sent: int = 5, acknowledged: int = 5) -> ProxyReport:
    """Return what a control plane says of one proxy."""
    return ProxyReport(
        name=name,
        zone="default",
        online=online,
        connection="1",
        responses_sent=sent,
        responses_acknowledged=acknowledged,
    )


def test_those_in_contact_that_have_not_acknowledged_are_waited_for() -> None:
    """A proxy with an answer outstanding lags; one that is up to date, or out of contact, does not."""
    api = ControlPlaneAPI(Endpoint(url="http://127.0.0.1:1"))
    plane = ControlPlane(
        mesh="default",
        about=About(
            product="kuma",
            version=(3, 0, 1),
            version_text="3.0.1",
            environment=Environment.UNIVERSAL,
            mode=Mode.ZONE,
        ),
        documents=HTTPDocuments(api, "default"),
        secrets=HTTPSecrets(api, "default"),
        proxies=Reported(
            report("well"), report("behind", acknowledged=4), report("away", online=False, acknowledged=0)
        ),
    )
    documents = HTTPPlatformDocuments(api, lambda: plane, trust_domain=TrustDomainName("mesh.prod"), mesh="default")
    assert ("behind",) == documents.lagging()
