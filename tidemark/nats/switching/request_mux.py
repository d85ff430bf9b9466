"""Requests and their answers, which may arrive by another transport than the request left by."""

import asyncio
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.msg import Msg

_NO_RESPONDERS = "503"


class RequestMux:
    """One inbox for all answers; each request has a subject below it."""

    def __init__(self, inbox: str) -> None:
        self._prefix = f"{inbox}."
        self._pending: dict[str, asyncio.Future[Msg]] = {}

    @property
    def subject(self) -> str:
        """The subject to subscribe to, with ``receive`` as callback."""
        return f"{self._prefix}*"

    async def request(self, token: str, send: Callable[[str], Awaitable[None]], within: float) -> Msg:
        """Send a request and wait for its first answer.

        ``send`` is called with the subject that the answer must go to; ``token`` names the request in that subject.

        Raises:
            nats.errors.NoRespondersError: the request's subject has no subscriber.
            nats.errors.TimeoutError: no answer within ``within`` seconds.
            nats.errors.ConnectionClosedError: the connection closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        answered = self._pending[token] = loop.create_future()
        try:
            # Two time limits, as nats-py swallows a cancellation that arrives while it wakes its flusher.
            async with asyncio.timeout_at(deadline):
                await send(self._prefix + token)
            async with asyncio.timeout_at(deadline):
                answer: Msg = await answered
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        finally:
            del self._pending[token]
        if answer.headers and answer.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return answer

    async def receive(self, message: Msg) -> None:
        """Give an answer to its request; a second answer to the same request is dropped."""
        answered = self._pending.get(message.subject.removeprefix(self._prefix))
        if answered is not None and not answered.done():
            answered.set_result(message)

    def close(self) -> None:
        """End every request with ``ConnectionClosedError``."""
        for answered in self._pending.values():
            if not answered.done():
                answered.set_exception(nats.errors.ConnectionClosedError())
