"""
Tokens of proxies, zones and users: signed with the keys that stand in the store, and checked by them.

Rules that must stay true here:

- The signing key with the highest serial signs; every serial that is there verifies, a deleted one verifies nothing.
- Revocation lists are read as the released code reads them: for dataplane tokens too a *GlobalSecret*, although the
  documentation names a Secret of the mesh.
- A token is looked at when somebody comes with it, and never again while the connection stays.
- The first key of each kind is made when it is first needed; a released control plane makes it with the mesh, or at its
  start.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from rotator.ports import Clock
from tests.fakes.kuma.admission import Invalid, Violation, go_duration
from tests.fakes.kuma.store import GLOBAL_SECRET, MESH, SECRET, Json, Resource, Store

ADMINS = "mesh-system:admin"
"""The group of administrators."""

# Kuma's own slack at both ends.
_SLACK = timedelta(seconds=5)
_TEN_YEARS = timedelta(days=3650)
_SCOPES = frozenset({"ingress", "egress", "cp"})


class TokenKind(StrEnum):
    """Whose token it is."""

    DATAPLANE = "dataplane"
    ZONE = "zone"
    USER = "user"


class TokenRefused(Exception):
    """A token that does not let in; the text is what a control plane would log."""


@dataclass(frozen=True, slots=True)
class SigningKeyRing:
    """Where the signing keys of one kind stand: in a mesh's Secrets, or in GlobalSecrets."""

    kind: TokenKind
    mesh: str = ""

    @property
    def prefix(self) -> str:
        """Return what the names of its keys begin with."""
        return f"{self.kind}-token-signing-key" + (f"-{self.mesh}" if self.mesh else "")

    @property
    def resource(self) -> str:
        """Return the kind of resource that holds a key."""
        return SECRET if self.mesh else GLOBAL_SECRET

    @property
    def revocations(self) -> str:
        """Return the name of the list that is read, always a GlobalSecret."""
        return f"{self.kind}-token-revocations" + (f"-{self.mesh}" if self.mesh else "")


