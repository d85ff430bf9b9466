"""``python -m playground``: run a whole deployment until Ctrl-C, or for a number of rotations, and sum it up."""

import argparse
import asyncio
import json
import signal
import sys
import time
from pathlib import Path

from authority.config.load import IssuerKind
from playground.deployment import Deployment, deployed
from playground.layout import Layout
from playground.lock import Occupied, occupied
from playground.narrate import Narrator, Plain, summary_text
from playground.observe import Observation, Observer
from playground.processes import ChildFailed
from playground.record import Record, is_good, summary
from playground.screen import Screen

_LOOK_SECONDS = 1.0
_SETTLE_SECONDS = 60
_ROOT = Path(".playground")


class DidNotSettle(Exception):
    """The deployment is up, but not every agent has proven the set in force; the message names them."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m playground", description=__doc__)
    parser.add_argument("--rotations", type=int, metavar="N", help="stop after N rotations (default: run until Ctrl-C)")
    parser.add_argument(
        "--issuer",
        type=IssuerKind,
        choices=list(IssuerKind),
        default=IssuerKind.EMBEDDED,
        help="who keeps CAs, signing key and journal: files, or a real OpenBao (default: %(default)s)",
    )
    parser.add_argument("--directory", type=Path, default=_ROOT, help="where everything lies (default: %(default)s)")
    parser.add_argument("--plain", action="store_true", help="one line an event, also on a terminal")
    return parser.parse_args()


async def _settle(observer: Observer, narrator: Narrator) -> None:
    """Observe until every agent has proven its installed set, so that the next rotations are measured whole."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        observation = await observer.look()
        narrator.show(observation, observer.record)
        unproven = [
            name for name in observer.record.agents if observation.agents.get(name, {}).get("state") != "proven"
        ]
        if not unproven:
            return
        if time.monotonic() > deadline:
            states = ", ".join(
                f"{name} ({observation.agents.get(name, {}).get('state', 'silent')})" for name in unproven
            )
            raise DidNotSettle(f"expected every agent to be proven within {_SETTLE_SECONDS} s, found {states}")
        await asyncio.sleep(_LOOK_SECONDS)


async def _rotate(observer: Observer, narrator: Narrator, rotations: int | None, stop: asyncio.Event) -> None:
    """Observe until enough rotations are complete, or the user stops the playground."""
    observer.begin()
    while not stop.is_set():
        observation: Observation = await observer.look()
        narrator.show(observation, observer.record)
        if rotations is not None and len(observer.record.concluded()) >= rotations:
            return
        try:
            await asyncio.wait_for(stop.wait(), _LOOK_SECONDS)
        except TimeoutError:
            continue


async def _observe(deployment: Deployment, narrator: Narrator, rotations: int | None, stop: asyncio.Event) -> Record:
    async with Observer(deployment) as observer:
        await _settle(observer, narrator)
        narrator.tell("every agent has proven the bundle and the leaf in force: counting from here")
        watching = asyncio.ensure_future(deployment.watch())
        rotating = asyncio.ensure_future(_rotate(observer, narrator, rotations, stop))
        try:
            done, _ = await asyncio.wait({watching, rotating}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            watching.cancel()
            rotating.cancel()
            await asyncio.gather(watching, rotating, return_exceptions=True)
        await deployment.stop_load()
        observer.note_counts()
        return observer.record


async def _run(arguments: argparse.Namespace) -> int:
    stop = asyncio.Event()
    layout = Layout.allot(arguments.directory.resolve())
    narrator: Narrator = Plain() if arguments.plain or not sys.stdout.isatty() else Screen()
    running = asyncio.ensure_future(_deploy_and_observe(layout, narrator, arguments, stop))

    def interrupted() -> None:
        # The first Ctrl-C while rotating ends the run with its summary; before that there is nothing to sum up.
        if stop.is_set() or not narrator.counting:
            running.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted)
    try:
        with narrator:
            record = await running
    except asyncio.CancelledError:
        print("stopped before anything was counted", file=sys.stderr)
        return 130
    figures = summary(record, arguments.rotations)
    layout.summary_file.write_text(json.dumps(figures, indent=2) + "\n")
    print(summary_text(figures, layout.summary_file))
    return 0 if is_good(figures) else 1


async def _deploy_and_observe(
    layout: Layout, narrator: Narrator, arguments: argparse.Namespace, stop: asyncio.Event
) -> Record:
    async with deployed(layout, "playground", narrator.tell, arguments.issuer) as deployment:
        return await _observe(deployment, narrator, arguments.rotations, stop)


def main() -> int:
    """Run the playground; the exit status is 0 when nothing was lost and everything proven, 1 otherwise."""
    arguments = _arguments()
    try:
        with occupied(arguments.directory):
            return asyncio.run(_run(arguments))
    except* (ChildFailed, DidNotSettle, Occupied) as failures:
        for failure in failures.exceptions:
            print(f"playground: {failure}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
