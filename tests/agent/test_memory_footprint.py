"""What the agent does to stay small costs nothing but memory; in an interpreter of its own, as it is about imports."""

import json
import subprocess
import sys
from importlib.metadata import version

from tests.harness.agent_sandbox import CHECKOUT

PROGRAM = """
import asyncio.sslproto, json, os, ssl, sys
before = dict(os.environ)
import agent.__main__, agent.app
from agent import memory_footprint
early = "nats" in sys.modules
memory_footprint.import_nats()
import agent.sources.jetstream, nats.aio.client
print(json.dumps({
    "environment": before == dict(os.environ),
    "nats early": early,
    "metadata": "importlib.metadata" in sys.modules,
    "nats-py": nats.aio.client.__version__,
    "CAs": len(agent.app.aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()),
    "read at once": asyncio.sslproto.SSLProtocol(None, asyncio.Protocol(), ssl.create_default_context(), None).max_size,
}))
import importlib.metadata
assert importlib.metadata.version("nats-py"), "it can still be had"
"""


def test_what_is_left_out_is_not_missed() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "environment": True,
        "nats early": False,
        "metadata": False,
        "nats-py": version("nats-py"),
        "CAs": 0,
        "read at once": 32 * 1024,
    }
