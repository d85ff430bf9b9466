"""Kills an agent with SIGKILL beside a real nats-server and starts it again; a separate program, because it forks.

``python -m tests.harness.agent.killing <folder>`` kills the agent before each step of a cycle in turn: each operation
on its mounts and its output directory, the look at the workload before it is signalled, each connection.
``… <folder> <number>`` kills the agent at so many random moments of cycles of every kind. Either prints a line of JSON
for each kill: the next step at that moment, the installed set, and the outcome of the next start.
"""

import asyncio
import hashlib
import json
import os
import random
import selectors
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from agent import log
from agent.loop.timing import RetryPolicy
from tests.harness.agent.sandbox import AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory, LeafFiles
from tests.harness.nats.server import NatsServer
from tests.harness.waiting import PATIENCE, wait_until
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle
from tidemark.certificates import parse_leaf
from tidemark.receipt import AgentState
from tidemark.trust import Trust
from tidemark.verify import reopen

_ON_FILES = {"open", "os.rename", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown"}
_QUICK = RetryPolicy(
    proof_timeout=0.4,
    tries=1,
    retry_pause=0.05,
    probe_timeout=0.5,
    absent_pause=0.02,
    longest_absent_pause=0.1,
    refused_pause=0.3,
)
_STATUS = ("event", "state", "sequence", "leaf")
_SAID = 3
"""The descriptor through which the child reports its operations."""


class SwapKind(Enum):
    """What a cycle swaps, and its expected outcome."""

    BUNDLE = "a bundle"
    LEAF = "a leaf"
    BOTH = "a bundle, then a leaf"
    REFUSED = "a bundle that the server refuses"


KINDS = tuple(SwapKind)
_MEASURED = 3
"""Cycles that show how long one takes here; the shortest counts, as the agent waits for a young server."""
WAYS_BACK = ("reverted", "reload_refused")
STEPS = ("verified", "installed", "failure", *WAYS_BACK, "proven")
"""Events of a cycle, in their order; a ``failure`` before a revert is an attempt that was not proven."""

Operation = Callable[[str, tuple[object, ...]], str | None]
"""The name of an audited operation that counts as a step; None for every other operation."""


class KilledAgent:
    """An agent in a child process, and its log."""

    def __init__(self, sandbox: AgentSandbox, *, step: int | None = None, operation: Operation | None = None) -> None:
        reader, writer = os.pipe()
        self._reader = reader
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            os.dup2(writer, _SAID)
            _be_the_agent(sandbox, step, operation)
        os.close(writer)
        os.set_blocking(reader, False)
        self.events: list[dict[str, Any]] = []
        self._rest = b""

    def reaches(self, reached: Callable[[dict[str, Any]], bool]) -> bool:
        """Wait for an event; False where the agent ended before it."""
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            while not any(reached(event) for event in self.events):
                assert time.monotonic() < deadline, f"expected an event, found {self.events[-3:]}"
                if selector.select(1.0) and not self._read():
                    return False
        return True

    def has_proven(self, sequence: int, leaf: LeafFiles) -> bool:
        """Wait for the end of a cycle and its clean-up; False where the agent ended before."""
        wanted = ("rests", AgentState.PROVEN.value, sequence, leaf.sha256)
        return self.reaches(lambda event: tuple(event.get(name) for name in _STATUS) == wanted)

    def _read(self) -> bool:
        try:
            data = os.read(self._reader, 1 << 16)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.events += [json.loads(line) for line in lines]
        return bool(data)

    def kill(self) -> None:
        """Kill the agent unless it is dead already; afterwards ``events`` is complete."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        while self._read():
            pass
        os.close(self._reader)


def _be_the_agent(sandbox: AgentSandbox, step: int | None, operation: Operation | None) -> NoReturn:
    async def for_ever() -> None:
        async with sandbox.agent(policy=_QUICK) as observed:
            while True:  # woken between the cycle's steps, and at its end
                status = await observed.agent.status_store.changed()
                sequence, leaf = status.proven and status.proven.sequence, status.leaf and status.leaf.sha256
                _say("rests", state=status.state.value, sequence=sequence, leaf=leaf)

    try:
        log.configure(log.Style.JSON, os.fdopen(_SAID, "w", buffering=1, closefd=False))
        if step is not None and operation is not None:
            _kill_before(step, operation)
        asyncio.run(for_ever())
    except BaseException as error:  # noqa: BLE001 - the child must not go on as the parent
        _say("died", error=repr(error)[:4000])
    os._exit(1)


def _say(event: str, **fields: object) -> None:
    os.write(_SAID, json.dumps({"event": event} | fields).encode() + b"\n")


def _kill_before(step: int, operation: Operation) -> None:
    """Kill this process before its ``step``-th operation, and report that operation first."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        name = operation(event, arguments)
        if name is None:
            return
        seen += 1
        if seen == step:
            _say("killed", before=name)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def operation_of(sandbox: AgentSandbox, server: NatsServer) -> Operation:
    """The operations that count as steps of a cycle."""
    ports = {server.monitor: "monitor", server.client: "client", server.cluster: "cluster"}
    assert server.process is not None
    workload = f"/proc/{server.process.pid}/"

    def name(event: str, arguments: tuple[object, ...]) -> str | None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            return f"connect {ports[arguments[1][1]]}" if arguments[1][1] in ports else None
        if event not in _ON_FILES:
            return None
        for path in map(str, arguments):
            if path.startswith(workload):
                return f"{event} {path.replace(workload, 'workload ')}"
            if path.startswith(f"{sandbox.folder}/"):
                return f"{event} {path.removeprefix(f'{sandbox.folder}/')}"
        return None

    return name


@dataclass(frozen=True)
class Found:
    """The set in the output directory; raises where it is not one whole verified set."""

    sequence: int
    leaf_sha256: str

    @classmethod
    def at(cls, sandbox: AgentSandbox) -> "Found":
        folder = (sandbox.out / "..data").resolve()
        files = {name: (folder / name).read_bytes() for name in (CA_FILE, NOTE_FILE, LEAF_FILE, KEY_FILE)}
        assert {name: sandbox.file(name) for name in files} == files, "every reader sees this set"
        trust = Trust.parse(sandbox.trust_file.read_bytes())
        verified = reopen(Bundle(files[CA_FILE], files[NOTE_FILE]), trust)
        return cls(verified.sequence, parse_leaf(files[LEAF_FILE], files[KEY_FILE]).sha256)


def served_leaf(server: NatsServer) -> str:
    """SHA-256 of the leaf that the server serves now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", server.cluster), timeout=PATIENCE) as raw,
        context.wrap_socket(raw) as connection,
    ):
        return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()


def begin(folder: Path) -> tuple[AgentSandbox, NatsServer, LeafFiles]:
    """A pod whose agent proved sequence 1 and was then killed."""
    sandbox = AgentSandbox(folder, BundleFactory(int(time.time())))
    server = NatsServer(folder / "nats", sandbox.out)
    sandbox.targets = server.target
    leaf = sandbox.factory.leaf()
    sandbox.mount(sandbox.factory.bundle(1), leaf)
    agent = KilledAgent(sandbox)
    try:
        assert agent.reaches(lambda event: event["event"] == "installed"), agent.events
        server.launch()
        assert agent.has_proven(1, leaf), agent.events
    except BaseException:
        server.stop()
        raise
    finally:
        agent.kill()
    return sandbox, server, leaf


def recover(sandbox: AgentSandbox, old: Found, new: Found, leaf: LeafFiles) -> tuple[KilledAgent, dict[str, object]]:
    """Check the set after a kill and the outcome of the next start; ``leaf`` is the new leaf."""
    found = Found.at(sandbox)
    remembered = json.loads(sandbox.file(".tidemark.json"))["highest"]["sequence"]
    agent = KilledAgent(sandbox)
    recovered = agent.has_proven(new.sequence, leaf)
    return agent, {
        "in_place": "new" if found == new else "old" if found == old else "between",
        "whole": found.sequence in (old.sequence, new.sequence) and found.leaf_sha256 in (old.leaf_sha256, leaf.sha256),
        "remembered": remembered,
        "recovered": recovered,
        "said": agent.events[-1],
    }


def left(sandbox: AgentSandbox) -> list[str]:
    """The contents of the output directory without its links."""
    return sorted(entry.name for entry in sandbox.out.iterdir() if not entry.is_symlink())


def kill_at_steps(
    folder: Path, sandbox: AgentSandbox, server: NatsServer, first: LeafFiles
) -> Iterator[dict[str, object]]:
    """Repeat the same cycle, and kill the agent one step later each time."""
    factory = sandbox.factory
    second = factory.leaf(factory.ca(factory.epoch + 1))
    shutil.copytree(sandbox.out, folder / "before", symlinks=True)
    sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), second)
    for step in range(1, 1000):
        shutil.rmtree(sandbox.out)
        shutil.copytree(folder / "before", sandbox.out, symlinks=True)
        server.hang_up()
        wait_until(lambda: served_leaf(server) == first.sha256, "the server to be back on the first set")
        doomed = KilledAgent(sandbox, step=step, operation=operation_of(sandbox, server))
        survived = doomed.has_proven(2, second)
        doomed.kill()
        if survived:
            return
        agent, found = recover(sandbox, Found(1, first.sha256), Found(2, second.sha256), second)
        agent.kill()
        served = served_leaf(server) == second.sha256
        yield {"before": doomed.events[-1].get("before"), **found, "served": served, "left": len(left(sandbox))}
    raise AssertionError("expected an end to the steps")


def kill_at_moments(
    sandbox: AgentSandbox, server: NatsServer, leaf: LeafFiles, kills: int
) -> Iterator[dict[str, object]]:
    """Swap again and again; kill the agent at a random moment of each cycle, and sometimes of the next start too."""
    factory, sequence = sandbox.factory, 1
    agent = KilledAgent(sandbox)
    assert agent.has_proven(1, leaf), agent.events
    cycle = PATIENCE
    for number in range(-_MEASURED, kills):
        kind = KINDS[number % len(KINDS)] if number >= 0 else KINDS[number + _MEASURED]
        old = Found(sequence, leaf.sha256)
        if kind is SwapKind.REFUSED:
            server.write_config("broken {")
        if kind is not SwapKind.LEAF:
            sequence += 1
        if kind in (SwapKind.LEAF, SwapKind.BOTH):
            leaf = factory.leaf()
        newest = factory.epoch + sequence % 2
        begun, seen = time.monotonic(), len(agent.events)
        sandbox.mount(
            None if kind is SwapKind.LEAF else factory.bundle(sequence, [newest, newest - 1]),
            leaf if kind in (SwapKind.LEAF, SwapKind.BOTH) else None,
        )
        if number < 0:  # this one is measured, not killed
            assert agent.has_proven(sequence, leaf), agent.events[seen:]
            cycle = min(cycle, time.monotonic() - begun)
            continue
        longest = cycle + 1.5 * _QUICK.proof_timeout if kind is SwapKind.REFUSED else 1.2 * cycle
        time.sleep(random.uniform(0, longest))  # noqa: S311 - this is the moment
        agent.kill()
        reached = last_step(agent.events[seen:])
        server.write_config()
        if number % 3 == 2:  # and again while it starts
            again = KilledAgent(sandbox)
            time.sleep(random.uniform(0, cycle))  # noqa: S311 - as above
            again.kill()
        agent, found = recover(sandbox, old, Found(sequence, leaf.sha256), leaf)
        served = served_leaf(server) == leaf.sha256
        yield {"kind": kind.value, "after": reached, **found, "served": served, "left": len(left(sandbox))}
    agent.kill()


def last_step(events: list[dict[str, Any]]) -> str:
    """How far an agent came with a set, by its events; a revert ends with its reason."""
    reached = [event["event"] for event in events if event["event"] in STEPS]
    return next((event for event in reached if event in WAYS_BACK), reached[-1] if reached else "swapped")


def main(folder: Path, kills: int) -> None:
    sandbox, server, leaf = begin(folder)
    try:
        found = kill_at_moments(sandbox, server, leaf, kills) if kills else kill_at_steps(folder, sandbox, server, leaf)
        for one in found:
            print(json.dumps(one), flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
