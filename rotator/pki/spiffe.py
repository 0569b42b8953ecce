"""
SPIFFE's own rules: what a SPIFFE ID may look like, and what a certificate that carries one must say.

Rules that must stay true here:

- Stricter than the standard where the standard leaves a choice to readers (length, empty paths); never laxer.
- A problem is a sentence without full stop; no problem is None or an empty tuple.

Source: SPIFFE-ID.md sections 2.1 to 2.3, X509-SVID.md sections 2 to 5 and appendix A.
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from rotator.pki.certificates import extension, is_authority, uri_names

# Generators must stay within it (SPIFFE-ID.md 2.3).
_LONGEST_ID = 2048
_LONGEST_TRUST_DOMAIN = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def trust_domain_problem(name: str) -> str | None:
    """Return why *name* is no SPIFFE trust domain name, None if it is one."""
    if not name:
        return "the trust domain is empty"
    if len(name) > _LONGEST_TRUST_DOMAIN:
        return f"the trust domain is longer than {_LONGEST_TRUST_DOMAIN} characters"
    if _TRUST_DOMAIN.fullmatch(name) is None:
        return "the trust domain holds something else than lower-case letters, digits, dots, dashes and underscores"
    return None


def spiffe_id_problem(text: str) -> str | None:
    """
    Return why *text* is no SPIFFE ID of a workload, None if it is one.

    A workload's has a path; a trust domain's own (``spiffe://airflow.prod``) stands in signing certificates only.
    """
    if len(text) > _LONGEST_ID:
        return f"it is longer than {_LONGEST_ID} characters"
    if not text.startswith("spiffe://"):
        return "it does not start with spiffe://"
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    problem = trust_domain_problem(trust_domain)
    if problem is not None:
        return problem
    if not slash:
        return "it has no path, so it names the trust domain itself"
    for segment in path.split("/"):
        if not segment:
            return "its path has an empty segment or ends in a slash"
        if segment in {".", ".."}:
            return "its path has a relative segment"
        if _SEGMENT.fullmatch(segment) is None:
            return "its path holds something else than letters, digits, dots, dashes and underscores"
    return None


def trust_domain_of(spiffe_id: str) -> str:
    """Return the trust domain of a SPIFFE ID; whether it is one is not judged here."""
    return spiffe_id.removeprefix("spiffe://").partition("/")[0]


def spiffe_leaf_problems(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return everything that keeps *certificate* from being a leaf SVID; empty if it is one."""
    problems: list[str] = []
    uris = uri_names(certificate)
    if len(uris) != 1:
        problems.append(f"it has {len(uris)} URI names, not exactly one")
    problems += [f"{uri!r} is no SPIFFE ID: {why}" for uri in uris if (why := spiffe_id_problem(uri)) is not None]
    names = extension(certificate, x509.SubjectAlternativeName)
    if names is not None and not names.critical and not list(certificate.subject):
        problems.append("its subject is empty, so its alternative names must be critical")
    if is_authority(certificate):
        problems.append("it is an authority")
    usage = extension(certificate, x509.KeyUsage)
    if usage is None:
        problems.append("it has no key usage")
    else:
        if not usage.critical:
            problems.append("its key usage is not critical")
        if not usage.value.digital_signature:
            problems.append("its key usage lacks digitalSignature")
        if usage.value.key_cert_sign or usage.value.crl_sign:
            problems.append("its key usage lets it sign certificates or CRLs")
    extended = extension(certificate, x509.ExtendedKeyUsage)
    if extended is not None:
        wanted = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        if not wanted <= set(extended.value):
            problems.append("its extended key usage lacks serverAuth or clientAuth")
    return tuple(problems)


def spiffe_authority_problems(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return everything that keeps *certificate* from being a SPIFFE signing certificate; empty if it is one."""
    problems: list[str] = []
    if not is_authority(certificate):
        problems.append("it is no authority")
    usage = extension(certificate, x509.KeyUsage)
    if usage is None or not usage.value.key_cert_sign:
        problems.append("its key usage lacks keyCertSign")
    elif not usage.critical:
        problems.append("its key usage is not critical")
    uris = uri_names(certificate)
    if len(uris) > 1:
        problems.append(f"it has {len(uris)} URI names, not at most one")
    for uri in uris:
        why = trust_domain_problem(uri.removeprefix("spiffe://"))
        if not uri.startswith("spiffe://") or why is not None:
            problems.append(f"{uri!r} is no SPIFFE trust domain: {why or 'it does not start with spiffe://'}")
    return tuple(problems)
