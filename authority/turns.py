"""Requests that wait for their turn: carried out by the sequencer, between two actions of the plan."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_UNKNOWN = "expected this replica to lead until it was done, found that it stops: it may be done or not, so look first"


class Turns(Generic[S]):
    """A queue of what is to be carried out; whoever asked waits for the answer.

    ``refusal`` makes of an error of ``errors``, or of a sentence, what the asker is to see; other errors are faults of
    the program.
    """

    def __init__(self, errors: tuple[type[Exception], ...], refusal: Callable[[Exception | str], Exception]) -> None:
        self._errors = errors
        self._refusal = refusal
        self._waiting: deque[tuple[Callable[[S], Awaitable[None]], asyncio.Future[Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def ask(self, carry_out: Callable[[S], Awaitable[T]]) -> asyncio.Future[T]:
        """Queue it up; the future has its result."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def serve(state: S) -> None:
            try:
                result = await carry_out(state)
            except self._errors as error:
                if not answer.done():
                    answer.set_exception(self._refusal(error))
            except asyncio.CancelledError:
                if not answer.done():
                    answer.set_exception(self._refusal(_UNKNOWN))
                raise
            else:
                if not answer.done():
                    answer.set_result(result)
            finally:
                answer.cancel()  # where we are killed: nobody is left waiting

        self._waiting.append((serve, answer))
        return answer

    async def serve_next(self, state: S) -> None:
        """Carry the oldest out, unless whoever asked has gone away."""
        serve, answer = self._waiting.popleft()
        if not answer.done():
            await serve(state)

    def end(self, why: str) -> None:
        """Nobody will carry them out: whoever still waits is refused, and told why."""
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(self._refusal(why))
