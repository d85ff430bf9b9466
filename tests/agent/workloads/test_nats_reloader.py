"""nats-server's own request to reload, over the system account: every login, every refusal, every absence."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.workloads.interface import Expectation, NotProven, ReloadAnswer, WorkloadAbsent
from agent.workloads.nats_reloader import SystemReloader
from agent.workloads.target_urls import parse_target
from agent.workloads.targets import SystemTarget
from tests.harness.agent.sandbox import AgentProcess, AgentSandbox, write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.receipt import AgentState, Level

ACCOUNTS = """
accounts {
  SYS { users = [ { user: "sys", password: "it's a secret" }, { user: "CN=workload" } ] }
  APP { users = [ { user: "app", password: "other" } ] }
}
system_account: SYS
"""


class Server:
    """A nats-server with mutual TLS and accounts."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        self.files = files
        self.port = free_port()
        self.log = folder / "nats.log"
        self.password = folder / "password"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.password.write_text("it's a secret\n")

    @property
    def target(self) -> str:
        return f"nats-sys://127.0.0.1:{self.port}?user=sys&password_file={self.password}"

    def write_config(self, accounts: str = ACCOUNTS, tls: str = "verify: true", extra: str = "") -> None:
        (self.folder / "nats.conf").write_text(
            f"listen: 127.0.0.1:{self.port}\n"
            f'tls {{ cert_file: "{self.files}/tls.crt", key_file: "{self.files}/tls.key", '
            f'ca_file: "{self.files}/ca.crt", {tls} }}\n{accounts}\n{extra}'
        )

    async def start(self) -> None:
        self.launch()
        await eventually(lambda: self.log.exists() and "Server is ready" in self.log.read_text(), "the server to start")

    def launch(self) -> None:
        if not (self.folder / "nats.conf").exists():
            self.write_config()
        self.process = subprocess.Popen([NATS_SERVER, "-c", self.folder / "nats.conf", "-l", self.log])

    def reloads(self) -> int:
        return self.log.read_text().count("Reloaded server configuration")

    def complaints(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if ("[ERR]" in line or "[WRN]" in line) and "Plaintext passwords" not in line]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def files(tmp_path: Path, factory: BundleFactory) -> Path:
    write_set(tmp_path / "files", factory.bundle(1), factory.leaf())
    return tmp_path / "files"


@pytest.fixture
def server(tmp_path: Path, files: Path) -> Iterator[Server]:
    made = Server(tmp_path / "nats", files)
    yield made
    made.stop()


def reloader(url: str) -> SystemReloader:
    target = parse_target(url)
    assert isinstance(target, SystemTarget)
    return SystemReloader(target)


async def reload(url: str, *identities: Path, within: float = 5.0) -> ReloadAnswer:
    return await reloader(url).reload(Expectation(1, "c" * 64, (), None, identities[0], 0.0, identities), within)


async def test_server_reloads_and_answers(server: Server, files: Path) -> None:
    await server.start()
    assert await reload(server.target, files) == ReloadAnswer()
    await eventually(lambda: server.reloads() == 1, "a reload")
    assert server.complaints() == []


async def test_refusal_quotes_the_server(server: Server, files: Path) -> None:
    await server.start()
    server.port += 1
    server.write_config()
    server.port -= 1
    with pytest.raises(
        NotProven, match=r"the server refuses to reload: .*config reload not supported for .*[Pp]ort"
    ) as caught:
        await reload(server.target, files)
    assert caught.value.reason == "reload_refused"
    server.write_config("broken {")
    with pytest.raises(NotProven, match=r"the server refuses to reload: .*Parse error"):
        await reload(server.target, files)
    assert server.reloads() == 0


async def test_installed_leaf_is_a_login(server: Server, files: Path) -> None:
    server.write_config(tls="verify_and_map: true")
    await server.start()
    assert await reload(f"nats-sys://127.0.0.1:{server.port}", files) == ReloadAnswer()


async def test_server_with_handshake_first_reloads(server: Server, files: Path) -> None:
    server.write_config(tls="verify: true, handshake_first: true")
    await server.start()
    assert await reload(f"{server.target}&handshake_first=true", files) == ReloadAnswer()


