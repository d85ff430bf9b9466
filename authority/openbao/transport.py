"""HTTPS requests to OpenBao, retried where the fault may pass, and the time at the server."""

import asyncio
import ssl
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import aiohttp

from authority.openbao.errors import OpenBaoError, OpenBaoSealed, OpenBaoUnreachable
from authority.openbao.login import Json, OpenBaoAccess
from authority.support.backoff import TransientError, retry
from authority.support.clock_skew import ServerClock
from authority.support.reloading_tls import ReloadingSSLContext

REQUEST_SECONDS = 10.0

_MOUNT_NOT_READY = "Upgrading from non-versioned to versioned data"
"""What a new KV v2 mount answers for a moment, with status 400; nothing was carried out."""
_LONGEST_RETRY_AFTER = 5.0


class OpenBaoTransport:
    """Sends requests with the token that the caller gives; knows nothing of logins.

    ``pauses`` are the seconds between tries. Safe for any number of tasks at once.
    """

    def __init__(self, access: OpenBaoAccess, pauses: Sequence[float]) -> None:
        self.url = access.url.rstrip("/")
        self.clock = ServerClock()
        """OpenBao's clock, by the ``Date`` of its answers (whole seconds)."""
        self._pauses = tuple(pauses)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ReloadingSSLContext(partial(_context, access.ca_file), OpenBaoError)),
            headers={"X-Vault-Request": "true"} | ({"X-Vault-Namespace": access.namespace} if access.namespace else {}),
            timeout=aiohttp.ClientTimeout(REQUEST_SECONDS),
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def send(
        self, method: str, path: str, body: Json | None, token: str, *, repeatable: bool = True
    ) -> tuple[int, Json]:
        """Send a request; returns status and answer, which may be a refusal. ``token`` "" sends none.

        A request that is not ``repeatable`` is retried only where OpenBao certainly did not carry it out.

        Raises:
            OpenBaoUnreachable, OpenBaoSealed: the last try failed as well.
        """
        return await retry(lambda: self._send_once(method, path, body, token, repeatable=repeatable), self._pauses)

    async def _send_once(
        self, method: str, path: str, body: Json | None, token: str, *, repeatable: bool
    ) -> tuple[int, Json]:
        """Raises TransientError where another try may help."""
        request = f"{method} {path}"
        headers = {"X-Vault-Token": token} if token else {}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        began = asyncio.get_running_loop().time()
        try:
            async with self._session.request(method, f"{self.url}/v1/{path}", json=body, headers=headers) as response:
                answer = await response.json(content_type=None) if await response.read() else {}
        except TimeoutError:
            error = self._unreachable(request, f"no answer within {REQUEST_SECONDS:g} s")
            raise _transient_if(repeatable, error) from None
        except aiohttp.ClientConnectorError as error:  # without a connection nothing was carried out
            raise TransientError(self._unreachable(request, str(error))) from None
        except (aiohttp.ClientError, ValueError) as error:
            unreachable = self._unreachable(request, str(error) or type(error).__name__)
            raise _transient_if(repeatable, unreachable) from None
        self.clock.note(response.headers.get("Date"), began)
        answer = answer if isinstance(answer, dict) else {}
        self._check_health(request, response, answer, repeatable=repeatable)
        return response.status, answer

    def _check_health(self, request: str, response: aiohttp.ClientResponse, answer: Json, *, repeatable: bool) -> None:
        """Refuse an answer that only says that the server is in trouble."""
        errors = errors_of(answer)
        if response.status == 503 and "sealed" in errors:
            raise TransientError(OpenBaoSealed(f"{self.url}: expected OpenBao unsealed, found it sealed; unseal it"))
        if response.status == 429:
            after = response.headers.get("Retry-After", "")
            wait = min(float(after), _LONGEST_RETRY_AFTER) if after.isascii() and after.isdecimal() else 0.0
            raise TransientError(self._unreachable(request, "429: too many requests"), wait)
        if response.status == 400 and _MOUNT_NOT_READY in errors:
            raise TransientError(self._unreachable(request, f"400: {errors}"))
        if response.status >= 500:
            error = self._unreachable(request, f"{response.status}: {errors or 'no reason'}")
            # With 503 the request was not carried out, so it may be repeated in any case.
            raise _transient_if(repeatable or response.status == 503, error)

    def _unreachable(self, request: str, found: str) -> OpenBaoUnreachable:
        return OpenBaoUnreachable(f"{self.url}: expected OpenBao to answer {request}, found {found}")


def errors_of(answer: Json) -> str:
    """OpenBao's own words in one line; "" where the answer has none."""
    errors = answer.get("errors")
    return " ".join(" ".join(map(str, errors)).split()) if isinstance(errors, list) else ""


def _transient_if(may_repeat: bool, error: OpenBaoError) -> Exception:
    return TransientError(error) if may_repeat else error


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise OpenBaoError(f"{ca_file}: expected OpenBao's CA in PEM, found {error}") from None
