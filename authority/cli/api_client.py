"""A client of the API for the command line: over HTTPS, verified against the control CA."""

import ssl
from dataclasses import dataclass
from typing import Any, Self

import aiohttp


class ApiError(Exception):
    """The API could not be reached or understood; the message names its URL and what was found."""


class AuthorityRefused(ApiError):
    """The authority refused the request; the message is the authority's sentence."""


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """How to reach the API."""

    url: str
    ca: str
    """The control CA in PEM."""
    token: str | None = None
    """A bearer token; None reads without one."""

    def __repr__(self) -> str:
        return f"ApiAccess({self.url!r})"  # without the token


class ApiClient:
    """A session with the API; use as an asynchronous context."""

    def __init__(self, access: ApiAccess, seconds: float = 30.0) -> None:
        self._url = access.url.rstrip("/")
        try:
            context = ssl.create_default_context(cadata=access.ca)
        except ssl.SSLError as error:
            raise ApiError(f"{self._url}: expected the control CA in PEM, found {error}") from None
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), headers=headers, timeout=aiohttp.ClientTimeout(seconds)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """The answer to a GET. Raises ApiError."""
        return await self._request("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a POST. Raises ApiError."""
        return await self._request("POST", path, body)

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            async with self._session.request(method, f"{self._url}{path}", json=body) as response:
                answer = await response.json()
        except TimeoutError:
            raise ApiError(f"{self._url}{path}: expected an answer, found none in time") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise ApiError(f"{self._url}{path}: expected an answer of the authority, found {error}") from None
        if not isinstance(answer, dict):
            raise ApiError(f"{self._url}{path}: expected a JSON object, found {type(answer).__name__}")
        if response.status >= 400:
            raise AuthorityRefused(str(answer.get("error", f"HTTP status {response.status}")))
        return answer
