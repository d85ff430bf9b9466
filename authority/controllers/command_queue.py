"""Commands that wait for a controller: it runs them one by one, between two actions of the plan."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

ANSWER_SECONDS = 20.0
"""Seconds that the caller of a command waits for the answer."""

_UNKNOWN = "expected this replica to lead until it was done, found that it stops: it may be done or not, so look first"


@dataclass(slots=True)
class _Command(Generic[S]):
    run: Callable[[S], Awaitable[Any]]

    answer: asyncio.Future[Any]
    """What the caller waits for; done before the command has begun where the caller gave up."""

    begun: bool = False


class CommandQueue(Generic[S]):
    """A first-in, first-out queue of commands; each caller waits for the answer of its command.

    ``refusal`` turns an error of the kinds ``errors``, or a sentence, into what the caller sees. Any other error is a
    fault of the program, and ends the controller.
    """

    def __init__(
        self,
        errors: tuple[type[Exception], ...],
        refusal: Callable[[Exception | str], Exception],
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._errors = errors
        self._refusal = refusal
        self._answer_seconds = answer_seconds
        self._waiting: deque[_Command[S]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def submit(self, run: Callable[[S], Awaitable[T]]) -> T:
        """Queue the command at once, and wait for its result.

        Raises:
            TimeoutError: there was no result in time. A command that had not begun by then never will; the message
                says whether it had.
        """
        command = _Command[S](run, asyncio.get_running_loop().create_future())
        self._waiting.append(command)
        try:
            async with asyncio.timeout(self._answer_seconds):
                result: T = await command.answer
        except TimeoutError:
            raise TimeoutError(self._timed_out(command)) from None
        return result

    def _timed_out(self, command: _Command[S]) -> str:
        within = f"within {self._answer_seconds:g} s"
        if command.begun:
            return (
                f"expected it to be done {within}, found it still under way: it may be done yet, so look at status "
                f"before you try again"
            )
        return f"expected its turn {within}, found none: it is withdrawn, nothing was done; status says what failed"

    async def run_next(self, state: S) -> None:
        """Run the oldest queued command on ``state``; skip it if its caller gave up."""
        command = self._waiting.popleft()
        answer = command.answer
        if answer.done():
            return
        # From here on a timeout says that the command may still be done.
        command.begun = True
        try:
            result = await command.run(state)
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
            # After any other error the controller ends: its caller must not wait until the timeout.
            answer.cancel()

    def refuse_all(self, reason: str) -> None:
        """Refuse every queued command: no controller runs them any more."""
        while self._waiting:
            answer = self._waiting.popleft().answer
            if not answer.done():
                answer.set_exception(self._refusal(reason))
