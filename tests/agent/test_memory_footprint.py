"""What the agent does to stay small costs nothing but memory; in an interpreter of its own, as it is about imports."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tests.harness.nats.cluster import ClusterCa
from tests.harness.paths import CHECKOUT

PROGRAM = """
import json, os, sys
before = dict(os.environ)
import agent.__main__, agent.app
from agent import memory_footprint
early = {"nats", "psutil", "watchfiles", "anyio"} & sys.modules.keys()
memory_footprint.import_nats()
memory_footprint.forget_annotations()
import agent.sources.jetstream, agent.workloads.signal_reloader, aiohttp.connector, nats.aio.client
print(json.dumps({
    "environment": before == dict(os.environ),
    "early": sorted(early),
    "watchfiles": "watchfiles" in sys.modules,
    "metadata": "importlib.metadata" in sys.modules,
    "nats-py": nats.aio.client.__version__,
    "HTML names": "html.entities" in sys.modules,
    "zstd": "compression.zstd" in sys.modules,
    "annotations": bool(aiohttp.ClientSession.get.__annotations__ or nats.aio.client.Client.connect.__annotations__),
    "CAs": len(aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()),
}))
import importlib.metadata
assert importlib.metadata.version("nats-py"), "it can still be had"
import html.entities
assert html.entities.html5["lt;"] == "<" and html.escape("<") == "&lt;", "so can these"
if sys.version_info >= (3, 14):
    import compression.zstd
    assert compression.zstd.decompress(compression.zstd.compress(b"so can this")) == b"so can this"
"""

CONNECTION = """
import asyncio, ssl, sys, tracemalloc
if sys.argv[1] == "agent":
    from agent import memory_footprint
server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile="ca.crt")
server_side.load_cert_chain("tls.crt", "tls.key")

async def main():
    async def answer(reader, writer):
        writer.write(await reader.readline())
        await reader.read()
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    tracemalloc.start()
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side)
    writer.write(b"hello\\n")
    assert await reader.readline() == b"hello\\n"
    made = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/asyncio/*")])
    print(max(trace.size for trace in made.traces))
    writer.close()
    server.close()

asyncio.run(main())
"""


def test_omitted_modules_are_not_missed() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "environment": True,
        "early": [],
        "watchfiles": False,
        "metadata": False,
        "nats-py": version("nats-py"),
        "HTML names": False,
        "zstd": False,
        "annotations": sys.version_info < (3, 14),  # as values that cost nothing to keep
        "CAs": 0,
    }


def test_a_tls_connection_keeps_an_eighth_of_what_asyncio_would_keep_for_it(tmp_path: Path) -> None:
    ca = ClusterCa("one")
    for name, data in zip(("ca.crt", "tls.crt", "tls.key"), (ca.pem, *ca.leaf()), strict=True):
        (tmp_path / name).write_bytes(data)

    def largest_allocation(whose: str) -> int:
        command = [sys.executable, "-c", CONNECTION, whose]
        environment = {"PYTHONPATH": str(CHECKOUT)}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert largest_allocation("asyncio") > 256 * 1024
    assert 32 * 1024 < largest_allocation("agent") < 33 * 1024
