"""Whose token is it? Agents send receipts with a token that the kubelet projects for this audience, bound to their pod.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/. An answer is remembered
for a few minutes by the token's hash: a pod that is gone meanwhile is gone from the fleet, whatever its token is worth.
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
"""How long a good answer is believed: the heartbeats of ten thousand agents would each be a question otherwise."""

REVIEW_SECONDS = 5.0
"""How long an answer is waited for: an agent sends its receipt again."""

AWAY_SECONDS = 2.0
"""After an API server that did not answer is found away: the next is asked then, and until it answers no other."""

_REFUSED_SECONDS = 10.0
_REMEMBERED = 20_000
_AT_ONCE = 32
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class _Answer:
    sender: PodIdentity | None
    until: float


class KubernetesTokenReviewer:
    """Implements ``Reviewer``."""

    def __init__(self, client: KubernetesClient, audience: str) -> None:
        self._client = client
        self._audience = audience
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._away = ""
        self._ask_at = 0.0

    async def sender(self, token: str) -> PodIdentity | None:
        """The pod that the token is bound to; None where it is not one of this audience.

        Raises TokenReviewUnavailable.
        """
        if not token.isascii():  # RFC 6750; and nothing else could be sent on
            return None
        digest = hashlib.sha256(token.encode()).digest()
        clock = asyncio.get_running_loop().time
        known = self._answers.get(digest)
        if known is not None and clock() < known.until:
            return known.sender
        sender = sender_of(await self._in_turn(token), self._audience)
        self._answers[digest] = _Answer(sender, clock() + (KNOWN_SECONDS if sender else _REFUSED_SECONDS))
        self._answers.move_to_end(digest)
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return sender

    async def _in_turn(self, token: str) -> TokenReviewStatus | None:
        """Have it reviewed; refuse at once where others wait in vain, or thousands of them would keep all else out."""
        now, was_away = asyncio.get_running_loop().time(), self._away
        if was_away and now < self._ask_at:
            raise TokenReviewUnavailable(was_away)
        self._ask_at = now + REVIEW_SECONDS  # by then this one knows
        async with self._turns:
            if self._away and not was_away:
                raise TokenReviewUnavailable(self._away)
            return await self._review(token)

    async def _review(self, token: str) -> TokenReviewStatus | None:
        spec = TokenReviewSpec(token=token, audiences=[self._audience])
        try:
            async with asyncio.timeout(REVIEW_SECONDS):
                review = await self._client.create(TokenReview(spec=spec))
        except (ApiServerUnreachable, TimeoutError) as error:
            self._away = str(error) or f"kubernetes: expected a review within {REVIEW_SECONDS:g} s, found no answer"
            self._ask_at = asyncio.get_running_loop().time() + AWAY_SECONDS
            raise TokenReviewUnavailable(self._away) from None
        except KubernetesError as error:
            raise TokenReviewUnavailable(str(error)) from None
        self._away = ""
        return review.status


def sender_of(status: TokenReviewStatus | None, audience: str) -> PodIdentity | None:
    """The pod that a review names; None where the token is not good, of another audience or bound to no pod; pure."""
    if status is None or not status.authenticated or audience not in (status.audiences or ()):
        return None
    user = status.user
    if user is None or not (user.username or "").startswith(_ACCOUNT):
        return None
    namespace = (user.username or "").removeprefix(_ACCOUNT).partition(":")[0]
    extra = user.extra or {}
    name, uid = (next(iter(extra.get(key) or ()), "") for key in (POD_NAME, POD_UID))
    return PodIdentity(namespace, name, uid) if name and uid else None
