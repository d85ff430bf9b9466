"""What goes wrong with OpenBao while an authority runs on it: each failure is named, and ends when its cause does."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from authority.journal.history import History
from authority.journal.openbao import OpenBaoJournal
from authority.journal.record_types import Opening
from authority.journal.replay import replay
from authority.rotation.actions import Step
from authority.rotation.events import Activated, AppendConflict, Prepared, StepFailed
from tests.harness import virtual_time
from tests.harness.authority.journal_builder import PLAYGROUND
from tests.harness.openbao.harness import OpenBaoHarness, set_up_namespace, some_epoch
from tests.harness.openbao.server import OpenBaoNamespace, OpenBaoServer
from tests.harness.virtual_time import in_virtual_time
from tidemark.certificates import issued_by

CLOCK = PLAYGROUND.clock
EPOCH = some_epoch()
START = CLOCK.start(EPOCH)


@asynccontextmanager
async def running(*harnesses: OpenBaoHarness) -> AsyncIterator[None]:
    try:
        for harness in harnesses:
            await harness.start()
        yield
    finally:
        for harness in harnesses:
            await harness.stop()
            await harness.close()


async def check(space: OpenBaoNamespace, harness: OpenBaoHarness) -> History:
    """OpenBao holds what the journal names and nothing else; the newest is shown, and signs."""
    with virtual_time.from_outside():
        history = replay(await OpenBaoJournal(space.client, space.layout.kv, space.layout.prefix).read())
        keys, issuers, default = await space.names("keys"), await space.names("issuers"), await space.default_name()
    newest, signing, leaf = history.newest, history.signing, harness.leaf.certificate
    assert newest is not None
    assert signing is not None
    assert leaf is not None
    assert keys == issuers == {ca.ca_id for ca in history.cas if ca.ca_id and harness.now() < ca.retire_at}
    assert default == signing.ca_id
    assert harness.target.digest == newest.digest
    assert issued_by(leaf, signing.certificate)
    return history


@in_virtual_time
async def test_authority_recovers_after_a_seal_longer_than_a_cas_life(openbao: OpenBaoServer) -> None:
    async with set_up_namespace(openbao, START) as space:
        harness = OpenBaoHarness(began=START, space=space)
        async with running(harness):
            await harness.until(START + 15)
            shown = harness.target.sequence
            with virtual_time.from_outside():
                await openbao.seal()
            try:
                await harness.until(START + 5 * CLOCK.epoch_seconds + 5)
            finally:
                with virtual_time.from_outside():
                    await openbao.unseal()
            assert harness.target.sequence == shown
            failures = harness.of(StepFailed, lambda failed: failed.step is Step.JOURNAL)
            assert "expected OpenBao unsealed, found it sealed; unseal it" in failures[-1].error
            assert len(failures) > 5
            await harness.until(START + 6 * CLOCK.epoch_seconds - 2)
            history = await check(space, harness)
            assert harness.of(Activated)[-1].opening is Opening.BOOTSTRAP
            assert [ca.epoch - EPOCH for ca in history.cas] == [0, 1, 5, 6]


@in_virtual_time
async def test_revoked_token_fails_no_step(openbao: OpenBaoServer) -> None:
    async with set_up_namespace(openbao, START) as space:
        harness = OpenBaoHarness(began=START, space=space)
        async with running(harness):
            for second in range(3, 45, 6):
                await harness.until(START + second)
                with virtual_time.from_outside():
                    await space.client.write("sys/leases/revoke-prefix/auth/approle/login", {})
            await harness.until(START + 45)
            assert harness.of(StepFailed) == []
            assert [prepared.epoch - EPOCH for prepared in harness.of(Prepared)] == [0, 1, 2]
            await check(space, harness)


@pytest.mark.parametrize(
    ("path", "step", "capability"),
    [
        ("nats_int/keys/generate/internal", Step.PREPARE, "create or update"),
        ("pki/issuer/+/sign-intermediate", Step.PREPARE, "create or update"),
        ("nats_int/issuer/+", Step.PREPARE, "patch"),
        ("transit/sign/tidemark", Step.PREPARE, "create or update"),
        ("secret/data/ca-bundles/*", Step.PREPARE, "create or update"),
        ("secret/metadata/ca-bundles/*", Step.JOURNAL, "list"),
        ("nats_int/issuer/+/sign/tidemark", Step.LEAF, "create or update"),
        ("nats_int/config/issuers", Step.SWITCH, "create or update"),
    ],
)
@in_virtual_time
async def test_missing_permission_is_named_until_it_is_granted(
    openbao: OpenBaoServer, path: str, step: Step, capability: str
) -> None:
    async with set_up_namespace(openbao, START) as space:
        harness = OpenBaoHarness(began=START, space=space)
        policy = space.layout.policy()
        assert f'path "{path}" ' in policy
        async with running(harness):
            await harness.until(START + 6)
            with virtual_time.from_outside():
                await write_policy(space, policy.replace(f'path "{path}" ', f'path "{path}/other" '))
            await harness.until(START + 26)
            failures = harness.of(StepFailed)
            named = re.escape(path).replace(r"\+", "[^ ]+").replace(r"\*", "[^ ]*")
            assert {failed.step for failed in failures} == {step} or path.startswith("secret/")
            assert any(re.search(f"policies to allow '{capability}' on '{named}'", failed.error) for failed in failures)
            with virtual_time.from_outside():
                await write_policy(space, policy)
            await harness.until(START + 37)
            history = await check(space, harness)
            assert [ca.epoch - EPOCH for ca in history.cas] == [0, 1, 2]


async def write_policy(space: OpenBaoNamespace, policy: str) -> None:
    await space.client.write("sys/policies/acl/tidemark", {"policy": policy})


@in_virtual_time
async def test_restored_backup_continues_above_the_fleets_newest_sequence(openbao: OpenBaoServer) -> None:
    async with set_up_namespace(openbao, START) as space:
        harness = OpenBaoHarness(began=START, space=space)
        async with running(harness):
            await harness.until(START + 25)
            with virtual_time.from_outside():
                backup = replay(await OpenBaoJournal(space.client, space.layout.kv, space.layout.prefix).read())
            await harness.until(START + 45)
            await harness.stop()
            shown = harness.target.sequence
            lost = harness.of(Prepared)[-1]
            with virtual_time.from_outside():
                await restore(space, backup)
            await harness.start()
            await harness.until(START + 59)
            history = await check(space, harness)
            sequences = [signed.statement.sequence for signed in history.statements]
            assert sequences == list(range(1, shown + 3))
            assert all(len(texts) == 1 for texts in harness.target.texts.values()), "two texts for one sequence"
            assert [(ca.epoch - EPOCH, bool(ca.ca_id)) for ca in history.cas] == [
                (0, True),
                (1, True),
                (2, False),  # its key is lost: trusted until it expires, and no more
                (2, True),
                (3, True),
            ]
            assert history.cas[2].sha256 == lost.ca
            assert history.signing == history.cas[3]


async def restore(space: OpenBaoNamespace, backup: History) -> None:
    """Leave what there was at the time of the backup, and a key whose CA nobody knows any more."""
    kept = {ca.ca_id for ca in backup.cas}
    for kind, named in (("issuer", "issuer_name"), ("key", "key_name")):
        listed = (await space.client.list(f"nats_int/{kind}s"))["key_info"]
        for identity in [identity for identity, info in listed.items() if info[named] not in kept]:
            await space.client.delete(f"nats_int/{kind}/{identity}")
    assert backup.signing is not None
    await space.client.write("nats_int/config/issuers", {"default": backup.signing.ca_id})
    await space.client.write("nats_int/keys/generate/internal", {"key_name": f"epoch-{EPOCH}-3", "key_type": "ec"})
    folder = "secret/metadata/ca-bundles/journal/"
    for name in (await space.client.list(folder))["keys"]:
        if int(name) > backup.head:
            await space.client.delete(f"{folder}{name}")


@in_virtual_time
async def test_two_leading_authorities_write_one_journal(openbao: OpenBaoServer) -> None:
    async with set_up_namespace(openbao, START) as space:
        # One of them is early, is paused whenever it is about to append, and goes on as if nothing had been.
        first, second = OpenBaoHarness(began=START, space=space), OpenBaoHarness(began=START + 1, space=space)
        second.stall_seconds = 2.5
        second.target, second.leaf = first.target, first.leaf
        second.publishers[:], second.workloads[:] = first.publishers, first.workloads
        async with running(first, second):
            for _ in range(124):
                await asyncio.gather(first.sleep(1), second.sleep(1))
            history = await check(space, first)
            assert len(history.cas) == 7
            prepared = [event.sequence for harness in (first, second) for event in harness.of(Prepared)]
            assert sorted(prepared) == [signed.statement.sequence for signed in history.statements]
            assert all(len(texts) == 1 for texts in first.target.texts.values()), "two texts for one sequence"
            assert second.of(AppendConflict), "they never met"
