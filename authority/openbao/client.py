"""The one OpenBao client: requests over HTTPS, a token kept alive, and errors that say what to do.

Plain HTTP API (https://openbao.org/api-docs/). What may pass by itself (no connection, 429, 5xx, a sealed server) is
retried with growing pauses; every other refusal is raised at once as the error that names it. Nothing here reads the
wall clock.
"""

from collections.abc import Sequence
from typing import Self

from authority.openbao.errors import CasConflict, OpenBaoPermissionMissing, RequestRefused, TokenRevoked
from authority.openbao.login import Json, OpenBaoAccess
from authority.openbao.token_source import TokenSource
from authority.openbao.transport import OpenBaoTransport, errors_of
from authority.support.backoff import REQUEST_PAUSES

_CAPABILITIES = {"GET": "read", "LIST": "list", "POST": "create or update", "PATCH": "patch", "DELETE": "delete"}


class OpenBaoClient:
    """A session with OpenBao; use as an asynchronous context. Safe for any number of tasks at once.

    Every request raises OpenBaoUnreachable, OpenBaoSealed, OpenBaoLoginRefused, TokenRevoked, OpenBaoPermissionMissing,
    CasConflict or RequestRefused, all of them OpenBaoError. ``pauses`` are the seconds between tries.
    """

    def __init__(self, access: OpenBaoAccess, pauses: Sequence[float] = REQUEST_PAUSES) -> None:
        self._transport = OpenBaoTransport(access, pauses)
        self._tokens = TokenSource(self._transport, access.login)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    @property
    def server_time(self) -> float | None:
        """What OpenBao's clock (its ``Date``, whole seconds) shows now; None before its first answer."""
        return self._transport.clock.server_time

    async def read(self, path: str) -> Json | None:
        """The data at ``path``; None where there is none."""
        return await self._request("GET", path)

    async def list(self, path: str) -> Json:
        """The listing (``keys``, mostly with ``key_info``); empty where ``path`` has no entries."""
        return await self._request("LIST", path) or {}

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        """Write, or have OpenBao do something.

        A request that is not ``repeatable`` is retried only where OpenBao certainly did not carry it out.
        """
        return await self._request("POST", path, body, repeatable=repeatable) or {}

    async def patch(self, path: str, body: Json) -> Json:
        """Change some fields and leave the others (RFC 7396)."""
        return await self._request("PATCH", path, body) or {}

    async def delete(self, path: str) -> None:
        """Delete; what is gone already is no error."""
        await self._request("DELETE", path)

    async def _request(
        self, method: str, path: str, body: Json | None = None, *, repeatable: bool = True
    ) -> Json | None:
        """Send a request with a living token; the answer's ``data``; None where there is nothing at ``path``."""
        has_logged_in_again = False
        while True:
            token = await self._tokens.current()
            status, answer = await self._transport.send(method, path, body, token.value, repeatable=repeatable)
            if status != 403:
                return _data(method, path, status, answer)
            if await self._tokens.is_alive(token):
                capability = _CAPABILITIES[method]
                raise OpenBaoPermissionMissing(
                    f"{method} {path}: expected the token's policies to allow {capability!r} on {path!r}, found that "
                    f"they do not; compare them with the policy that 'init --openbao' prints",
                    path,
                    capability,
                )
            # One login for one request: where a fresh token is refused as well, another would be refused too.
            if has_logged_in_again or not self._tokens.can_log_in_again:
                raise TokenRevoked(
                    f"{method} {path}: expected OpenBao to know our token, found it revoked or expired; "
                    f"give the authority a new one"
                )
            has_logged_in_again = True
            self._tokens.forget(token)


def _data(method: str, path: str, status: int, answer: Json) -> Json | None:
    """The answer's ``data``; None where there is nothing at ``path``. Raises CasConflict, RequestRefused."""
    if status < 300:
        data = answer.get("data")
        return data if isinstance(data, dict) else {}
    errors = errors_of(answer)
    if status == 404 and not errors:
        return None
    if status == 400 and "check-and-set parameter did not match" in errors:
        raise CasConflict(f"{method} {path}: expected to write this version first, found that another stands there")
    hint = "; look at mount and namespace, and run 'init --openbao' first" if "no handler for route" in errors else ""
    raise RequestRefused(
        f"{method} {path}: expected OpenBao to accept it, found {status}: {errors or 'no reason'}{hint}", status
    )
