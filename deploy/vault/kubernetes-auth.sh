#!/bin/sh
# Lets rotator's pod log in at Vault or OpenBao with its ServiceAccount: auth method, reviewer and role. README.md beside it.
#
# Rules that must stay true here:
# - May be run again at any time: it says what should be, and overwrites nothing but its own configuration and role.
# - No secret in an argument list: the reviewer's token is read from its file by bao itself.
# - The role takes tokens made for Vault alone (audience), of one account in one namespace, and nothing by default.
#
# Log in as an administrator first (bao login, or BAO_TOKEN in the environment), then:
#
#   KUBERNETES_HOST=https://api.cluster.example:6443 KUBERNETES_CA_FILE=cluster-ca.crt \
#   REVIEWER_TOKEN_FILE=reviewer-token POLICIES=rotator-airflow-prod ./kubernetes-auth.sh
set -eu

CLI=${CLI:-$(command -v bao || command -v vault || echo bao)}
MOUNT=${MOUNT:-kubernetes}
ROLE=${ROLE:-rotator}
NAMESPACE=${NAMESPACE:-rotator}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-rotator}
AUDIENCE=${AUDIENCE:-vault}
TOKEN_TTL=${TOKEN_TTL:-10m}
TOKEN_MAX_TTL=${TOKEN_MAX_TTL:-1h}

: "${KUBERNETES_HOST:?is missing: the API server as Vault reaches it, https://HOST:PORT}"
: "${KUBERNETES_CA_FILE:?is missing: a file with the CA of the API server, PEM}"
: "${REVIEWER_TOKEN_FILE:?is missing: a file with the token of an account that may review tokens (token-reviewer.yaml)}"
: "${POLICIES:?is missing: the names of the policies rotator gets, separated by commas}"
for file in "$KUBERNETES_CA_FILE" "$REVIEWER_TOKEN_FILE"; do
  if [ ! -s "$file" ]; then
    echo "kubernetes-auth.sh: $file is not there or empty" >&2
    exit 2
  fi
done
case ",$POLICIES," in
*,root,* | *,default,*)
  echo "kubernetes-auth.sh: POLICIES names root or default; allowed are policies made for rotator (deploy/vault)" >&2
  exit 2
  ;;
esac

# The list is asked for first: enabling a method that is there is an error, and so is one of another type at that path.
if ! "$CLI" read -format=json "sys/auth/$MOUNT" >/dev/null 2>&1; then
  "$CLI" auth enable -path="$MOUNT" -description="ServiceAccounts of $KUBERNETES_HOST" kubernetes
fi

# disable_local_ca_jwt: where Vault itself runs in a pod, its own account is not taken for the reviewer's.
"$CLI" write "auth/$MOUNT/config" \
  kubernetes_host="$KUBERNETES_HOST" \
  kubernetes_ca_cert=@"$KUBERNETES_CA_FILE" \
  token_reviewer_jwt=@"$REVIEWER_TOKEN_FILE" \
  disable_local_ca_jwt=true

# Tokens are short: rotator renews them, and logs in again when they end.
"$CLI" write "auth/$MOUNT/role/$ROLE" \
  bound_service_account_names="$SERVICE_ACCOUNT" \
  bound_service_account_namespaces="$NAMESPACE" \
  audience="$AUDIENCE" \
  alias_name_source=serviceaccount_uid \
  token_policies="$POLICIES" \
  token_no_default_policy=true \
  token_ttl="$TOKEN_TTL" \
  token_max_ttl="$TOKEN_MAX_TTL"

echo "$NAMESPACE/$SERVICE_ACCOUNT may log in at auth/$MOUNT with the role $ROLE and tokens for the audience $AUDIENCE"
