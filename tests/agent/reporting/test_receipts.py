"""Receipts: what is sent, to whom, how often, and that the authority's absence disturbs nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.harness.agent.fake_authority import TOKEN, FakeAuthority
from tests.harness.agent.sandbox import AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.waiting import eventually
from tidemark.certificates import to_pem
from tidemark.epoch import EpochClock
from tidemark.receipt import AgentState, PodClass


@pytest.fixture
async def authority(factory: BundleFactory, sandbox: AgentSandbox) -> AsyncIterator[FakeAuthority]:
    made = FakeAuthority()
    sandbox.write_trust_file(factory.trust(control_ca=to_pem([made.ca]).decode()))
    yield made
    await made.stop()


def reporting(authority: FakeAuthority, sandbox: AgentSandbox, token: str = TOKEN) -> dict[str, str]:
    """The variables of an agent that reports to it."""
    (sandbox.folder / "token").write_text(token + "\n")
    return {
        "TIDEMARK_AUTHORITY_URL": authority.url,
        "TIDEMARK_AUTHORITY_TOKEN_FILE": str(sandbox.folder / "token"),
        "TIDEMARK_CLASS": "application",
    }


async def test_proof_is_reported_at_once(
    factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority
) -> None:
    await authority.start()
    authority.newest = 9
    leaf = factory.leaf()
    sandbox.mount(factory.bundle(1), leaf)
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(1)
        await eventually(
            lambda: authority.receipts and authority.receipts[-1].state is AgentState.PROVEN, "the receipt of a proof"
        )
        receipt = authority.receipts[-1]
        assert (receipt.pod, receipt.uid, receipt.pod_class) == ("nats-0", "uid-0", PodClass.APPLICATION)
        assert receipt.proven is not None
        assert receipt.proven.sequence == 1
        assert receipt.leaf is not None
        assert (receipt.leaf.sha256, receipt.leaf.issuer_sha256) == (leaf.sha256, factory.ca(factory.epoch).sha256)
        assert receipt.keys == (f"{factory.signer.verifier.name}+{factory.signer.verifier.hash}",)
        status = await observed.reaches(lambda s: s.newest == 9, "the newest sequence")
        assert status.state is AgentState.PROVEN

        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        await eventually(
            lambda: (p := authority.receipts[-1].proven) is not None and p.sequence == 2, "the next proof's receipt"
        )
        numbers = [receipt.number for receipt in authority.receipts]
        assert numbers == sorted(set(numbers))
        assert len({receipt.nonce for receipt in authority.receipts}) == 1
        contents = [replace(receipt, number=0, clock=0) for receipt in authority.receipts]
        assert all(one != next_one for one, next_one in pairwise(contents)), (
            "nothing is said twice before the heartbeat"
        )


async def test_failure_is_reported(factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority) -> None:
    await authority.start()
    sandbox.mount(factory.bundle(3), factory.leaf())
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(3)
        sandbox.mount(factory.bundle(2))
        failure = await eventually(
            lambda: authority.receipts[-1].failure if authority.receipts else None, "the receipt of a failure"
        )
        assert (failure.reason, failure.sequence) == ("replay", 2)


async def test_receipt_is_sent_once_authority_is_back(
    factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(1)
        sandbox.mount(factory.bundle(2))
        await observed.is_proven(2)
        assert authority.receipts == []
        await authority.start()
        proven = await eventually(
            lambda: authority.receipts[-1].proven if authority.receipts else None, "a receipt after all"
        )
        assert proven.sequence == 2


async def test_no_receipt_is_sent_to_unverified_authority(
    factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority
) -> None:
    stranger = FakeAuthority()
    sandbox.write_trust_file(factory.trust(control_ca=to_pem([stranger.ca]).decode()))
    await authority.start()
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(1)
        sandbox.mount(factory.bundle(2))
        await observed.is_proven(2)
        # Once the trust file names the right CA, receipts come; none came before.
        sandbox.write_trust_file(factory.trust(control_ca=to_pem([authority.ca]).decode()))
        await eventually(lambda: authority.receipts, "a receipt")
        proven = authority.receipts[0].proven
        assert proven is not None
        assert proven.sequence == 2


@pytest.mark.parametrize("token", ["another-token", "", "two tokens"])
async def test_refused_token_does_not_disturb_workload(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    authority: FakeAuthority,
    token: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await authority.start()
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(reporting(authority, sandbox, token)) as observed:
        await observed.is_proven(1)
        await eventually(lambda: any(r.getMessage() == "receipt_not_sent" for r in caplog.records), "a log line")
        assert not token or token not in str([vars(record) for record in caplog.records])
        reporting(authority, sandbox)
        await eventually(lambda: authority.receipts, "a receipt")


async def test_receipt_follows_no_redirect(
    factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority
) -> None:
    await authority.start()
    authority.moved_to = "/elsewhere"
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(1)
        await eventually(lambda: authority.redirects > 1, "a second try")
        assert authority.receipts == []
        authority.moved_to = ""
        await eventually(lambda: authority.receipts, "a receipt")


async def test_heartbeat_is_sent_without_change(
    factory: BundleFactory, sandbox: AgentSandbox, authority: FakeAuthority
) -> None:
    await authority.start()
    short = BundleFactory(factory.now, clock=EpochClock(epoch_seconds=8, validity_seconds=80, prepare_seconds=3))
    short.signer = factory.signer
    sandbox.mount(short.bundle(1), short.leaf())
    async with sandbox.agent(reporting(authority, sandbox)) as observed:
        await observed.is_proven(1)

        def sent_twice() -> bool:
            last = [replace(receipt, number=0, clock=0) for receipt in authority.receipts[-2:]]
            return len(last) == 2 and last[0] == last[1] and last[0].state is AgentState.PROVEN

        await eventually(sent_twice, "a receipt and a heartbeat")
