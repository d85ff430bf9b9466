"""TLS for clients that goes by what the files hold now, so that a server's CA can be replaced without a restart.

Each handshake has a context of its own, made from the files as they are then, which takes half a millisecond: nobody
has to notice that one changed. Connections that exist stay.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Self

log = logging.getLogger("authority")


class ReloadingSSLContext(ssl.SSLContext):
    """A context for asyncio and what builds on it (aiohttp, httpx2); trusts nobody where it is used in another way.

    ``make`` makes the context of one handshake. Where it raises an ``error``, which says what was found in which file,
    the last one that it made counts, and that is logged. The first has to succeed: it is made here.
    """

    def __new__(cls, make: Callable[[], ssl.SSLContext], error: type[Exception]) -> Self:
        """Of the protocol for clients; nothing else is set in it."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, make: Callable[[], ssl.SSLContext], error: type[Exception]) -> None:
        self._make = make
        self._error = error
        self._last = make()
        self._told = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a handshake; perhaps in a thread."""
        try:
            self._last = self._make()
        except self._error as error:
            self._tell(str(error))
        else:
            self._told = ""
        return self._last.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _tell(self, fault: str) -> None:
        """Once, however many handshakes come until it is mended."""
        if fault != self._told:
            self._told = fault
            log.warning("ca_reload_failed", extra={"fields": {"error": fault}})
