"""Every way that a look at a real nats-server can end without a certificate that it trusts, and the lines each leaves.

What the agent does is the way with the fewest, on the oldest server and the newest (decision 19 has the table).
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from OpenSSL import SSL

from agent.workloads.targets import Address
from agent.workloads.tls_probe import WithheldHandshakes, client_context, ignores_withheld_flight, probe
from tests.harness.agent.mounts import parsed
from tests.harness.agent.sandbox import write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.nats.listeners import KINDS, NOTED, Listeners, established
from tests.harness.paths import NATS_SERVER, OLDEST_NATS_SERVER
from tests.harness.waiting import eventually

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time, socket(7)
_USER_CANCELED = b"\x15\x03\x03\x00\x02\x01\x5a"  # an alert in the clear, RFC 8446, 6.1
_RECORDS = 65536


def _finish(link: socket.socket, flight: bytes) -> None:
    link.sendall(flight)
    link.recv(_RECORDS)


def _hang_up(link: socket.socket, flight: bytes) -> None:
    pass


def _reset(link: socket.socket, flight: bytes) -> None:
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _half_close(link: socket.socket, flight: bytes) -> None:
    link.shutdown(socket.SHUT_WR)
    _wait(link, flight)


def _cancel(link: socket.socket, flight: bytes) -> None:
    link.sendall(_USER_CANCELED)
    _wait(link, flight)


def _change_protocol(link: socket.socket, flight: bytes) -> None:
    link.sendall(b"GET / HTTP/1.1\r\n\r\n")
    _wait(link, flight)


def _wait(link: socket.socket, flight: bytes) -> None:
    while link.recv(_RECORDS):
        pass


WAYS: dict[str, Callable[[socket.socket, bytes], None]] = {
    "completed": _finish,
    "completed with a foreign certificate": _finish,
    "closed": _hang_up,
    "reset": _reset,
    "half closed": _half_close,
    "cancelled by an alert": _cancel,
    "another protocol": _change_protocol,
    "withheld": _wait,
}
"""What to do with the last flight, in place of a handshake that the server takes."""


def _end(way: str, port: int, context: SSL.Context) -> int:
    """See what the server shows, then end it that way; returns our port, which stands in each line about us."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as link:
        ours = int(link.getsockname()[1])
        connection = SSL.Connection(context, None)
        connection.set_connect_state()
        greeted = False
        while not (connection.get_peer_certificate() and connection.get_client_ca_list()):
            with contextlib.suppress(SSL.WantReadError):
                connection.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                link.sendall(connection.bio_read(_RECORDS))
            records = link.recv(_RECORDS)
            if not greeted and records.startswith(b"INFO "):
                records = records.partition(b"\n")[2] or link.recv(_RECORDS)
            greeted = True
            connection.bio_write(records)
            with contextlib.suppress(SSL.WantReadError, SSL.Error):
                connection.do_handshake()
        with contextlib.suppress(OSError):  # TimeoutError among them: a websocket port waits for ever
            WAYS[way](link, connection.bio_read(_RECORDS))
        return ours


def _is_left(port: int) -> bool:
    return not established(port)


@pytest.fixture
def listeners(tmp_path: Path, factory: BundleFactory) -> Iterator[Listeners]:
    write_set(tmp_path / "files", factory.bundle(1), factory.leaf())
    made = Listeners(tmp_path / "nats", tmp_path / "files")
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("program", "silent"),
    [
        pytest.param(NATS_SERVER, {"client", "leafnode"}, id="newest"),
        pytest.param(OLDEST_NATS_SERVER, set(), id="oldest"),
    ],
)
async def test_probe_without_leaf_logs_minimal_lines(
    factory: BundleFactory, listeners: Listeners, program: Path, silent: set[str]
) -> None:
    listeners.program = program
    await listeners.start()
    foreign = client_context(parsed(BundleFactory(factory.now, domain="another.test").leaf()))
    contexts = dict.fromkeys(WAYS, client_context(None)) | {"completed with a foreign certificate": foreign}
    places = [(way, kind) for way in WAYS for kind in KINDS]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(len(places)) as pool:
        ends = [loop.run_in_executor(pool, _end, way, listeners.ports[kind], contexts[way]) for way, kind in places]
        ours = dict(zip(places, await asyncio.gather(*ends), strict=True))
    for port in listeners.ports.values():
        await eventually(partial(_is_left, port), "every handshake to have ended")
    complaints = listeners.complaints()
    lines = {
        place: sum(f":{port} " in line or f":{port}:" in line for line in complaints) for place, port in ours.items()
    }
    fewest = {kind: min(lines[way, kind] for way in WAYS) for kind in KINDS}
    assert fewest == {kind: int(kind not in silent) for kind in KINDS}, lines
    before, withheld = len(complaints), WithheldHandshakes()
    for kind in KINDS:
        address = Address("127.0.0.1", listeners.ports[kind])
        shown = await probe(address, client_context(None), withheld_handshakes=None if kind in NOTED else withheld)
        assert len(shown.ca_names) == 3
    for port in listeners.ports.values():
        await eventually(partial(_is_left, port), "every handshake to have ended")
    assert len(listeners.complaints()) - before == sum(fewest.values())


@pytest.mark.parametrize(
    ("version", "passes"),
    [
        ("2.10.25", False),
        ("2.12.8", False),
        ("2.12.9", True),
        ("2.12.10-RC.1", True),
        ("2.13.0", False),
        ("2.14.0", False),
        ("2.14.1", True),
        ("2.15.1", True),
        ("3.0.0", True),
        ("", False),
        ("of today", False),
    ],
)
def test_versions_that_ignore_a_withheld_flight(version: str, passes: bool) -> None:
    assert ignores_withheld_flight(version) is passes
