"""What proves an identity to Vault in tests: signed tokens, and a Kubernetes API that reviews them."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from rotator.embedded.loopback_tls import listener_certificate, write_private


class TokenMaker:
    """Signs JSON web tokens with ES256."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_pem(self) -> str:
        """The key that verifies them."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return public.decode()

    def token(self, **claims: object) -> str:
        """Return a token that says *claims*."""
        parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "ES256", "typ": "JWT"}, claims)]
        signature = self._key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256()))
        raw = b"".join(number.to_bytes(32) for number in decode_dss_signature(signature))
        return ".".join([*parts, _base64(raw)])


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class TokenReviewer:
    """A Kubernetes API that can do one thing: say whose a service account's token is. TLS on loopback."""

    def __init__(self, directory: Path, *, token: str, namespace: str, account: str) -> None:
        self.ca_file = directory / "kubernetes-ca.crt"
        certificate, key = listener_certificate(self.ca_file)
        write_private(directory / "kubernetes.crt", certificate)
        write_private(directory / "kubernetes.key", key)

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status: dict[str, object] = {"authenticated": False, "error": "not a token of this cluster"}
                if review["spec"]["token"] == token:
                    user = {"username": f"system:serviceaccount:{namespace}:{account}", "uid": "9c0d1a7e"}
                    status = {"authenticated": True, "user": user, "audiences": review["spec"].get("audiences", [])}
                answer = json.dumps({**review, "status": status}).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "kubernetes.crt", directory / "kubernetes.key")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
