"""An event loop whose time jumps to the next timer: hours of waiting take milliseconds, in the same order.

For code whose every wait is a timer or an event of the same loop, without threads and sockets. While ``from_outside``
says that the code awaits an answer from another process, virtual time stands still.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_ANSWER_SECONDS = 1.0
"""How long an answer from outside may take before time goes on, at its usual pace, so that what waits for it can give
up."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.awaited = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and self.awaited and timeout != 0:
            seconds = _ANSWER_SECONDS if timeout is None else min(timeout, _ANSWER_SECONDS)
            ready = super().select(seconds)
            self.now += 0.0 if ready else seconds
        elif not ready:
            if timeout is None:
                raise RuntimeError("virtual time: everything waits for something that never comes")
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at time 0."""

    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> "asyncio.Future[T]":
        """Run a thread's function at once: no virtual time passes, and a killed task does nothing any more."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits is told
            done.set_exception(error)
        return done


@contextmanager
def from_outside() -> Iterator[None]:
    """Mark a wait, on a virtual loop, for an answer from another process."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.jumping.awaited += 1
    try:
        yield
    finally:
        loop.jumping.awaited -= 1


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A test that runs in virtual time."""

    @wraps(test)
    def run_test(*args: P.args, **fixtures: P.kwargs) -> None:
        run(test(*args, **fixtures))

    return run_test
