"""Access to the API: the control CA, bearer tokens and roles."""

import ssl
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.harness.authority.api_calls import clock, refusal
from tests.harness.authority.deployment import AuthorityDeployment, answers
from tests.harness.waiting import eventually


async def test_api_is_verified_by_the_control_ca_alone(deployment: AuthorityDeployment) -> None:
    bundle = await deployment.bundle("nats-0")
    for context in (ssl.create_default_context(), ssl.create_default_context(cadata=bundle.bundle.ca.decode())):
        async with aiohttp.ClientSession(deployment.url) as session:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get("/livez", ssl=context)


async def test_certificate_of_an_intermediate_ca_gives_no_access(deployment: AuthorityDeployment) -> None:
    ca = (await deployment.bundle("nats-0")).statement.anchors[0].sha256
    await eventually(partial(deployment.has_leaf_of, "nats-0", ca), "the leaf")
    context = await deployment.context()
    context.load_cert_chain(deployment.root / "nats-0/leaf/tls.crt", deployment.root / "nats-0/leaf/tls.key")
    async with aiohttp.ClientSession(deployment.url, connector=aiohttp.TCPConnector(ssl=context)) as session:
        for path in ("/api/v1/receipts", "/api/v1/rotate"):
            status, sentence = await refusal(session, "POST", path, json={"reason": "I have a certificate"})
            assert (status, sentence) == (401, f"{path}: expected a bearer token, found none")
    assert (await deployment.bundle("nats-0")).sequence == 1


async def test_deleted_token_gives_no_access(deployment: AuthorityDeployment) -> None:
    alice = deployment.state / "tokens" / "operator-alice"
    alice.write_text("a" * 40)
    async with deployment.session("a" * 40) as session:

        async def answered(status: int) -> bool:
            return (await refusal(session, "POST", "/api/v1/rotate", json={}))[0] == status

        await eventually(partial(answered, 400), "the token to count")
        alice.unlink()
        await eventually(partial(answered, 401), "the token to be worth nothing")


async def test_each_role_has_its_own_token(
    deployment: AuthorityDeployment, agent: aiohttp.ClientSession, operator: aiohttp.ClientSession
) -> None:
    assert await refusal(operator, "POST", "/api/v1/receipts", data=b"{}") == (
        403,
        "/api/v1/receipts: expected the token of an agent, found that of operator",
    )
    assert await refusal(agent, "POST", "/api/v1/rotate", json={"reason": "why not"}) == (
        403,
        "/api/v1/rotate: expected the token of an operator, found that of agent",
    )
    for wrong in ("x", deployment.token("agent")[:-1], "ä" * 40):
        async with aiohttp.ClientSession(
            deployment.url, connector=aiohttp.TCPConnector(ssl=await deployment.context())
        ) as stranger:
            status, sentence = await refusal(
                stranger, "POST", "/api/v1/receipts", headers={"Authorization": f"Bearer {wrong}"}
            )
        assert (status, sentence) == (401, "/api/v1/receipts: expected a bearer token, found one that is not known")


async def test_closed_reads_need_a_token_of_any_role(tmp_path: Path) -> None:
    deployment = AuthorityDeployment.create(tmp_path / "deployment", preset="testing", open_reads=False)
    deployment.init()
    async with deployment.running(clock):
        async with deployment.session() as stranger:
            for path in ("/metrics", "/api/v1/status", "/api/v1/fleet", "/api/v1/bundles", "/api/v1/bundles/1"):
                status, sentence = await refusal(stranger, "GET", path)
                assert (status, sentence) == (401, f"{path}: expected a bearer token, found none")
            assert await answers(stranger, "/livez")
            assert await answers(stranger, "/readyz")
        for role in ("agent", "operator"):
            async with deployment.session(deployment.token(role)) as session:
                assert await answers(session, "/api/v1/status")
