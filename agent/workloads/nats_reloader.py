"""Reloads a nats-server by its own request, over the system account (nats-server 2.10 and later).

The answer comes when the reload is done, and a refusal quotes the server. Neither a signal nor a process that the agent
can see is needed. Imported only where such a target is configured, as nats-py takes memory.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.msg import Msg

import tidemark.nats
from agent.clients.nats_calls import bounded
from agent.clients.nats_credentials import LoginUnusable, with_creds, with_password
from agent.workloads.interface import Expectation, NotProven, ReloadAnswer, WorkloadAbsent
from agent.workloads.targets import SystemTarget

_USER_INFO = "$SYS.REQ.USER.INFO"
_SHARE = 0.8
"""Part of the time for one answer: the rest is for the errors that the server sends meanwhile."""


class SystemReloader:
    """Asks one server. Connects anew each time, as the server may still use the set before. Implements ``Reloader``."""

    def __init__(self, target: SystemTarget) -> None:
        self._target = target

    async def started_after(self, instant: float) -> bool:
        """False: the start of the server is not known."""
        return False

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """Implements ``Reloader``. A server that does not answer before the request was sent has refused nothing."""
        is_sent = asyncio.Event()
        try:
            return await bounded(
                self._reload(expected, _SHARE * within, is_sent), within, name="tidemark system reload"
            )
        except TimeoutError as error:
            raise _no_answer_error(is_sent)("no_answer", f"{self._target.address}: {error}") from None

    async def _reload(self, expected: Expectation, within: float, is_sent: asyncio.Event) -> ReloadAnswer:
        async with self._connection(expected) as (connection, errors):
            account: object = "unknown"
            try:
                user = _object(await connection.request(_USER_INFO, timeout=within))
                account = _part(user, "data").get("account", account)
                server = _part(user, "server").get("id")
                is_sent.set()
                answer = _object(await connection.request(f"$SYS.REQ.SERVER.{server}.RELOAD", timeout=within))
            except nats.errors.NoRespondersError:
                raise WorkloadAbsent(
                    "not_permitted",
                    f"{self._target.address}: expected a user of the system account (and nats-server 2.10 or later), "
                    f"found account {account!s:.80}, where no server takes the request to reload",
                ) from None
            except nats.errors.Error as error:
                raise self._unanswered(errors, error, is_sent) from None
        refused = answer.get("error")
        if refused:
            reason = refused.get("description", refused) if isinstance(refused, dict) else refused
            raise NotProven("reload_refused", f"{self._target.address}: the server refuses to reload: {reason!s:.600}")
        return ReloadAnswer()

    def _unanswered(self, errors: list[str], error: Exception, is_sent: asyncio.Event) -> WorkloadAbsent | NotProven:
        found = "; ".join([*errors, str(error)])
        if any("permissions violation" in sent.lower() for sent in errors):
            return WorkloadAbsent(
                "not_permitted",
                f"{self._target.address}: expected a user that may publish {_USER_INFO} and "
                f"$SYS.REQ.SERVER.*.RELOAD, found {found}",
            )
        return _no_answer_error(is_sent)(
            "no_answer", f"{self._target.address}: expected an answer to the request to reload, found {found}"
        )

    @asynccontextmanager
    async def _connection(self, expected: Expectation) -> AsyncIterator[tuple[tidemark.nats.Connection, list[str]]]:
        """A connection with the first set that the server takes, and the errors that the server sends."""
        errors: list[str] = []

        async def on_error(error: Exception) -> None:
            errors.append(str(error))

        reasons: list[str] = []
        for identity in expected.identities or (expected.directory,):
            try:
                connection = await tidemark.nats.connect(
                    f"tls://{self._target.address}", directory=identity, error_cb=on_error, **self._options()
                )
            except (tidemark.nats.ConnectFailed, tidemark.nats.SetUnreadable, LoginUnusable) as error:
                reasons.append(str(error))
                continue
            async with connection:
                yield connection, errors
            return
        found = "; ".join(dict.fromkeys(reasons))
        reason = "not_permitted" if "uthorization" in found else "unreachable"
        raise WorkloadAbsent(reason, f"{self._target.address}: expected to connect, found {found:.600}")

    def _options(self) -> Mapping[str, Any]:
        target = self._target
        options: dict[str, Any] = {"name": "tidemark-agent", "allow_reconnect": False}
        if target.tls_name:
            options["tls_hostname"] = target.tls_name
        if target.handshake_first:
            options["tls_handshake_first"] = True
        if target.creds:
            options |= with_creds(target.creds)
        if target.user and target.password_file:
            options |= with_password(target.user, target.password_file)
        return options


def _no_answer_error(is_sent: asyncio.Event) -> type[WorkloadAbsent | NotProven]:
    """What follows where no answer comes: nothing is proven, or, before the request was sent, the server is absent."""
    return NotProven if is_sent.is_set() else WorkloadAbsent


def _object(message: Msg) -> dict[str, object]:
    """The JSON object of an answer; empty for any other answer."""
    try:
        value = json.loads(message.data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _part(answer: dict[str, object], name: str) -> dict[str, object]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}
