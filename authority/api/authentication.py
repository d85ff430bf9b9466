"""Authenticates requests by bearer token (RFC 6750) and checks the holder's role."""

from dataclasses import dataclass

from aiohttp import web

from authority.api.tokens import TokenHolder, TokenReviewUnavailable, TokenRole, Tokens
from authority.fleet.members import PodIdentity


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Every method raises HTTPUnauthorized for a missing or unknown token, HTTPForbidden for one of another role."""

    tokens: Tokens
    open_reads: bool
    """Whether requests that read need no token."""

    def require_reader(self, request: web.Request) -> None:
        """Admit a request that reads: with any token, or without one where reading is open."""
        if not self.open_reads:
            self._holder(request)

    def require(self, request: web.Request, role: TokenRole) -> TokenHolder:
        """The holder of the request's token, who must have this role."""
        holder = self._holder(request)
        if holder.role is not role:
            raise web.HTTPForbidden(
                text=f"{request.path}: expected the token of an {role}, found that of {holder.name}"
            )
        return holder

    async def require_agent(self, request: web.Request) -> PodIdentity | None:
        """The pod that sent a receipt, where Kubernetes reviews tokens; None for the token that all agents share.

        Raises HTTPServiceUnavailable where the token could not be reviewed.
        """
        if self.tokens.reviewer is None:
            self.require(request, TokenRole.AGENT)
            return None
        token = _bearer_token(request)
        try:
            sender = await self.tokens.reviewer.sender(token) if token else None
        except TokenReviewUnavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": "1"}) from None
        if sender is None:
            raise _unauthorized(request, token, "a projected token of the authority's audience, bound to a pod")
        return sender

    def _holder(self, request: web.Request) -> TokenHolder:
        token = _bearer_token(request)
        holder = self.tokens.holder_of(token) if token else None
        if holder is None:
            raise _unauthorized(request, token, "a bearer token")
        return holder


def _bearer_token(request: web.Request) -> str:
    """The request's bearer token, "" for none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(request: web.Request, token: str, expected: str) -> web.HTTPUnauthorized:
    found = "one that is not known" if token else "none"
    text = f"{request.path}: expected {expected}, found {found}"
    return web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})