async def test_user_without_the_right_is_named_and_no_fault_of_the_set(
    server: Server, files: Path, tmp_path: Path
) -> None:
    await server.start()
    url = f"nats-sys://127.0.0.1:{server.port}?password_file={server.password}&user="
    with pytest.raises(WorkloadAbsent, match="Authorization Violation") as caught:
        await reload(f"{url}app", files)
    assert caught.value.reason == "not_permitted"
    assert "secret" not in str(caught.value)
    server.password.write_text("other")
    with pytest.raises(WorkloadAbsent, match=r"expected a user of the system account .*, found account APP") as caught:
        await reload(f"{url}app", files)
    assert caught.value.reason == "not_permitted"
    server.password.unlink()
    with pytest.raises(WorkloadAbsent, match=f"{server.password}: expected a readable file, found No such file"):
        await reload(f"{url}app", files)
    server.stop()
    with pytest.raises(WorkloadAbsent, match=f"127.0.0.1:{server.port}: expected to connect, found") as caught:
        await reload(f"{url}app", files)


async def test_forbidden_subject_is_named(server: Server, files: Path) -> None:
    limited = (
        '{ user: "sys", password: "it\'s a secret", permissions: { publish: { deny: "$SYS.REQ.SERVER.*.RELOAD" } } }'
    )
    server.write_config(f"accounts {{ SYS {{ users = [ {limited} ] }} }}\nsystem_account: SYS")
    await server.start()
    with pytest.raises(WorkloadAbsent, match=r"ermissions [Vv]iolation") as caught:
        await reload(server.target, files, within=1.0)
    assert caught.value.reason == "not_permitted"


async def test_server_that_does_not_answer_is_absent(files: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(WorkloadAbsent, match=r"expected an answer within 0\.5 s, found none") as caught:
        await reload(f"nats-sys://127.0.0.1:{port}", files, within=0.5)
    assert caught.value.reason == "no_answer", "it was not told, and has refused nothing"
    listener.close()


async def test_server_that_does_not_answer_the_reload_has_not_proven_the_set(server: Server, files: Path) -> None:
    await server.start()
    os.mkfifo(server.folder / "more.conf")  # a configuration whose reading does not end
    server.write_config(extra='include "more.conf"')
    with pytest.raises(NotProven, match=r"expected an answer to the request to reload, found .*timeout") as caught:
        await reload(server.target, files, within=2.0)
    assert caught.value.reason == "no_answer"


@pytest.mark.parametrize("greeting", [b"INFO []", b'INFO {"tls_required": true, "connect_urls": 5}', b"x" * 200_000])
async def test_other_server_is_named(files: Path, greeting: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting + b"\r\n")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(WorkloadAbsent, match=f"127.0.0.1:{port}: expected to connect, found") as caught:
        await reload(f"nats-sys://127.0.0.1:{port}", files)
    assert caught.value.reason == "unreachable"
    listener.close()


async def test_set_that_the_server_trusts_is_found(
    server: Server, files: Path, tmp_path: Path, factory: BundleFactory
) -> None:
    factory.include_root = False
    write_set(files, factory.bundle(1), factory.leaf())
    await server.start()
    epochs = [factory.epoch + 1, factory.epoch]
    write_set(tmp_path / "new", factory.bundle(2, epochs), factory.leaf(factory.ca(factory.epoch + 1)))
    with pytest.raises(WorkloadAbsent):
        await reload(server.target, tmp_path / "new")
    for identities in ((files, tmp_path / "new"), (tmp_path / "new", files)):
        assert await reload(server.target, *identities) == ReloadAnswer()


async def test_agent_stops_within_five_seconds_while_the_server_does_not_answer(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    server: Server,
    agent_process: Callable[[Mapping[str, str]], AgentProcess],
) -> None:
    server.files = sandbox.out
    sandbox.targets = server.target
    sandbox.mount(factory.bundle(1), factory.leaf())
    process = agent_process(sandbox.environment())
    await process.answers("/startupz")
    await server.start()
    await process.answers("/readyz")
    assert process.process is not None
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    sandbox.mount(factory.bundle(2))
    await eventually(lambda: sandbox.installed().sequence == 2, "the newer set")
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.process.wait, 5) == 0
    assert sandbox.installed().sequence == 2


