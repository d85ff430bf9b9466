"""What each kind of port of a real nats-server shows, and what the server's log says of being looked at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from agent.workloads.interface import Baseline, Expectation, NotProven, Proof, ReloadAnswer
from agent.workloads.provers import ServerProver
from agent.workloads.target_urls import parse_target
from agent.workloads.targets import Address, SignalTarget
from tests.harness.agent.mounts import parsed
from tests.harness.agent.sandbox import BRIEF, AgentSandbox, write_set
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.nats.listeners import KINDS, NOTED, Listeners, established
from tests.harness.paths import NATS_SERVER, OLDEST_NATS_SERVER
from tests.harness.waiting import PATIENCE, eventually
from tidemark.bundle import Bundle
from tidemark.certificates import parse_certificates
from tidemark.receipt import Level

PROGRAMS = [pytest.param(NATS_SERVER, id="newest"), pytest.param(OLDEST_NATS_SERVER, id="oldest")]


@pytest.fixture
def listeners(tmp_path: Path, factory: BundleFactory) -> Iterator[Listeners]:
    write_set(tmp_path / "files", factory.bundle(1), factory.leaf())
    made = Listeners(tmp_path / "nats", tmp_path / "files")
    yield made
    made.stop()


def expect(bundle: Bundle, leaf: LeafFiles | None, presented: LeafFiles | None = None) -> Expectation:
    subjects = tuple(certificate.subject for certificate in parse_certificates(bundle.ca))
    shown, with_it = (parsed(one) if one else None for one in (leaf, presented))
    return Expectation(1, bundle.ca_sha256, subjects, shown, Path("/out"), 0.0, presented=with_it)


async def look(http: aiohttp.ClientSession, url: str, expected: Expectation, within: float = 5.0) -> Proof:
    target = parse_target(url)
    assert isinstance(target, SignalTarget)
    return await ServerProver(target, http).prove(expected, ReloadAnswer(), None, within)


@pytest.mark.parametrize("handshake_first", ["", ", handshake_first: true", ", handshake_first: auto"])
async def test_probe_of_each_kind_of_port_logs_no_line(
    factory: BundleFactory, listeners: Listeners, http: aiohttp.ClientSession, handshake_first: str
) -> None:
    listeners.handshake_first = handshake_first
    bundle, leaf = factory.bundle(1), factory.leaf()
    write_set(listeners.files, bundle, leaf)
    await listeners.start()
    for kind in KINDS:
        url = listeners.target(kind)
        assert await look(http, url, expect(bundle, leaf)) == Proof(Level.PROVEN, Level.PROVEN), kind
        address = str(Address("127.0.0.1", listeners.ports[kind]))
        other = factory.bundle(2, [factory.epoch + 1, factory.epoch])
        with pytest.raises(NotProven, match=f"{address}: expected the CA list to be the bundle's 3 subjects") as caught:
            await look(http, url, expect(other, leaf), 0.2)
        assert caught.value.reason == "ca_list", kind
        with pytest.raises(NotProven, match=f"{address}: expected the leaf ") as caught:
            await look(http, url, expect(bundle, factory.leaf(), leaf), 0.2)
        assert caught.value.reason == "leaf", kind
    assert listeners.complaints() == []


@pytest.mark.parametrize("program", PROGRAMS)
async def test_rotations_with_a_leaf_log_no_line(
    factory: BundleFactory, sandbox: AgentSandbox, listeners: Listeners, program: Path
) -> None:
    listeners.program = program
    factory.include_root = False  # so that a leaf of a CA that the server has not loaded yet would be complained of
    listeners.files = sandbox.out
    sandbox.targets = listeners.target(*KINDS, monitored=False)  # so that it is looked at while it reloads
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent({"TIDEMARK_SPLAY": "3600"}) as observed:  # which is not for servers
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        await listeners.start()
        await observed.is_proven(1)
        for sequence in range(2, 7):
            epoch = factory.epoch + sequence - 1
            leaf = factory.leaf(factory.ca(epoch), begin=factory.now - 5)
            sandbox.mount(factory.bundle(sequence, [epoch, epoch - 1]), leaf)
            await observed.is_proven(sequence, leaf)
    assert listeners.complaints() == []


@dataclass(frozen=True)
class Looked:
    """A server that a rotation is proven of without a leaf, and the kinds of port that log every look."""

    program: Path
    logged: Sequence[str]
    handshake_first: str = ""
    monitored: bool = True


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Looked(NATS_SERVER, NOTED, ", handshake_first: true"), id="newest"),
        pytest.param(Looked(NATS_SERVER, NOTED, monitored=False), id="newest-unmonitored"),
        pytest.param(Looked(OLDEST_NATS_SERVER, [*KINDS]), id="oldest"),
    ],
)
async def test_rotation_without_leaf_logs_one_line_for_each_port_that_logs_probes(
    factory: BundleFactory, sandbox: AgentSandbox, listeners: Listeners, case: Looked
) -> None:
    listeners.program, listeners.handshake_first = case.program, case.handshake_first
    sandbox.leaf_managed = False
    sandbox.targets = listeners.target(*KINDS, monitored=case.monitored)
    sandbox.mount(factory.bundle(1))
    await listeners.start()
    policy = replace(
        BRIEF, proof_timeout=PATIENCE, probe_timeout=PATIENCE
    )  # a look that is broken off, on a busy machine, is logged
    async with sandbox.agent(policy=policy) as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        ca_file = listeners.files / "ca.crt"
        ca_file.write_bytes(sandbox.file("ca.crt"))
        await observed.is_proven(1)
        before = len(listeners.complaints())
        second = factory.bundle(2, [factory.epoch + 1, factory.epoch])
        ca_file.write_bytes(second.ca)
        sandbox.mount(second)
        await observed.is_proven(2)
        for port in listeners.ports.values():
            await eventually(partial(lambda port: not established(port), port), "every handshake to have ended")
        assert len(listeners.complaints()) - before == len(case.logged)


async def test_refused_set_logs_one_line_for_each_try_whatever_the_number_of_ports(
    factory: BundleFactory, listeners: Listeners, http: aiohttp.ClientSession
) -> None:
    write_set(listeners.files, factory.bundle(1), factory.leaf())
    await listeners.start()
    target = parse_target(listeners.target("route", "gateway", "websocket"))
    assert isinstance(target, SignalTarget)
    prover = ServerProver(target, http)
    for tries in (1, 2):
        expected = expect(factory.bundle(2, [factory.epoch + 1, factory.epoch]), None)
        with pytest.raises(NotProven, match="expected the CA list") as caught:
            await prover.prove(expected, ReloadAnswer(), Baseline("before the reload"), 5.0)
        assert caught.value.reason == "ca_list"
        await eventually(lambda: not established(listeners.ports["route"]), "the handshake to have ended")
        assert len(listeners.complaints()) == tries


async def test_server_without_verify_shows_its_leaf_and_logs_no_line(
    factory: BundleFactory, listeners: Listeners, http: aiohttp.ClientSession
) -> None:
    listeners.options = "verify: false"
    bundle, leaf = factory.bundle(1), factory.leaf()
    write_set(listeners.files, bundle, leaf)
    await listeners.start()
    for kind in ("client", "leafnode", "websocket"):
        proof = await look(http, listeners.target(kind), expect(bundle, leaf))
        assert (proof.level, proof.allowed) == (Level.RELOADED, Level.RELOADED)
        assert "the server asks clients for no certificate (verify is off), so the leaf alone is shown" in proof.detail
        with pytest.raises(NotProven, match="expected the leaf"):
            await look(http, listeners.target(kind), expect(bundle, factory.leaf(), leaf), 0.2)
        proof = await look(http, listeners.target(kind), expect(bundle, None))
        assert "so nothing is shown" in proof.detail
    assert listeners.complaints() == []
