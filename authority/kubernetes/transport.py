"""The HTTP transport below lightkube's client."""

import asyncio
from typing import Any

import httpx2

from authority.support.clock_skew import ServerClock

_ENDING_SECONDS = 2.0


class _Transport(httpx2.AsyncHTTPTransport):
    """Notes what time it is at the server, and sees to it that lightkube can read every refusal.

    A request that is cancelled is ended in order, and its answer thrown away: httpcore leaves a socket open where it is
    cancelled between connecting and the end of the TLS handshake.
    """

    def __init__(self, context: Any, dated: ServerClock) -> None:
        # As many connections as are asked for: each watch keeps one, and a fleet may have hundreds of namespaces.
        super().__init__(verify=context, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20))
        self._dated = dated
        self._ending: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        began = asyncio.get_running_loop().time()
        sending = asyncio.create_task(super().handle_async_request(request), name="kubernetes request")
        try:
            response = await asyncio.shield(sending)
        except asyncio.CancelledError:
            ending = asyncio.create_task(_thrown_away(sending), name="cancelled kubernetes request")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise
        self._dated.note(response.headers.get("Date"), began)
        media_type, _, _ = response.headers.get("Content-Type", "text/plain").partition(";")
        response.headers["Content-Type"] = media_type.strip()  # lightkube expects one in every refusal, and it alone
        return response

    async def aclose(self) -> None:
        """Close everything; what was cancelled gets a moment to end."""
        if self._ending:
            _, late = await asyncio.wait(set(self._ending), timeout=_ENDING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await super().aclose()


async def _thrown_away(sending: asyncio.Task[httpx2.Response]) -> None:
    try:
        response = await sending
    except httpx2.HTTPError:
        return  # nobody waits for it
    await response.aclose()
