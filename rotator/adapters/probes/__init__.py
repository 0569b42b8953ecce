"""What a consumer really uses, seen from outside: four ways, for four kinds of consumers."""

from rotator.adapters.probes.envoy import EnvoyAdminProbe
from rotator.adapters.probes.files import ReadBackProbe, ReportProbe
from rotator.adapters.probes.tls import TLSProbe

__all__ = ["EnvoyAdminProbe", "ReadBackProbe", "ReportProbe", "TLSProbe"]
