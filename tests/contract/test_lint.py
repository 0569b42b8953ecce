"""What the signer issues stands up to rules that are not ours, and to our own for SPIFFE."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization

from rotator.pki.certificates import parse_certificates
from rotator.pki.spiffe import spiffe_authority_problems, spiffe_leaf_problems
from tests.contract.vault_worlds import Domain
from tests.pkix_lint import findings


def test_leaf_and_authority_pass_the_linter(domain: Domain) -> None:
    """A leaf and the generation that signed it have no finding but the linter's known false one, nor any of ours."""
    generation = domain.generation()
    leaf_pem = domain.issuer.sign(domain.leaf_order(generation)).chain_pem
    authority_pem = domain.authorities.observe().certificates_pem[generation.authority.id]
    leaf, authority = (parse_certificates(pem, source="the signer")[0] for pem in (leaf_pem, authority_pem))

    assert () == spiffe_leaf_problems(leaf)
    assert () == spiffe_authority_problems(authority)
    for certificate in (leaf, authority):
        assert [] == findings(certificate.public_bytes(serialization.Encoding.PEM))
