"""Vault and OpenBao: the corporate PKI's door."""
