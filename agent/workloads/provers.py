"""Proof that a workload uses a set: what the workload itself shows counts, never what it was asked to do.

A nats-server shows three things, in this order: ``config_load_time`` changes after the reload, the CA list of a new TLS
handshake equals the bundle's subjects, the served leaf is the installed one. The load time proves nothing about CAs (a
server loads half a bundle without an error), so it only says when to probe. An application answers the request to
reload with the digest that it now uses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import aiohttp
from OpenSSL import SSL

from agent.workloads import tls_probe
from agent.workloads.interface import Baseline, Expectation, NotProven, Proof, ReloadAnswer, WorkloadAbsent
from agent.workloads.targets import Address, SignalTarget, SystemTarget
from agent.workloads.tls_probe import HandshakeFailed, WithheldHandshakes
from tidemark.receipt import Level

T = TypeVar("T")

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.1
_SHORTEST_PROBE = 0.5
_LOGGED_PROBE_PAUSE = 0.5
"""Seconds between probes that the server may log."""


class _NotYet(Exception):
    """One probe did not show what was expected; another one may. ``absent``: no server could be reached."""

    def __init__(self, reason: str, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.absent = absent


async def _repeat(within: float, probe: Callable[[], Awaitable[T]], pause: float = _FIRST_PAUSE) -> T:
    """Probe until it succeeds, with pauses that grow.

    Raises:
        WorkloadAbsent, NotProven: what the last probe found, ``within`` seconds later.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    last = _NotYet("no_answer", f"expected an answer within {within:.1f} s, found none")
    while True:
        try:
            # A probe that has begun has time to end: a server logs a handshake that is broken off.
            async with asyncio.timeout(max(deadline - loop.time(), _SHORTEST_PROBE)):
                return await probe()
        except _NotYet as error:
            last = error
        except TimeoutError:
            pass  # ``last`` says so already, or says more
        if loop.time() + pause >= deadline:
            failure = WorkloadAbsent if last.absent else NotProven
            raise failure(last.reason, str(last)) from last
        await asyncio.sleep(pause)
        pause = min(2 * pause, max(pause, _LONGEST_PAUSE))


