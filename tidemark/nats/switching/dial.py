"""Connecting to the first server of several that accepts the connection."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client

from tidemark.nats.errors import ConnectFailed
from tidemark.nats.switching.transport import DialTarget, Transport

_DISCARD_SECONDS = 0.05  # for closing a transport that has no TLS session to end


async def dial_first(
    new_transport: Callable[[], Transport], targets: Iterable[DialTarget], options: dict[str, Any]
) -> Transport:
    """Try each target once, in order, with a transport of its own; return the first that is connected.

    Raises:
        ConnectFailed: every target failed; the error has the reason of each.
    """
    reasons: dict[str, str] = {}
    for target in targets:
        transport = new_transport()
        try:
            await transport.dial(target, options)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            reasons[_without_login(target.url)] = str(error) or type(error).__name__
            await transport.retire(_DISCARD_SECONDS)
        except asyncio.CancelledError:
            await transport.retire(_DISCARD_SECONDS)
            raise
        else:
            return transport
    raise ConnectFailed(reasons)


def _without_login(url: str) -> str:
    parsed: ParseResult = Client._parse_server_uri(url)
    return parsed._replace(netloc=parsed.netloc.rpartition("@")[2]).geturl()
