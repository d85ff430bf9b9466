"""Receipts' tokens are reviewed by the API server, for our audience and bound to a pod, and remembered for a while."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from aiohttp import web
from lightkube.models.authentication_v1 import TokenReviewStatus, UserInfo

from authority.api import token_review
from authority.api.token_review import POD_NAME, POD_UID, KubernetesTokenReviewer, sender_of
from authority.api.tokens import TokenReviewUnavailable
from authority.fleet.members import PodIdentity
from authority.kubernetes.client import KubernetesClient
from tests.harness.kubernetes.apiserver import Answering, ApiServer
from tests.harness.kubernetes.kinds import POD
from tests.harness.waiting import eventually

OURS = "tidemark-authority"


@pytest.fixture
def uid(server: ApiServer) -> str:
    return str(server.store.put(POD, {"metadata": {"name": "nats-0", "namespace": "tidemark"}})["metadata"]["uid"])


def asked(server: ApiServer) -> int:
    return sum("tokenreviews" in line for line in server.requests)


async def test_token_identifies_the_pod_that_it_is_bound_to(
    server: ApiServer, client: KubernetesClient, uid: str
) -> None:
    reviewer = KubernetesTokenReviewer(client, OURS)
    token = server.accounts.issue("tidemark", "nats", audience=OURS, pod=("nats-0", uid))
    assert await reviewer.sender(token) == PodIdentity("tidemark", "nats-0", uid)
    assert await reviewer.sender(token) == PodIdentity("tidemark", "nats-0", uid)
    assert asked(server) == 1


async def test_token_of_another_audience_or_kind_is_refused(
    server: ApiServer, client: KubernetesClient, uid: str
) -> None:
    reviewer = KubernetesTokenReviewer(client, OURS)
    for token in (
        server.accounts.issue("tidemark", "nats", pod=("nats-0", uid)),  # of the API server's audience
        server.accounts.issue("tidemark", "nats", audience=OURS),  # bound to no pod
        server.accounts.issue("tidemark", "nats", audience=OURS, pod=("nats-0", uid), seconds=-1),  # expired
        server.accounts.issue("tidemark", "nats", audience=OURS, pod=("nats-0", "gone")),
        "no token at all \udcff",
    ):
        assert await reviewer.sender(token) is None


async def test_review_is_remembered_for_a_while(
    server: ApiServer, client: KubernetesClient, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_review, "KNOWN_SECONDS", 0.0)
    reviewer = KubernetesTokenReviewer(client, OURS)
    token = server.accounts.issue("tidemark", "nats", audience=OURS, pod=("nats-0", uid))
    assert await reviewer.sender(token) is not None
    server.accounts.expire(token)
    assert await reviewer.sender(token) is None
    assert asked(server) == 2


async def test_unreachable_api_server_makes_review_unavailable(server: ApiServer, client: KubernetesClient) -> None:
    await server.stop()
    with pytest.raises(TokenReviewUnavailable, match="expected to create tokenreview") as error:
        await KubernetesTokenReviewer(client, OURS).sender("a secret token")
    assert "a secret token" not in str(error.value)
    await server.start()


async def test_during_an_outage_one_review_waits_and_others_fail_at_once(
    server: ApiServer, client: KubernetesClient, uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten thousand agents each would hold a place at the door until it leaves, and keep operators out."""
    monkeypatch.setattr(token_review, "REVIEW_SECONDS", 0.2)
    monkeypatch.setattr(token_review, "AWAY_SECONDS", 0.5)
    silence = asyncio.Event()

    async def silent(request: web.Request, handle: Answering) -> web.StreamResponse:
        await silence.wait()
        return await handle(request)

    server.interfere = silent
    reviewer = KubernetesTokenReviewer(client, OURS)
    reviews = [reviewer.sender(f"token {number}") for number in range(100)]
    answers = await asyncio.gather(*reviews, return_exceptions=True)
    assert {str(answer) for answer in answers} == {"kubernetes: expected a review within 0.2 s, found no answer"}
    with pytest.raises(TokenReviewUnavailable):
        await reviewer.sender("at once")
    assert asked(server) <= 32, "who waited for a turn is not waited for any more"
    monkeypatch.setattr(token_review, "REVIEW_SECONDS", 10.0)
    silence.set()
    server.interfere = None
    token = server.accounts.issue("tidemark", "nats", audience=OURS, pod=("nats-0", uid))

    async def reviewed() -> PodIdentity | None:
        with suppress(TokenReviewUnavailable):
            return await reviewer.sender(token)
        return None

    assert await eventually(reviewed, "an answer") == PodIdentity("tidemark", "nats-0", uid)
    assert await reviewer.sender("another") is None


def status(**changes: Any) -> TokenReviewStatus:
    user = UserInfo(username="system:serviceaccount:nats:agent", extra={POD_NAME: ["nats-0"], POD_UID: ["u"]})
    fields: dict[str, Any] = {"authenticated": True, "audiences": [OURS], "user": user} | changes
    return TokenReviewStatus(**fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"authenticated": None},
        {"authenticated": False},
        {"audiences": None},  # the server knows nothing of audiences: good for the API server alone
        {"audiences": ["another"]},
        {"user": None},
        {"user": UserInfo(username="system:node:n1", extra={POD_NAME: ["nats-0"], POD_UID: ["u"]})},
        {"user": UserInfo(username="system:serviceaccount:nats:agent")},
        {"user": UserInfo(username="system:serviceaccount:nats:agent", extra={POD_NAME: ["nats-0"], POD_UID: []})},
    ],
)
def test_unusable_review_identifies_no_pod(changes: dict[str, object]) -> None:
    assert sender_of(status(), OURS) == PodIdentity("nats", "nats-0", "u")
    assert sender_of(status(**changes), OURS) is None
