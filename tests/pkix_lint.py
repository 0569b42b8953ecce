"""
RFC 5280 linting by pkilint, for every test that holds a certificate.

Its one finding that is false is left out: it knows no URI scheme ``spiffe``, so it calls every SPIFFE ID malformed.
"""

from __future__ import annotations

from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

FALSE_FINDING = "pkix.invalid_uri_syntax"


def findings(pem: bytes) -> list[str]:
    """Return the codes of all findings from notice upwards on one certificate, without the known false one."""
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    document = loader.load_pem_certificate(pem.decode("ascii"), "certificate")
    results = validator.validate(document.root)
    return [
        each.finding.code
        for result in results
        for each in result.finding_descriptions
        if each.finding.severity <= ValidationFindingSeverity.NOTICE and each.finding.code != FALSE_FINDING
    ]
