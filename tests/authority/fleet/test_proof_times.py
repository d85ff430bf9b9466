"""Proof times: whose first proof of which statement counts, and when."""

from pathlib import Path

import pytest

from authority.fleet.proof_times import STATEMENTS, ProofTimes
from tests.harness.authority.deployment import receipt
from tests.harness.contract.issued_bundles import IssuedBundles, signed
from tidemark.certificates import parse_leaf
from tidemark.verify import Mark, VerifiedBundle

NOW = 1_800_000_000


@pytest.fixture
async def bundles(tmp_path: Path) -> IssuedBundles:
    return await IssuedBundles.create(tmp_path, NOW)


def mark(verified: VerifiedBundle) -> Mark:
    return Mark(verified.sequence, verified.digest)


async def test_first_proof_of_each_agent_counts(bundles: IssuedBundles) -> None:
    bundle = await bundles.bundle(1)
    issued = await bundles.leaf(bundle)
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    proof_times = ProofTimes()
    proof_times.follow([signed(bundle)])
    proof_times.publishing(bundle.digest, 9.0)
    assert proof_times.proofs(bundle.digest).published_at is None  # another process may have written it first
    proof_times.committed(bundle.digest)
    proof_times.publishing(bundle.digest, 10.5)
    proof_times.publishing(bundle.digest, 11.5)
    proof_times.received(receipt("nats-0", mark(bundle), None, 1), 12.25)
    proof_times.received(receipt("nats-0", mark(bundle), leaf, 2), 13.25)
    proof_times.received(receipt("nats-0", mark(bundle), leaf, 3), 14.25)
    proof_times.received(receipt("nats-1", Mark(1, "0" * 64), leaf, 1), 12.0)  # proves another statement
    proofs = proof_times.proofs(bundle.digest)
    assert proofs.published_at == 10.5
    assert proofs.proven == {"nats-0": 12.25}
    assert proofs.leaf_proven == {"nats-0": 13.25}


async def test_leaf_proof_counts_for_the_statement_of_its_ca(bundles: IssuedBundles) -> None:
    first, second = await bundles.bundle(1), await bundles.bundle(2)
    issued = await bundles.leaf(first)
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    proof_times = ProofTimes()
    proof_times.follow([signed(first), signed(second)])
    proof_times.received(
        receipt("nats-0", mark(second), leaf, 1), 5.0
    )  # whose CA the second statement does not contain
    assert proof_times.proofs(second.digest).proven == {"nats-0": 5.0}
    assert proof_times.proofs(first.digest).leaf_proven == proof_times.proofs(second.digest).leaf_proven == {}
    proof_times.received(receipt("nats-0", mark(first), leaf, 2), 6.0)
    assert proof_times.proofs(first.digest).leaf_proven == {"nats-0": 6.0}
    assert proof_times.proofs(second.digest).leaf_proven == {}


async def test_only_the_newest_statements_are_remembered(bundles: IssuedBundles) -> None:
    verified = [await bundles.bundle(number) for number in range(1, STATEMENTS + 2)]
    proof_times = ProofTimes()
    for count in range(1, len(verified) + 1):
        proof_times.follow([signed(bundle) for bundle in verified[:count]])
        proof_times.received(receipt("nats-0", mark(verified[count - 1]), None, count), float(count))
    assert proof_times.proofs(verified[0].digest).proven == {}
    assert [proof_times.proofs(bundle.digest).proven for bundle in verified[1:]] == [
        {"nats-0": float(number)} for number in range(2, STATEMENTS + 2)
    ]
