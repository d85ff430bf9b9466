"""Requests, whose answers come in by whichever wire there is then."""

import asyncio
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.msg import Msg

_NO_RESPONDERS = "503"


class RequestMux:
    """One inbox for all answers; each request has a subject below it."""

    def __init__(self, inbox: str) -> None:
        self._prefix = f"{inbox}."
        self._awaited: dict[str, asyncio.Future[Msg]] = {}

    @property
    def subject(self) -> str:
        """What to subscribe to, with ``answered`` as callback."""
        return f"{self._prefix}*"

    async def ask(self, token: str, send: Callable[[str], Awaitable[None]], within: float) -> Msg:
        """Send a request, which is to be answered to the subject that ``send`` is given, and wait for the first answer.

        Raises:
            nats.errors.NoRespondersError: nobody subscribes to the request's subject.
            nats.errors.TimeoutError: no answer within these seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        answered = self._awaited[token] = loop.create_future()
        try:
            # Twice, as nats-py swallows a cancellation that reaches it while it kicks the flusher.
            async with asyncio.timeout_at(deadline):
                await send(self._prefix + token)
            async with asyncio.timeout_at(deadline):
                answer: Msg = await answered
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        finally:
            del self._awaited[token]
        if answer.headers and answer.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return answer

    async def answered(self, message: Msg) -> None:
        """Take an answer; a second one to the same request is nobody's."""
        answered = self._awaited.get(message.subject.removeprefix(self._prefix))
        if answered is not None and not answered.done():
            answered.set_result(message)

    def end(self) -> None:
        """Let every request end with ``ConnectionClosedError``."""
        for answered in self._awaited.values():
            if not answered.done():
                answered.set_exception(nats.errors.ConnectionClosedError())
