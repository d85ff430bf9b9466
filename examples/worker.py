"""A worker: takes orders from a JetStream pull consumer, one batch after another, through every change of trust.

It is told by nobody: it looks at the directory that the agent writes.

    python examples/worker.py --servers tls://nats:4222 --directory /var/run/tidemark
"""

import argparse
import asyncio
import signal

import nats.errors
import nats.js.errors

import tidemark.nats


async def run(servers: str, directory: str) -> None:
    """Work until SIGTERM, finishing the batch at hand."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await tidemark.nats.connect(servers.split(","), directory=directory, name="worker") as connection:
        tidemark.nats.reload_on_change(connection)
        orders = await connection.jetstream().pull_subscribe("orders.created", durable="workers", stream="ORDERS")
        print("ready", flush=True)
        while not stop.is_set():
            try:
                batch = await orders.fetch(10, timeout=1)
            except nats.errors.TimeoutError:
                continue  # there were none
            except nats.js.errors.APIError as error:
                print(f"JetStream: {error}", flush=True)
                await asyncio.sleep(1)
                continue
            for order in batch:
                print(f"order {order.data.decode()}", flush=True)
                await order.ack()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", required=True, help="NATS URLs, separated by commas")
    parser.add_argument("--directory", required=True, help="the agent's output directory")
    options = parser.parse_args()
    asyncio.run(run(options.servers, options.directory))


if __name__ == "__main__":
    main()
