"""So many connections at a time, over real TLS: the rest wait, and nobody who does not ask keeps them waiting."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from authority import door
from authority.control import EmbeddedControlCa, ServerCertificate, create_control_ca, read_control_ca
from tidemark.certificates import to_pem

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class House:
    """A kept door, and how to come to it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port = port
        self._context = context

    async def enter(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self._context)

    async def answers(self, connection: Connection) -> bool:
        reader, writer = connection
        writer.write(b"anybody?")
        return await reader.read(8) == b"anybody?"


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is closed without another word."""
    try:
        return await reader.read() == b""
    except OSError:
        return True


@asynccontextmanager
async def house(state: Path, most: int, patience: float = 60.0) -> AsyncIterator[House]:
    create_control_ca(state, "bus.example.com", int(time.time()), None)
    ca = read_control_ca(state, None)
    certificate = ServerCertificate(EmbeddedControlCa(ca), ["127.0.0.1"])
    await certificate.renew(int(time.time()))
    client = ssl.create_default_context(cadata=to_pem([ca.certificate]).decode())
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        keeping = asyncio.create_task(door.keep(listening, Echo, certificate.context, most, patience))
        try:
            async with asyncio.timeout(30):
                yield House(listening.getsockname()[1], client)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
    with pytest.raises(asyncio.CancelledError):
        keeping.result()


async def test_whoever_comes_besides_waits_until_another_leaves(tmp_path: Path) -> None:
    async with house(tmp_path, most=2) as here:
        first, second = await here.enter(), await here.enter()
        assert await here.answers(first)
        assert await here.answers(second)
        third = asyncio.create_task(here.enter())
        done, _ = await asyncio.wait([third], timeout=0.2)  # as long as it may, it does not come in
        assert not done
        first[1].close()
        late = await third
        assert await here.answers(late)
        assert await here.answers(second)
        for _, writer in (second, late):
            writer.close()


async def test_whoever_speaks_no_tls_takes_no_room(tmp_path: Path) -> None:
    async with house(tmp_path, most=1) as here:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.close()
        inside = await here.enter()
        assert await here.answers(inside)
        inside[1].close()


async def test_whoever_asks_nothing_is_shown_out(tmp_path: Path) -> None:
    async with house(tmp_path, most=1, patience=0.1) as here:
        for _ in range(2):
            reader, writer = await here.enter()
            assert await ended(reader)
            writer.close()
        asking = await here.enter()
        assert await here.answers(asking)
        staying = asyncio.create_task(ended(asking[0]))
        done, _ = await asyncio.wait([staying], timeout=0.3)
        assert not done  # having asked, it may stay
        asking[1].close()
        assert await staying