class ServerProver:
    """Proof for a nats-server, as far as its target names ports. Implements ``Prover``."""

    def __init__(self, target: SignalTarget | SystemTarget, http: aiohttp.ClientSession) -> None:
        self._target = target
        self._http = http
        self._withheld_handshakes = WithheldHandshakes()

    async def baseline(self, within: float) -> Baseline:
        """The load time before the reload. A server that does not answer is absent: it has refused nothing yet."""
        if self._target.monitor is None:
            return Baseline()
        try:
            return Baseline(await _repeat(within, self._load_time))
        except NotProven as error:
            raise WorkloadAbsent(error.reason, str(error)) from error

    async def prove(
        self, expected: Expectation, reloaded: ReloadAnswer, baseline: Baseline | None, within: float
    ) -> Proof:
        """Implements ``Prover``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        if self._target.monitor is not None and (baseline is not None or not self._target.can_be_probed):
            await _repeat(within, partial(self._check_loaded_after, baseline.load_time if baseline else None))
        if not self._target.can_be_probed:
            return Proof(self._target.allowed, self._target.allowed, "no port is named to look at the CA list")
        silent = await self._probe_ports(
            expected, deadline, loaded=baseline is not None and baseline.load_time is not None
        )
        if any(silent):
            shown = "the leaf alone is shown" if expected.leaf else "nothing is shown"
            where = ", ".join(str(address) for address in silent if address)
            detail = f"{where}: the server asks clients for no certificate (verify is off), so {shown}"
            return Proof(Level.RELOADED, Level.RELOADED, detail)
        return Proof(Level.PROVEN, Level.PROVEN)

    async def _probe_ports(self, expected: Expectation, deadline: float, *, loaded: bool) -> list[Address | None]:
        """Compare what all ports show; returns those that show no CA list.

        ``loaded``: the server has loaded its files since the reload, so a probe that fails need not be repeated.
        """
        now = asyncio.get_running_loop().time
        presented = expected.presented or expected.leaf
        context = tls_probe.client_context(presented)
        compare = partial(_compare_port, expected, context)
        if presented is not None:  # the server logs nothing of these probes
            ports = (*self._target.nats, *self._target.tls)
            probes = [_repeat(deadline - now(), partial(compare, address, None)) for address in ports]
            return await asyncio.gather(*probes)
        # Without a leaf to present, each probe may leave a line in the server's log (decision 19). So ports are probed
        # one after another, and not again where that cannot help: a set that is not taken leaves one line for each try.
        seen = []
        for address in (*self._target.nats, *self._target.tls):
            withheld = self._withheld_handshakes if address in self._target.nats else None
            within = deadline - now()
            pause = within if loaded else _LOGGED_PROBE_PAUSE
            seen.append(await _repeat(within, partial(compare, address, withheld), pause))
        return seen

    async def _load_time(self) -> str:
        url = f"{self._target.monitor}/varz"
        try:
            async with self._http.get(url) as response:
                varz = await response.json(content_type=None)
        except aiohttp.ClientConnectorError as error:
            raise _NotYet("unreachable", f"{url}: {error.strerror}", absent=True) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise _NotYet("monitor", f"{url}: expected a JSON answer, found {error!r}") from error
        varz = varz if isinstance(varz, dict) else {}
        self._withheld_handshakes.version = str(varz.get("version", ""))
        load_time = varz.get("config_load_time")
        if not isinstance(load_time, str):
            raise _NotYet("monitor", f"{url}: expected the field config_load_time, found none")
        return load_time

    async def _check_loaded_after(self, before: str | None) -> None:
        if await self._load_time() == before:
            raise _NotYet(
                "reload_refused",
                f"{self._target.monitor}/varz: expected config_load_time to move from {before} after the signal, found "
                f"it unmoved: the server refuses to reload, and its log says why",
            )


async def _compare_port(
    expected: Expectation, context: SSL.Context, address: Address, withheld: WithheldHandshakes | None
) -> Address | None:
    """Compare what one port shows with what is expected; returns its address if it shows no CA list."""
    try:
        result = await tls_probe.probe(address, context, withheld_handshakes=withheld)
    except HandshakeFailed as error:
        reason = "unreachable" if error.absent else "handshake"
        raise _NotYet(reason, f"{address}: {error}", absent=error.absent) from error
    subjects = {name.public_bytes(): name for name in expected.subjects}
    names = {name.public_bytes(): name for name in result.ca_names}
    if names and names.keys() != subjects.keys():
        missing = [subjects[der].rfc4514_string() for der in subjects.keys() - names.keys()]
        surplus = [names[der].rfc4514_string() for der in names.keys() - subjects.keys()]
        raise _NotYet(
            "ca_list",
            f"{address}: expected the CA list to be the bundle's {len(subjects)} subjects, found {len(names)}: "
            f"missing {_listed(missing)}, surplus {_listed(surplus)}",
        )
    if expected.leaf is not None and result.leaf_sha256 != expected.leaf.sha256:
        raise _NotYet("leaf", f"{address}: expected the leaf {expected.leaf.sha256}, found {result.leaf_sha256}")
    return None if names else address


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "none"


class EchoProver:
    """Proof for an application over HTTP: its answer to the request names the digest in use. Implements ``Prover``."""

    async def baseline(self, within: float) -> Baseline:
        """Empty: an application shows nothing before the request."""
        return Baseline()

    async def prove(
        self, expected: Expectation, reloaded: ReloadAnswer, baseline: Baseline | None, within: float
    ) -> Proof:
        """Implements ``Prover``. An answer without a digest is an acknowledgement: at most the level ``reloaded``."""
        wanted = {"ca_sha256": expected.ca_sha256}
        if expected.leaf is not None:
            wanted["leaf_sha256"] = expected.leaf.sha256
        for field, value in wanted.items():
            answered = reloaded.answer.get(field)
            if answered is not None and answered != value:
                raise NotProven(
                    field.removesuffix("_sha256"), f"answer: expected {field} {value}, found {answered!r:.80}"
                )
        if reloaded.answer.get("ca_sha256") is None:
            return Proof(
                Level.RELOADED, Level.RELOADED, "the answer carries no ca_sha256: an acknowledgement, no proof"
            )
        return Proof(Level.PROVEN, Level.PROVEN)
