"""A real OpenBao for tests: one dev server with TLS for the whole session, a namespace for each test."""

import ctypes
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from authority.issuer.openbao import OpenBaoIssuer
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoUnreachable
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.login import AppRoleLogin, Json, Login, OpenBaoAccess, TokenLogin
from authority.openbao.setup import SetupRequest, set_up
from authority.openbao.transport import OpenBaoTransport
from authority.pki.keystore import KeyType
from tests.harness.authority.memory_backends import Effects
from tests.harness.ports import free_port
from tests.harness.waiting import PATIENCE

ROOT_TOKEN = "root"

DOMAIN = "bus.example.com"

TOLERANCE = 30


QUICK = (0.01, 0.02)
"""Pauses between retries, for tests of faults that do not pass by themselves."""

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """In the child: be killed when the test run itself is killed and cannot clean up (prctl(2), Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(frozen=True)
class OpenBaoServer:
    """The running server; ``unseal_key`` opens it again after a test has sealed it."""

    port: int
    ca_file: Path
    unseal_key: str
    pid: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def access(self, login: Login, namespace: str = "") -> OpenBaoAccess:
        return OpenBaoAccess(self.url, login, namespace, self.ca_file)

    def operator(self, namespace: str = "") -> OpenBaoClient:
        return OpenBaoClient(self.access(TokenLogin(ROOT_TOKEN), namespace))

    def serve(self, chain: Path, key: Path) -> None:
        """Serve this certificate from now on, to new connections."""
        (self.ca_file.parent / "vault-cert.pem").write_bytes(chain.read_bytes())
        (self.ca_file.parent / "vault-key.pem").write_bytes(key.read_bytes())
        os.kill(self.pid, signal.SIGHUP)

    async def seal(self) -> None:
        async with self.operator() as root:
            await root.write("sys/seal", {})

    async def unseal(self) -> None:
        """Unseal the server; the call needs no token, and takes effect a moment later."""
        access, pauses = self.access(TokenLogin(ROOT_TOKEN)), (0.05,) * 100
        async with aclosing(OpenBaoTransport(access, pauses)) as transport:
            status, _ = await transport.send("POST", "sys/unseal", {"key": self.unseal_key}, "")
            assert status == 200
        async with OpenBaoClient(access, pauses) as client:
            await client.read("sys/mounts")

    def command(self, *arguments: str, namespace: str) -> subprocess.CompletedProcess[str]:
        """The program ``bao``, as a person at a terminal uses it."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.ca_file.parent),
            "BAO_ADDR": self.url,
            "BAO_CACERT": str(self.ca_file),
            "BAO_TOKEN": ROOT_TOKEN,
            "BAO_NAMESPACE": namespace,
        }
        return subprocess.run(
            [_program(), *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
        )


@contextmanager
def serving(directory: Path) -> Iterator[OpenBaoServer]:
    """Run a server inside the block."""
    port = free_port()
    log = directory / "bao.log"
    options = ["-dev", "-dev-tls", f"-dev-tls-cert-dir={directory}", f"-dev-listen-address=127.0.0.1:{port}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_program(), "server", *options, f"-dev-root-token-id={ROOT_TOKEN}", "-dev-no-store-token"],
            env={"PATH": os.environ["PATH"], "HOME": str(directory)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads run yet
        )
    try:
        ca_file = directory / "vault-ca.pem"
        _await(lambda: _is_healthy(port, ca_file), process, log)
        _await(lambda: _unseal_key(log) is not None, process, log)
        yield OpenBaoServer(port, ca_file, _unseal_key(log) or "", process.pid)
    finally:
        process.kill()
        process.wait()


def _program() -> str:
    return str(Path(sys.executable).with_name("bao"))


def _await(is_so: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _is_healthy(port: int, ca_file: Path) -> bool:
    if not ca_file.exists():
        return False
    try:
        context = ssl.create_default_context(cafile=ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://127.0.0.1:{port}/v1/sys/health", timeout=PATIENCE) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _unseal_key(log: Path) -> str | None:
    match = re.search(r"^Unseal Key: (\S+)$", log.read_text(), re.MULTILINE)
    return match[1] if match else None


class StruckClient(OpenBaoClient):
    """A client whose every change of OpenBao is an effect; those of journal records say which kind of record."""

    def __init__(self, access: OpenBaoAccess, effects: Effects) -> None:
        super().__init__(access, QUICK)
        self._effects = effects

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        record = (body.get("data") or {}).get("record", "")
        name = f"write {path} {record}".rstrip()
        await self._effects.arrive(name)
        with self._effects.around(name, OpenBaoUnreachable):
            return await super().write(path, body, repeatable=repeatable)

    async def patch(self, path: str, body: Json) -> Json:
        await self._effects.arrive(f"patch {path}")
        with self._effects.around(f"patch {path}", OpenBaoUnreachable):
            return await super().patch(path, body)

    async def delete(self, path: str) -> None:
        await self._effects.arrive(f"delete {path}")
        with self._effects.around(f"delete {path}", OpenBaoUnreachable):
            await super().delete(path)


@dataclass
class OpenBaoNamespace:
    """A namespace of its own; ``client`` has the operator's token there. ``login`` is the authority's AppRole."""

    server: OpenBaoServer
    namespace: str
    client: OpenBaoClient
    layout: OpenBaoLayout = field(default_factory=OpenBaoLayout)
    login: AppRoleLogin | None = None

    @classmethod
    async def create(cls, server: OpenBaoServer) -> "OpenBaoNamespace":
        name = f"test-{secrets.token_hex(4)}"
        async with server.operator() as root:
            await root.write(f"sys/namespaces/{name}", {})
        return cls(server, name, server.operator(name))

    def access(self, login: Login) -> OpenBaoAccess:
        return self.server.access(login, self.namespace)

    async def set_up(self, now: int, tolerance: int = TOLERANCE) -> None:
        """Everything that ``init --openbao`` makes, and a login with nothing but the policy that it prints."""
        await set_up(self.client, self.layout, SetupRequest(DOMAIN, KeyType.EC_P256, tolerance), now)
        await self.admit(self.layout.policy())

    async def admit(self, policy: str) -> None:
        """A login for the authority, with this policy alone."""
        await self.client.write("sys/policies/acl/tidemark", {"policy": policy})
        self.login = await self.approle({"token_policies": ["tidemark"], "token_ttl": "10m"})

    async def approle(self, role: Json, name: str = "tidemark") -> AppRoleLogin:
        """Credentials of a role made for the test."""
        if "approle/" not in (await self.client.read("sys/auth") or {}):
            await self.client.write("sys/auth/approle", {"type": "approle"})
        await self.client.write(f"auth/approle/role/{name}", role)
        role_id = await self.client.read(f"auth/approle/role/{name}/role-id") or {}
        secret_id = await self.client.write(f"auth/approle/role/{name}/secret-id", {})
        return AppRoleLogin(str(role_id["role_id"]), str(secret_id["secret_id"]))

    def authority(self, pauses: Sequence[float] = QUICK) -> OpenBaoClient:
        """The client of an authority, with the least policy."""
        assert self.login is not None
        return OpenBaoClient(self.access(self.login), pauses)

    def struck(self, effects: Effects) -> "StruckClient":
        """The same, with changes of OpenBao that may be struck."""
        assert self.login is not None
        return StruckClient(self.access(self.login), effects)

    def issuer(self, client: OpenBaoClient, clock: Callable[[], float] = time.time) -> OpenBaoIssuer:
        return OpenBaoIssuer(client, self.layout, KeyType.EC_P256, tolerance_seconds=TOLERANCE, clock=clock)

    async def default_name(self) -> str:
        """The name of the default issuer of the intermediates' mount."""
        listed = await self.client.list(f"{self.layout.intermediate}/issuers")
        (name,) = [info["issuer_name"] for info in listed["key_info"].values() if info["is_default"]]
        return str(name)

    async def names(self, kind: str) -> set[str]:
        """The names of all ``keys`` or ``issuers`` of the intermediates' mount ("" for one without)."""
        listed = await self.client.list(f"{self.layout.intermediate}/{kind}")
        field_name = {"keys": "key_name", "issuers": "issuer_name"}[kind]
        return {str(info[field_name]) for info in listed.get("key_info", {}).values()}


# What the authority never needs, by what a thief of its token would want: (method, path, body).
CLOSED: list[tuple[str, str, Json]] = [
    # a CA of one's own, or one that outlives the rotation
    ("write", "pki/root/generate/internal", {"common_name": "x"}),
    ("write", "pki/root/sign-intermediate", {"common_name": "x"}),
    ("write", "pki/issuer/default/sign-self-issued", {"certificate": "x"}),
    ("write", "pki/issuer/default/sign-verbatim", {"csr": "x"}),
    ("write", "pki/issuer/default/sign-intermediate", {"common_name": "x", "max_path_length": "1"}),
    ("write", "pki/issuer/default/sign-intermediate", {"common_name": "x", "max_path_length": "-1"}),
    ("write", "pki/issuer/default/sign-intermediate", {"common_name": "x"}),
    ("write", "pki/issuers/import/bundle", {"pem_bundle": "x"}),
    ("patch", "pki/issuer/default", {"issuer_name": "x"}),
    ("delete", "pki/issuer/default", {}),
    ("delete", "pki/root", {}),
    ("write", "pki/config/issuers", {"default": "x"}),
    ("write", "nats_int/root/generate/internal", {"common_name": "x"}),
    ("write", "nats_int/issuers/import/bundle", {"pem_bundle": "x"}),
    ("write", "nats_int/issuer/default/sign-intermediate", {"common_name": "x", "max_path_length": "0"}),
    # keys that leave OpenBao
    ("write", "nats_int/keys/generate/exported", {"key_name": "x"}),
    ("write", "nats_int/intermediate/generate/exported", {"common_name": "x"}),
    ("write", "nats_int/keys/import", {"pem_bundle": "x"}),
    ("write", "transit/keys/tidemark/config", {"exportable": True}),
    ("read", "transit/export/signing-key/tidemark", {}),
    ("read", "transit/backup/tidemark", {}),
    # another role, key, or part of the store
    ("write", "nats_int/roles/tidemark", {"allow_any_name": True}),
    ("write", "nats_int/sign-verbatim", {"csr": "x"}),
    ("write", "nats_int/issuer/default/sign/other", {"csr": "x"}),
    ("write", "control/issuer/default/sign-intermediate", {"common_name": "x", "max_path_length": "0"}),
    ("write", "control/sign/other", {"csr": "x"}),
    ("write", "transit/keys/tidemark/rotate", {}),
    ("delete", "transit/keys/tidemark", {}),
    ("read", "secret/data/others", {}),
    ("write", "secret/data/ca-bundles", {"data": {}}),
    ("list", "secret/metadata/", {}),
    # the server itself
    ("read", "sys/mounts", {}),
    ("write", "sys/policies/acl/tidemark", {"policy": ""}),
    ("write", "sys/mounts/x", {"type": "kv"}),
    ("write", "auth/approle/role/tidemark/secret-id", {}),
    ("write", "auth/token/create", {}),
]


async def ask(client: OpenBaoClient, method: str, path: str, body: Json) -> None:
    match method:
        case "read":
            await client.read(path)
        case "list":
            await client.list(path)
        case "write":
            await client.write(path, body)
        case "patch":
            await client.patch(path, body)
        case _:
            await client.delete(path)
