"""The one OpenBao client: requests over HTTPS, a token kept alive, and errors that say what to do.

Plain HTTP API (https://openbao.org/api-docs/). What may pass by itself (no connection, 429, 5xx, a sealed server) is
tried again with growing pauses; the rest is told by name at once. A token is renewed before it expires, and a login is
repeated where it cannot be renewed or was revoked. Nothing here reads the wall clock.
"""

import asyncio
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Self

import aiohttp

from authority.openbao.errors import (
    CasConflict,
    OpenBaoError,
    OpenBaoLoginRefused,
    OpenBaoPermissionMissing,
    OpenBaoSealed,
    OpenBaoUnreachable,
    RequestRefused,
    TokenRevoked,
)
from authority.openbao.login import Json, OpenBaoAccess, TokenLogin
from authority.support.reloading_tls import ReloadingSSLContext

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each further try of a request; the caller's own retries come after the last."""

REQUEST_SECONDS = 10.0

_LONGEST_RETRY_AFTER = 5.0

_RENEW_AT = 2 / 3  # of a token's life

_CAPABILITIES = {"GET": "read", "LIST": "list", "POST": "create or update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(slots=True)
class _Token:
    """Instants by the event loop's clock; None: it never expires."""

    value: str = field(repr=False)
    renew_at: float | None
    expires_at: float | None
    renewable: bool


class _Transient(Exception):
    """What may pass; ``done`` says whether the request may have been carried out all the same."""

    def __init__(self, told: OpenBaoError, *, done: bool, after: float = 0.0) -> None:
        super().__init__(str(told))
        self.told = told
        self.done = done
        self.after = after


class OpenBaoClient:
    """A session with OpenBao; use as an asynchronous context. Safe for any number of tasks at once.

    Every request raises Unreachable, Sealed, LoginRefused, TokenRevoked, PermissionMissing, CasConflict or
    RequestRefused, all of them OpenBaoError.
    """

    def __init__(self, access: OpenBaoAccess, pauses: Sequence[float] = PAUSES) -> None:
        self._access = access
        self._url = access.url.rstrip("/")
        self._pauses = tuple(pauses)
        self._turn = asyncio.Lock()
        self._token: _Token | None = None
        self._server: tuple[float, float] | None = None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ReloadingSSLContext(partial(_context, access.ca_file), OpenBaoError)),
            headers={"X-Vault-Request": "true"} | ({"X-Vault-Namespace": access.namespace} if access.namespace else {}),
            timeout=aiohttp.ClientTimeout(REQUEST_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @property
    def server_time(self) -> float | None:
        """What OpenBao's clock (its ``Date``, whole seconds) shows now; None before its first answer."""
        if self._server is None:
            return None
        said, at = self._server
        return said + asyncio.get_running_loop().time() - at

    async def read(self, path: str) -> Json | None:
        """What stands at ``path``; None where nothing does."""
        return await self._request("GET", path)

    async def list(self, path: str) -> Json:
        """The listing (``keys``, mostly with ``key_info``); empty where there is nothing."""
        return await self._request("LIST", path) or {}

    async def write(self, path: str, body: Json, *, repeatable: bool = True) -> Json:
        """Write, or have something done.

        One that is not ``repeatable`` is tried again only where it was certainly not carried out.
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
        """Send it with a living token. Returns what is under ``data``."""
        again = True
        while True:
            token = await self._living_token()
            status, answer = await self._send(method, path, body, token.value, repeatable=repeatable)
            if status != 403:
                return self._result(method, path, status, answer)
            if await self._knows(token.value):
                capability = _CAPABILITIES[method]
                raise OpenBaoPermissionMissing(
                    f"{method} {path}: expected the token's policies to allow {capability!r} on {path!r}, found that "
                    f"they do not; compare them with the policy that 'init --openbao' prints",
                    path,
                    capability,
                )
            if not again or isinstance(self._access.login, TokenLogin):
                raise TokenRevoked(
                    f"{method} {path}: expected OpenBao to know our token, found it revoked or expired; "
                    f"give the authority a new one"
                )
            again = False
            if self._token is token:
                self._token = None

    def _result(self, method: str, path: str, status: int, answer: Json) -> Json | None:
        if status < 300:
            data = answer.get("data")
            return data if isinstance(data, dict) else {}
        errors = _errors(answer)
        if status == 404 and not errors:
            return None
        if status == 400 and "check-and-set parameter did not match" in errors:
            raise CasConflict(f"{method} {path}: expected to write this version first, found that another stands there")
        hint = (
            "; look at mount and namespace, and run 'init --openbao' first" if "no handler for route" in errors else ""
        )
        raise RequestRefused(
            f"{method} {path}: expected OpenBao to accept it, found {status}: {errors or 'no reason'}{hint}", status
        )

    async def _send(
        self, method: str, path: str, body: Json | None, token: str, *, repeatable: bool
    ) -> tuple[int, Json]:
        """Send a request until it is answered by more than a complaint. Raises OpenBaoUnreachable, OpenBaoSealed."""
        for pause in (*self._pauses, None):
            try:
                return await self._send_once(method, path, body, token)
            except _Transient as fault:
                if pause is None or (fault.done and not repeatable):
                    raise fault.told from None
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, hides nothing
                await asyncio.sleep(max(jitter * pause, fault.after))
        raise AssertionError("unreachable: the last try either returns or raises")

    async def _send_once(self, method: str, path: str, body: Json | None, token: str) -> tuple[int, Json]:
        headers = {"X-Vault-Token": token} if token else {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        try:
            async with self._session.request(method, f"{self._url}/v1/{path}", json=body, headers=headers) as response:
                answer = await response.json(content_type=None) if await response.read() else {}
        except TimeoutError:
            found = f"no answer within {REQUEST_SECONDS:g} s"
            raise _Transient(OpenBaoUnreachable(self._not_there(method, path, found)), done=True) from None
        except aiohttp.ClientConnectorError as error:
            raise _Transient(OpenBaoUnreachable(self._not_there(method, path, str(error))), done=False) from None
        except (aiohttp.ClientError, ValueError) as error:
            found = str(error) or type(error).__name__
            raise _Transient(OpenBaoUnreachable(self._not_there(method, path, found)), done=True) from None
        self._note_time(response.headers.get("Date"))
        answer = answer if isinstance(answer, dict) else {}
        errors = _errors(answer)
        if response.status == 503 and "sealed" in errors:
            raise _Transient(
                OpenBaoSealed(f"{self._url}: expected OpenBao unsealed, found it sealed; unseal it"), done=False
            )
        if response.status == 429:
            after = response.headers.get("Retry-After", "")
            wait = min(float(after), _LONGEST_RETRY_AFTER) if after.isascii() and after.isdecimal() else 0.0
            told = OpenBaoUnreachable(self._not_there(method, path, "429: too many requests"))
            raise _Transient(told, done=False, after=wait)
        if response.status >= 500:
            told = OpenBaoUnreachable(self._not_there(method, path, f"{response.status}: {errors or 'no reason'}"))
            raise _Transient(told, done=response.status != 503)
        return response.status, answer

    def _not_there(self, method: str, path: str, found: str) -> str:
        return f"{self._url}: expected OpenBao to answer {method} {path}, found {found}"

    def _note_time(self, date: str | None) -> None:
        if date is None:
            return
        try:
            said = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return  # a proxy's fancy: the next answer may have a better one
        self._server = said, asyncio.get_running_loop().time()

    async def _living_token(self) -> _Token:
        """The token, renewed or replaced where its time has come. Whoever comes meanwhile waits for that one."""
        async with self._turn:
            now = asyncio.get_running_loop().time()
            token = self._token
            if token is not None and token.expires_at is not None and now >= token.expires_at:
                token = self._token = None
            if token is not None and token.renew_at is not None and now >= token.renew_at:
                token = self._token = await self._renewed(token)
            if token is None:
                token = self._token = await self._log_in()
            return token

    async def _renewed(self, token: _Token) -> _Token | None:
        """The token with its new life; None where a login has to follow."""
        if not token.renewable:
            return None
        try:
            status, answer = await self._send("POST", "auth/token/renew-self", {}, token.value, repeatable=True)
        except OpenBaoUnreachable:
            return token  # it lives on for a while, and so does the request that needs it
        renewed = _token(answer) if status == 200 else None
        if renewed is None or renewed.expires_at is None or token.expires_at is None:
            return renewed
        # At its longest life a token is renewed by less and less: a login comes before that ends.
        return renewed if renewed.expires_at > token.expires_at or isinstance(self._access.login, TokenLogin) else None

    async def _log_in(self) -> _Token:
        asked = await self._access.login.request()
        if isinstance(asked, str):
            return await self._looked_up(asked)
        path, body = asked
        status, answer = await self._send("POST", path, body, "", repeatable=True)
        token = _token(answer) if status == 200 else None
        if token is None:
            raise OpenBaoLoginRefused(
                f"POST {path}: expected OpenBao to accept the login, found {status}: {_errors(answer) or 'no token'}; "
                f"look at the role and its credentials"
            )
        return token

    async def _looked_up(self, value: str) -> _Token:
        """A token that somebody else made, with what is known of its life."""
        status, answer = await self._send("GET", "auth/token/lookup-self", None, value, repeatable=True)
        if status != 200:
            raise TokenRevoked(
                f"{self._url}: expected OpenBao to know our token, found {status}: {_errors(answer)}; give a new one"
            )
        data = answer.get("data") or {}
        return _living(value, int(data.get("ttl") or 0), renewable=bool(data.get("renewable")))

    async def _knows(self, token: str) -> bool:
        """Whether the token is alive: a 403 says the same of one that is not, and of a missing permission."""
        status, _ = await self._send("GET", "auth/token/lookup-self", None, token, repeatable=True)
        return status == 200


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OpenBaoError(f"{ca_file}: expected OpenBao's CA in PEM, found {error}") from None


def _token(answer: Json) -> _Token | None:
    """The token of a login's or a renewal's answer."""
    auth = answer.get("auth")
    if not isinstance(auth, dict) or not auth.get("client_token"):
        return None
    return _living(
        str(auth["client_token"]), int(auth.get("lease_duration") or 0), renewable=bool(auth.get("renewable"))
    )


def _living(value: str, seconds: int, *, renewable: bool) -> _Token:
    now = asyncio.get_running_loop().time()
    if not seconds:
        return _Token(value, None, None, renewable)
    return _Token(value, now + _RENEW_AT * seconds, now + seconds, renewable)


def _errors(answer: Json) -> str:
    """OpenBao's own words in one line."""
    errors = answer.get("errors")
    return " ".join(" ".join(map(str, errors)).split()) if isinstance(errors, list) else ""
