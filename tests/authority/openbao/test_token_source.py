"""Tokens on the real server: renewed, replaced by another login, or reported as revoked."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import (
    OpenBaoLoginRefused,
    TokenRevoked,
)
from authority.openbao.login import KubernetesLogin, Login, TokenLogin
from tests.harness.openbao.open_mount import POLICY, login_of, token_of, write
from tests.harness.openbao.server import QUICK, OpenBaoNamespace
from tests.harness.waiting import eventually


async def test_revoked_token_is_replaced_by_another_login(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(await login_of(vault))) as client:
        first = await token_of(client)
        await vault.client.write("auth/token/revoke", {"token": first})
        await write(client, 0)
        assert await token_of(client) != first


async def test_revoked_token_of_an_operator_raises_token_revoked(vault: OpenBaoNamespace) -> None:
    async with vault.server.operator(vault.namespace) as operator:
        await operator.write("sys/policies/acl/open", {"policy": POLICY})
        async with OpenBaoClient(vault.access(await login_of(vault))) as other:
            token = await token_of(other)
        async with OpenBaoClient(vault.access(TokenLogin(token))) as client:
            await write(client, 0)
            await operator.write("auth/token/revoke", {"token": token})
            with pytest.raises(TokenRevoked, match="expected OpenBao to know our token, found it revoked or expired"):
                await write(client, 1)
            assert token not in repr(client.__dict__)
        async with OpenBaoClient(vault.access(TokenLogin(token))) as late:
            with pytest.raises(TokenRevoked, match="expected OpenBao to know our token, found 403"):
                await write(late, 1)


async def test_wrong_and_missing_credentials_are_refused(vault: OpenBaoNamespace) -> None:
    login = await login_of(vault)
    cases: list[tuple[Login, str]] = [
        (replace(login, secret_id="sesame"), r"auth/approle/login: expected OpenBao to accept the login, found 400"),
        (replace(login, secret_id=""), "expected the AppRole's secret id in TIDEMARK_OPENBAO_SECRET_ID, found none"),
        (TokenLogin(""), "expected a token in TIDEMARK_OPENBAO_TOKEN, found none"),
        (KubernetesLogin("tidemark", Path("/nowhere/token")), "/nowhere/token: expected the service account's token"),
    ]
    for wrong, message in cases:
        async with OpenBaoClient(vault.access(wrong), QUICK) as client:
            with pytest.raises(OpenBaoLoginRefused, match=message) as caught:
                await client.read("secret/data/open/door")
        assert "sesame" not in f"{caught.value}{wrong!r}"


async def test_token_is_renewed_before_expiry_and_replaced_at_its_longest_life(vault: OpenBaoNamespace) -> None:
    lives: dict[str, list[bool]] = {}
    async with (
        OpenBaoClient(vault.access(await login_of(vault, life="1s", longest="2s"))) as client,
        asyncio.timeout(30),
    ):
        while len(lives) < 2:
            token = await client.read("auth/token/lookup-self") or {}
            lives.setdefault(str(token["id"]), []).append("last_renewal" in token)
            await asyncio.sleep(0.05)
    assert next(iter(lives.values()))[-1], "the first token was never renewed"


async def test_token_that_expired_unused_is_replaced(vault: OpenBaoNamespace) -> None:
    async with OpenBaoClient(vault.access(await login_of(vault, life="1s"))) as client:
        first = await token_of(client)
        await eventually(lambda: is_gone(vault, first), "the token to expire")
        assert await token_of(client) != first


async def is_gone(vault: OpenBaoNamespace, token: str) -> bool:
    async with OpenBaoClient(vault.access(TokenLogin(token)), QUICK) as client:
        try:
            await token_of(client)
        except TokenRevoked:
            return True
    return False


async def test_kubernetes_login_reads_the_token_for_each_login(vault: OpenBaoNamespace, tmp_path: Path) -> None:
    reviewed: list[str] = []

    async def review(request: web.Request) -> web.Response:
        """TokenReview (authentication.k8s.io/v1) as an API server answers it."""
        asked = await request.json()
        reviewed.append(asked["spec"]["token"])
        if reviewed[-1] == jwt("expired"):
            error = "[invalid bearer token, service account token has expired]"
            return web.json_response({**asked, "status": {"user": {}, "error": error}}, status=201)
        user = {
            "username": "system:serviceaccount:nats:tidemark-authority",
            "uid": "7f2d",
            "groups": ["system:serviceaccounts"],
        }
        status = {"authenticated": True, "user": user, "audiences": ["openbao"]}
        return web.json_response({**asked, "status": status}, status=201)

    api = web.Application()
    api.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    runner = web.AppRunner(api)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        await vault.client.write("sys/auth/kubernetes", {"type": "kubernetes"})
        config = {
            "kubernetes_host": f"http://127.0.0.1:{port}",
            "kubernetes_ca_cert": vault.server.ca_file.read_text(),
            "disable_local_ca_jwt": True,
            "disable_iss_validation": True,
        }
        await vault.client.write("auth/kubernetes/config", config)
        role = {
            "bound_service_account_names": "tidemark-authority",
            "bound_service_account_namespaces": "nats",
            "audience": "openbao",
            "token_policies": ["open"],
        }
        await vault.client.write("auth/kubernetes/role/tidemark", role)
        jwt_file = tmp_path / "token"
        jwt_file.write_text(jwt("1") + "\n")
        login = KubernetesLogin("tidemark", jwt_file)
        async with OpenBaoClient(vault.access(login), QUICK) as client:
            await write(client, 0)
            jwt_file.write_text(jwt("2") + "\n")
            await vault.client.write("auth/token/revoke", {"token": await token_of(client)})
            await write(client, 1)
            jwt_file.write_text(jwt("expired"))
            await vault.client.write("auth/token/revoke", {"token": await token_of(client)})
            with pytest.raises(
                OpenBaoLoginRefused, match=r"auth/kubernetes/login: expected OpenBao to accept the login"
            ) as refused:
                await write(client, 2)
        assert reviewed == [jwt("1"), jwt("2"), jwt("expired")]
        assert jwt("expired") not in str(refused.value)
    finally:
        await runner.cleanup()


def jwt(number: str) -> str:
    """A service account's token, as far as anybody here looks at it."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:nats:tidemark-authority",
        "aud": ["openbao"],
        "jti": number,
        "exp": 4_000_000_000,
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "kubernetes.io": {
            "namespace": "nats",
            "serviceaccount": {"name": "tidemark-authority", "uid": "7f2d"},
        },
    }
    return f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.{part('signature')}"
