"""Reloads an application by a request over HTTP; the answer says which set the application uses from then on."""

import asyncio
import json
import ssl

import aiohttp

from agent.clients.http import TokenUnusable, read_answer, read_token
from agent.workloads.interface import Expectation, NotProven, ReloadAnswer, WorkloadAbsent
from agent.workloads.targets import HttpTarget
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE

_LONGEST_ANSWER = 64 * 1024
_QUOTED_OF_ANSWER = 200


class HttpReloader:
    """Sends the digests of the set to the application's URL, by POST. Implements ``Reloader``."""

    def __init__(self, target: HttpTarget, http: aiohttp.ClientSession) -> None:
        self._target = target
        self._http = http

    async def started_after(self, instant: float) -> bool:
        """False: the start of an application is not known."""
        return False

    async def reload(self, expected: Expectation, within: float) -> ReloadAnswer:
        """Implements ``Reloader``."""
        request = {
            "sequence": expected.sequence,
            "ca_sha256": expected.ca_sha256,
            "leaf_sha256": expected.leaf and expected.leaf.sha256,
            "directory": str(expected.directory),
        }
        try:
            async with (
                asyncio.timeout(within),
                self._http.post(
                    self._target.endpoint,
                    json=request,
                    headers=self._authorization(),
                    ssl=_tls(expected) if self._target.url.startswith("https:") else True,
                    server_hostname=self._target.tls_name,
                    allow_redirects=False,
                ) as response,
            ):
                body = await read_answer(response, _LONGEST_ANSWER)
                status = response.status
        except TokenUnusable as error:
            raise WorkloadAbsent("not_permitted", str(error)) from None
        except aiohttp.ClientConnectorError as error:
            raise WorkloadAbsent("unreachable", f"{self._target.url}: {error.strerror or error}") from None
        except TimeoutError:
            raise NotProven("no_answer", f"expected an answer within {within:.1f} s, found none") from None
        except aiohttp.ClientError as error:
            raise NotProven("no_answer", f"expected an answer, found {error!r}") from None
        quoted = body[:_QUOTED_OF_ANSWER].decode(errors="replace")
        if status in {401, 403}:
            by = f"the token in {self._target.token_file}" if self._target.token_file else "no token_file="
            raise WorkloadAbsent(
                "not_permitted", f"{self._target.url}: expected to be let in with {by}, found status {status}: {quoted}"
            )
        if not 200 <= status < 300:
            raise NotProven("reload_refused", f"expected status 2xx, found {status}: {quoted}")
        return ReloadAnswer(answer=_object(body))

    def _authorization(self) -> dict[str, str]:
        if self._target.token_file is None:
            return {}
        return {"Authorization": f"Bearer {read_token(self._target.token_file)}"}


def _tls(expected: Expectation) -> ssl.SSLContext:
    """Presents and trusts the sets that the application may use at present: it has not loaded the new set yet.

    Its leaf may be of a CA that the new bundle lacks, so this request trusts the CAs of the set before as well.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a bundle without its root is anchored in intermediates
    identities = expected.identities or (expected.directory,)
    try:
        for identity in identities:
            context.load_verify_locations(identity / CA_FILE)
        if (identities[0] / KEY_FILE).exists():
            context.load_cert_chain(identities[0] / LEAF_FILE, identities[0] / KEY_FILE)
    except OSError as error:
        where = ", ".join(map(str, identities))
        raise WorkloadAbsent("unreachable", f"{where}: expected sets to present and trust, found {error}") from None
    return context


def _object(body: bytes) -> dict[str, object]:
    """The JSON object of an answer; empty for any other answer."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
