"""The proof recorder: which events start which measurement."""

from pathlib import Path

import pytest

from authority.fleet.members import ConfiguredMembers
from authority.fleet.registry import FleetRegistry
from authority.observability.proof_recorder import ProofRecorder
from authority.rotation.events import AnchorsRemoved, Event, Prepared, WithdrawalRequested
from tests.harness.contract.issued_bundles import IssuedBundles, signed
from tidemark.bundle import Cause
from tidemark.epoch import PRESETS

NOW = 1_800_000_000
CA = "ab" * 32


@pytest.mark.parametrize("kind", ["prepared", "removed"])
async def test_write_of_a_statement_that_this_process_committed_is_timed(tmp_path: Path, kind: str) -> None:
    bundle = await (await IssuedBundles.create(tmp_path, NOW)).bundle(1)
    registry = FleetRegistry(ConfiguredMembers(()), PRESETS["testing"].clock)
    recorder = ProofRecorder(registry, lambda: [signed(bundle)], lambda: NOW + 0.5)
    event: Event = (
        Prepared(NOW, 1, bundle.digest, Cause.ROTATION, 1, CA, 0.1)
        if kind == "prepared"
        else AnchorsRemoved(NOW, 1, bundle.digest, Cause.REVOCATION, (CA,))
    )
    registry.proof_times.follow([signed(bundle)])
    registry.proof_times.publishing(bundle.digest, 1.0)
    assert registry.proof_times.proofs(bundle.digest).published_at is None
    recorder.observe(event)
    registry.proof_times.publishing(bundle.digest, 2.0)
    assert registry.proof_times.proofs(bundle.digest).published_at == 2.0


def test_withdrawal_is_timed_from_its_request_and_from_its_statement() -> None:
    times = iter((10.25, 20.5, 30.75))
    registry = FleetRegistry(ConfiguredMembers(()), PRESETS["testing"].clock)
    recorder = ProofRecorder(registry, list, lambda: next(times))
    requested = WithdrawalRequested(NOW, 1, CA, Cause.REVOCATION, urgent=False, who="operator", reason="leaked")
    recorder.observe(requested)
    recorder.observe(requested)  # only the first request counts
    recorder.observe(AnchorsRemoved(NOW, 2, "cd" * 32, Cause.REVOCATION, (CA,)))
    known = registry.distrust_times.of(CA)
    assert (known.requested_at, known.removed_at, dict(known.proven)) == (10.25, 30.75, {})
