"""
Name constraints: which names an authority lets those below it carry.

Rules that must stay true here:

- Excluded beats permitted; a kind of name that is not permitted anywhere is free (RFC 5280 section 4.2.1.10).
- A constraint that cannot be judged refuses; none is skipped.
- A wildcard DNS name stands for every name that it could match.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from cryptography import x509

from rotator.pki.certificates import extension, serial_of


def constraint_problem(issuer: x509.Certificate, below: x509.Certificate) -> str | None:
    """Return why the name constraints of *issuer* forbid a name of *below*, None if they do not."""
    found = extension(issuer, x509.NameConstraints)
    if found is None:
        return None
    permitted = tuple(found.value.permitted_subtrees or ())
    excluded = tuple(found.value.excluded_subtrees or ())
    for name in _names_of(below):
        shown = f"the name {_shown(name)} of certificate {serial_of(below)}"
        same = [base for base in permitted if type(base) is type(name)]
        if any(_within(name, base, doubt=True) for base in excluded if type(base) is type(name)):
            return f"authority {serial_of(issuer)} excludes {shown}"
        if same and not any(_within(name, base, doubt=False) for base in same):
            return f"authority {serial_of(issuer)} does not permit {shown}"
    return None


def _names_of(certificate: x509.Certificate) -> Sequence[x509.GeneralName]:
    """Return every name that constraints apply to: the alternative names, and the subject if it is not empty."""
    found = extension(certificate, x509.SubjectAlternativeName)
    names: list[x509.GeneralName] = [] if found is None else list(found.value)
    if list(certificate.subject):
        names.append(x509.DirectoryName(certificate.subject))
    return names


def _shown(name: x509.GeneralName) -> str:
    """Return *name* as people read it."""
    return name.value.rfc4514_string() if isinstance(name, x509.DirectoryName) else repr(str(name.value))


def _within(name: x509.GeneralName, base: x509.GeneralName, *, doubt: bool) -> bool:
    """Return whether *name* lies in the subtree of *base*; *doubt* is the answer where that cannot be judged."""
    match name, base:
        case x509.DNSName(), x509.DNSName():
            return _dns_within(name.value.lower(), base.value.lower(), doubt=doubt)
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            host = _host(name.value)
            return doubt if host is None else _host_within(host, base.value.lower())
        case x509.RFC822Name(), x509.RFC822Name():
            mailbox, at, host = name.value.rpartition("@")
            if "@" in base.value:
                local, _, domain = base.value.rpartition("@")
                return (mailbox, host.lower()) == (local, domain.lower())
            return _host_within(host.lower(), base.value.lower()) if at else doubt
        case x509.IPAddress(), x509.IPAddress():
            return _address_within(name.value, base.value, doubt=doubt)
        case x509.DirectoryName(), x509.DirectoryName():
            return list(name.value.rdns)[: len(base.value.rdns)] == list(base.value.rdns)
        case _:
            return doubt


def _dns_within(name: str, base: str, *, doubt: bool) -> bool:
    """Return whether a DNS name is *base* or has further labels to its left."""
    if name.startswith("*.") and doubt and base.endswith(name[1:]):
        # An excluded name that this wildcard could stand for.
        return True
    if not base:
        return True
    return name.endswith(base) if base.startswith(".") else name == base or name.endswith(f".{base}")


def _host_within(host: str, base: str) -> bool:
    """Return whether *host* is *base*, or below it where *base* starts with a dot (URIs and mail)."""
    return not base or (host.endswith(base) if base.startswith(".") else host == base)


def _host(uri: str) -> str | None:
    """Return the host of *uri* in lower case, None if it has none that a constraint could name."""
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return None
    return None if host is None or _is_address(host) else host


def _is_address(host: str) -> bool:
    """Return whether *host* is an IP address, which URI constraints cannot name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _address_within(address: object, network: object, *, doubt: bool) -> bool:
    """Return whether an IP address lies in the network of a constraint."""
    match address, network:
        case ipaddress.IPv4Address(), ipaddress.IPv4Network():
            return address in network
        case ipaddress.IPv6Address(), ipaddress.IPv6Network():
            return address in network
        case ((ipaddress.IPv4Address() | ipaddress.IPv6Address()), (ipaddress.IPv4Network() | ipaddress.IPv6Network())):
            return False
        case _:
            return doubt
