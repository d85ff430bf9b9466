"""Every kind of bad input, on the real components: named, and kept from the server, which serves by the last good."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.harness.agent.mounts import KubeletMount, bundle_files
from tests.harness.agent.sandbox import AgentSandbox, Observed, serves, snapshot
from tests.harness.contract.bundle_factory import DOMAIN, BundleFactory
from tests.harness.nats.server import NatsServer
from tests.harness.waiting import eventually
from tidemark.bundle import Bundle
from tidemark.certificates import fingerprint, not_after, not_before, to_pem
from tidemark.note import Signer
from tidemark.receipt import AgentState

GOOD = 5


def cut_in_the_second_certificate(factory: BundleFactory) -> bytes:
    pem = factory.ca_pem([factory.epoch, factory.epoch - 1])
    return pem[: pem.index(b"-----BEGIN", 10) + 300]


def garbled(factory: BundleFactory) -> bytes:
    pem = bytearray(factory.ca_pem([factory.epoch, factory.epoch - 1]))
    middle = pem.index(b"-----END") - 200
    pem[middle : middle + 4] = b"!!!!"
    return bytes(pem)


def with_leaf_as_ca(factory: BundleFactory) -> Bundle:
    """The statement lists a leaf as an intermediate, and the file has it there."""
    leaf = factory.leaf().certificate
    statement = factory.statement(GOOD + 1)
    pem = to_pem([factory.ca(factory.epoch).certificate, leaf, factory.root.certificate])
    listed = replace(
        statement.anchors[1], sha256=fingerprint(leaf), not_before=not_before(leaf), not_after=not_after(leaf)
    )
    anchors = (statement.anchors[0], listed, statement.anchors[2])
    return factory.sign(replace(statement, anchors=anchors, ca_sha256=Bundle(pem, b"").ca_sha256), pem)


def swapped_certificates(factory: BundleFactory) -> Bundle:
    pem = to_pem([factory.ca(epoch).certificate for epoch in (factory.epoch - 1, factory.epoch)])
    return factory.bundle(GOOD + 1, ca=pem + to_pem([factory.root.certificate]))


def of_another_domain(factory: BundleFactory) -> Bundle:
    return factory.bundle(GOOD + 1, trust_domain="other.test")


def unsigned(factory: BundleFactory) -> Bundle:
    bundle = factory.bundle(GOOD + 1)
    return Bundle(bundle.ca, bundle.note[: bundle.note.index("— ".encode())])


def with_a_changed_text(factory: BundleFactory) -> Bundle:
    bundle = factory.bundle(GOOD + 1)
    return Bundle(bundle.ca, bundle.note.replace(b'"sequence":6', b'"sequence":7'))


@dataclass(frozen=True)
class Bad:
    make: Callable[[BundleFactory], Bundle]
    reason: str
    says: str


BAD = {
    "truncated": Bad(
        lambda f: Bundle(cut_in_the_second_certificate(f), f.bundle(GOOD + 1).note),
        "digest",
        "expected ca.crt with SHA",
    ),
    "truncated and signed": Bad(
        lambda f: f.bundle(GOOD + 1, ca=cut_in_the_second_certificate(f)), "pem", r"certificate 2: .*\(truncated\)"
    ),
    "garbled": Bad(lambda f: Bundle(garbled(f), f.bundle(GOOD + 1).note), "digest", "expected ca.crt with SHA"),
    "garbled and signed": Bad(lambda f: f.bundle(GOOD + 1, ca=garbled(f)), "pem", "certificate 1: expected base64"),
    "a leaf as CA": Bad(with_leaf_as_ca, "anchors", "expected certificate 2 to be a CA"),
    "a private key in ca.crt": Bad(
        lambda f: f.bundle(GOOD + 1, ca=f.bundle(GOOD).ca + f.leaf().key),
        "pem",
        r"expected a CERTIFICATE block, found -----BEGIN PRIVATE KEY-----$",
    ),
    "another trust domain": Bad(of_another_domain, "trust_domain", f"expected {DOMAIN}, got other.test"),
    "replay": Bad(lambda f: f.bundle(GOOD - 1), "replay", "expected the mount to continue from sequence 5"),
    "equivocation": Bad(
        lambda f: f.bundle(GOOD, issued_at=f.now - 1), "equivocation", "expected sequence 5 to be the statement"
    ),
    "expired": Bad(lambda f: f.bundle(GOOD + 1, [f.epoch - 5, f.epoch - 6]), "expired", "got one that expired at"),
    "from the future": Bad(
        lambda f: f.bundle(GOOD + 1, issued_at=f.now + 3600), "held", "the clocks differ by 3[56][0-9][0-9] s"
    ),
    "unsigned": Bad(unsigned, "signature", "expected a signed note"),
    "signed by another key": Bad(
        lambda f: f.bundle(GOOD + 1, signer=Signer.generate(f"{DOMAIN}/a")),
        "signature",
        r"by trusted keys \(bus\.test/a",
    ),
    "changed after it was signed": Bad(with_a_changed_text, "signature", "expected it to verify, it does not"),
    "oversized": Bad(
        lambda f: f.bundle(GOOD + 1, ca=f.bundle(GOOD).ca + b"#" * 600_000), "size", "expected at most 524288 bytes"
    ),
    "certificates in another order": Bad(swapped_certificates, "anchors", "expected certificate 1 with SHA-256"),
    "no overlap": Bad(lambda f: f.bundle(GOOD + 1, [f.epoch + 2, f.epoch + 1]), "overlap", "an intermediate in common"),
}


@asynccontextmanager
async def good_set_in_use(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> AsyncIterator[Observed]:
    """An agent whose nats-server serves by the last good set."""
    sandbox.mount(factory.bundle(GOOD), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        await server.start()
        await observed.is_proven(GOOD)
        yield observed


async def assert_undisturbed(
    sandbox: AgentSandbox, server: NatsServer, observed: Observed, before: dict[str, bytes]
) -> None:
    """The last good set is in place and proven, and the server serves by it."""
    assert observed.status.state is AgentState.PROVEN
    assert {name: sandbox.file(name) for name in before} == before
    assert sandbox.installed().sequence == GOOD
    assert serves(sandbox, server)


@pytest.mark.parametrize("kind", BAD)
async def test_bad_bundle_never_reaches_server(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, kind: str
) -> None:
    bad = BAD[kind]
    async with good_set_in_use(factory, sandbox, server) as observed:
        before = snapshot(sandbox)
        loaded = (await server.varz() or {})["config_load_time"]

        sandbox.mount(bad.make(factory))
        status = await observed.fails(bad.reason)
        assert status.failure is not None
        assert re.search(bad.says, status.failure.detail), status.failure.detail
        assert "PRIVATE KEY-----\n" not in status.failure.detail
        await assert_undisturbed(sandbox, server, observed, before)
        assert (await server.varz() or {})["config_load_time"] == loaded
        journey = status.journeys[-1]
        assert (journey.outcome, journey.proven_at) == (bad.reason, None)
        rejections = {"outcome": "rejected", "reason": bad.reason}
        assert observed.agent.registry.get_sample_value("ca_rotation_verifications_total", rejections) == 1


async def test_good_bundle_is_adopted_after_each_bad_input(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    leaf = factory.leaf()
    for number, (kind, bad) in enumerate(BAD.items()):
        sandbox.out = sandbox.folder / f"out-{number}"
        sandbox.mount(factory.bundle(GOOD), leaf)
        async with sandbox.agent() as observed:
            await observed.is_proven(GOOD)
            sandbox.mount(bad.make(factory))
            await observed.fails(bad.reason)
            sandbox.mount(factory.bundle(GOOD + 10, [factory.epoch + 1, factory.epoch]))
            status = await observed.is_proven(GOOD + 10)
            assert status.failure is None, kind


async def test_statement_below_floor_of_trust_file_is_rejected(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.write_trust_file(factory.trust(min_sequence=7))
    sandbox.mount(factory.bundle(6), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.fails("floor")
        assert not sandbox.out.joinpath("ca.crt").exists()
        sandbox.mount(factory.bundle(7))
        await observed.is_proven(7)


async def test_held_statement_is_adopted_when_due(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    ahead = 0.0
    sandbox.mount(factory.bundle(1, issued_at=factory.now + 100), factory.leaf())
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        status = await observed.fails("held")
        assert status.failure
        assert "the clocks differ by 100 s" in status.failure.detail
        ahead = 50.0
        status = await observed.reaches(
            lambda s: s.failure and "differ by 50 s" in s.failure.detail, "another judgement"
        )
        assert status.failure
        assert status.failure.at == factory.now, "when it began"
        labels = {"outcome": "rejected", "reason": "held"}
        assert observed.agent.registry.get_sample_value("ca_rotation_verifications_total", labels) == 1
        assert len(status.journeys) == 1
        ahead = 100.0
        await observed.is_proven(1)


async def test_bundle_refused_by_wrong_clock_is_adopted_once_clock_is_right(
    factory: BundleFactory, sandbox: AgentSandbox
) -> None:
    ahead = 2.0 * factory.clock.validity_seconds
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.fails("expired")
        ahead = 3000.0  # the bundle lasts longer than the leaf
        status = await observed.fails("leaf_expired")
        assert status.state is AgentState.STARTING
        ahead = 0.0
        status = await observed.is_proven(1)
        assert status.failure is None


async def test_absent_workload_does_not_delay_next_judgement(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    ahead = 0.0
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.fails("no_process")
        sandbox.mount(factory.bundle(2, issued_at=factory.now + 100))
        await observed.reaches(lambda s: [j for j in s.journeys if j.outcome == "held"], "a held statement")
        ahead = 100.0
        await eventually(lambda: sandbox.installed().sequence == 2, "the statement whose time has come")
        await server.start()
        await observed.is_proven(2)


async def test_mount_without_data_link_is_warned_of(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    async with good_set_in_use(factory, sandbox, server) as observed:
        before = snapshot(sandbox)
        (sandbox.bundle_mount.path / "..data").unlink()
        status = await observed.fails("source_unreadable")
        assert status.failure
        assert str(sandbox.bundle_mount.path) in status.failure.detail
        assert [w.name for w in status.warnings] == ["mount_not_live"]
        await assert_undisturbed(sandbox, server, observed, before)
        sandbox.mount(factory.bundle(GOOD + 1))
        status = await observed.is_proven(GOOD + 1)
        assert (status.failure, status.warnings) == (None, ())


async def test_mount_that_kubelet_never_updates_is_used_with_warning(
    factory: BundleFactory, sandbox: AgentSandbox
) -> None:
    sandbox.bundle_mount.path.mkdir()
    for name, content in bundle_files(factory.bundle(1)).items():
        (sandbox.bundle_mount.path / name).write_bytes(content)
    sandbox.mount(leaf=factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.is_proven(1)
        assert [(w.name, str(sandbox.bundle_mount.path) in w.detail) for w in status.warnings] == [
            ("mount_not_live", True)
        ]


async def test_sub_path_mount_is_warned_of(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.bundle_mount.path.write_bytes(factory.bundle(1).ca)
    sandbox.mount(leaf=factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.fails("mount_not_live")
        assert status.failure
        assert "expected a directory, found a file" in status.failure.detail
        assert status.state is AgentState.STARTING


async def test_missing_mount_is_waited_for(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    async with sandbox.agent() as observed:
        status = await observed.fails("mount_missing")
        assert status.failure
        assert str(sandbox.bundle_mount.path) in status.failure.detail
        sandbox.mount(factory.bundle(1))
        await observed.fails("leaf_mount_missing")
        sandbox.mount(leaf=factory.leaf())
        await observed.is_proven(1)


async def test_recreated_mount_is_watched_again(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        sandbox.bundle_mount.path.rename(sandbox.folder / "gone")
        await observed.fails("mount_missing")
        sandbox.bundle_mount = KubeletMount(sandbox.bundle_mount.path)
        sandbox.mount(factory.bundle(2))
        await observed.is_proven(2)
        sandbox.mount(factory.bundle(3))
        await observed.is_proven(3)


@pytest.mark.parametrize("content", ["not toml at all", "", 'trust_domain = "x"\n'])
async def test_unusable_trust_file_is_waited_for(factory: BundleFactory, sandbox: AgentSandbox, content: str) -> None:
    sandbox.trust_file.write_text(content)
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.fails("trust")
        sandbox.write_trust_file(factory.trust())
        await observed.is_proven(1)
        sandbox.trust_file.write_text(content)
        status = await observed.reaches(lambda s: s.warnings, "a warning")
        assert [w.name for w in status.warnings] == ["trust_unusable"]
        sandbox.mount(factory.bundle(2))
        await observed.is_proven(2)


async def test_replaced_key_in_trust_file_counts_at_once(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    other = Signer.generate(f"{DOMAIN}/b")
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        sandbox.mount(factory.bundle(2, signer=other))
        await observed.fails("signature")
        sandbox.write_trust_file(factory.trust(keys=(factory.signer.verifier, other.verifier)))
        status = await observed.is_proven(2)
        assert len(status.keys) == 2


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("expired", "leaf_expired"), ("key", "leaf_key_mismatch"), ("stranger", "leaf_chain"), ("garbage", "leaf_pem")],
)
async def test_unfitting_leaf_is_not_installed(
    factory: BundleFactory, sandbox: AgentSandbox, tmp_path: Path, kind: str, reason: str
) -> None:
    good = factory.leaf()
    stranger = BundleFactory(factory.now)
    bad = {
        "expired": factory.leaf(begin=factory.now - 600, end=factory.now - 60),
        "key": replace(factory.leaf(), key=factory.leaf().key),
        "stranger": stranger.leaf(stranger.ca(stranger.epoch)),
        "garbage": replace(factory.leaf(), crt=b"-----BEGIN CERTIFICATE-----\n"),
    }[kind]
    sandbox.mount(factory.bundle(1), bad)
    async with sandbox.agent() as observed:
        status = await observed.fails(reason)
        assert status.state is AgentState.STARTING, "the first set needs a fitting leaf"
        sandbox.mount(leaf=good)
        await observed.is_proven(1, good)
        sandbox.mount(leaf=bad)
        await observed.fails(reason)
        assert sandbox.file("tls.crt") == good.crt
        sandbox.mount(factory.bundle(2))
        status = await observed.is_proven(2, good)
        assert status.failure
        assert status.failure.reason == reason
        assert sandbox.file("tls.key") == good.key
        renewed = factory.leaf()
        sandbox.mount(leaf=renewed)
        status = await observed.is_proven(2, renewed)
        assert status.failure is None


async def test_renewed_leaf_is_installed_despite_rejected_bundle(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        sandbox.mount(unsigned(factory))
        await observed.fails("signature")
        renewed = factory.leaf()
        sandbox.mount(leaf=renewed)
        status = await observed.is_proven(1, renewed)
        assert status.failure
        assert status.failure.reason == "signature"


async def test_same_rejected_bundle_is_counted_once(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        sandbox.mount(unsigned(factory))
        await observed.fails("signature")
        journeys = len(observed.status.journeys)
        leaf = factory.leaf()
        sandbox.mount(leaf=leaf)
        await observed.is_proven(1, leaf)
        assert len(observed.status.journeys) == journeys + 1
        labels = {"outcome": "rejected", "reason": "signature"}
        sample = observed.agent.registry.get_sample_value
        await eventually(lambda: sample("ca_rotation_verifications_total", labels) == 1, "one rejection")
