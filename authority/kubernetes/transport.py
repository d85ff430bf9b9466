"""The HTTP transport below lightkube's client."""

import asyncio
from typing import Any

import httpx2

from authority.support.clock_skew import ServerClock

_ENDING_SECONDS = 2.0


class KubernetesTransport(httpx2.AsyncHTTPTransport):
    """Notes the time at the server, and makes every refusal one that lightkube can read.

    A cancelled request runs to its end, and its answer is discarded: httpcore leaves a socket open where a request is
    cancelled between connecting and the end of the TLS handshake.
    """

    def __init__(self, context: Any, clock: ServerClock) -> None:
        # No limit: each watch keeps a connection, and a fleet may have hundreds of namespaces.
        super().__init__(verify=context, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20))
        self._clock = clock
        self._ending: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, as httpx2 calls for it."""
        began = asyncio.get_running_loop().time()
        sending = asyncio.create_task(super().handle_async_request(request), name="kubernetes request")
        try:
            response = await asyncio.shield(sending)
        except asyncio.CancelledError:
            ending = asyncio.create_task(_discard_answer(sending), name="cancelled kubernetes request")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            raise
        self._clock.note(response.headers.get("Date"), began)
        # lightkube expects a media type in every refusal, and no parameters beside it.
        media_type, _, _ = response.headers.get("Content-Type", "text/plain").partition(";")
        response.headers["Content-Type"] = media_type.strip()
        return response

    async def aclose(self) -> None:
        """Close every connection; cancelled requests get a moment to end."""
        if self._ending:
            _, late = await asyncio.wait(set(self._ending), timeout=_ENDING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await super().aclose()


async def _discard_answer(sending: asyncio.Task[httpx2.Response]) -> None:
    try:
        response = await sending
    except httpx2.HTTPError:
        # The caller was cancelled: the error has no receiver.
        return
    await response.aclose()
