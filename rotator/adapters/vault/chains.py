"""
The certificates above a certificate, out of what Vault says they are.

Rules that must stay true here:

- Pure. A parent is whoever's key made the signature, whatever the order in which Vault lists them.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from rotator.pki.certificates import parse_certificates


def parents_of(own: x509.Certificate, ca_chain: object) -> list[x509.Certificate]:
    """Return the certificates above *own* that *ca_chain*, a list of PEMs, holds, each signed by the next."""
    texts = [text for text in ca_chain if isinstance(text, str)] if isinstance(ca_chain, list) else []
    candidates = [parse_certificates(text.encode(), source="a CA chain at Vault")[0] for text in texts]
    parents: list[x509.Certificate] = []
    child = own
    while candidates:
        above = [one for one in candidates if one != child and signed_by(child, one)]
        if not above:
            break
        child = above[0]
        candidates.remove(child)
        parents.append(child)
    return parents


def signed_by(child: x509.Certificate, parent: x509.Certificate) -> bool:
    """Return whether *parent* signed *child*."""
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
