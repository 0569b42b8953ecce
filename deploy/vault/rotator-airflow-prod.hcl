# rotator's rights for trust domain airflow.prod. Made by rotator.adapters.vault.policies.

# Is the token still alive?
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# Renew it before its end.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# Give it back.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# Which of these rights does it have? Asked by the doctor alone.
path "sys/capabilities-self" {
  capabilities = ["update"]
  allowed_parameters = {
    paths = []
  }
}

# Is the pinned corporate issuer fit to sign (law 6)?
path "pki_int/issuer/corp-issuing" {
  capabilities = ["read"]
}

# Have a CA generation signed: this name, this path length, this lifetime.
path "pki_int/issuer/corp-issuing/sign-intermediate" {
  capabilities = ["create", "update"]
  required_parameters = ["common_name", "max_path_length", "ttl", "uri_sans", "use_csr_values", "exclude_cn_from_sans", "not_before_duration"]
  allowed_parameters = {
    csr                  = []
    common_name          = ["airflow.prod CA g*"]
    max_path_length      = ["0"]
    ttl                  = ["604800s"]
    uri_sans             = ["spiffe://airflow.prod"]
    use_csr_values       = [false]
    exclude_cn_from_sans = [true]
    not_before_duration  = ["1s"]
  }
}

# Find CA certificates that a crash left behind (law 13).
path "pki_int/certs" {
  capabilities = ["list"]
}

# The same, in one call.
path "pki_int/certs/detailed" {
  capabilities = ["list"]
}

# What was signed, and is it revoked?
path "pki_int/cert/+" {
  capabilities = ["read"]
}

# Revoke a CA generation at its parent.
path "pki_int/revoke" {
  capabilities = ["create", "update"]
  required_parameters = ["serial_number"]
  allowed_parameters = {
    serial_number = []
  }
}

# Make a CA key inside Vault; it never leaves.
path "pki_airflow/issuers/generate/intermediate/internal" {
  capabilities = ["create", "update"]
  required_parameters = ["key_name", "key_type"]
  allowed_parameters = {
    common_name = ["airflow.prod CA g*"]
    key_name    = ["rotator-airflow-prod-g*"]
    key_type    = ["ec"]
    key_bits    = ["256"]
  }
}

# Install what the corporate PKI signed.
path "pki_airflow/intermediate/set-signed" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    certificate = []
  }
}

# Put the corporate CA's certificate, without key, where the pointer rests before the first activation.
path "pki_airflow/issuers/import/cert" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    pem_bundle = []
  }
}

# Which generations are there?
path "pki_airflow/issuers" {
  capabilities = ["list"]
}

# Which keys are there, left-overs included?
path "pki_airflow/keys" {
  capabilities = ["list"]
}

# Remove a retired generation's key.
path "pki_airflow/key/+" {
  capabilities = ["read", "delete"]
}

# Read, name and retire a generation; leaves that outlive it stay refused.
path "pki_airflow/issuer/+" {
  capabilities = ["read", "create", "update", "delete"]
  allowed_parameters = {
    issuer_name             = ["rotator-airflow-prod-g*"]
    leaf_not_after_behavior = ["err"]
  }
}

# The pointer that says which generation signs.
path "pki_airflow/config/issuers" {
  capabilities = ["read", "create", "update"]
  allowed_parameters = {
    default                       = []
    default_follows_latest_issuer = [false]
  }
}

# Sign a leaf by a named generation; the role decides which names and how long.
path "pki_airflow/issuer/+/sign/workload" {
  capabilities = ["create", "update"]
  required_parameters = ["csr", "ttl"]
  allowed_parameters = {
    csr = []
    ttl = []
  }
}

# What is revoked?
path "pki_airflow/issuer/+/crl" {
  capabilities = ["read"]
}

# Compare Vault's own list with the ledger.
path "pki_airflow/certs" {
  capabilities = ["list"]
}

# The same, with lifetimes.
path "pki_airflow/certs/detailed" {
  capabilities = ["list"]
}

# Read a certificate on that list.
path "pki_airflow/cert/+" {
  capabilities = ["read"]
}

# Revoke a leaf.
path "pki_airflow/revoke" {
  capabilities = ["create", "update"]
  required_parameters = ["serial_number"]
  allowed_parameters = {
    serial_number = []
  }
}
