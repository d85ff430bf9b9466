"""The second source: bundles that come over JetStream, beside the mount, ahead of it, and without it."""

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from agent.sources import jetstream
from tests.harness.agent.sandbox import BRIEF, AgentProcess, AgentSandbox, Observed
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.announcement_broker import AnnouncementBroker
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.bundle import Bundle
from tidemark.note import Signer
from tidemark.receipt import AgentState


def count(observed: Observed, outcome: str, reason: str = "") -> float:
    labels = {"outcome": outcome, "reason": reason}
    return observed.agent.registry.get_sample_value("ca_rotation_verifications_total", labels) or 0.0


async def is_subscribed(observed: Observed) -> None:
    await observed.reaches(lambda s: s.broker and s.broker.connected, "the agent to be subscribed")


async def test_announcement_is_adopted_before_the_mount_has_it(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker
) -> None:
    await broker.announce(factory.bundle(1))
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        await is_subscribed(observed)
        second = factory.bundle(2, [factory.epoch + 1, factory.epoch])
        await broker.announce(second)
        status = await observed.is_proven(2)
        journey = status.journeys[-1]
        assert (journey.sequence, journey.outcome) == (2, "proven")
        assert journey.proven_at is not None
        assert 0 <= journey.stages["detect"] <= journey.proven_at - journey.swapped_at
        # The mount still shows 1: that is no fault of anybody's, and undoes nothing.
        leaf = factory.leaf(factory.ca(factory.epoch + 1))
        sandbox.mount(leaf=leaf)
        status = await observed.is_proven(2, leaf)
        assert status.failure is None
        assert [j.outcome for j in status.journeys] == ["proven"] * 3
        assert count(observed, "superseded", "superseded") == 1
        sandbox.mount(second)
        await observed.is_proven(2)
        assert count(observed, "rejected", "superseded") == 0


async def test_lagging_mount_is_normal_and_a_mount_that_goes_back_is_reported(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker
) -> None:
    await broker.announce(factory.bundle(5))
    sandbox.mount(factory.bundle(2), factory.leaf())
    async with sandbox.agent() as observed:

        def overtaken(times: int) -> bool:
            return count(observed, "superseded", "superseded") == times

        await observed.is_proven(5)
        for sequence in (3, 4):
            sandbox.mount(factory.bundle(sequence))
            await eventually(partial(overtaken, sequence - 2), "the mount's to be judged")
            assert observed.status.failure is None
        sandbox.mount(factory.bundle(3))
        status = await observed.fails("replay")
        assert status.failure
        assert "expected the mount to continue from sequence 4, which it has shown" in status.failure.detail
        assert sandbox.installed().sequence == 5
        assert count(observed, "rejected", "replay") == 1
        # A broker whose stream was restored from a backup shows less than before: that is no alarm.
        await broker.announce(factory.bundle(4))
        await eventually(partial(overtaken, 3), "the broker's to be judged")
        sandbox.mount(factory.bundle(4))
        await observed.reaches(lambda s: s.failure is None, "the alarm to end")


async def test_bad_bundle_of_one_source_does_not_block_the_other(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, caplog: pytest.LogCaptureFixture
) -> None:
    forged = factory.bundle(9, signer=Signer.generate(f"{factory.domain}/a"))
    await broker.announce(factory.bundle(1))
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        await is_subscribed(observed)
        # Good and bad, in one breath: the last message is not all that counts.
        await broker.announce(factory.bundle(2), forged)
        status = await observed.is_proven(2)
        status = await observed.fails("signature")
        assert status.failure
        assert status.failure.detail.startswith("jetstream: bundle rejected at step 2 (signature)")
        assert (status.failure.sequence, status.state) == (9, AgentState.PROVEN)
        sandbox.mount(factory.bundle(3))
        await observed.is_proven(3)
        sandbox.mount(forged)
        status = await observed.reaches(
            lambda s: s.failure and s.failure.detail.startswith("bundle"), "the mount's fault"
        )
        await broker.announce(factory.bundle(4))
        status = await observed.is_proven(4)
        assert status.failure
        assert status.failure.reason == "signature", "the mount still shows it"
        assert count(observed, "rejected", "signature") == 2, "once from each source"
    logged = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("reason") == "signature"]  # type: ignore[attr-defined]  # as agent.log adds it
    assert {fields["source"] for fields in logged} == {"mount", "jetstream"}
    assert all(fields["security"] for fields in logged)


