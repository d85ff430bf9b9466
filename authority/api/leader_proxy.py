"""What a replica that follows does not answer itself is passed on to the one that leads, over HTTPS.

The leader is verified against the control CA, by the first name of the API's certificates, which all replicas share;
who asks is judged there, by the bearer token that came with the request. What was passed on once is never passed on
again: two replicas that each take the other for the leader answer 503.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from authority.election.interface import Election, Replica
from tidemark.certificates import Certificate, to_pem

FORWARDED = "Tidemark-Forwarded"
"""Header of a request that another replica passed on: the address that it came from there."""

SECONDS = 25.0
"""How long the leader is waited for: a little longer than it lets an operator wait for an answer."""

_CONNECT_SECONDS = 3.0
_IDLE_SECONDS = 5.0  # half of what the leader allows: no request meets a connection that is being closed
_CHUNK = 64 * 1024
_READS = frozenset({"/api/v1/status", "/api/v1/fleet", "/api/v1/withdrawals"})
_PASSED_ON = ("Authorization", "Content-Type")
_PASSED_BACK = ("Content-Type", "WWW-Authenticate", "Allow")


@dataclass(frozen=True, slots=True)
class LeaderProxy:
    """``session`` trusts the control CA alone; ``server_name`` is what the leader's certificate must have."""

    election: Election
    session: aiohttp.ClientSession
    server_name: str

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer here, or by the leader. Writes and receipts need it; what is only read is answered here without it."""
        is_write = request.method == "POST"
        if self.election.leads or not (is_write or request.path in _READS):
            return await handler(request)
        leader = self.election.leader
        if leader is None or FORWARDED in request.headers:
            if not is_write:
                return await handler(request)
            raise _unavailable(f"{request.path}: expected a replica that leads, found none at present; try again")
        try:
            return await self._forward(request, leader)
        except (aiohttp.ClientError, TimeoutError) as error:
            if not is_write:
                return await handler(request)
            found = str(error) or "no answer in time"
            raise _unavailable(
                f"{request.path}: expected an answer of the leading replica {leader.url}, found {found}; it may have "
                f"been carried out, look before you try again"
            ) from None

    async def _forward(self, request: web.Request, leader: Replica) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers[FORWARDED] = request.remote or "unknown"
        async with self.session.request(
            request.method,
            f"{leader.url}{request.path_qs}",
            data=await request.read() or None,
            headers=headers,
            server_hostname=self.server_name,
            allow_redirects=False,
        ) as found:
            passed_back = {name: found.headers[name] for name in _PASSED_BACK if name in found.headers}
            response = web.StreamResponse(status=found.status, headers=passed_back)
            chunk = await found.content.read(_CHUNK)  # what fails before this may still be answered in another way
            try:
                await response.prepare(request)
                while chunk:
                    await response.write(chunk)
                    chunk = await found.content.read(_CHUNK)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError):
                if request.transport is not None:
                    request.transport.abort()  # half an answer must not look like a whole one
            return response


@asynccontextmanager
async def open_leader_proxy(
    election: Election, control_ca: Certificate, server_name: str
) -> AsyncIterator[LeaderProxy]:
    """Opens the session to whoever leads; connections are kept for the next receipts."""
    context = ssl.create_default_context(cadata=to_pem([control_ca]).decode())
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=_CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(ssl=context, limit=32, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield LeaderProxy(election, session, server_name)


def _unavailable(sentence: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=sentence, headers={"Retry-After": "1"})
