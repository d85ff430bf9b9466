"""The authority's composition root: everything is made, joined and watched here, and nowhere else."""

import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Never

import tidemark.nats
from authority import cli, durable, serve
from authority.chronicle import Chronicle, JsonLines, Repetitions, TextLines
from authority.config import OWN_LEAF, AuthorityConfig, JetStreamConfig
from authority.control import CONTROL, ServerCertificate
from authority.desk import Desk
from authority.events import Event, LeftOut, Prepared
from authority.fleet import Expected
from authority.init import trust_by
from authority.issuer.serialized import SerializedIssuer
from authority.keepers import Keepers, open_keepers
from authority.keystore import KeystoreError
from authority.leaves import Leaves, Workload
from authority.metrics import Metrics
from authority.publish import LeafStore, Publisher
from authority.publish.directory import DirectoryLeafStore, DirectoryPublisher
from authority.publish.jetstream import Connection, JetStreamPublisher
from authority.publish.timed import TimedPublisher
from authority.roster import Roster
from authority.rotation import Outside, Rotation
from authority.surroundings import Surroundings
from authority.timeline import Timeline
from authority.tokens import read_tokens
from tidemark.trust import Trust

Clock = Callable[[], float]

log = logging.getLogger("authority")


async def run(config: AuthorityConfig, stop: asyncio.Event, clock: Clock = time.time) -> None:
    """Run until ``stop`` is set.

    Raises:
        KeystoreError, SignerError, IssuerError: the state directory is not what ``init`` makes, or is in use.
        ListenError: the API cannot listen where it should.
    """
    with _alone(config.state):
        async with open_keepers(config, clock) as kept:
            tokens = read_tokens(config.state)
            certificate = ServerCertificate(kept.control, config.api.names, config.state / CONTROL)
            await certificate.renew(int(clock()))
            await kept.issuer.roots()  # now, rather than at the first rotation: without them there is nothing to do
            trust = await trust_by(config, kept.signer, kept.control.certificate)
            async with _publishers(config, trust) as publishers:
                desk = _joined(config, trust, kept, publishers, clock)
                api = serve.Api(desk, tokens, open_reads=config.api.open_reads).application()
                runner = await serve.start(api, config.api, certificate.context, config.state)
                try:
                    await _until(
                        stop,
                        {
                            "rotation": desk.rotation.run(),
                            "leaves": desk.leaves.run(),
                            "api certificate": certificate.keep_renewed(clock, _certificate_not_renewed),
                        },
                    )
                finally:
                    await runner.cleanup()


def _joined(
    config: AuthorityConfig, trust: Trust, kept: Keepers, publishers: Sequence[Publisher], clock: Clock
) -> Desk:
    roster, timeline = _roster(config, int(clock())), Timeline(kept.journal)
    issuer = SerializedIssuer(kept.issuer)
    timed = [TimedPublisher(each, lambda digest: roster.ledger.publishing(digest, clock())) for each in publishers]
    outside = Outside(issuer, kept.signer, timed, config.include_root, roster.fleet)
    chronicle, meters = Chronicle(), Metrics()

    def observe(event: Event) -> None:
        if isinstance(event, Prepared | LeftOut):
            roster.ledger.follow(timeline.history.statements)
            roster.ledger.committed(event.digest)
        chronicle.observe(event)
        meters.observe(event)

    here = Surroundings(timeline, trust, config.timing, lambda: int(clock()), observe)
    leaves = Leaves(here, issuer, _leaf_stores(config))
    return Desk(here, Rotation(here, outside), leaves, roster, chronicle, meters, clock)


def _roster(config: AuthorityConfig, now: int) -> Roster:
    expected = [Expected(agent.name, agent.pod_class, uid="", ready=True, since=now) for agent in config.agents]
    return Roster(expected, config.timing.clock)


@asynccontextmanager
async def _publishers(config: AuthorityConfig, trust: Trust) -> AsyncIterator[list[Publisher]]:
    """The configured publishers; the authority's own identity for the broker is one more directory."""
    own = [config.jetstream.directory] if config.jetstream else []
    directory = DirectoryPublisher([*config.directories, *own], trust)
    if config.jetstream is None:
        yield [directory]
        return
    jetstream = JetStreamPublisher(partial(_connect, config.jetstream), trust, config.jetstream.replicas)
    try:
        yield [directory, jetstream]
    finally:
        await jetstream.close()


async def _connect(config: JetStreamConfig) -> Connection:
    repetitions = Repetitions()

    async def complain(error: Exception) -> None:
        """Every attempt to reconnect ends here while the broker is away."""
        text = str(error) or type(error).__name__
        if not repetitions.is_one(text, text, time.monotonic()):
            log.warning("nats", extra={"fields": {"error": text}})

    return await tidemark.nats.connect(
        list(config.servers), directory=config.directory, name=OWN_LEAF, error_cb=complain
    )


def _certificate_not_renewed(error: KeystoreError) -> None:
    log.error("api_certificate_not_renewed", extra={"fields": {"error": str(error)}})


def _leaf_stores(config: AuthorityConfig) -> list[tuple[Workload, LeafStore]]:
    stores: list[tuple[Workload, LeafStore]] = [
        (Workload(leaf.name, leaf.name, leaf.dns, leaf.ip), DirectoryLeafStore(leaf.directory))
        for leaf in config.leaves
    ]
    if config.jetstream:
        own = Workload(OWN_LEAF, OWN_LEAF, (OWN_LEAF,), ())
        stores.append((own, DirectoryLeafStore(config.jetstream.directory)))
    return stores


async def _until(stop: asyncio.Event, tasks: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Run all of these until ``stop`` is set. One that fails, or ends by itself, ends all of them with its error."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_for_ever(name, task), name=name) for name, task in tasks.items()]
        await stop.wait()
        for task in running:
            task.cancel()


async def _for_ever(name: str, task: Coroutine[Any, Any, None]) -> Never:
    await task
    raise RuntimeError(f"task {name!r}: expected it to run until it is stopped, found that it ended")


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Keep a second authority off the state directory, for as long as this process lives. Raises KeystoreError."""
    try:
        descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, durable.SECRET)
    except OSError as error:
        raise KeystoreError(
            f"{state}: expected a state directory that can be written, found {error.strerror}; run 'init' first"
        ) from None
    with os.fdopen(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeystoreError(f"{state}: expected to be the only authority that runs on it, found another") from None
        yield


async def _run_until_signalled(arguments: cli.Arguments, environment: Mapping[str, str]) -> int:
    config = cli.configuration(arguments, environment)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(config, stop)
    log.info("stopped")
    return cli.DONE


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do what the command line says; returns the exit status."""
    parsed = cli.parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if environment.get("TIDEMARK_LOG") == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return asyncio.run(cli.execute(parsed, environment, _run_until_signalled))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
