"""Verifiers that keep to RFC 5280, as in applications beside an agent: those of Python, OpenSSL and Go."""

import os
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.harness.tools import tool

GO_PROGRAM = Path(__file__).with_name("strict_verify.go")


class NotVerified(Exception):
    """A verifier refused the chain; the message is the verifier's."""


@dataclass(frozen=True)
class Chain:
    """The chain and key of a peer, and the anchors of the other side, as in the agent's three files."""

    ca_crt: bytes
    """The anchors, in PEM."""
    tls_crt: bytes
    """The leaf, then the CAs between it and an anchor, in PEM."""
    tls_key: bytes
    """The leaf's key, in PEM."""
    serves_alone: bool = False
    """Whether the leaf is for servers only, as that of the authority's API is."""

    def write(self, folder: Path) -> tuple[Path, Path, Path]:
        paths = (folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
        for path, data in zip(paths, (self.ca_crt, self.tls_crt, self.tls_key), strict=True):
            path.write_bytes(data)
        return paths


def by_python(chain: Chain, folder: Path) -> None:
    """A handshake in memory whose ends verify each other with the flags of Python 3.13's default contexts."""
    ca, crt, key = chain.write(folder)
    contexts = [ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER)]
    for context in contexts:
        context.load_verify_locations(ca)
        context.load_cert_chain(crt, key)
        context.check_hostname = False  # names are not what this is about
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_mode = ssl.CERT_REQUIRED
    client, server = contexts
    if chain.serves_alone:
        server.verify_mode = ssl.CERT_NONE
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, forth), server.wrap_bio(forth, back, server_side=True)]
    try:
        for end in ends * 3:  # TLS 1.3 takes a flight each way, and one more that tells the server's verdict
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise NotVerified(error.verify_message) from None
    assert all(end.version() for end in ends)


def by_openssl(chain: Chain, folder: Path) -> None:
    """``openssl verify -x509_strict``, as a server's and as a client's certificate."""
    ca, crt, _ = chain.write(folder)
    for purpose in ["sslserver"] if chain.serves_alone else ["sslserver", "sslclient"]:
        options = ["-x509_strict", "-partial_chain", "-purpose", purpose, "-CAfile", str(ca), "-untrusted", str(crt)]
        _run([str(tool("openssl")), "verify", *options, str(crt)])


def by_go(chain: Chain, folder: Path) -> None:
    """Go's ``crypto/x509``."""
    ca, crt, _ = chain.write(folder)
    offline = {"GOFLAGS": "", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GO111MODULE": "off"}
    purposes = ["server"] if chain.serves_alone else ["server", "client"]
    _run([str(tool("go")), "run", str(GO_PROGRAM), str(ca), str(crt), *purposes], os.environ | offline)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if run.returncode:
        raise NotVerified(run.stderr)


Verifier = Callable[[Chain, Path], None]
