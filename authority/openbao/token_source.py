"""The token of a session with OpenBao: made by a login, renewed before it expires, replaced where it was revoked."""

import asyncio
from dataclasses import dataclass, field

from authority.openbao.errors import OpenBaoLoginRefused, OpenBaoUnreachable, TokenRevoked
from authority.openbao.login import Json, Login, TokenLogin
from authority.openbao.transport import OpenBaoTransport, errors_of

_RENEW_AT = 2 / 3  # of a token's life


@dataclass(slots=True)
class Token:
    """A token and its life; instants by the event loop's clock, None where the token never expires."""

    value: str = field(repr=False)
    renew_at: float | None
    expires_at: float | None
    renewable: bool


class TokenSource:
    """Gives every request a token that lives. Safe for any number of tasks at once."""

    def __init__(self, transport: OpenBaoTransport, login: Login) -> None:
        self._transport = transport
        self._login = login
        self._turn = asyncio.Lock()
        self._token: Token | None = None

    @property
    def can_log_in_again(self) -> bool:
        """Whether a revoked token can be replaced: the operator's cannot."""
        return not isinstance(self._login, TokenLogin)

    async def current(self) -> Token:
        """The token, renewed or replaced where its time has come; callers meanwhile wait for the new token.

        Raises:
            OpenBaoLoginRefused, TokenRevoked, OpenBaoUnreachable: there is none to be had.
        """
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

    def forget(self, token: Token) -> None:
        """Log in before the next request, unless another caller has replaced this token already."""
        if self._token is token:
            self._token = None

    async def is_alive(self, token: Token) -> bool:
        """Whether OpenBao knows the token: a 403 says the same of a dead token and of a missing permission."""
        status, _ = await self._transport.send("GET", "auth/token/lookup-self", None, token.value)
        return status == 200

    async def _renewed(self, token: Token) -> Token | None:
        """The token with its new life; None where a login has to follow."""
        if not token.renewable:
            return None
        try:
            status, answer = await self._transport.send("POST", "auth/token/renew-self", {}, token.value)
        except OpenBaoUnreachable:
            # The old token lives for a third of its life yet: this request can use it.
            return token
        renewed = _token_of(answer) if status == 200 else None
        if renewed is None or renewed.expires_at is None or token.expires_at is None:
            return renewed
        # Near its longest life a token is renewed by less and less: a login comes before that ends.
        return renewed if renewed.expires_at > token.expires_at or not self.can_log_in_again else None

    async def _log_in(self) -> Token:
        request = await self._login.request()
        if isinstance(request, str):
            return await self._token_from_lookup(request)
        path, body = request
        status, answer = await self._transport.send("POST", path, body, "")
        token = _token_of(answer) if status == 200 else None
        if token is None:
            raise OpenBaoLoginRefused(
                f"POST {path}: expected OpenBao to accept the login, found {status}: {errors_of(answer) or 'no token'};"
                f" look at the role and its credentials"
            )
        return token

    async def _token_from_lookup(self, value: str) -> Token:
        """The operator's token, with what OpenBao says of its life."""
        status, answer = await self._transport.send("GET", "auth/token/lookup-self", None, value)
        if status != 200:
            raise TokenRevoked(
                f"{self._transport.url}: expected OpenBao to know our token, found {status}: {errors_of(answer)}; "
                f"give a new one"
            )
        data = answer.get("data") or {}
        return _living(value, int(data.get("ttl") or 0), renewable=bool(data.get("renewable")))


def _token_of(answer: Json) -> Token | None:
    """The token of a login's or a renewal's answer."""
    auth = answer.get("auth")
    if not isinstance(auth, dict) or not auth.get("client_token"):
        return None
    return _living(
        str(auth["client_token"]), int(auth.get("lease_duration") or 0), renewable=bool(auth.get("renewable"))
    )


def _living(value: str, seconds: int, *, renewable: bool) -> Token:
    now = asyncio.get_running_loop().time()
    if not seconds:
        return Token(value, None, None, renewable)
    return Token(value, now + _RENEW_AT * seconds, now + seconds, renewable)
