"""Receipts to the authority: at once on every change, and as a heartbeat; its absence delays nothing and fails nothing.

Only the newest status counts, so what could not be sent is not queued: the next receipt says it as well.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from agent import log
from agent.backoff import doubled, jittered
from agent.clients.http import TokenUnusable, read_answer, read_token
from agent.reporting.status import AgentStatus, is_under_way, receipt_of
from agent.reporting.status_store import StatusStore
from tidemark.receipt import Receipt
from tidemark.strict_json import FieldError, parse_object

_PATH = "/api/v1/receipts"
_HEARTBEAT_BEFORE_INSTALLED = 15.0
_LONGEST_ANSWER = 64 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_FIRST_PAUSE = 0.5
_MOMENT = 0.25
_SHOWN_OF_ANSWER = 200


class ReceiptNotSent(Exception):
    """A receipt did not reach the authority; the message says why, without the token."""


@dataclass(slots=True, eq=False)
class ReceiptReporter:
    """Sends what the board says. ``control_ca`` gives the PEM of the CA that the authority's API is verified with, and
    ``now`` the wall clock; ``run`` is its one task."""

    url: str
    token_file: Path
    board: StatusStore
    http: aiohttp.ClientSession
    control_ca: Callable[[], str | None]
    now: Callable[[], float]
    _number: int = 0
    _said: Receipt | None = None
    _context: tuple[str, ssl.SSLContext] | None = field(default=None)

    async def run(self) -> None:
        """Send receipts until cancelled."""
        failures = 0
        while True:
            due = jittered(_heartbeat(self.board.status), 0.8, 1.0)
            try:
                if failures:
                    # While the authority is away, changes wait for the next attempt, or each would be one.
                    await asyncio.sleep(doubled(_FIRST_PAUSE, failures - 1, longest=due))
                else:
                    async with asyncio.timeout(due):
                        await self._change()
            except TimeoutError:
                pass  # the heartbeat
            try:
                await self._send()
                failures = 0
            except ReceiptNotSent as error:
                failures += 1
                log.warning("receipt_not_sent", error=str(error))

    async def _change(self) -> None:
        """Wait until a receipt would say something else; a set that is under way gets a moment to be proven."""
        while receipt_of(self.board.status, 0, 0) == self._said:
            await self.board.changed()
        try:
            async with asyncio.timeout(_MOMENT):
                while is_under_way(self.board.status):
                    await self.board.changed()
        except TimeoutError:
            return

    async def _send(self) -> None:
        self._number += 1
        status = self.board.status
        body = receipt_of(status, self._number, int(self.now())).to_json()
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}
        url = self.url + _PATH
        try:
            async with self.http.post(
                url, data=body, headers=headers, ssl=self._tls(), timeout=_TIMEOUT, allow_redirects=False
            ) as response:
                answer = await read_answer(response, _LONGEST_ANSWER)
                code = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ReceiptNotSent(f"{url}: expected an answer, found {type(error).__name__}: {error}") from error
        if code != 200:
            said = answer[:_SHOWN_OF_ANSWER].decode(errors="replace")
            raise ReceiptNotSent(f"{url}: expected status 200, found {code}: {said}")
        try:
            newest = parse_object(answer).integer("newest_sequence")
        except FieldError as error:
            raise ReceiptNotSent(f"{url}: expected newest_sequence in the answer: {error}") from error
        self._said = receipt_of(status, 0, 0)
        self.board.post(newest=newest)

    def _token(self) -> str:
        try:
            return read_token(self.token_file)
        except TokenUnusable as error:
            raise ReceiptNotSent(str(error)) from None

    def _tls(self) -> ssl.SSLContext:
        """Trusts the control CA, and nothing else."""
        control_ca = self.control_ca()
        if control_ca is None:
            raise ReceiptNotSent("trust file: expected control_ca, to verify the authority with, found none")
        if self._context is None or self._context[0] != control_ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=control_ca)
            self._context = (control_ca, context)
        return self._context[1]


def _heartbeat(status: AgentStatus) -> float:
    return status.installed.heartbeat if status.installed else _HEARTBEAT_BEFORE_INSTALLED
