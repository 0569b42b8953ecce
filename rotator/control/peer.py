"""
Who is at the other end of a Unix socket.

Rules that must stay true here:

- The kernel says who the peer is (SO_PEERCRED); nothing that the peer writes is believed about it.
- Inside a pod nobody can be known: whoever may enter it has the uid of its container.
- Groups come from the machine's user database at the moment of the request, so a right that was taken away is gone at
  once, whatever an old login shell still carries.
"""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from typing import Final

from rotator.control.requests import Person

_CREDENTIALS: Final = struct.Struct("iII")


def peer_of(connection: socket.socket) -> tuple[Person, int]:
    """
    Return the person at the other end of *connection*, and the process id for the log.

    Source: unix(7), SO_PEERCRED: the credentials are those at the time of connect(2).
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return person(uid, gid, known=not in_pod(os.environ)), pid


def in_pod(environment: Mapping[str, str]) -> bool:
    """Return whether a process with *environment* is in a pod: the kubelet tells each where the API server is."""
    return "KUBERNETES_SERVICE_HOST" in environment


def person(uid: int, gid: int, *, known: bool = True) -> Person:
    """Return the user *uid* with the names of all its groups; one without an entry has the group *gid* alone."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Person(uid=uid, name=str(uid), groups=frozenset(_group_name(gid)), known=known)
    numbers = {*os.getgrouplist(entry.pw_name, entry.pw_gid)}
    groups = frozenset(name for each in numbers for name in _group_name(each))
    return Person(uid=uid, name=entry.pw_name, groups=groups, known=known)


def _group_name(gid: int) -> tuple[str, ...]:
    try:
        return (grp.getgrgid(gid).gr_name,)
    except KeyError:
        return ()
