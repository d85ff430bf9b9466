"""TLS for clients that reads its files for each handshake, so that a server's CA can be replaced without a restart.

Each handshake has a context of its own, made from the files as they are then, which takes half a millisecond; no
watch of the files is needed. Connections that exist stay.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Self

log = logging.getLogger("authority")


class ReloadingSSLContext(ssl.SSLContext):
    """A context for asyncio and what builds on it (aiohttp, httpx2); in any other use it trusts no CA.

    ``make`` makes the context of one handshake. Where it raises an ``error``, which names the file and what was found,
    the last context that could be made is used, and the error is logged. The first context is made here: its error is
    raised.
    """

    def __new__(cls, make: Callable[[], ssl.SSLContext], error: type[Exception]) -> Self:
        """An empty context of the client protocol: every setting comes from ``make``."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, make: Callable[[], ssl.SSLContext], error: type[Exception]) -> None:
        self._make = make
        self._error = error
        self._last = make()
        self._logged = ""

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
            self._log(str(error))
        else:
            self._logged = ""
        return self._last.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _log(self, fault: str) -> None:
        """Log a fault once, however many handshakes it affects."""
        if fault != self._logged:
            self._logged = fault
            log.warning("ca_reload_failed", extra={"fields": {"error": fault}})
