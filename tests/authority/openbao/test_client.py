"""The OpenBao client on the real server: what it retries, and what it raises by name."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import (
    CasConflict,
    OpenBaoError,
    OpenBaoPermissionMissing,
    OpenBaoSealed,
    OpenBaoUnreachable,
    RequestRefused,
)
from authority.openbao.login import OpenBaoAccess, TokenLogin
from tests.harness import virtual_time
from tests.harness.kubernetes.certificates import serving_files
from tests.harness.openbao.open_mount import LONG, login_of, token_of, write
from tests.harness.openbao.server import QUICK, ROOT_TOKEN, OpenBaoNamespace, serving
from tests.harness.virtual_time import in_virtual_time
from tests.harness.waiting import eventually


@dataclass
class Line:
    """Passes bytes on to the server; the next ``cut`` answers are not: their connections are closed instead.

    The server has done what it was asked by then.
    """

    target: int
    cut: int = 0
    seen: int = 0
    port: int = 0
    _connections: set["asyncio.Task[None]"] = field(default_factory=set)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Line"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen += 1
        self._connections.add(asyncio.create_task(self._connect(reader, writer)))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        ways = [asyncio.create_task(self._pass(reader, back)), asyncio.create_task(self._answer(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, back):
                each.close()
            await asyncio.gather(*(each.wait_closed() for each in (writer, back)), return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.cut:
                self.cut -= 1
                return
            writer.write(data)


async def test_read_and_write_with_namespace_and_ca_file(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(await login_of(vault))) as client:
        assert client.server_time is None
        assert await client.read("secret/data/open/door") is None
        await write(client, 0)
        assert (await client.read("secret/data/open/door") or {})["data"] == {"version": 0}
        assert client.server_time is not None
    async with OpenBaoClient(replace(vault.access(TokenLogin("root")), namespace="")) as outside:
        assert await outside.read("secret/data/open/door") is None
        with pytest.raises(RequestRefused, match="found 404: no handler for route"):
            await outside.read("nowhere/data/open/door")


async def test_server_signed_by_another_ca_is_refused(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(replace(vault.access(TokenLogin("root")), ca_file=None), QUICK) as client:
        with pytest.raises(OpenBaoUnreachable, match="certificate verify failed"):
            await client.read("sys/mounts")


async def shows(port: int, chain: Path) -> bool:
    """Whether a new connection gets this certificate."""
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    return shown == await asyncio.to_thread(chain.read_text)


async def test_replaced_ca_of_openbao_is_trusted_without_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bao").mkdir()
    ca_file = tmp_path / "ca.pem"
    with serving(tmp_path / "bao") as server:
        ca_file.write_bytes(server.ca_file.read_bytes())
        async with Line(server.port).open() as line:
            access = OpenBaoAccess(f"https://127.0.0.1:{line.port}", TokenLogin(ROOT_TOKEN), ca_file=ca_file)
            async with OpenBaoClient(access, QUICK) as client:
                await client.read("sys/mounts")
                new_ca, chain, key = serving_files(tmp_path / "new")
                server.serve(chain, key)
                await eventually(partial(shows, server.port, chain), "the new certificate")
                await client.read("sys/mounts")  # over the connection that it has
                line.cut = 1
                with pytest.raises(OpenBaoUnreachable, match="certificate verify failed"):
                    await client.read("sys/mounts")
                ca_file.write_bytes(new_ca.read_bytes())
                assert await client.read("sys/mounts")
                for broken in (b"", new_ca.read_bytes()[:-40], b""):
                    ca_file.write_bytes(broken)
                    line.cut = 1
                    assert await client.read("sys/mounts")
                    assert line.cut == 0
                assert [record.getMessage() for record in caplog.records] == ["ca_reload_failed"] * 3
                ca_file.unlink()
                line.cut = 1
                assert await client.read("sys/mounts")
    logged = caplog.records[-1].__dict__["fields"]["error"]
    assert logged == f"{ca_file}: expected OpenBao's CA in PEM, found [Errno 2] No such file or directory"


def ca_file_of(path: Path) -> OpenBaoAccess:
    return OpenBaoAccess("https://127.0.0.1:1", TokenLogin("root"), ca_file=path)


async def test_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OpenBaoError, match=r"ca\.pem: expected OpenBao's CA in PEM, found .*No such file"):
        OpenBaoClient(ca_file_of(tmp_path / "ca.pem"))


async def test_write_over_another_version_raises_cas_conflict(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(await login_of(vault))) as client:
        await write(client, 0)
        with pytest.raises(CasConflict, match="secret/data/open/door: expected to write this version first"):
            await write(client, 0)


async def test_missing_permission_names_path_and_capability(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(await login_of(vault))) as client:
        for act, capability in [
            (client.read("secret/data/closed"), "read"),
            (client.write("secret/data/closed", {"data": {}}), "create or update"),
            (client.list("secret/metadata/open"), "list"),
            (client.patch("secret/data/closed", {}), "patch"),
            (client.delete("secret/metadata/open/door"), "delete"),
        ]:
            with pytest.raises(
                OpenBaoPermissionMissing, match=f"policies to allow '{capability}' on 'secret/"
            ) as caught:
                await act
            assert caught.value.capability == capability
            assert caught.value.path.startswith("secret/")


async def test_sealed_server_is_retried_and_then_named(vault: OpenBaoNamespace) -> None:
    login = await login_of(vault)
    async with (
        OpenBaoClient(vault.access(login), QUICK) as client,
        OpenBaoClient(vault.access(login), LONG) as other,
    ):
        await write(client, 0)
        await vault.server.seal()
        try:
            with pytest.raises(OpenBaoSealed, match="expected OpenBao unsealed, found it sealed; unseal it"):
                await write(client, 1)
            waiting = asyncio.create_task(write(other, 1, repeatable=False))
        finally:
            await vault.server.unseal()
        await asyncio.wait_for(waiting, 30)
        assert (await client.read("secret/data/open/door") or {})["data"] == {"version": 1}


async def test_unreachable_server_is_named(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(OpenBaoAccess("https://127.0.0.1:1", TokenLogin("root")), QUICK) as client:
        with pytest.raises(
            OpenBaoUnreachable, match=r"127\.0\.0\.1:1: expected OpenBao to answer GET .*, found Cannot connect"
        ):
            await client.read("secret/data/open/door")


def test_server_that_never_answers_times_out_at_every_try() -> None:
    async def main() -> None:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with OpenBaoClient(OpenBaoAccess(url, TokenLogin("root")), QUICK) as client:
            with pytest.raises(
                OpenBaoUnreachable, match=r"answer GET auth/token/lookup-self, found no answer within 10 s"
            ):
                await client.read("secret/data/open/door")
            assert 10 * (1 + len(QUICK)) <= asyncio.get_running_loop().time() < 40

    with socket.create_server(("127.0.0.1", 0)) as listening:  # the kernel accepts the connection, no program does
        virtual_time.run(main())


@in_virtual_time
async def test_slow_answer_leaves_the_server_clock_unknown() -> None:
    delays = [5.0, 5.0, 0.0]
    head = b"HTTP/1.1 200 OK\r\nDate: Fri, 15 Jan 2027 08:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(delays.pop(0))
                writer.write(head)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with OpenBaoClient(OpenBaoAccess(url, TokenLogin("root")), QUICK) as client:
            await client.read("secret/data/open/door")  # a look at the token first: two slow answers
            assert client.server_time is None
            await client.read("secret/data/open/door")
            assert client.server_time == pytest.approx(1_800_000_000, abs=1)


async def test_mount_that_is_not_ready_yet_is_retried(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(TokenLogin(ROOT_TOKEN)), QUICK) as client:
        for number in range(8):  # a real mount answers so for an instant only; several make the instant likely
            await client.write(f"sys/mounts/kv-{number}", {"type": "kv", "options": {"version": "2"}})
            assert await client.read(f"kv-{number}/config") is not None


async def test_answer_of_a_mount_that_is_not_ready_yet_is_retried() -> None:
    words = "Upgrading from non-versioned to versioned data. This backend will be unavailable for a brief period"
    not_ready = json.dumps({"errors": [words]}).encode()
    answers = [(b"200 OK", b"{}"), (b"400 Bad Request", not_ready), (b"400 Bad Request", not_ready), (b"200 OK", b"{}")]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                status, body = answers.pop(0)
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with OpenBaoClient(OpenBaoAccess(url, TokenLogin("root")), QUICK) as client:
            assert await client.read("secret/config") == {}  # the first answer is to the look-up of the token
    assert answers == []


async def test_request_above_the_rate_limit_is_retried_later(vault: OpenBaoNamespace) -> None:
    login = await login_of(vault)
    async with vault.server.operator() as root, OpenBaoClient(vault.access(login), LONG) as client:
        await write(client, 0)
        quota = f"sys/quotas/rate-limit/{vault.namespace}"
        await root.write(quota, {"path": f"{vault.namespace}/secret", "rate": 2, "interval": "1s"})
        try:
            for version in range(1, 6):
                await write(client, version, repeatable=False)
            async with OpenBaoClient(vault.access(login), ()) as hasty:
                reads = (hasty.read("secret/data/open/door") for _ in range(20))
                answers = await asyncio.gather(*reads, return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, OpenBaoUnreachable)]
            assert refused
            assert all("429: too many requests" in str(answer) for answer in refused)
        finally:
            await root.delete(quota)


async def test_request_with_a_lost_answer_is_repeated_only_where_repeatable(vault: OpenBaoNamespace) -> None:
    login = await login_of(vault)
    async with Line(vault.server.port).open() as line:
        access = replace(vault.access(login), url=f"https://127.0.0.1:{line.port}")
        async with OpenBaoClient(access, LONG) as client:
            await token_of(client)
            line.cut = 1
            assert await client.read("secret/data/open/door") is None
            assert line.cut == 0
            line.cut = 1
            with pytest.raises(
                OpenBaoUnreachable, match="expected OpenBao to answer POST secret/data/open/door, found"
            ):
                await write(client, 0, repeatable=False)
            assert line.cut == 0
            assert (await client.read("secret/data/open/door") or {})["data"] == {"version": 0}
            line.cut = 1
            with pytest.raises(CasConflict):  # why such a request must not be repeated blindly
                await write(client, 1)
            assert line.seen >= 4