class TokenServer:
    """Issues and verifies tokens over one store. Safe from several threads."""

    def __init__(self, store: Store, clock: Clock, *, major: int) -> None:
        self._store = store
        self._clock = clock
        self._major = major
        self._lock = threading.Lock()

    # --- issuing ----------------------------------------------------------------------------------------------------

    def issue(self, kind: str, body: Json) -> str:
        """Return a new token as ``POST /tokens/KIND`` answers it. Raises `Invalid` if *body* asks for nonsense."""
        valid_for = _valid_for(kind, body)
        match TokenKind(kind):
            case TokenKind.DATAPLANE:
                mesh = body.get("mesh") or ""
                if not mesh:
                    raise Invalid(Violation("mesh", "cannot be empty"))
                if self._store.get(MESH, "", mesh) is None:
                    raise Invalid(Violation("mesh", f"mesh of name {mesh} is not found"))
                ring = SigningKeyRing(TokenKind.DATAPLANE, mesh)
                claims: Json = {
                    "Name": body.get("name") or "",
                    "Mesh": mesh,
                    "Tags": body.get("tags") or {},
                    "Type": body.get("type") or "",
                    "Workload": body.get("workload") or "",
                }
            case TokenKind.ZONE:
                scope = body.get("scope") or []
                if not scope and self._major < 3:
                    raise Invalid(Violation("scope", "cannot be empty"))
                unknown = sorted(set(scope) - _SCOPES)
                if unknown:
                    raise Invalid(Violation("scope", f"unknown scope {unknown[0]}"))
                ring = SigningKeyRing(TokenKind.ZONE)
                claims = {"Zone": body.get("zone") or "", "Scope": scope}
            case TokenKind.USER:
                if not body.get("name"):
                    raise Invalid(Violation("name", "cannot be empty"))
                ring = SigningKeyRing(TokenKind.USER)
                claims = {"Name": body["name"], "Groups": body.get("groups") or []}
        return self._signed(ring, claims, valid_for)

    def _signed(self, ring: SigningKeyRing, claims: Json, valid_for: timedelta) -> str:
        serial, key = self._latest(ring)
        now = self._clock.now()
        registered = {
            "jti": str(uuid.uuid4()),
            "iat": _seconds(now - _SLACK),
            "nbf": _seconds(now - _SLACK),
            "exp": _seconds(now + valid_for + _SLACK),
        }
        head = {"alg": "RS256", "kid": str(serial), "typ": "JWT"}
        signed = f"{_encoded(head)}.{_encoded(claims | registered)}"
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64url(signature)}"

    # --- checking ---------------------------------------------------------------------------------------------------

    def verified(self, token: str, ring: SigningKeyRing) -> Json:
        """Return the claims of *token*, which one of the keys of *ring* has signed. Raises `TokenRefused`."""
        try:
            head, claims, signed, signature = _parsed(token)
        except (ValueError, KeyError, TypeError) as e:
            raise TokenRefused("could not parse token: token contains an invalid number of segments") from e
        key = self._store.get(ring.resource, ring.mesh, f"{ring.prefix}-{head.get('kid')}")
        if key is None or head.get("alg") != "RS256":
            raise TokenRefused(
                f"there is no signing key with KID {head.get('kid')}. {ring.resource} of name "
                f"{ring.prefix}-{head.get('kid')!r} is not found. If signing key was rotated, regenerate the token"
            )
        try:
            _private(key).public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as e:
            raise TokenRefused("could not parse token: crypto/rsa: verification error") from e
        now = self._clock.now()
        if now >= datetime.fromtimestamp(claims["exp"], UTC):
            raise TokenRefused("could not parse token: token has invalid claims: token is expired")
        if now < datetime.fromtimestamp(claims["nbf"], UTC):
            raise TokenRefused("could not parse token: token has invalid claims: token is not valid yet")
        if claims["jti"] in self._revoked(ring):
            raise TokenRefused("token is revoked")
        return claims

    def admit_dataplane(
        self,
        token: str,
        *,
        mesh: str,
        name: str,
        tags: Mapping[str, Sequence[str]] | None = None,
        workload: str = "",
    ) -> Json:
        """
        Return the claims of *token* if the proxy *name* of *mesh* may open its stream with it.

        *tags* are all that its inbounds carry, value by value; *workload* its label. Raises `TokenRefused`.
        """
        claims = self.verified(token, SigningKeyRing(TokenKind.DATAPLANE, mesh))
        if claims["Mesh"] != mesh:
            raise TokenRefused(f"proxy mesh from requestor: {mesh} is different than in token: {claims['Mesh']}")
        if claims.get("Type") not in {None, "", "dataplane"}:
            raise TokenRefused(f"proxy type from requestor: dataplane is different than in token: {claims['Type']}")
        if claims.get("Name") and claims["Name"] != name:
            raise TokenRefused(f"proxy name from requestor: {name} is different than in token: {claims['Name']}")
        if claims.get("Workload") and claims["Workload"] != workload:
            raise TokenRefused(f"workload from requestor: {workload} is different than in token: {claims['Workload']}")
        for tag, allowed in (claims.get("Tags") or {}).items():
            shown = set((tags or {}).get(tag, ()))
            if not shown:
                raise TokenRefused(f"dataplane has no tag {tag!r} required by the token")
            if not shown <= set(allowed):
                raise TokenRefused(f"dataplane contains tag {tag!r} with value {min(shown - set(allowed))!r}")
        return claims

    def admit_zone(self, token: str, *, zone: str, scope: str) -> Json:
        """Return the claims of *token* if it lets the *scope* of *zone* in. Raises `TokenRefused`."""
        claims = self.verified(token, SigningKeyRing(TokenKind.ZONE))
        if claims.get("Zone") and claims["Zone"] != zone:
            raise TokenRefused(f"zone from requestor: {zone} is different than in token: {claims['Zone']}")
        if claims.get("Scope") and scope not in claims["Scope"]:
            raise TokenRefused(f"token scope {claims['Scope']} does not hold {scope}")
        return claims

    def groups_of(self, token: str) -> frozenset[str]:
        """Return the groups of the user that comes with *token*. Raises `TokenRefused`."""
        return frozenset(self.verified(token, SigningKeyRing(TokenKind.USER)).get("Groups") or ())

    def _revoked(self, ring: SigningKeyRing) -> frozenset[str]:
        found = self._store.get(GLOBAL_SECRET, "", ring.revocations)
        text = "" if found is None else base64.b64decode(found.spec.get("data") or "").decode()
        return frozenset(text.removesuffix("\n").split(",")) if text else frozenset()

    # --- keys -------------------------------------------------------------------------------------------------------

    def serials(self, ring: SigningKeyRing) -> tuple[int, ...]:
        """Return the serials of the keys that are there, ascending."""
        named = re.compile(rf"{re.escape(ring.prefix)}-([0-9]+)")
        found = (named.fullmatch(each.name) for each in self._store.list(ring.resource, ring.mesh))
        return tuple(sorted(int(match[1]) for match in found if match))

    def ensure_key(self, ring: SigningKeyRing) -> None:
        """Make the first key of *ring* if it has none."""
        with self._lock:
            if self.serials(ring):
                return
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            )
            now = self._clock.now()
            self._store.put(
                Resource(
                    type=ring.resource,
                    mesh=ring.mesh,
                    name=f"{ring.prefix}-1",
                    spec={"data": base64.b64encode(pem).decode()},
                    created_at=now,
                    modified_at=now,
                )
            )

    def _latest(self, ring: SigningKeyRing) -> tuple[int, rsa.RSAPrivateKey]:
        self.ensure_key(ring)
        serial = self.serials(ring)[-1]
        found = self._store.get(ring.resource, ring.mesh, f"{ring.prefix}-{serial}")
        assert found is not None, "a key went away between two looks"
        return serial, _private(found)


def tags_of_dataplane(dataplane: Json) -> dict[str, list[str]]:
    """Return every tag of a Dataplane's inbounds with its values, as tokens are compared with them."""
    found: dict[str, list[str]] = {}
    networking = dataplane.get("networking") or {}
    for inbound in [*(networking.get("inbound") or []), networking.get("gateway") or {}]:
        for tag, value in (inbound.get("tags") or {}).items():
            found.setdefault(tag, []).append(value)
    return found


def _valid_for(kind: str, body: Json) -> timedelta:
    text = body.get("validFor") or ""
    if not text:
        if kind == TokenKind.USER:
            raise Invalid(Violation("validFor", "cannot be empty"))
        return _TEN_YEARS
    found = go_duration(text)
    if found is None:
        raise Invalid(Violation("validFor", f'is invalid: time: invalid duration "{text}"'))
    return found


def _private(resource: Resource) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(base64.b64decode(resource.spec["data"]), None)
    assert isinstance(key, rsa.RSAPrivateKey), f"{resource.name} holds no RSA key"
    return key


def _parsed(token: str) -> tuple[Json, Json, bytes, bytes]:
    head, claims, signature = token.split(".")
    return _decoded(head), _decoded(claims), f"{head}.{claims}".encode(), _from_base64url(signature)


def _decoded(part: str) -> Json:
    said: Any = json.loads(_from_base64url(part))
    if not isinstance(said, dict):
        raise TypeError("no object")
    return said


def _encoded(said: Json) -> str:
    return _base64url(json.dumps(said, separators=(",", ":")).encode())


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as e:
        raise ValueError("no base64") from e


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
