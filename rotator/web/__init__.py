"""
The read-only HTTP service: health, metrics, status page, the evidence log.

Rules that must stay true here:

- Nothing here changes anything; orders have doors of their own.
- Starlette, uvicorn and prometheus-client are named in this room only.
"""

from rotator.web.metrics import Metrics, Tallies
from rotator.web.seen import Daemon
from rotator.web.service import Service, service_of

__all__ = ["Daemon", "Metrics", "Service", "Tallies", "service_of"]
