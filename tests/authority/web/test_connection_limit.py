"""How many connections a server accepts, and how long they may keep it waiting; over real TLS."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from authority.pki.control_ca import EmbeddedControlCa, create_control_ca, read_control_ca
from authority.pki.server_certificate import ServerCertificate
from authority.web import connection_limit
from authority.web.connection_limit import ConnectionLimits
from authority.web.listener import start
from tidemark.certificates import to_pem

ASKING = b"POST /echo HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n"
LARGE = 16 * 2**20  # bytes: more than all buffers on the way

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Server:
    """An application behind limited connections, and what a test needs to connect to it."""

    port: int
    context: ssl.SSLContext
    refused: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self, address: str = "127.0.0.1") -> Connection:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname="127.0.0.1", local_addr=(address, 0)
        )

    def application(self) -> web.Application:
        application = web.Application(middlewares=[connection_limit.connection_deadlines])
        application.add_routes(
            [
                web.post("/echo", self._echo),
                web.get("/late", self._late),
                web.get("/large", self._large),
                web.get("/stream", self._stream),
                web.get("/broken", self._broken),
            ]
        )
        return application

    async def _echo(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def _late(self, _: web.Request) -> web.Response:
        self.called.set()
        await self.done.wait()
        return web.Response(body=b"at last")

    async def _large(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE))

    async def _broken(self, _: web.Request) -> web.Response:
        raise RuntimeError("expected better")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(LARGE // 2**16):
            await response.write(bytes(2**16))
        await response.write_eof()
        return response


async def is_answered(connection: Connection) -> bool:
    """Whether a request gets its answer."""
    reader, writer = connection
    writer.write(ASKING + b"anybody?!")
    head = await reader.readuntil(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and await reader.readexactly(9) == b"anybody?!"


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is closed without another word."""
    try:
        return await reader.read() == b""
    except OSError:
        return True


@asynccontextmanager
async def running(state: Path, limits: ConnectionLimits) -> AsyncIterator[Server]:
    create_control_ca(state, "bus.example.com", int(time.time()), None)
    ca = read_control_ca(state, None)
    certificate = ServerCertificate(EmbeddedControlCa(ca), ["127.0.0.1"])
    await certificate.renew(int(time.time()))
    client = ssl.create_default_context(cadata=to_pem([ca.certificate]).decode())
    with closing(socket.create_server(("", 0))) as listening:
        server = Server(listening.getsockname()[1], client)
        runner, answer = await start(server.application())
        serving = asyncio.create_task(
            connection_limit.serve(listening, answer, certificate.context, server.refused.append, limits)
        )
        try:
            async with asyncio.timeout(60):
                yield server
        finally:
            serving.cancel()
            await asyncio.wait([serving])
            await runner.cleanup()
    with pytest.raises(asyncio.CancelledError):
        serving.result()


async def test_connection_above_the_limit_waits_until_another_closes(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=2, idle_seconds=60.0)) as server:
        first, second = await server.connect(), await server.connect()
        assert await is_answered(first)
        assert await is_answered(second)
        third = asyncio.create_task(server.connect())
        done, _ = await asyncio.wait([third], timeout=0.2)  # however long: it is not accepted
        assert not done
        first[1].close()
        late = await third
        assert await is_answered(late)
        assert await is_answered(second)
        for _, writer in (second, late):
            writer.close()


async def test_connection_without_tls_takes_no_slot(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=1)) as server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.close()
        connected = await server.connect()
        assert await is_answered(connected)
        connected[1].close()


@pytest.mark.parametrize(
    "sent", [b"", b"P", ASKING[:30], ASKING, ASKING + b"any"], ids=["nothing", "a byte", "half a head", "head", "body"]
)
async def test_incomplete_request_is_aborted_after_the_deadline(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ConnectionLimits(most=1, wait_seconds=0.1)) as server:
        for _ in range(2):
            reader, writer = await server.connect()
            writer.write(sent)
            assert await ended(reader)
            writer.close()
    assert not caplog.messages  # strangers fill no log


