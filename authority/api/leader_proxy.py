"""Forwards requests from a replica that follows to the replica that leads, over HTTPS.

The leader is verified against the control CA, by the first name of the API's certificates, which all replicas share.
The leader authenticates the client, by the bearer token of the request. A forwarded request is never forwarded again:
two replicas that each take the other for the leader answer 503.
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
"""Header of a forwarded request: the address that the request came from."""

SECONDS = 25.0
"""How long to wait for the leader: a little longer than an operator's request may take there."""

_CONNECT_SECONDS = 3.0
_IDLE_SECONDS = 5.0  # half of what the leader allows: no request meets a connection that is being closed
_CHUNK = 64 * 1024
_LEADER_READS = frozenset({"/api/v1/status", "/api/v1/fleet", "/api/v1/withdrawals"})
_REQUEST_HEADERS = ("Authorization", "Content-Type")
_RESPONSE_HEADERS = ("Content-Type", "WWW-Authenticate", "Allow")


@dataclass(frozen=True, slots=True)
class LeaderProxy:
    """The middleware that forwards."""

    election: Election
    session: aiohttp.ClientSession
    """Trusts the control CA alone."""
    server_name: str
    """The name that the leader's certificate must have."""

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer here or let the leader answer.

        Receipts and operators' requests need the leader. Reads fall back to this replica's own state.
        """
        is_write = request.method == "POST"
        if self.election.leads or not (is_write or request.path in _LEADER_READS):
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
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers[FORWARDED] = request.remote or "unknown"
        async with self.session.request(
            request.method,
            f"{leader.url}{request.path_qs}",
            data=await request.read() or None,
            headers=headers,
            server_hostname=self.server_name,
            allow_redirects=False,
        ) as found:
            response_headers = {name: found.headers[name] for name in _RESPONSE_HEADERS if name in found.headers}
            response = web.StreamResponse(status=found.status, headers=response_headers)
            # The first chunk is read before anything is sent: a failure up to here can still get another answer.
            chunk = await found.content.read(_CHUNK)
            try:
                await response.prepare(request)
                while chunk:
                    await response.write(chunk)
                    chunk = await found.content.read(_CHUNK)
                await response.write_eof()
            except (aiohttp.ClientError, TimeoutError):
                if request.transport is not None:
                    request.transport.abort()  # half an answer must not look complete
            return response


@asynccontextmanager
async def open_leader_proxy(
    election: Election, control_ca: Certificate, server_name: str
) -> AsyncIterator[LeaderProxy]:
    """Open the session to the leader; idle connections are reused for the next receipts."""
    context = ssl.create_default_context(cadata=to_pem([control_ca]).decode())
    timeout = aiohttp.ClientTimeout(total=SECONDS, sock_connect=_CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(ssl=context, limit=32, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield LeaderProxy(election, session, server_name)


def _unavailable(sentence: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=sentence, headers={"Retry-After": "1"})
