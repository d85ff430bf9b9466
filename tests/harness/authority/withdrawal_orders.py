"""Withdrawals as an operator orders them, in crash-safety tests."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from authority.controllers.rotation import RotationController
from authority.journal.history import History
from authority.rotation.operator_requests import WithdrawalRequest
from tidemark.bundle import Cause


@dataclass(frozen=True)
class Order:
    """A request of an operator at second ``at``, repeated until ``stands`` finds it in the journal."""

    at: int
    ask: Callable[[RotationController], Awaitable[object]]
    stands: Callable[[History], bool]


def withdraw(at: int, cause: Cause, ca: str, *, urgent: bool) -> Order:
    wanted = WithdrawalRequest(cause, ca, urgent)
    return Order(
        at,
        lambda rotation: rotation.commands.withdraw("ada", "a key may have leaked", wanted),
        lambda history: any(found.withdrawal for found in history.cas),
    )
