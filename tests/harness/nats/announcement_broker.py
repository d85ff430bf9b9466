"""A real nats-server with JetStream and mutual TLS, and an authority's announcements on it."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from nats.js.api import StreamConfig

import tidemark.nats
from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.announcement import FORMAT, FORMAT_HEADER, STREAM, SUBJECT
from tidemark.bundle import Bundle

HEADERS = {FORMAT_HEADER: FORMAT}


class AnnouncementBroker:
    """One server that reads its files from ``files``, as the announcing connection does."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        self.files = files
        self.port = free_port()
        self.monitor = free_port()
        self.log = folder / "nats.log"
        self.handshake_first = False
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._address + ("?handshake_first=true" if self.handshake_first else "")

    @property
    def _address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    async def _connected(self) -> tidemark.nats.Connection:
        return await tidemark.nats.connect(
            self._address, directory=self.files, tls_handshake_first=self.handshake_first
        )

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        await eventually(lambda: self.log.exists() and "Server is ready" in self.log.read_text(), "the broker to start")

    def launch(self) -> None:
        """Start it, and do not wait."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitor}\n"
            f'jetstream {{ store_dir: "{self.folder}" }}\n'
            f'tls {{ cert_file: "{self.files}/tls.crt", key_file: "{self.files}/tls.key", '
            f'ca_file: "{self.files}/ca.crt", verify: true, '
            f"handshake_first: {str(self.handshake_first).lower()} }}\n"
        )
        self.process = subprocess.Popen([NATS_SERVER, "-c", config, "-l", self.log])

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self.log.unlink()

    async def announce(self, *messages: Bundle | bytes, headers: Mapping[str, str] = HEADERS) -> None:
        """Publish these announcements in order; creates the stream where it is missing."""
        async with await self._connected() as connection:
            stream = connection.jetstream()
            await stream.add_stream(StreamConfig(name=STREAM, subjects=[SUBJECT], max_msgs=32))
            for one in messages:
                data = one.to_json() if isinstance(one, Bundle) else one
                await stream.publish(SUBJECT, data, stream=STREAM, headers=dict(headers))

    async def presented(self, name: str) -> list[str]:
        """SHA-256 of the leaf that each connection of this name has presented."""
        url = f"http://127.0.0.1:{self.monitor}/connz?auth=1"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            connections = (await response.json())["connections"]
        return [c["tls_peer_certs"][0]["cert_sha256"] for c in connections if c.get("name") == name]

    async def connections(self, name: str) -> int:
        """The number of connections with this name, past ones included."""
        url = f"http://127.0.0.1:{self.monitor}/connz?state=any"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return sum(c.get("name") == name for c in (await response.json())["connections"])

    async def messages(self) -> int:
        """The number of messages received so far."""
        url = f"http://127.0.0.1:{self.monitor}/varz"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return int((await response.json())["in_msgs"])

    async def forget(self) -> None:
        """Delete the stream."""
        async with await self._connected() as connection:
            await connection.jetstream().delete_stream(STREAM)
