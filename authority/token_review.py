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

from authority.kubernetes_access import KubernetesError
from authority.kubernetes_client import KubernetesClient
from authority.tokens import NotReviewed, Sender

POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"

KNOWN_SECONDS = 300.0
"""How long a good answer is believed: the heartbeats of ten thousand agents would each be a question otherwise."""

_REFUSED_SECONDS = 10.0
_REMEMBERED = 20_000
_AT_ONCE = 32
_ACCOUNT = "system:serviceaccount:"


@dataclass(frozen=True, slots=True)
class _Answer:
    sender: Sender | None
    until: float


class TokenReviewer:
    """Keeps to ``authority.tokens.Reviewer``."""

    def __init__(self, client: KubernetesClient, audience: str) -> None:
        self._client = client
        self._audience = audience
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def sender(self, token: str) -> Sender | None:
        """The pod that the token is bound to; None where it is not one of this audience. Raises NotReviewed."""
        if not token.isascii():  # RFC 6750; and nothing else could be sent on
            return None
        digest = hashlib.sha256(token.encode()).digest()
        clock = asyncio.get_running_loop().time
        known = self._answers.get(digest)
        if known is not None and clock() < known.until:
            return known.sender
        async with self._turns:
            try:
                spec = TokenReviewSpec(token=token, audiences=[self._audience])
                review = await self._client.create(TokenReview(spec=spec))
            except KubernetesError as error:
                raise NotReviewed(str(error)) from None
        sender = sender_of(review.status, self._audience)
        self._answers[digest] = _Answer(sender, clock() + (KNOWN_SECONDS if sender else _REFUSED_SECONDS))
        self._answers.move_to_end(digest)
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        return sender


def sender_of(status: TokenReviewStatus | None, audience: str) -> Sender | None:
    """The pod that a review names; None where the token is not good, of another audience or bound to no pod; pure."""
    if status is None or not status.authenticated or audience not in (status.audiences or ()):
        return None
    user = status.user
    if user is None or not (user.username or "").startswith(_ACCOUNT):
        return None
    namespace = (user.username or "").removeprefix(_ACCOUNT).partition(":")[0]
    extra = user.extra or {}
    name, uid = (next(iter(extra.get(key) or ()), "") for key in (POD_NAME, POD_UID))
    return Sender(namespace, name, uid) if name and uid else None
