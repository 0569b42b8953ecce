"""
What it takes to lead a mesh that does not run on a generation of rotator's yet, in words for people.

Rules that must stay true here:

- Pure. The plan says what rotator will really do, step by step, in the order in which it does it.
- What Kuma lets nobody do without an interruption is said, not smoothed over.
"""

from __future__ import annotations

from datetime import timedelta

from rotator.adapters.kuma.control_plane import About
from rotator.adapters.kuma.mesh import BUILTIN, Backend, builtin_secrets
from rotator.core.window import written
from rotator.ports import Adoption

_WAIT = "wait until every proxy has been seen to trust both CAs"


def of_backend(mesh: str, backend: Backend) -> Adoption:
    """Return how a mesh on a CA of ``Mesh.mtls`` is taken over."""
    if backend.type == BUILTIN:
        certificate, key = builtin_secrets(mesh, backend.name)
        found = f"the builtin CA of backend {backend.name}"
        left = f"leave the builtin CA's secrets {certificate} and {key} where they are: remove them yourself"
        first = f"turn backend {backend.name} into a provided one of the same name that goes on signing with {key}"
    else:
        found = f"the CA provided by hand to backend {backend.name}"
        where = [each.secret for each in (backend.certificate, backend.key) if each.secret]
        left = f"leave {' and '.join(where)} where they are: remove them yourself" if where else ""
        first = f"point backend {backend.name} at a bundle of the present CA and the new one, still signing as before"
        if backend.key.inline is not None:
            first += "; its key moves from the Mesh into a secret"
    plan = (
        "have a new CA signed and keep it, with its key, in secrets of its own",
        f"{first}: one write of the Mesh",
        _WAIT,
        "let the new CA sign: one write of the Mesh",
        "wait until no leaf of the present CA is in use any more, then take it out of the bundle",
        *((left,) if left else ()),
    )
    return Adoption(found=found, plan=plan)


def of_identity(name: str, *, moves_selector: bool, trusts: tuple[str, ...]) -> Adoption:
    """Return how a mesh on somebody's MeshIdentity is taken over."""
    move = "let the new MeshIdentity select every proxy"
    if moves_selector:
        move += f", then let {name} select nobody, because its name sorts first"
    gone = f"MeshIdentity {name}" + "".join(f" and MeshTrust {each}" for each in trusts)
    plan = (
        "have a new CA signed and keep it, with its key, in secrets of its own",
        "make a MeshIdentity of the same SPIFFE IDs that selects nobody, and wait until it is ready",
        "trust the new CA beside the present one in a MeshTrust of rotator's own",
        _WAIT,
        move,
        (
            f"wait until no leaf of the present CA is in use any more, then remove {gone}; a CA that you provided "
            "stays in its secrets, one that Kuma generated goes with the MeshIdentity that owns it"
        ),
    )
    return Adoption(found=f"MeshIdentity {name}", plan=plan)


def of_plaintext_mtls(longest_leaf: timedelta) -> Adoption:
    """Return how mTLS is switched on by ``Mesh.mtls``."""
    return Adoption(
        found="a mesh without mTLS",
        plan=(
            "have a first CA signed and keep it, with its key, in secrets of its own",
            (
                "switch mTLS on with a provided backend called rotator, mode PERMISSIVE, leaves of "
                f"{written(longest_leaf)}: one write of the Mesh; callers without a certificate are still admitted"
            ),
            "leave it to you to make the mode STRICT once every caller is in the mesh",
        ),
        interrupts=(
            "with mTLS on Kuma denies what no MeshTrafficPermission allows, and a request between two proxies of which "
            "only one has its certificate yet may fail for some seconds: check the permissions first"
        ),
    )


def of_plaintext_identity(about: About, longest_leaf: timedelta, *, has_mtls: bool) -> Adoption:
    """Return how a mesh gets its first MeshIdentity; *has_mtls* while its proxies have leaves of ``Mesh.mtls``."""
    return Adoption(
        found="Mesh.mtls, and no MeshIdentity" if has_mtls else "a mesh without any MeshIdentity",
        plan=(
            "have a first CA signed and keep it, with its key, in secrets of its own",
            "make a MeshIdentity that selects nobody, and wait until it is ready",
            "trust its CA in a MeshTrust of rotator's own",
            f"let it select every proxy, with leaves of {written(longest_leaf)}",
            *(("leave Mesh.mtls to you: switch it off once every proxy has its identity",) if has_mtls else ()),
        ),
        interrupts=(
            f"proxies of control plane {about.version_text} get their first identity, and what MeshTLS makes strict "
            "refuses callers without one: requests between two proxies of which only one has it may fail for some "
            "seconds, and Kuma denies what no MeshTrafficPermission allows; make MeshTLS permissive and check the "
            "permissions first"
        ),
    )
