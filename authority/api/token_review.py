"""Identifies agents by Kubernetes' TokenReview: the kubelet projects a token for this audience, bound to the pod.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/. An answer is remembered
for a few minutes by the token's hash. A pod that ends meanwhile leaves the fleet, so its token is of no use.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from lightkube.models.authentication_v1 import TokenReviewSpec, TokenReviewStatus
from lightkube.resources.authentication_v1 import TokenReview

from authority.api.tokens import TokenReviewUnavailable
from authority.fleet.members import PodIdentity
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import ApiServerUnreachable, KubernetesError

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"

KNOWN_SECONDS = 300.0
"""How long a valid token is remembered: otherwise every heartbeat of ten thousand agents would be a review."""

REVIEW_SECONDS = 5.0
"""How long to wait for a review: the agent sends its receipt again."""

AWAY_SECONDS = 2.0
"""Pause after an API server gave no answer. Then one review tries; others wait for none until it succeeds."""

_REFUSED_SECONDS = 10.0
_REMEMBERED = 20_000
_AT_ONCE = 32
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class _Answer:
    sender: PodIdentity | None
    until: float


class KubernetesTokenReviewer:
    """Implements ``TokenReviewer``."""

    def __init__(self, client: KubernetesClient, audience: str) -> None:
        self._client = client
        self._audience = audience
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._outage = ""  # why the last review got no answer, "" where it got one
        self._retry_at = 0.0

    async def sender(self, token: str) -> PodIdentity | None:
        """The pod that the token is bound to; None where the token is not valid for this audience.

        Raises TokenReviewUnavailable.
        """
        if not token.isascii():  # RFC 6750 allows ASCII only, and nothing else fits into the review
            return None
        digest = hashlib.sha256(token.encode()).digest()
        clock = asyncio.get_running_loop().time
        known = self._answers.get(digest)
        if known is not None and clock() < known.until:
            return known.sender
        sender = sender_of(await self._review_in_turn(token), self._audience)
        self._answers[digest] = _Answer(sender, clock() + (KNOWN_SECONDS if sender else _REFUSED_SECONDS))
        self._answers.move_to_end(digest)
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return sender

    async def _review_in_turn(self, token: str) -> TokenReviewStatus | None:
        """Review a token, a few at a time; refuse at once during an outage: waiting receipts would hold up the API."""
        now, outage = asyncio.get_running_loop().time(), self._outage
        if outage and now < self._retry_at:
            raise TokenReviewUnavailable(outage)
        # During an outage this review is the one that tries: until it has ended, the next ones are refused above.
        self._retry_at = now + REVIEW_SECONDS
        async with self._turns:
            # An outage that began while this review waited for its turn: the others found out already.
            if self._outage and not outage:
                raise TokenReviewUnavailable(self._outage)
            return await self._review(token)

    async def _review(self, token: str) -> TokenReviewStatus | None:
        spec = TokenReviewSpec(token=token, audiences=[self._audience])
        try:
            async with asyncio.timeout(REVIEW_SECONDS):
                review = await self._client.create(TokenReview(spec=spec))
        except (ApiServerUnreachable, TimeoutError) as error:
            self._outage = str(error) or f"kubernetes: expected a review within {REVIEW_SECONDS:g} s, found no answer"
            self._retry_at = asyncio.get_running_loop().time() + AWAY_SECONDS
            raise TokenReviewUnavailable(self._outage) from None
        except KubernetesError as error:
            raise TokenReviewUnavailable(str(error)) from None
        self._outage = ""
        return review.status


def sender_of(status: TokenReviewStatus | None, audience: str) -> PodIdentity | None:
    """The pod that a review names; None where the token is not valid, of another audience, or bound to no pod; pure."""
    if status is None or not status.authenticated or audience not in (status.audiences or ()):
        return None
    user = status.user
    if user is None or not (user.username or "").startswith(_ACCOUNT):
        return None
    namespace = (user.username or "").removeprefix(_ACCOUNT).partition(":")[0]
    extra = user.extra or {}
    name, uid = (next(iter(extra.get(key) or ()), "") for key in (POD_NAME, POD_UID))
    return PodIdentity(namespace, name, uid) if name and uid else None
