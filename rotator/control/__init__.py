"""
The control socket: how people on one machine ask the daemon for something, and how it knows them.

Rules that must stay true here:

- The only way to change what a running daemon does, beside its configuration file.
- The peer is known by the kernel's word, rights go by Unix group, and who asked stands in every order.
"""

from rotator.control.client import ControlClient
from rotator.control.cluster import ClusterClient
from rotator.control.requests import (
    AdoptRequest,
    ApplyRequest,
    ApproveRequest,
    Operations,
    Order,
    PauseRequest,
    Person,
    RejectRequest,
    ResumeRequest,
    Right,
    Rights,
    RollbackRequest,
    RotateRequest,
    UndoRequest,
)
from rotator.control.server import ControlServer

Daemon = ControlClient | ClusterClient
"""A running daemon, whichever way people reach it."""

__all__ = [
    "AdoptRequest",
    "ApplyRequest",
    "ApproveRequest",
    "ClusterClient",
    "ControlClient",
    "ControlServer",
    "Daemon",
    "Operations",
    "Order",
    "PauseRequest",
    "Person",
    "RejectRequest",
    "ResumeRequest",
    "Right",
    "Rights",
    "RollbackRequest",
    "RotateRequest",
    "UndoRequest",
]