async def test_two_statements_of_one_sequence_are_equivocation_from_either_source(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker
) -> None:
    await broker.announce(factory.bundle(1, issued_at=factory.now - 1))
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        status = await observed.fails("equivocation")
        assert status.failure
        assert status.failure.detail.startswith("jetstream: ")
        assert sandbox.installed().statement.issued_at == factory.now, "the mount's"


async def test_bundle_without_a_common_ca_follows_a_bundle_with_one(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        with monkeypatch.context() as watched:
            alarms: list[float] = []
            watched.setattr(observed.agent.cycle.wakeup, "wake_within", alarms.append)
            await broker.announce(factory.bundle(6, [factory.epoch + 2, factory.epoch + 1]))
            status = await observed.fails("overlap")
            assert set(alarms) <= {BRIEF.rejudge_after}, "no sooner than anything that was refused"
        assert status.installed
        assert status.installed.mark.sequence == 1
        sandbox.mount(factory.bundle(3, [factory.epoch + 1, factory.epoch]))
        status = await observed.is_proven(6)
        assert status.failure is None


@pytest.mark.parametrize(
    ("message", "headers", "says"),
    [
        (b"{}", {"Tidemark-Format": "bundle/v1"}, "expected a bundle, found"),
        (b"\xff", {"Tidemark-Format": "bundle/v1"}, "expected a bundle, found"),
        (b"x" * 1_100_000, {"Tidemark-Format": "bundle/v1"}, "expected at most 1048576 bytes, found 1100000"),
        (
            b"{}",
            {"Tidemark-Format": "bundle/v2"},
            "expected Tidemark-Format: bundle/v1, found Tidemark-Format: bundle/v2",
        ),
        (b"{}", {}, "expected Tidemark-Format: bundle/v1, found no Tidemark-Format"),
    ],
)
def test_message_that_is_no_bundle_is_named(message: bytes, headers: dict[str, str], says: str) -> None:
    refusal = jetstream.read(message, headers)
    assert not isinstance(refusal, Bundle)
    assert says in refusal.detail


async def test_pod_without_a_set_takes_the_highest_of_all_sources_first(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.announce(factory.bundle(7))
    sandbox.mount(factory.bundle(2), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set")
        assert observed.status.installed
        assert observed.status.installed.mark.sequence == 7
        await observed.is_proven(7)
        assert [journey.sequence for journey in observed.status.journeys] == [7], "2 never was in place"
        await eventually(
            lambda: sorted(p.name for p in sandbox.out.iterdir() if p.is_dir() and not p.is_symlink()) == ["..7-1"],
            "the rest to be swept",
        )
        await is_subscribed(observed)
    assert [record for record in caplog.records if record.getMessage() == "broker_away"] == []


async def test_without_a_broker_bundles_come_from_the_mount(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    sandbox.nats_url = f"{broker.url}, tls://127.0.0.1:{free_port()}"
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        status = await observed.reaches(lambda s: s.broker, "a word of the broker")
        assert status.broker
        assert not status.broker.connected
        assert f"{broker.url}: " in status.broker.detail
        await broker.start()
        await broker.announce(factory.bundle(2))
        await observed.is_proven(2)
        await is_subscribed(observed)
        # Lost later: nothing waits for it.
        broker.stop()
        await observed.reaches(lambda s: s.broker and not s.broker.connected, "the loss to be noticed")
        sandbox.mount(factory.bundle(3))
        await observed.is_proven(3)
        await broker.start()
        await broker.announce(factory.bundle(4))
        await observed.is_proven(4)
        await is_subscribed(observed)


async def test_stream_that_comes_later_or_anew_is_read(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "_REREAD_SECONDS", 0.3)
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.reaches(
            lambda s: s.broker and "no stream METADATA_CA_CLIENT" in s.broker.detail, "a word"
        )
        await observed.is_proven(1)
        await broker.announce(factory.bundle(2))
        await observed.is_proven(2)
        await broker.forget()
        status = await observed.reaches(lambda s: s.broker and not s.broker.connected, "the stream to be missed")
        assert status.state is AgentState.PROVEN
        await broker.announce(factory.bundle(3))
        await observed.is_proven(3)


async def test_broker_is_tried_again_after_a_pause_or_with_another_set(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "_FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(jetstream, "_LONGEST_PAUSE", 3600.0)
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)

        async def asked(times: int) -> bool:
            return await broker.connections("tidemark-agent nats-0") >= times

        await eventually(partial(asked, 2), "the broker to be asked, first of all and then for good")
        for _ in range(100):
            assert not await asked(3), "nothing has changed, and the pause is long"
        await broker.announce(factory.bundle(2))
        leaf = factory.leaf()
        sandbox.mount(leaf=leaf)
        await observed.is_proven(2, leaf)
        assert await broker.connections("tidemark-agent nats-0") == 3


async def test_broker_with_handshake_first_is_read(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker
) -> None:
    broker.stop()
    broker.handshake_first = True
    await broker.start()
    await broker.announce(factory.bundle(1))
    sandbox.nats_url = broker.url
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        await is_subscribed(observed)
        await broker.announce(factory.bundle(2))
        leaf = factory.leaf()
        sandbox.mount(leaf=leaf)
        await observed.is_proven(2, leaf)

        async def moved() -> bool:
            return await broker.presented("tidemark-agent nats-0") == [leaf.sha256]

        await eventually(moved, "the new leaf to be presented")


async def test_connection_follows_the_installed_set(
    factory: BundleFactory, sandbox: AgentSandbox, broker: AnnouncementBroker
) -> None:
    await broker.announce(factory.bundle(1))
    first, second = factory.leaf(), factory.leaf()
    sandbox.mount(factory.bundle(1), first)
    async with sandbox.agent() as observed:
        await observed.is_proven(1, first)
        await is_subscribed(observed)
        sandbox.mount(leaf=second)
        await observed.is_proven(1, second)

        async def moved() -> bool:
            return await broker.presented("tidemark-agent nats-0") == [second.sha256]

        await eventually(moved, "the new leaf to be presented")
        # And what is announced after that is still heard.
        await broker.announce(factory.bundle(2))
        await observed.is_proven(2)


async def test_lasting_connection_is_reported_once(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    broker: AnnouncementBroker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(jetstream, "_REREAD_SECONDS", 0.02)
    caplog.set_level(logging.INFO, "tidemark.agent")
    sandbox.mount(factory.bundle(1), factory.leaf())
    await broker.announce(factory.bundle(1))
    async with sandbox.agent() as observed:
        await observed.is_proven(1)
        await is_subscribed(observed)
        before = await broker.messages()

        async def looked() -> bool:
            return await broker.messages() > before + 5

        await eventually(looked, "a few looks at the stream")
    assert [record.getMessage() for record in caplog.records].count("broker_connected") == 1


@pytest.mark.parametrize("answering", [True, False])
async def test_agent_stops_within_five_seconds_whatever_the_broker_does(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    broker: AnnouncementBroker,
    agent_process: Callable[[Mapping[str, str]], AgentProcess],
    answering: bool,
) -> None:
    await broker.announce(factory.bundle(1))
    sandbox.mount(factory.bundle(1), factory.leaf())
    process = agent_process(sandbox.environment())
    await eventually(lambda: (process.status().get("broker") or {}).get("connected"), "the agent to be subscribed")
    assert process.process is not None
    assert broker.process is not None
    if not answering:
        broker.process.send_signal(signal.SIGSTOP)
    process.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.process.wait, 5) == 0


async def test_absent_broker_is_in_status_and_log_and_not_too_often(
    factory: BundleFactory,
    sandbox: AgentSandbox,
    tmp_path: Path,
    agent_process: Callable[[Mapping[str, str]], AgentProcess],
) -> None:
    sandbox.nats_url = f"tls://127.0.0.1:{free_port()} tls://127.0.0.1:{free_port()}"
    sandbox.mount(factory.bundle(1), factory.leaf())
    (tmp_path / "token").write_text("a secret word")
    authority = {
        "TIDEMARK_AUTHORITY_URL": f"https://127.0.0.1:{free_port()}",
        "TIDEMARK_AUTHORITY_TOKEN_FILE": str(tmp_path / "token"),
    }
    process = agent_process(sandbox.environment(TIDEMARK_LOG="json", **authority))
    await process.answers("/readyz")
    process.stop()
    process.start(tmp_path / "agent.log")
    await process.answers("/readyz")
    await eventually(lambda: process.status()["broker"], "a word of the broker")
    status = process.status()
    assert status["broker"]["connected"] is False
    assert [w["name"] for w in status["warnings"]] == ["broker_away"]
    lines = [json.loads(line) for line in (tmp_path / "agent.log").read_text().splitlines()]
    starts = [number for number, line in enumerate(lines) if line["event"] == "started"]
    assert len(starts) == 2
    for begin, end in ((starts[0], starts[1]), (starts[1], len(lines))):
        assert sum(line["event"] == "broker_away" for line in lines[begin:end]) == 1
    assert "secret" not in (tmp_path / "agent.log").read_text()
