"""Telling a nats-server to reload by its own request, over the system account (nats-server 2.10 and later).

The answer comes when the reload is done, and a refusal carries the server's own words. It needs neither a signal nor a
process that can be seen. Imported only where such a target is configured, as nats-py takes memory.
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

_WHO = "$SYS.REQ.USER.INFO"
_SHARE = 0.8  # of the time, for one answer: so that what the server complains of meanwhile can be told


class SystemReloader:
    """Asks one server. It connects anew each time, as the set that the server knows may be the one before."""

    def __init__(self, target: SystemTarget) -> None:
        self._target = target

    async def started_after(self, instant: float) -> bool:
        """Nothing is known of the server's start."""
        return False

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """See ``Reloader``. A server that does not answer before it is told has refused nothing."""
        told = asyncio.Event()
        try:
            return await bounded(self._reload(expected, _SHARE * within, told), within, name="tidemark system reload")
        except TimeoutError as error:
            raise _silence(told)("no_answer", f"{self._target.address}: {error}") from None

    async def _reload(self, expected: Expectation, within: float, told: asyncio.Event) -> ReloadAnswer:
        async with self._connection(expected) as (connection, complaints):
            account: object = "unknown"
            try:
                who = _object(await connection.request(_WHO, timeout=within))
                account = _part(who, "data").get("account", account)
                server = _part(who, "server").get("id")
                told.set()
                answer = _object(await connection.request(f"$SYS.REQ.SERVER.{server}.RELOAD", timeout=within))
            except nats.errors.NoRespondersError:
                raise WorkloadAbsent(
                    "not_permitted",
                    f"{self._target.address}: expected a user of the system account (and nats-server 2.10 or later), "
                    f"found account {account!s:.80}, where nobody takes the request to reload",
                ) from None
            except nats.errors.Error as error:
                raise self._unanswered(complaints, error, told) from None
        refused = answer.get("error")
        if refused:
            said = refused.get("description", refused) if isinstance(refused, dict) else refused
            raise NotProven("reload_refused", f"{self._target.address}: the server refuses to reload: {said!s:.600}")
        return ReloadAnswer()

    def _unanswered(self, complaints: list[str], error: Exception, told: asyncio.Event) -> WorkloadAbsent | NotProven:
        found = "; ".join([*complaints, str(error)])
        if any("permissions violation" in complaint.lower() for complaint in complaints):
            return WorkloadAbsent(
                "not_permitted",
                f"{self._target.address}: expected a user that may publish {_WHO} and "
                f"$SYS.REQ.SERVER.*.RELOAD, found {found}",
            )
        return _silence(told)(
            "no_answer", f"{self._target.address}: expected an answer to the request to reload, found {found}"
        )

    @asynccontextmanager
    async def _connection(self, expected: Expectation) -> AsyncIterator[tuple[tidemark.nats.Connection, list[str]]]:
        """A connection with the first set that the server takes, and what it complains of."""
        complaints: list[str] = []

        async def complain(error: Exception) -> None:
            complaints.append(str(error))

        reasons: list[str] = []
        for identity in expected.identities or (expected.directory,):
            try:
                connection = await tidemark.nats.connect(
                    f"tls://{self._target.address}", directory=identity, error_cb=complain, **self._options()
                )
            except (tidemark.nats.ConnectFailed, tidemark.nats.SetUnreadable, LoginUnusable) as error:
                reasons.append(str(error))
                continue
            async with connection:
                yield connection, complaints
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


def _silence(told: asyncio.Event) -> type[WorkloadAbsent | NotProven]:
    """What it means that no answer comes."""
    return NotProven if told.is_set() else WorkloadAbsent


def _object(message: Msg) -> dict[str, object]:
    """An answer's JSON object; any other answer says nothing."""
    try:
        value = json.loads(message.data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _part(answer: dict[str, object], name: str) -> dict[str, object]:
    part = answer.get(name)
    return part if isinstance(part, dict) else {}
