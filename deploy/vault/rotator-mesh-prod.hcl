# rotator's rights for trust domain mesh.prod. Made by rotator.adapters.vault.policies.

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
path "pki_mesh_prod/issuer/mesh-root" {
  capabilities = ["read"]
}

# Have a CA generation signed: this name, this path length, this lifetime.
path "pki_mesh_prod/issuer/mesh-root/sign-intermediate" {
  capabilities = ["create", "update"]
  required_parameters = ["common_name", "max_path_length", "ttl", "uri_sans", "use_csr_values", "exclude_cn_from_sans", "not_before_duration"]
  allowed_parameters = {
    csr                  = []
    common_name          = ["mesh.prod CA g*"]
    max_path_length      = ["0"]
    ttl                  = ["2592000s"]
    uri_sans             = ["spiffe://mesh.prod"]
    use_csr_values       = [false]
    exclude_cn_from_sans = [true]
    not_before_duration  = ["1s"]
  }
}

# Find CA certificates that a crash left behind (law 13).
path "pki_mesh_prod/certs" {
  capabilities = ["list"]
}

# The same, in one call.
path "pki_mesh_prod/certs/detailed" {
  capabilities = ["list"]
}

# What was signed, and is it revoked?
path "pki_mesh_prod/cert/+" {
  capabilities = ["read"]
}

# Revoke a CA generation at its parent.
path "pki_mesh_prod/revoke" {
  capabilities = ["create", "update"]
  required_parameters = ["serial_number"]
  allowed_parameters = {
    serial_number = []
  }
}
