"""
A mesh at the stand-in control plane, and the state machine that leads it, in virtual time.

Rules that must stay true here:

- Every decision is `rotator.core.authority.decide`'s; here it is only carried out, one step a second.
- Between any two seconds every pair of running proxies is tried, by the stand-in alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from rotator.adapters.kuma.about import Model
from rotator.adapters.kuma.api import Endpoint
from rotator.adapters.kuma.control_plane import ControlPlane
from rotator.adapters.kuma.models import KumaMesh
from rotator.adapters.kuma.universal import connect
from rotator.core.authority import AuthorityPolicy, decide
from rotator.core.model import (
    AuthorityIntent,
    AuthoritySeen,
    Generation,
    IntentKind,
    IssuerId,
    KeyType,
    TrustDomainName,
)
from rotator.core.steps import (
    ActivateIssuer,
    Done,
    Nothing,
    PrepareIssuer,
    PublishBundle,
    Refused,
    RetireIssuer,
    RevokeIssuer,
    Wait,
)
from rotator.errors import Unavailable
from rotator.ports import AuthorityOrder, MeshView
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.clock import ManualClock
from tests.fakes.kuma.signing import KeyPair, new_root
from tests.fakes.kuma.standin import StandIn
from tests.fakes.vault import FakeVault
from tests.fixtures_kuma import PROXIES

DOMAIN = TrustDomainName("default")
"""Leaves of ``Mesh.mtls`` are called after the mesh, so the trust domain is too."""

LEAF = timedelta(hours=1)
CA_LIFE = timedelta(hours=24)

POLICY = AuthorityPolicy(
    trust_domain=DOMAIN,
    longest_leaf=LEAF,
    lifetime=CA_LIFE,
    renew_at=0.5,
    trust_deadline=timedelta(minutes=30),
    skew=timedelta(seconds=5),
    propagation=timedelta(seconds=5),
    retry_budget=timedelta(minutes=5),
)


@dataclass
class MeshWorld:
    """One mesh, its proxies, the corporate PKI and rotator's adapter."""

    version: str = "2.14.3"
    model: Model | None = None
    root: FakeCA | None = None
    clock: ManualClock = field(default_factory=ManualClock)
    accept_shared_root: str | None = None
    longest_leaf: timedelta = LEAF
    mode: str = "zone"
    zones: tuple[str, ...] = ()
    broken: list[str] = field(default_factory=list)
    """Every pair that could not speak mutual TLS at some second, with the reason."""
    after: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens once a step of this name has been taken."""
    steps: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._cleanup = ExitStack()
        self.standin = self._cleanup.enter_context(
            StandIn(clock=self.clock, version=self.version, mode=self.mode, zones=self.zones)
        )
        self.standin.edit_mesh(meshServices={"mode": "Exclusive"})
        for number, name in enumerate(PROXIES):
            self.standin.add_proxy(name, zone=self.zones[number % len(self.zones)] if self.zones else None)
        self.standin.run(15)
        self.vault = FakeVault(self.clock)
        now = self.clock.now()
        self.root = self.root or FakeCA("mesh root", DOMAIN, now, now + timedelta(days=1825), path_length=1)
        token = self._cleanup.enter_context(_TokenFile(self.standin.admin_token))
        endpoint = Endpoint(url=self.standin.url, token_file=token.path)
        self.plane: ControlPlane = connect(endpoint, "default")
        self.mesh = self.again()
        self.highest = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def connect(self) -> ControlPlane:
        """Return the control plane, as the wiring would."""
        return self.plane

    def again(self, **more: Any) -> KumaMesh:
        """Return the adapter of another process."""
        assert self.root is not None
        return KumaMesh(
            self.connect,
            self.vault.signer(DOMAIN, self.root),
            self.clock,
            DOMAIN,
            self.longest_leaf,
            timedelta(seconds=5),
            accept_shared_root=self.accept_shared_root,
            model=self.model,
            **more,
        )

    # --- what was there before rotator ------------------------------------------------------------------------------

    def on_builtin(self) -> None:
        """Let the mesh run on Kuma's builtin CA."""
        backend = {"name": "ca-1", "type": "builtin", "dpCert": {"rotation": {"expiration": "1h"}}}
        self.standin.edit_mesh(mtls={"enabledBackend": "ca-1", "backends": [backend]})
        self.standin.run(15)

    def on_provided(self, **conf: Any) -> KeyPair:
        """Let the mesh run on a CA that was provided by hand."""
        pair = new_root("by hand", str(DOMAIN), self.clock.now())
        self.standin.keep_secret("hand-cert", pair.certificate_pem)
        self.standin.keep_secret("hand-key", pair.key_pem)
        backend = {
            "name": "ca-1",
            "type": "provided",
            "mode": "STRICT",
            "dpCert": {"rotation": {"expiration": "1h"}},
            "conf": {"cert": {"secret": "hand-cert"}, "key": {"secret": "hand-key"}, **conf},
        }
        self.standin.edit_mesh(mtls={"enabledBackend": "ca-1", "backends": [backend]})
        self.standin.run(15)
        return pair

    def on_identity(self, name: str = "identity", **bundled: Any) -> None:
        """Let the mesh run on somebody's MeshIdentity with a CA that Kuma generated."""
        said = {
            "insecureAllowSelfSigned": True,
            "autogenerate": {"enabled": True},
            "certificateParameters": {"expiry": "1h"},
            **bundled,
        }
        spec = {
            "selector": {"dataplane": {"matchLabels": {}}},
            "spiffeID": {"trustDomain": str(DOMAIN)},
            "provider": {"type": "Bundled", "bundled": said},
        }
        self.standin.apply({"type": "MeshIdentity", "mesh": "default", "name": name, "spec": spec})
        self.standin.run(30)

    def on_own_identity(self) -> None:
        """Let the mesh run on somebody's MeshIdentity with a CA that its people made."""
        pair = new_root("by hand", str(DOMAIN), self.clock.now())
        self.standin.keep_secret("hand-cert", pair.certificate_pem)
        self.standin.keep_secret("hand-key", pair.key_pem)
        parts = {
            part: {"type": "Secret", "secretRef": {"kind": "Secret", "name": f"hand-{what}"}}
            for part, what in (("certificate", "cert"), ("privateKey", "key"))
        }
        self.on_identity(autogenerate={"enabled": False}, ca=parts)

    # --- rotator ----------------------------------------------------------------------------------------------------

    def look(self, *, proofs: bool = True) -> MeshView:
        """Return what the adapter sees."""
        return self.mesh.look(proofs=proofs)

    def seen(self, view: MeshView) -> AuthoritySeen:
        """Return *view* as the state machine sees it."""
        self.highest = max((self.highest, *(each.number for each in view.held.generations)))
        return AuthoritySeen(
            generations=view.held.generations,
            active=view.held.active,
            parties=view.parties,
            highest_number=self.highest,
            stray_until=view.stray_until,
        )

    def order(self, number: int, **more: Any) -> AuthorityOrder:
        """Return the order of generation *number*."""
        return AuthorityOrder(
            trust_domain=DOMAIN,
            number=number,
            lifetime=CA_LIFE,
            key=more.pop("key", KeyType.ECDSA_P256),
            rotation_id=f"{number:08x}-rotation",
            announce=more.pop("announce", lambda _: None),
        )

    def intent(self, kind: IntentKind = IntentKind.ROTATE) -> AuthorityIntent:
        """Return the intent to leave the generation that signs now, or to go back to the one before."""
        held = self.mesh.observe()
        active = next((each.number for each in held.generations if each.authority.id == held.active), None)
        if kind is IntentKind.ROTATE:
            return AuthorityIntent(rotation_id="r", kind=kind, since=self.clock.now(), from_generation=active)
        before = max(each.number for each in held.generations if active is None or each.number < active)
        return AuthorityIntent(
            rotation_id="r", kind=kind, since=self.clock.now(), from_generation=before, to_generation=active
        )

    def rotate(
        self,
        intent: AuthorityIntent | None = None,
        *,
        until: Callable[[MeshView], bool] | None = None,
        within: timedelta = timedelta(hours=3),
    ) -> None:
        """Carry out decisions until the rotation is done, or *until* is true of what is seen."""
        intent = intent or self.intent()
        end = self.clock.now() + within
        while self.clock.now() < end:
            view = self.look()
            if until is not None and until(view):
                return
            decision = decide(intent, self.seen(view), POLICY, self.clock.now())
            if view.refusals:
                self.tick()
                continue
            match decision.next:
                case PrepareIssuer(number=number):
                    self.highest = max(self.highest, number)
                    self.mesh.prepare(self.order(number))
                case PublishBundle():
                    self.mesh.publish(decision.bundle)
                case ActivateIssuer(issuer=issuer):
                    if self._activate(view, issuer):
                        self.taken("activate")
                    self.tick()
                    continue
                case RevokeIssuer(issuer=issuer):
                    self.mesh.revoke_authority(self.generation(view, issuer).authority.serial)
                case RetireIssuer(issuer=issuer):
                    self.mesh.retire(self.generation(view, issuer), revoke=False)
                case Wait(until=moment):
                    far = moment is not None and moment - self.clock.now() > timedelta(minutes=6)
                    self.tick(300 if far and not self.is_moving(view) else 1)
                    continue
                case Done():
                    return
                case Nothing() | Refused() as other:
                    raise AssertionError(f"unexpected: {other}")
                case other:
                    raise AssertionError(f"no step of a mesh: {other}")
            self.taken(type(decision.next).__name__)
            self.tick()
        view = self.look()
        decision = decide(intent, self.seen(view), POLICY, self.clock.now())
        raise AssertionError(f"not done: {decision.next} refusals={view.refusals}")

    def _activate(self, view: MeshView, issuer: IssuerId) -> bool:
        try:
            self.mesh.activate(self.generation(view, issuer))
        except Unavailable:
            return False
        return True

    def is_moving(self, view: MeshView) -> bool:
        """Return whether a proxy in contact does not show yet what was published last."""
        given = view.parties[0].published or frozenset()
        return any(each.reachable and each.acknowledged != given for each in view.parties)

    def generation(self, view: MeshView, issuer: IssuerId) -> Generation:
        """Return the generation that *issuer* names."""
        return next(each for each in view.held.generations if each.authority.id == issuer)

    def taken(self, step: str) -> None:
        """Note *step*, and let happen what a test has planned after it."""
        self.steps.append(step)
        planned = self.after.pop(step, None)
        if planned is not None:
            planned()

    def tick(self, seconds: float = 1) -> None:
        """Let time pass and try every pair."""
        self.standin.run(seconds)
        self.broken += [f"{pair}: {why}" for pair, why in self.standin.failures().items()]

    def first(self) -> None:
        """Bring generation 1 up where nothing was."""
        self.rotate(until=lambda view: view.held.active is not None)
        self.tick(30)
        self.broken.clear()
        self.steps.clear()

    def numbers(self) -> tuple[int, ...]:
        """Return the numbers of the generations that are held."""
        return tuple(each.number for each in self.mesh.observe().generations)

    def active(self) -> int | None:
        """Return the number of the generation that signs."""
        held = self.mesh.observe()
        return next((each.number for each in held.generations if each.authority.id == held.active), None)


class _TokenFile:
    """A token in a file for the time of a test."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __enter__(self) -> Self:
        self._directory = TemporaryDirectory()
        self.path = Path(self._directory.name) / "token"
        self.path.write_text(self._token)
        self.path.chmod(0o600)
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()