@pytest.mark.parametrize("begin", [b"GET /late HTTP/1.1\r\nX-Slow: ", ASKING], ids=["head", "body"])
async def test_byte_now_and_then_does_not_extend_the_deadline(tmp_path: Path, begin: bytes) -> None:
    async with running(tmp_path, ConnectionLimits(most=1, wait_seconds=0.5)) as server:
        reader, writer = await server.connect()
        writer.write(begin)
        end = asyncio.create_task(ended(reader))
        for _ in range(8 if begin == ASKING else 1_000_000):  # a ninth byte would make it whole
            done, _ = await asyncio.wait([end], timeout=0.1)
            if done:
                break
            writer.write(b"x")
        assert await end
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost here\r\n\r\n",
        ASKING[:-4] + b"x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        ASKING[:-2] + b"Content-Encoding: gzip\r\n\r\nno gzip!!",
    ],
)
async def test_request_that_is_no_http_is_answered_400_and_not_logged(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ConnectionLimits(most=1)) as server:
        reader, writer = await server.connect()
        writer.write(sent)
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    assert not caplog.messages


async def test_error_of_the_application_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path, ConnectionLimits(most=1)) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /broken HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
        writer.close()
    assert "Error handling request from 127.0.0.1" in caplog.messages


async def test_connection_without_another_request_is_aborted(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=2, wait_seconds=1.0)) as server:
        staying = await server.connect()
        for _ in range(2):
            assert await is_answered(staying)
        assert await ended(staying[0])
        staying[1].close()


@pytest.mark.parametrize("path", ["large", "stream"])
@pytest.mark.parametrize("closing_words", [b"", b"Connection: close\r\n"], ids=["stays", "leaves"])
async def test_client_that_does_not_read_the_answer_is_aborted(
    tmp_path: Path, path: str, closing_words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, ConnectionLimits(most=1, wait_seconds=0.3, idle_seconds=60.0)) as server:
        reader, writer = await server.connect()
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: here\r\n".encode() + closing_words + b"\r\n")
        another = await server.connect()  # there is one slot
        another[1].close()
        taken = 0
        with suppress(OSError):
            while piece := await reader.read(2**16):
                taken += len(piece)
        assert taken < LARGE
        writer.close()
    assert not caplog.messages


async def test_no_deadline_runs_while_the_application_answers(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=1, wait_seconds=1.0)) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /late HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        await server.called.wait()
        answer = asyncio.create_task(reader.read())
        done, _ = await asyncio.wait([answer], timeout=1.5)
        assert not done
        server.done.set()
        assert (await answer).endswith(b"\r\n\r\nat last")
        writer.close()


async def test_idle_connection_is_aborted_when_every_slot_is_taken(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=2, wait_seconds=60.0, idle_seconds=0.1)) as server:
        idling, asking = await server.connect(), await server.connect()
        assert await is_answered(idling)
        asking[1].write(b"GET /late HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        await server.called.wait()
        newcomer = await server.connect()
        assert await ended(idling[0])
        assert await is_answered(newcomer)
        server.done.set()
        assert (await asking[0].read()).endswith(b"at last")
        for _, writer in (idling, asking, newcomer):
            writer.close()


async def test_connections_above_an_addresss_share_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, ConnectionLimits(most=4, per_address=2)) as server:
        greedy = [await server.connect("127.0.0.2") for _ in range(2)]
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011 - however the kernel puts it
                await server.connect("127.0.0.2")
        assert server.refused == ["127.0.0.2"] * 3
        others = [await server.connect("127.0.0.3"), await server.connect("127.0.0.4")]
        for each in (*greedy, *others):
            assert await is_answered(each)
        greedy[0][1].close()
        assert await ended(greedy[0][0])
        again = await server.connect("127.0.0.2")
        assert await is_answered(again)
        for _, writer in (*greedy, *others, again):
            writer.close()
