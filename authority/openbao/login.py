"""How the authority logs in to OpenBao: token, AppRole or Kubernetes."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from authority.openbao.errors import OpenBaoLoginRefused

Json = dict[str, Any]


class Login(Protocol):
    """How the client gets a token."""

    async def request(self) -> tuple[str, Json] | str:
        """Path and body of the login; or the token itself, where an operator made it. Raises OpenBaoLoginRefused."""


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """A token that an operator made: renewed as far as its longest life allows, never replaced."""

    token: str = field(repr=False)

    async def request(self) -> str:
        """The token. Raises OpenBaoLoginRefused where there is none."""
        if not self.token:
            raise OpenBaoLoginRefused("OpenBao: expected a token in TIDEMARK_OPENBAO_TOKEN, found none")
        return self.token


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """``auth/approle``: a role id, which is no secret, and a secret id, which is."""

    role_id: str
    secret_id: str = field(repr=False)
    mount: str = "approle"

    async def request(self) -> tuple[str, Json]:
        """Path and body of the login. Raises OpenBaoLoginRefused where there is no secret id."""
        if not self.secret_id:
            raise OpenBaoLoginRefused(
                "OpenBao: expected the AppRole's secret id in TIDEMARK_OPENBAO_SECRET_ID, found none"
            )
        return f"auth/{self.mount}/login", {"role_id": self.role_id, "secret_id": self.secret_id}


@dataclass(frozen=True, slots=True)
class KubernetesLogin:
    """``auth/kubernetes``: the pod's service-account token, read for each login because the kubelet replaces it."""

    role: str
    jwt_file: Path
    mount: str = "kubernetes"

    async def request(self) -> tuple[str, Json]:
        """Path and body of the login. Raises OpenBaoLoginRefused where the token cannot be read."""
        try:
            jwt = (await asyncio.to_thread(self.jwt_file.read_text)).strip()
        except (OSError, ValueError) as error:
            raise OpenBaoLoginRefused(f"{self.jwt_file}: expected the service account's token, found {error}") from None
        return f"auth/{self.mount}/login", {"role": self.role, "jwt": jwt}


@dataclass(frozen=True, slots=True)
class OpenBaoAccess:
    """Where OpenBao is, and how to log in."""

    url: str
    login: Login
    namespace: str = ""
    ca_file: Path | None = None
    """The CA that signed OpenBao's certificate; the file may be replaced at any time. None trusts the system's CAs."""
