"""What a connection shares with nats-py's client: its properties, and what nats-py's own classes call on a client.

nats-py's ``Subscription`` and ``JetStreamContext`` read attributes and call methods of their client, some of them
private (nats-py 2.16). A connection answers these calls with the transport in use, whichever that is.
"""

from collections.abc import Awaitable, Callable
from urllib.parse import ParseResult

from nats.aio.client import ServerVersion
from nats.nuid import NUID

from tidemark.nats.subscription import Subscription
from tidemark.nats.switching.handover import TransportSwitch


class ClientSurface:
    """The part of nats-py's client that needs nothing but the transport in use; ``Connection`` adds the rest."""

    _switch: TransportSwitch
    """Set once the first transport is connected."""

    def __init__(self, error_cb: Callable[[Exception], Awaitable[None]], inbox_prefix: str | bytes) -> None:
        # nats-py's JetStream classes use these attributes by these names.
        self._error_cb = error_cb
        self._inbox_prefix = bytearray(inbox_prefix.encode() if isinstance(inbox_prefix, str) else inbox_prefix)
        self._nuid = NUID()
        self._sid = 0

    @property
    def is_connected(self) -> bool:
        """Whether there is a server at the moment."""
        return self._switch.current.is_connected

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed for good."""
        return self._switch.current.is_closed

    @property
    def is_reconnecting(self) -> bool:
        """Whether the connection lost its server and looks for another."""
        return self._switch.current.is_reconnecting

    @property
    def is_draining(self) -> bool:
        """Whether ``drain`` was called."""
        return self._switch.current.is_draining

    @property
    def connected_url(self) -> ParseResult | None:
        """The server's URL, None without a server."""
        return self._switch.current.connected_url

    @property
    def connected_server_version(self) -> ServerVersion:
        """The server's version."""
        return self._switch.current.connected_server_version

    @property
    def max_payload(self) -> int:
        """The largest message that the server takes, in bytes."""
        return self._switch.current.max_payload

    def new_inbox(self) -> str:
        """A subject that no other client uses."""
        return f"{self._inbox_prefix.decode()}.{self.new_id()}"

    def new_id(self) -> str:
        """A name that no other client uses (nats-py's NUID, 22 characters)."""
        return self._nuid.next().decode()

    def _next_sid(self) -> int:
        self._sid += 1
        return self._sid

    @property
    def _subs(self) -> dict[int, Subscription]:
        return self._switch.subscriptions

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._switch.subscriptions.pop(sid, None)

    async def _send_unsubscribe(self, sid: int, limit: int = 0) -> None:
        await self._switch.unsubscribe(sid, limit)
