"""One set's journey on a real nats-server: installed, reloaded, proven; or not, and back."""

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from agent.reporting.status import unready
from tests.harness.agent.sandbox import AgentSandbox, begin, write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.server import NatsServer
from tests.harness.processes import launch
from tests.harness.waiting import eventually
from tidemark.bundle import Cause
from tidemark.receipt import AgentState, Level

MakeServer = Callable[..., NatsServer]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with it."""
    with launch("/bin/sleep", "60") as process:
        yield process
        process.kill()


async def load_time(server: NatsServer) -> object:
    return (await server.varz() or {})["config_load_time"]


async def test_bundle_and_leaf_may_arrive_in_either_order(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    factory.include_root = False  # or a leaf of any CA that the root has signed would fit
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        later = [factory.epoch + 1, factory.epoch]
        # The bundle first: the leaf of the CA before still fits.
        sandbox.mount(factory.bundle(2, later))
        await observed.is_proven(2)
        leaf = factory.leaf(factory.ca(factory.epoch + 1))
        sandbox.mount(leaf=leaf)
        await observed.is_proven(2, leaf)
        # The leaf first: it stays out until the bundle that has its CA is here.
        early = factory.leaf(factory.ca(factory.epoch + 2))
        sandbox.mount(leaf=early)
        await observed.fails("leaf_chain")
        assert sandbox.file("tls.crt") == leaf.crt
        sandbox.mount(factory.bundle(3, [factory.epoch + 2, *later]))
        status = await observed.is_proven(3, early)
        assert status.failure is None
        assert status.leaf
        assert status.leaf.issuer_sha256 == factory.ca(factory.epoch + 2).sha256
        assert server.complaints() == []


async def test_journey_is_measured_from_switch_of_mount(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        sandbox.mount(factory.bundle(2))
        status = await observed.is_proven(2)
        journey = status.journeys[-1]
        moved = (sandbox.bundle_mount.path / "..data").lstat().st_ctime
        assert journey.swapped_at == moved
        assert journey.proven_at is not None
        assert journey.proven_at >= moved
        assert set(journey.stages) == {"detect", "verify", "install", "reload", "prove"}
        assert (journey.sequence, journey.outcome) == (2, "proven")
        assert journey.leaf_issuer_sha256 == factory.ca(factory.epoch).sha256
        assert [j.number for j in status.journeys] == sorted({j.number for j in status.journeys})


async def test_absent_workload_that_starts_on_the_set_is_not_signalled(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.fails("no_process")
        assert status.state is AgentState.INSTALLED
        assert status.failure
        assert str(server.pidfile) in status.failure.detail
        sandbox.mount(factory.bundle(2))
        await observed.reaches(lambda s: s.installed and s.installed.mark.sequence == 2, "the newer set")
        tick = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.02
        await eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > tick, "a clock tick of process start times")
        await server.start()
        status = await observed.is_proven(2)
        assert [journey.outcome for journey in status.journeys] == ["installed", "proven"]
        assert "Reloaded server configuration" not in server.log.read_text()


async def test_unproven_sets_are_swept(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        server.stop()
        for sequence in range(2, 7):
            sandbox.mount(factory.bundle(sequence))
            await eventually(lambda n=sequence: sandbox.installed().sequence == n, "the newer set")  # type: ignore[misc]  # a lambda with a default

        def kept() -> list[str]:
            return sorted(entry.name for entry in sandbox.out.iterdir() if entry.is_dir() and not entry.is_symlink())

        await eventually(lambda: kept() == ["..1-1", "..6-1"], "the proven set and the one in place alone")


async def test_stale_pid_file_signals_no_other_process(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer, bystander: subprocess.Popen[bytes]
) -> None:
    server.folder.mkdir()
    server.pidfile.write_text(str(bystander.pid))
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        status = await observed.fails("stale_pidfile")
        assert status.failure
        assert f"found {bystander.pid}, which is sleep" in status.failure.detail
        assert bystander.poll() is None
        await server.start()
        await observed.is_proven(1)
        assert bystander.poll() is None


async def test_restarted_workload_is_found_again(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        server.stop()
        sandbox.mount(factory.bundle(2))
        status = await observed.fails("stale_pidfile")
        assert status.state is AgentState.INSTALLED
        await server.start()
        await observed.is_proven(2)


async def test_workload_that_started_on_other_files_is_reloaded(
    factory: BundleFactory, sandbox: AgentSandbox, nats_server: MakeServer
) -> None:
    elsewhere, used = sandbox.folder / "elsewhere", sandbox.folder / "used"
    write_set(elsewhere, factory.bundle(1), factory.leaf())
    used.symlink_to(elsewhere)
    server = nats_server(used)
    sandbox.targets = server.target
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), factory.leaf())
    async with sandbox.agent() as observed:
        await observed.reaches(lambda s: s.installed, "a set to be installed")
        later = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.05  # start times are known to a hundredth of a second
        await eventually(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > later, "some clock ticks")
        await server.start()
        await observed.fails("ca_list")  # it need not be told what lay there when it started, but does not show it
        used.unlink()
        used.symlink_to(sandbox.out)
        await observed.is_proven(2)


async def test_workload_without_probe_is_reloaded_for_every_set(
    factory: BundleFactory, sandbox: AgentSandbox, nats_server: MakeServer
) -> None:
    server = nats_server(sandbox.out)
    sandbox.targets = f"signal:?pidfile={server.pidfile}"
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        before = await load_time(server)

        async def has_reloaded() -> bool:
            return await load_time(server) != before

        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]))
        status = await observed.is_proven(2)
        assert (status.targets[0].level, status.targets[0].allowed) == (Level.SIGNALLED, Level.SIGNALLED)
        await eventually(has_reloaded, "a reload")
    # Installed by an agent that told nobody: the next one knows that the workload is older than the set.
    bare, sandbox.targets = sandbox.targets, ""
    sandbox.mount(factory.bundle(3, [factory.epoch + 1, factory.epoch]))
    async with sandbox.agent() as observed:
        await observed.is_proven(3)
    before, sandbox.targets = await load_time(server), bare
    async with sandbox.agent() as observed:
        await observed.is_proven(3)
        await eventually(has_reloaded, "a reload")


async def test_newest_of_many_candidates_is_proven(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        for sequence in range(2, 12):
            sandbox.mount(factory.bundle(sequence, [factory.epoch + sequence % 2, factory.epoch - 1]), factory.leaf())
        leaf = factory.leaf()
        sandbox.mount(leaf=leaf)
        await observed.is_proven(11, leaf)
        assert server.complaints() == []
        kept = [entry.name for entry in sandbox.out.iterdir() if entry.is_dir() and not entry.is_symlink()]
        assert len(kept) == 1, "sets that nothing needs are swept"


async def test_restarted_agent_does_not_reload_proven_workload(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        sandbox.mount(factory.bundle(2))
        await observed.is_proven(2)
    loaded = await load_time(server)
    async with sandbox.agent() as observed:
        await observed.is_proven(2)
        assert await load_time(server) == loaded


async def test_restarted_agent_adopts_what_changed_meanwhile(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
    leaf = factory.leaf(factory.ca(factory.epoch + 1))
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), leaf)
    async with sandbox.agent() as observed:
        await observed.is_proven(2, leaf)


async def test_installed_set_is_proven_without_mount(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
    sandbox.bundle_mount.path.rename(sandbox.folder / "away")
    async with sandbox.agent() as observed:
        status = await observed.is_proven(1)
        assert status.failure
        assert status.failure.reason == "mount_missing"


async def test_rollback_statement_is_adopted(factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer) -> None:
    sandbox.mount(factory.bundle(1, [factory.epoch + 1, factory.epoch]), factory.leaf())
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        bad = factory.ca(factory.epoch + 1).sha256
        sandbox.mount(factory.bundle(2, [factory.epoch, factory.epoch - 1], cause=Cause.ROLLBACK, withdrawn=(bad,)))
        await observed.is_proven(2)


async def test_leaf_is_orphaned_by_revocation_until_new_leaf(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    first = factory.leaf()
    sandbox.mount(factory.bundle(1, [factory.epoch, factory.epoch - 1]), first)
    async with sandbox.agent() as observed:
        await begin(sandbox, server, observed)
        bad = factory.ca(factory.epoch).sha256
        withdrawn = (bad, factory.ca(factory.epoch - 1).sha256)
        sandbox.mount(factory.bundle(2, [factory.epoch + 1], cause=Cause.REVOCATION, withdrawn=withdrawn))
        status = await observed.reaches(lambda s: s.state is AgentState.LEAF_ORPHANED, "an orphaned leaf")
        assert (status.proven and status.proven.sequence, sandbox.file("tls.crt")) == (2, first.crt)
        assert status.leaf
        assert status.leaf.issuer_sha256 == bad
        assert status.failure
        assert status.failure.reason == "leaf_chain"
        leaf = factory.leaf(factory.ca(factory.epoch + 1))
        sandbox.mount(leaf=leaf)
        status = await observed.is_proven(2, leaf)
        assert status.failure is None


async def test_current_bundle_with_expired_oldest_ca_is_valid(
    factory: BundleFactory, sandbox: AgentSandbox, server: NatsServer
) -> None:
    ahead = 0
    epochs = [factory.epoch, factory.epoch - 1, factory.epoch - 2, factory.epoch - 3]
    sandbox.mount(factory.bundle(1, epochs), factory.leaf())
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await begin(sandbox, server, observed)
        ahead = factory.clock.epoch_seconds + 1  # the CA of epoch - 3 ends with this epoch
        leaf = factory.leaf()
        sandbox.mount(leaf=leaf)
        await observed.is_proven(1, leaf)
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.is_proven(1, leaf)
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, *epochs]))
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.is_proven(2)


@pytest.mark.parametrize("epochs_late", [0.5, 0.99, 2.0, 3.5])
async def test_late_started_agent_adopts_current_bundle(
    factory: BundleFactory, sandbox: AgentSandbox, epochs_late: float
) -> None:
    ahead = epochs_late * factory.clock.epoch_seconds
    start = factory.clock.start(factory.epoch)
    end = start + factory.clock.validity_seconds
    sandbox.mount(factory.bundle(1, issued_at=start), factory.leaf(begin=start, end=end))
    async with sandbox.agent(now=lambda: start + ahead) as observed:
        await observed.is_proven(1)


async def test_next_bundle_is_adopted_after_everything_expired(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    ahead = 0
    sandbox.mount(factory.bundle(1), factory.leaf())
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.is_proven(1)
        ahead = 2 * factory.clock.validity_seconds
        later = BundleFactory(factory.now + ahead)
        later.signer, later.root = factory.signer, factory.root
        leaf = later.leaf()
        sandbox.mount(later.bundle(2), leaf)
        await observed.is_proven(2, leaf)


async def test_unmanaged_leaf_is_neither_installed_nor_reported(factory: BundleFactory, sandbox: AgentSandbox) -> None:
    sandbox.leaf_managed = False
    sandbox.mount(factory.bundle(1))
    async with sandbox.agent() as observed:
        status = await observed.is_proven(1)
        assert status.leaf is None
        assert not (sandbox.out / "tls.crt").exists()
        assert status.journeys[-1].leaf_sha256 is None


async def test_clock_jumps_refuse_new_bundles_and_keep_installed_set(
    factory: BundleFactory, sandbox: AgentSandbox
) -> None:
    ahead = 0.0
    first = factory.leaf(end=factory.now + 10 * factory.clock.validity_seconds)
    sandbox.mount(factory.bundle(1), first)
    async with sandbox.agent(now=lambda: factory.now + ahead) as observed:
        await observed.is_proven(1)
        # Back by an hour: what is issued now comes from the future, and waits.
        ahead = -3600.0
        sandbox.mount(factory.bundle(2))
        status = await observed.fails("held")
        assert status.failure
        assert "the clocks differ by 3600 s" in status.failure.detail
        assert status.state is AgentState.PROVEN
        ahead = 0.0
        sandbox.mount(leaf=factory.leaf(end=factory.now + 10 * factory.clock.validity_seconds))
        await observed.is_proven(2)
        # Ahead by more than any CA lasts: the installed set stays, though nothing new of that time would be taken.
        ahead = 2.0 * factory.clock.validity_seconds
        sandbox.mount(factory.bundle(3))
        status = await observed.fails("expired")
        assert status.state is AgentState.LEAF_ORPHANED, "as every CA has ended by that clock"
        assert sandbox.installed().sequence == 2
        assert unready(status, int(factory.now + ahead)) == ["no installed intermediate is valid now"]
        ahead = 0.0
        assert unready(observed.status, factory.now) == []
        sandbox.mount(factory.bundle(4))
        status = await observed.is_proven(4)
        assert status.failure is None
