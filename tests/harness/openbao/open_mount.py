"""A namespace with a KV mount that a policy opens in part, and what a client of it does."""

from authority.openbao.client import OpenBaoClient
from authority.openbao.login import AppRoleLogin
from tests.harness.openbao.server import OpenBaoNamespace

POLICY = 'path "secret/data/open/*" { capabilities = ["create", "read", "update"] }\n'
LONG = (0.05,) * 100
"""Pauses for tests that mend what is broken."""


async def open_mount(space: OpenBaoNamespace) -> None:
    """Make KV v2 and a policy that opens a part of it."""
    await space.client.write("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    await space.client.write("sys/policies/acl/open", {"policy": POLICY})


async def login_of(vault: OpenBaoNamespace, life: str = "10m", longest: str = "10m") -> AppRoleLogin:
    return await vault.approle({"token_policies": ["open"], "token_ttl": life, "token_max_ttl": longest})


async def token_of(client: OpenBaoClient) -> str:
    return str((await client.read("auth/token/lookup-self") or {})["id"])


async def write(client: OpenBaoClient, version: int, *, repeatable: bool = True) -> None:
    body = {"options": {"cas": version}, "data": {"version": version}}
    await client.write("secret/data/open/door", body, repeatable=repeatable)
