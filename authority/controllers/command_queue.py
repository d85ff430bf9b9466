"""Requests that wait for their turn: carried out by the sequencer, between two actions of the plan."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that whoever asks waits for the answer."""

_UNKNOWN = "expected this replica to lead until it was done, found that it stops: it may be done or not, so look first"


@dataclass(slots=True)
class _Command(Generic[S]):
    """Who asked waits for ``answer``; that one is done before the request has ``begun`` where nobody waits any more."""

    carry_out: Callable[[S], Awaitable[Any]]
    answer: asyncio.Future[Any]
    begun: bool = False


class CommandQueue(Generic[S]):
    """A queue of what is to be carried out; whoever asked waits for the answer.

    ``refusal`` makes of an error of ``errors``, or of a sentence, what the asker is to see; other errors are faults of
    the program.
    """

    def __init__(
        self,
        errors: tuple[type[Exception], ...],
        refusal: Callable[[Exception | str], Exception],
        patience: float = PATIENCE,
    ) -> None:
        self._errors = errors
        self._refusal = refusal
        self._patience = patience
        self._waiting: deque[_Command[S]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def ask(self, carry_out: Callable[[S], Awaitable[T]]) -> T:
        """Queue it up at once, and wait for its result.

        Raises:
            TimeoutError: there was none in time. What had not begun by then never will; the message says which it is.
        """
        request = _Command[S](carry_out, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        try:
            async with asyncio.timeout(self._patience):
                result: T = await request.answer
        except TimeoutError:
            raise TimeoutError(self._late(request)) from None
        return result

    def _late(self, request: _Command[S]) -> str:
        within = f"within {self._patience:g} s"
        if request.begun:
            return (
                f"expected it to be done {within}, found it still under way: it may be done yet, so look at status "
                f"before you try again"
            )
        return f"expected its turn {within}, found none: it is withdrawn, nothing was done; status says what failed"

    async def serve_next(self, state: S) -> None:
        """Carry the oldest out, unless whoever asked has gone away."""
        request = self._waiting.popleft()
        answer = request.answer
        if answer.done():
            return
        request.begun = True
        try:
            result = await request.carry_out(state)
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

    def end(self, why: str) -> None:
        """Nobody will carry them out: whoever still waits is refused, and told why."""
        while self._waiting:
            answer = self._waiting.popleft().answer
            if not answer.done():
                answer.set_exception(self._refusal(why))
