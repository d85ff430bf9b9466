"""So many connections at a time, over real TLS: the rest wait, and nobody who does not ask keeps them waiting."""

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
class House:
    """A kept connection_limit before an application, and how to come to it."""

    port: int
    context: ssl.SSLContext
    turned_away: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(self, address: str = "127.0.0.1") -> Connection:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname="127.0.0.1", local_addr=(address, 0)
        )

    def application(self) -> web.Application:
        application = web.Application(middlewares=[connection_limit.in_turn])
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
async def house(state: Path, rules: ConnectionLimits) -> AsyncIterator[House]:
    create_control_ca(state, "bus.example.com", int(time.time()), None)
    ca = read_control_ca(state, None)
    certificate = ServerCertificate(EmbeddedControlCa(ca), ["127.0.0.1"])
    await certificate.renew(int(time.time()))
    client = ssl.create_default_context(cadata=to_pem([ca.certificate]).decode())
    with closing(socket.create_server(("", 0))) as listening:
        here = House(listening.getsockname()[1], client)
        runner, answer = await start(here.application())
        keeping = asyncio.create_task(
            connection_limit.keep(listening, answer, certificate.context, here.turned_away.append, rules)
        )
        try:
            async with asyncio.timeout(60):
                yield here
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await runner.cleanup()
    with pytest.raises(asyncio.CancelledError):
        keeping.result()


async def test_whoever_comes_besides_waits_until_another_leaves(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=2, idle=60.0)) as here:
        first, second = await here.enter(), await here.enter()
        assert await is_answered(first)
        assert await is_answered(second)
        third = asyncio.create_task(here.enter())
        done, _ = await asyncio.wait([third], timeout=0.2)  # as long as it may, it does not come in
        assert not done
        first[1].close()
        late = await third
        assert await is_answered(late)
        assert await is_answered(second)
        for _, writer in (second, late):
            writer.close()


async def test_whoever_speaks_no_tls_takes_no_room(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=1)) as here:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.close()
        inside = await here.enter()
        assert await is_answered(inside)
        inside[1].close()


@pytest.mark.parametrize(
    "said", [b"", b"P", ASKING[:30], ASKING, ASKING + b"any"], ids=["nothing", "a byte", "half a head", "head", "body"]
)
async def test_whoever_does_not_ask_in_whole_is_shown_out(
    tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, ConnectionLimits(most=1, patience=0.1)) as here:
        for _ in range(2):
            reader, writer = await here.enter()
            writer.write(said)
            assert await ended(reader)
            writer.close()
    assert not caplog.messages  # strangers fill no log


@pytest.mark.parametrize("begin", [b"GET /late HTTP/1.1\r\nX-Slow: ", ASKING], ids=["head", "body"])
async def test_a_byte_now_and_then_gains_no_time(tmp_path: Path, begin: bytes) -> None:
    async with house(tmp_path, ConnectionLimits(most=1, patience=0.5)) as here:
        reader, writer = await here.enter()
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
    "said",
    [
        b"\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost here\r\n\r\n",
        ASKING[:-4] + b"x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
        ASKING[:-2] + b"Content-Encoding: gzip\r\n\r\nno gzip!!",
    ],
)
async def test_whoever_speaks_no_http_fills_no_log(
    tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, ConnectionLimits(most=1)) as here:
        reader, writer = await here.enter()
        writer.write(said)
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    assert not caplog.messages


async def test_an_error_of_ours_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with house(tmp_path, ConnectionLimits(most=1)) as here:
        reader, writer = await here.enter()
        writer.write(b"GET /broken HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
        writer.close()
    assert "Error handling request from 127.0.0.1" in caplog.messages


async def test_whoever_asks_no_more_is_shown_out(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=2, patience=1.0)) as here:
        staying = await here.enter()
        for _ in range(2):
            assert await is_answered(staying)
        assert await ended(staying[0])
        staying[1].close()


@pytest.mark.parametrize("path", ["large", "stream"])
@pytest.mark.parametrize("closing_words", [b"", b"Connection: close\r\n"], ids=["stays", "leaves"])
async def test_whoever_does_not_take_the_answer_is_shown_out(
    tmp_path: Path, path: str, closing_words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path, ConnectionLimits(most=1, patience=0.3, idle=60.0)) as here:
        reader, writer = await here.enter()
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: here\r\n".encode() + closing_words + b"\r\n")
        another = await here.enter()  # there is one place
        another[1].close()
        taken = 0
        with suppress(OSError):
            while piece := await reader.read(2**16):
                taken += len(piece)
        assert taken < LARGE
        writer.close()
    assert not caplog.messages


async def test_whoever_asked_is_not_hurried_while_the_answer_is_made(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=1, patience=1.0)) as here:
        reader, writer = await here.enter()
        writer.write(b"GET /late HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        await here.called.wait()
        answer = asyncio.create_task(reader.read())
        done, _ = await asyncio.wait([answer], timeout=1.5)
        assert not done
        here.done.set()
        assert (await answer).endswith(b"\r\n\r\nat last")
        writer.close()


async def test_in_a_full_house_whoever_idles_makes_room(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=2, patience=60.0, idle=0.1)) as here:
        idling, asking = await here.enter(), await here.enter()
        assert await is_answered(idling)
        asking[1].write(b"GET /late HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        await here.called.wait()
        newcomer = await here.enter()
        assert await ended(idling[0])
        assert await is_answered(newcomer)
        here.done.set()
        assert (await asking[0].read()).endswith(b"at last")
        for _, writer in (idling, asking, newcomer):
            writer.close()


async def test_one_address_has_its_share_and_no_more(tmp_path: Path) -> None:
    async with house(tmp_path, ConnectionLimits(most=4, of_one=2)) as here:
        greedy = [await here.enter("127.0.0.2") for _ in range(2)]
        for _ in range(3):
            with pytest.raises(OSError):  # noqa: PT011 - however the kernel puts it
                await here.enter("127.0.0.2")
        assert here.turned_away == ["127.0.0.2"] * 3
        others = [await here.enter("127.0.0.3"), await here.enter("127.0.0.4")]
        for each in (*greedy, *others):
            assert await is_answered(each)
        greedy[0][1].close()
        assert await ended(greedy[0][0])
        again = await here.enter("127.0.0.2")
        assert await is_answered(again)
        for _, writer in (*greedy, *others, again):
            writer.close()
