"""Receipts to the authority: at once at every change, and as a heartbeat. The authority's absence delays no other step.

Only the newest status counts, so a receipt that could not be sent is not queued: the next one replaces it.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
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
_FIRST_RETRY_PAUSE = 0.5
_PROOF_GRACE = 0.25
"""Seconds that a set on its way gets to be proven, so that one receipt reports both."""
_LONGEST_QUOTE = 200


class ReceiptNotSent(Exception):
    """A receipt did not reach the authority; the message says why, without the token."""


class AuthorityTls:
    """The TLS context of connections to the authority. It trusts the control CA alone, and follows its changes."""

    def __init__(self, control_ca: Callable[[], str | None]) -> None:
        """``control_ca`` returns the PEM of the CA, or None where the trust file names none."""
        self._control_ca = control_ca
        self._made: tuple[str, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext | None:
        """The context; None where there is no control CA."""
        control_ca = self._control_ca()
        if control_ca is None:
            return None
        if self._made is None or self._made[0] != control_ca:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=control_ca)
            self._made = (control_ca, context)
        return self._made[1]


@dataclass(slots=True, eq=False)
class ReceiptReporter:
    """Sends receipts of the status; ``run`` is its one task."""

    url: str
    """Base URL of the authority's API."""
    token_file: Path
    status_store: StatusStore
    http: aiohttp.ClientSession
    tls: AuthorityTls
    now: Callable[[], float]
    """The wall clock, in Unix seconds."""
    _number: int = 0
    _last_sent: Receipt | None = None

    async def run(self) -> None:
        """Send receipts until cancelled."""
        failures = 0
        while True:
            due = jittered(_heartbeat(self.status_store.status), 0.8, 1.0)
            try:
                if failures:
                    # While the authority is away, changes wait for the next attempt, or each would be one.
                    await asyncio.sleep(doubled(_FIRST_RETRY_PAUSE, failures - 1, longest=due))
                else:
                    async with asyncio.timeout(due):
                        await self._changed()
            except TimeoutError:
                pass  # the heartbeat
            try:
                await self._send()
                failures = 0
            except ReceiptNotSent as error:
                failures += 1
                log.warning("receipt_not_sent", error=str(error))

    async def _changed(self) -> None:
        """Wait until a receipt would differ from the last one; a set on its way gets a moment to be proven."""
        while receipt_of(self.status_store.status, 0, 0) == self._last_sent:
            await self.status_store.changed()
        try:
            async with asyncio.timeout(_PROOF_GRACE):
                while is_under_way(self.status_store.status):
                    await self.status_store.changed()
        except TimeoutError:
            return

    async def _send(self) -> None:
        self._number += 1
        status = self.status_store.status
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
            quote = answer[:_LONGEST_QUOTE].decode(errors="replace")
            raise ReceiptNotSent(f"{url}: expected status 200, found {code}: {quote}")
        try:
            newest = parse_object(answer).integer("newest_sequence")
        except FieldError as error:
            raise ReceiptNotSent(f"{url}: expected newest_sequence in the answer: {error}") from error
        self._last_sent = receipt_of(status, 0, 0)
        self.status_store.update(newest=newest)

    def _token(self) -> str:
        try:
            return read_token(self.token_file)
        except TokenUnusable as error:
            raise ReceiptNotSent(str(error)) from None

    def _tls(self) -> ssl.SSLContext:
        context = self.tls.context()
        if context is None:
            raise ReceiptNotSent("trust file: expected control_ca, to verify the authority with, found none")
        return context


def _heartbeat(status: AgentStatus) -> float:
    return status.installed.heartbeat if status.installed else _HEARTBEAT_BEFORE_INSTALLED