async def test_set_is_proven_without_a_signal(factory: BundleFactory, sandbox: AgentSandbox, server: Server) -> None:
    factory.include_root = False
    server.files = sandbox.out
    sandbox.targets = server.target
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent({"TIDEMARK_SPLAY": "3600"}) as observed:  # which is not for servers
        status = await observed.fails("unreachable")
        assert status.state is AgentState.INSTALLED
        await server.start()
        status = await observed.is_proven(1)
        assert status.targets[0].level is Level.PROVEN
        # Bundle and leaf at once: the server does not know the new leaf's CA before it has reloaded.
        leaf = factory.leaf(factory.ca(factory.epoch + 1))
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), leaf)
        await observed.is_proven(2, leaf)
        server.write_config("broken {")
        sandbox.mount(factory.bundle(3, [factory.epoch + 2, factory.epoch + 1]))
        status = await observed.reaches(lambda s: s.state is AgentState.REVERTED, "a revert")
        assert status.failure
        assert status.failure.reason == "reload_refused"
        assert "Parse error" in status.failure.detail
        assert sandbox.installed().sequence == 2
        assert status.targets[0].level is Level.PROVEN, "CA list and leaf alone prove the set that is back"
        server.write_config()
        await observed.is_proven(3)
    assert server.complaints() == []


def claims(key: Ed25519PrivateKey, kind: int, **fields: object) -> str:
    """A JWT as NATS has it, signed by an nkey."""

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    body = {"iat": int(time.time()), "iss": public(key, kind)} | fields
    body["jti"] = base64.b32encode(hashlib.sha512(json.dumps(body).encode()).digest()[:32]).decode().rstrip("=")
    text = f"{encoded({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encoded(body)}"
    return f"{text}.{base64.urlsafe_b64encode(key.sign(text.encode())).decode().rstrip('=')}"


OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3


def nkey(data: bytes) -> str:
    crc = 0
    for byte in data:  # CRC-16/XMODEM, as nkeys have it
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(data + crc.to_bytes(2, "little")).decode().rstrip("=")


def public(key: Ed25519PrivateKey, kind: int) -> str:
    return nkey(bytes([kind]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def creds(jwt: str, user: Ed25519PrivateKey) -> str:
    seed = nkey(bytes([SEED | USER >> 5, (USER & 31) << 3]) + user.private_bytes_raw())
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


async def test_creds_file_is_a_login(server: Server, files: Path, tmp_path: Path) -> None:
    operator, account, user = (Ed25519PrivateKey.generate() for _ in range(3))
    system = public(account, ACCOUNT)
    operator_jwt = claims(
        operator,
        OPERATOR,
        sub=public(operator, OPERATOR),
        name="O",
        nats={"type": "operator", "version": 2, "system_account": system},
    )
    limits = {
        "subs": -1,
        "data": -1,
        "payload": -1,
        "imports": -1,
        "exports": -1,
        "wildcards": True,
        "conn": -1,
        "leaf": -1,
    }
    account_jwt = claims(
        operator, OPERATOR, sub=system, name="SYS", nats={"type": "account", "version": 2, "limits": limits}
    )
    user_jwt = claims(
        account,
        ACCOUNT,
        sub=public(user, USER),
        name="U",
        nats={"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1},
    )
    server.write_config(f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload {{ {system}: {account_jwt} }}\n")
    await server.start()
    file = tmp_path / "sys.creds"
    url = f"nats-sys://127.0.0.1:{server.port}?creds={file}"
    file.write_text(creds(user_jwt, user))
    assert await reload(url, files) == ReloadAnswer()
    file.write_text(creds(user_jwt, operator))
    with pytest.raises(WorkloadAbsent, match="Authorization Violation"):
        await reload(url, files)
    for content, says in (
        (creds("", user), "expected a block NATS USER JWT, found none"),
        (creds(user_jwt, user).partition("-----BEGIN USER")[0], "expected a block USER NKEY SEED, found none"),
        (
            creds(user_jwt, user).replace("NKEY SEED-----\nSU", "NKEY SEED-----\n!U"),
            "expected the seed of a user's nkey",
        ),
    ):
        file.write_text(content)
        with pytest.raises(WorkloadAbsent, match=f"{file}: {says}"):
            await reload(url, files)
