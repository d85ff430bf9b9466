"""A service: answers requests, sharing them with its replicas through a queue group.

The agent tells it with SIGHUP: target ``signal:?process=…&signal=HUP``.

    python examples/service.py --servers tls://nats:4222 --directory /var/run/tidemark
"""

import argparse
import asyncio
import signal

from nats.aio.msg import Msg

import tidemark.nats

PRICES = {"apple": 30, "pear": 45}


async def answer(request: Msg) -> None:
    """The price of what is asked for, in cents; empty where there is none."""
    price = PRICES.get(request.data.decode())
    await request.respond(b"" if price is None else b"%d" % price)


async def reloaded(what: tidemark.nats.Reloaded) -> None:
    """Say so, for the log."""
    print(f"reloaded: leaf {what.leaf_sha256[:8]}, {what.seconds * 1000:.0f} ms", flush=True)


async def run(servers: str, directory: str) -> None:
    """Answer until SIGTERM, and then what has come in."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await tidemark.nats.connect(servers.split(","), directory=directory, name="prices", on_reload=reloaded)
    tidemark.nats.reload_on_sighup(connection)
    await connection.subscribe("prices.get", queue="prices", cb=answer)
    await connection.flush()
    print("ready", flush=True)
    await stop.wait()
    await connection.drain()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True, help="NATS URLs, separated by commas")
    parser.add_argument("--directory", required=True, help="the agent's output directory")
    options = parser.parse_args()
    asyncio.run(run(options.servers, options.directory))


if __name__ == "__main__":
    main()
