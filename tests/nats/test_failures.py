"""A reload that fails changes nothing and names its step; servers that fail are outlived."""

import asyncio
import hashlib
import signal
from pathlib import Path

import nats.errors
import pytest

import tidemark.nats
from tests.harness.nats.cluster import ClusterCa, InstalledOutput, NatsServers, connect_eventually, digests
from tests.harness.waiting import eventually
from tidemark import note
from tidemark.bundle import NO_PREVIOUS, Anchor, Cause, Role, Statement
from tidemark.certificates import fingerprint, not_after, not_before
from tidemark.epoch import EpochClock
from tidemark.nats import Connection, OldConnectionBroke, ReloadFailed


async def _still_works(connection: Connection, before: tuple[str, str]) -> None:
    subscription = await connection.subscribe("works")
    await connection.publish("works", b"still")
    assert (await subscription.next_msg(timeout=5)).data == b"still"
    assert digests(connection) == before


async def test_garbage_in_the_directory_fails_at_step_read(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    before = digests(connection)
    output.install(b"garbage", *first.leaf())
    with pytest.raises(ReloadFailed, match=r"step 'read'.*ca\.crt") as failed:
        await connection.reload()
    assert failed.value.step == "read"
    await _still_works(connection, before)


async def test_simultaneous_reloads_share_one_failure(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    output.install(b"garbage", *first.leaf())
    failures = await asyncio.gather(*(connection.reload() for _ in range(50)), return_exceptions=True)
    assert {type(failure) for failure in failures} == {ReloadFailed}
    assert len({id(failure) for failure in failures}) == 1


async def test_key_of_another_leaf_fails_at_step_read(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    before = digests(connection)
    output.install(first.pem, first.leaf()[0], first.leaf()[1])
    with pytest.raises(ReloadFailed, match=r"step 'read'.*tls\.key"):
        await connection.reload()
    await _still_works(connection, before)


async def test_leaf_that_the_server_does_not_trust_fails_at_step_connect(
    lone: NatsServers, connection: Connection, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    before = digests(connection)
    output.install(first.pem, *stranger.leaf())
    with pytest.raises(ReloadFailed, match=rf"step 'connect'.*127\.0\.0\.1:{lone.nodes[0].port}") as failed:
        await connection.reload()
    assert failed.value.step == "connect"
    await _still_works(connection, before)


async def test_server_that_the_set_does_not_trust_fails_at_step_connect(
    connection: Connection, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    before = digests(connection)
    output.install(stranger.pem, *first.leaf())
    with pytest.raises(ReloadFailed, match=r"step 'connect'.*certificate verify failed"):
        await connection.reload()
    await _still_works(connection, before)


async def test_next_good_set_is_used_after_a_failure(
    connection: Connection, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    output.install(b"garbage", *first.leaf())
    with pytest.raises(ReloadFailed):
        await connection.reload()
    output.install(first.pem, *second.leaf())
    await connection.reload()
    await _still_works(connection, output.digests())


async def test_reload_fails_in_time_if_the_server_hangs(
    lone: NatsServers, output: InstalledOutput, first: ClusterCa
) -> None:
    async with await connect_eventually(lone.urls, output, reload_timeout=0.5) as connection:
        before = digests(connection)
        output.install(first.pem, *first.leaf())
        lone.nodes[0].signal(signal.SIGSTOP)
        try:
            with pytest.raises(ReloadFailed, match=r"step 'connect': not done within 0\.5 s"):
                await connection.reload()
        finally:
            lone.nodes[0].signal(signal.SIGCONT)
        await _still_works(connection, before)


async def test_a_closed_connection_does_not_reload(
    connection: Connection, output: InstalledOutput, first: ClusterCa
) -> None:
    output.install(first.pem, *first.leaf())
    reloading = asyncio.create_task(connection.reload())
    await asyncio.sleep(0)
    await connection.close()
    with pytest.raises(ReloadFailed, match="closed"):
        await reloading
    with pytest.raises(ReloadFailed, match="closed"):
        await connection.reload()


# -- servers that hang or go away


async def test_reload_moves_from_a_hanging_server_to_another(
    tmp_path: Path, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    reported: list[Exception] = []

    async def report(error: Exception) -> None:
        reported.append(error)

    pair = NatsServers(tmp_path / "a", count=1), NatsServers(tmp_path / "b", count=1)
    hanging, other = pair[0].nodes[0], pair[1].nodes[0]
    try:
        for servers in pair:
            servers.set_trust([first, second], first)
            servers.nodes[0].start()
        async with await connect_eventually([other.url], output):
            pass
        async with await connect_eventually(
            [hanging.url, other.url], output, error_cb=report, dont_randomize=True, connect_timeout=0.2
        ) as connection:
            assert connection.connected_url is not None
            assert connection.connected_url.geturl() == hanging.url
            hanging.signal(signal.SIGSTOP)
            output.install(first.pem, *second.leaf())
            await connection.reload()
            assert connection.connected_url.geturl() == other.url
            assert [type(error) for error in reported] == [OldConnectionBroke]  # what was on its way there may be lost
            await _still_works(connection, output.digests())
    finally:
        for servers in pair:
            servers.kill()


async def test_a_reconnect_presents_the_newest_set(
    lone: NatsServers, connection: Connection, output: InstalledOutput, second: ClusterCa
) -> None:
    lone.nodes[0].kill()
    output.install(second.pem, *second.leaf())
    lone.set_trust([second], second)  # the set that it was connected with is worth nothing any more
    lone.nodes[0].start()
    await eventually(lambda: digests(connection) == output.digests(), "it is connected with the newest")
    await _still_works(connection, output.digests())


async def test_a_reconnect_goes_back_to_the_last_set_that_worked(
    lone: NatsServers, connection: Connection, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    before = digests(connection)
    output.install(first.pem, *stranger.leaf())
    lone.nodes[0].kill()
    await eventually(lambda: not connection.is_connected, "it notices")
    lone.nodes[0].start()
    await eventually(lambda: connection.is_connected, "it is connected again")
    await _still_works(connection, before)


async def test_a_reconnect_never_goes_back_to_a_set_with_a_withdrawn_ca(
    lone: NatsServers, output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    errors: list[Exception] = []

    async def failed(error: Exception) -> None:
        errors.append(error)

    async with await connect_eventually(lone.urls, output, reconnect_time_wait=0.05, error_cb=failed) as connection:
        output.install(second.pem, *second.leaf(), withdrawal(second, first))
        node = lone.nodes[0]  # with the key of the first CA, a thief could be this server
        node.kill()
        node.start()
        await eventually(lambda: sum("verify failed" in str(error) for error in errors) >= 4, "it has tried four times")
        assert not connection.is_connected
        node.kill()
        node.set_trust([first, second], second)
        node.start()
        await eventually(lambda: connection.is_connected, "it is back")
        assert digests(connection) == output.digests()


def withdrawal(signing: ClusterCa, withdrawn: ClusterCa) -> bytes:
    """A bundle's note that leaves a CA out; of its kind, what an agent would have verified."""
    clock = EpochClock(epoch_seconds=1200, validity_seconds=4800, prepare_seconds=300)
    certificate = signing.certificate
    begin, end = not_before(certificate), not_after(certificate)
    statement = Statement(
        trust_domain="bus.test",
        sequence=2,
        clock=clock,
        epoch=1,
        cause=Cause.REVOCATION,
        issued_at=begin,
        next_update=end,
        expires_at=end,
        anchors=(Anchor(Role.INTERMEDIATE, 1, fingerprint(certificate), begin, end),),
        withdrawn=(fingerprint(withdrawn.certificate),),
        ca_sha256=hashlib.sha256(signing.pem).hexdigest(),
        previous=NO_PREVIOUS,
    )
    return bytes(note.sign(statement.text(), [note.Signer.generate("bus.test/a")]))


async def test_reload_ends_a_reconnect_and_sends_waiting_messages(
    lone: NatsServers, output: InstalledOutput, tmp_path: Path, first: ClusterCa, second: ClusterCa
) -> None:
    node = lone.nodes[0]
    async with await connect_eventually(lone.urls, output, reconnect_time_wait=3600) as connection:
        subscription = await connection.subscribe("waited")
        node.kill()
        await eventually(lambda: connection.is_reconnecting, "it notices")
        for number in range(5):
            await connection.publish("waited", b"%d" % number)
        output.install(second.pem, *second.leaf())
        with pytest.raises(ReloadFailed, match="step 'connect'"):
            await connection.reload()
        lone.set_trust([second], second)
        node.start()
        await eventually(lambda: node.log.count("Server is ready") == 2, "it is up again")
        await connection.reload()
        assert [(await subscription.next_msg(timeout=5)).data for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        await _still_works(connection, output.digests())


# -- what connect refuses


async def test_connect_names_every_server_that_refused(
    lone: NatsServers, output: InstalledOutput, first: ClusterCa, stranger: ClusterCa
) -> None:
    async with await connect_eventually(lone.urls, output):
        pass
    output.install(first.pem, *stranger.leaf())
    with pytest.raises(tidemark.nats.ConnectFailed) as failed:
        await tidemark.nats.connect(["tls://user:secret@127.0.0.1:1", *lone.urls], directory=output.path)
    assert isinstance(failed.value, nats.errors.NoServersError)
    assert set(failed.value.reasons) == {"tls://127.0.0.1:1", *lone.urls}
    assert "secret" not in str(failed.value)


async def test_connect_refuses_a_context_of_the_applications_own(output: InstalledOutput) -> None:
    with pytest.raises(TypeError, match="tls"):
        await tidemark.nats.connect("tls://127.0.0.1:1", directory=output.path, tls=None)
