"""What a real nats-server shows, and what counts as a proof."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.workloads.interface import Expectation, NotProven, Proof, ReloadAnswer, WorkloadAbsent
from agent.workloads.provers import EchoProver, ServerProver
from agent.workloads.signal_reloader import SignalReloader
from agent.workloads.target_urls import parse_target
from agent.workloads.targets import SignalTarget
from tests.harness.agent.mounts import parsed
from tests.harness.agent.sandbox import write_set
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.nats.server import NatsServer
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.bundle import Bundle
from tidemark.certificates import parse_certificates
from tidemark.receipt import Level

MakeServer = Callable[..., NatsServer]


@dataclass(frozen=True)
class SetOnDisk:
    """The files that a nats-server reads, and the bundle and leaf in them."""

    directory: Path
    bundle: Bundle
    leaf: LeafFiles


@pytest.fixture
def written(factory: BundleFactory, tmp_path: Path) -> SetOnDisk:
    """A set that no server has loaded yet."""
    made = SetOnDisk(tmp_path / "files", factory.bundle(1), factory.leaf())
    write_set(made.directory, made.bundle, made.leaf)
    return made


@pytest.fixture
async def loaded(written: SetOnDisk, nats_server: MakeServer) -> NatsServer:
    """A running server that has loaded the set ``written``."""
    server = nats_server(written.directory)
    await server.start()
    return server


def signal_target(url: str) -> SignalTarget:
    target = parse_target(url)
    assert isinstance(target, SignalTarget)
    return target


def expect(bundle: Bundle, leaf: LeafFiles | None, directory: Path = Path("/out")) -> Expectation:
    return Expectation(
        sequence=1,
        ca_sha256=bundle.ca_sha256,
        subjects=tuple(certificate.subject for certificate in parse_certificates(bundle.ca)),
        leaf=parsed(leaf) if leaf else None,
        directory=directory,
        installed_at=time.clock_gettime(time.CLOCK_BOOTTIME),
    )


async def change(
    server: NatsServer, http: aiohttp.ClientSession, expected: Expectation, *, within: float = 5.0
) -> Proof:
    """Tell the server and have it prove, as the cycle does."""
    target = signal_target(server.target)
    prover = ServerProver(target, http)
    baseline = await prover.baseline(within)
    reloaded = await SignalReloader(target).reload(expected, within)
    return await prover.prove(expected, reloaded, baseline, within)


async def test_server_that_loaded_the_set_proves_the_set(
    factory: BundleFactory, written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    bundle, leaf = factory.bundle(2, [factory.epoch + 1, factory.epoch]), factory.leaf(factory.ca(factory.epoch + 1))
    write_set(written.directory, bundle, leaf)
    proof = await change(loaded, http, expect(bundle, leaf))
    assert proof == Proof(Level.PROVEN, Level.PROVEN)
    assert loaded.complaints() == []


async def test_change_of_the_leaf_alone_is_proven(
    factory: BundleFactory, written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    renewed = factory.leaf()
    write_set(written.directory, written.bundle, renewed)
    assert (await change(loaded, http, expect(written.bundle, renewed))).level is Level.PROVEN


async def test_half_a_bundle_loads_without_an_error_and_is_no_proof(
    factory: BundleFactory, written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    ca = factory.ca_pem([factory.epoch])
    (written.directory / "ca.crt").write_bytes(ca[: ca.index(b"-----END", ca.index(b"-----END") + 8) - 40])
    with pytest.raises(
        NotProven, match=r"expected the CA list to be the bundle's 3 subjects, found 1: missing"
    ) as caught:
        await change(loaded, http, expect(written.bundle, written.leaf), within=1.0)
    assert caught.value.reason == "ca_list"
    assert f"intermediate epoch {factory.epoch - 1}" in str(caught.value)


async def test_broken_configuration_is_a_refused_reload(
    written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    loaded.write_config("this is { no configuration")
    with pytest.raises(NotProven, match="expected config_load_time to move") as caught:
        await change(loaded, http, expect(written.bundle, written.leaf), within=1.0)
    assert caught.value.reason == "reload_refused"
    proof = await ServerProver(signal_target(loaded.target), http).prove(
        expect(written.bundle, written.leaf), ReloadAnswer(), None, 5.0
    )
    assert proof.level is Level.PROVEN, "by CA list and leaf alone"


async def test_other_leaf_is_no_proof(
    factory: BundleFactory, written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    other = factory.leaf()
    with pytest.raises(NotProven, match=f"expected the leaf {other.sha256}, found {written.leaf.sha256}"):
        await change(loaded, http, expect(written.bundle, other), within=1.0)


async def test_ca_name_that_does_not_parse_is_no_proof(
    factory: BundleFactory, written: SetOnDisk, nats_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    der = bytearray(factory.ca(factory.epoch).certificate.public_bytes(Encoding.DER))
    name = der.index(b"intermediate epoch")
    der[name - 2], der[name + 6] = 0x14, 0xE9  # T61String, and Latin-1 in it, as old CAs have it
    odd = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    (written.directory / "ca.crt").write_bytes(written.bundle.ca + odd)
    server = nats_server(written.directory)
    await server.start()
    prover = ServerProver(signal_target(server.target), http)
    with pytest.raises(NotProven, match="expected names and a certificate that parse") as caught:
        await prover.prove(expect(written.bundle, written.leaf), ReloadAnswer(), None, 0.2)
    assert caught.value.reason == "handshake"


async def test_server_without_verify_reaches_the_level_reloaded(
    written: SetOnDisk, nats_server: MakeServer, http: aiohttp.ClientSession
) -> None:
    server = nats_server(written.directory, verify=False)
    await server.start()
    proof = await change(server, http, expect(written.bundle, written.leaf))
    assert (proof.level, proof.allowed) == (Level.RELOADED, Level.RELOADED)
    assert f"127.0.0.1:{server.client}: the server asks clients for no certificate" in proof.detail


async def test_target_without_a_port_claims_no_proof(
    written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    await loaded.is_older_than(1.0)
    target = signal_target(f"signal:?pidfile={loaded.pidfile}&monitor=http://127.0.0.1:{loaded.monitor}")
    prover = ServerProver(target, http)
    baseline = await prover.baseline(5.0)
    with pytest.raises(NotProven, match="expected config_load_time to move"):
        await prover.prove(expect(written.bundle, written.leaf), ReloadAnswer(), baseline, 0.2)
    loaded.hang_up()
    assert (
        await prover.prove(expect(written.bundle, written.leaf), ReloadAnswer(), baseline, 5.0)
    ).level is Level.RELOADED


async def test_absent_server_is_no_failed_proof(factory: BundleFactory, http: aiohttp.ClientSession) -> None:
    port = free_port()
    prover = ServerProver(signal_target(f"signal:?process=nats-server&monitor=http://127.0.0.1:{port}"), http)
    with pytest.raises(WorkloadAbsent, match=f"http://127.0.0.1:{port}/varz"):
        await prover.baseline(0.2)
    prover = ServerProver(signal_target(f"signal:?process=nats-server&nats=127.0.0.1:{port}"), http)
    with pytest.raises(WorkloadAbsent, match=f"127.0.0.1:{port}: nothing listens there"):
        await prover.prove(expect(factory.bundle(1), None), ReloadAnswer(), None, 0.2)
    prover = ServerProver(signal_target("signal:?process=nats-server&nats=255.255.255.255:4222"), http)  # no host's
    with pytest.raises(WorkloadAbsent, match=r"255\.255\.255\.255:4222: cannot connect: .*unreachable"):
        await prover.prove(expect(factory.bundle(1), None), ReloadAnswer(), None, 0.2)


async def test_many_changes_leave_no_error_in_the_servers_log(
    factory: BundleFactory, written: SetOnDisk, loaded: NatsServer, http: aiohttp.ClientSession
) -> None:
    for step in range(1, 6):
        epochs = [factory.epoch + step % 2, factory.epoch - 1 + step % 2]
        bundle, leaf = factory.bundle(1 + step, epochs), factory.leaf(factory.ca(epochs[0]))
        write_set(written.directory, bundle, leaf)
        assert (await change(loaded, http, expect(bundle, leaf))).level is Level.PROVEN
    assert loaded.complaints() == []
    reloads = loaded.log.read_text().count("Reloaded server configuration")
    await eventually(lambda: reloads == 5, "five reloads in the log")


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        ({"ca_sha256": "right"}, Level.PROVEN),
        ({"ca_sha256": "right", "leaf_sha256": "right"}, Level.PROVEN),
        ({"ca_sha256": "right", "leaf_sha256": None}, Level.PROVEN),
        ({}, Level.RELOADED),
        ({"leaf_sha256": "right"}, Level.RELOADED),
    ],
)
async def test_level_follows_from_the_answer(
    factory: BundleFactory, answer: dict[str, str | None], level: Level
) -> None:
    leaf = factory.leaf()
    expected = expect(factory.bundle(1), leaf)
    right = {"ca_sha256": expected.ca_sha256, "leaf_sha256": leaf.sha256}
    reported = {key: value and right[key] for key, value in answer.items()}
    proof = await EchoProver().prove(expected, ReloadAnswer(answer=reported), None, 1.0)
    assert (proof.level, proof.allowed) == (level, level)


@pytest.mark.parametrize("field", ["ca_sha256", "leaf_sha256"])
async def test_answer_with_another_digest_is_a_failed_proof(factory: BundleFactory, field: str) -> None:
    leaf = factory.leaf()
    expected = expect(factory.bundle(1), leaf)
    answer = {"ca_sha256": expected.ca_sha256, "leaf_sha256": leaf.sha256} | {field: "0" * 64}
    with pytest.raises(NotProven, match=f"expected {field} .* found '0000"):
        await EchoProver().prove(expected, ReloadAnswer(answer=answer), None, 1.0)
    without_leaf = replace(expected, leaf=None)
    if field == "leaf_sha256":
        assert (await EchoProver().prove(without_leaf, ReloadAnswer(answer=answer), None, 1.0)).level is Level.PROVEN
