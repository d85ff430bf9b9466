"""An annotation on the agents' pods that mount a Secret, so that their kubelets bring its new content at once.

A kubelet syncs a pod's Secrets about once a minute; any change of the pod makes it sync now (0.2 s instead of up to
90 s). Failures are reported and retried; the kubelet syncs anyway.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Never

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import ApiServerUnreachable, KubernetesError, ObjectMissing
from authority.kubernetes.raw_objects import Pod, fields_of, items_of
from authority.kubernetes.selection import Selection

AGENT_LABEL = ("tidemark.io/agent", "true")

NUDGE_ANNOTATION = "tidemark.io/nudge"

AGAIN_SECONDS = 30.0
"""Seconds until a failed nudge is retried."""

_AT_ONCE = 16  # pods that are annotated at the same time


@dataclass(slots=True)
class Nudge:
    """Annotates pods from a task of its own (``run``), so that a publisher waits for no pod."""

    client: KubernetesClient
    complain: Callable[[str], None]
    """Takes a sentence that says what failed; the nudge is retried."""
    _pending: dict[tuple[str, str], str] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def pods(self, namespace: str, secret: str, content: str) -> None:
        """Annotate the agents' pods that mount the Secret, soon; ``content`` names what the Secret holds now."""
        self._pending[namespace, secret] = content
        self._wake.set()

    async def run(self, again_seconds: float = AGAIN_SECONDS) -> Never:
        """Annotate until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again_seconds if self._pending else None):
                    await self._wake.wait()
            self._wake.clear()
            for (namespace, secret), content in list(self._pending.items()):
                try:
                    await self._annotate(namespace, secret, content)
                except KubernetesError as error:
                    self.complain(f"{error}; the kubelets there bring {secret} by themselves, within about 90 s")
                else:
                    # No newer content came meanwhile.
                    if self._pending[namespace, secret] == content:
                        del self._pending[namespace, secret]

    async def _annotate(self, namespace: str, secret: str, content: str) -> None:
        mounting = Selection(Pod, namespace, labels=(AGENT_LABEL,))
        listing = await self.client.list(mounting, lambda pod: pod.metadata.name if mounts(pod, secret) else "")
        turns = asyncio.Semaphore(_AT_ONCE)
        failures: list[KubernetesError] = []

        async def annotate(pod: str) -> None:
            async with turns:
                if any(isinstance(failure, ApiServerUnreachable) for failure in failures):
                    # Without a connection, each further pod would take a minute of tries: hours for a fleet.
                    return
                try:
                    await self.client.annotate(Pod, pod, namespace, {NUDGE_ANNOTATION: content})
                except ObjectMissing:
                    # The pod was deleted.
                    return
                except KubernetesError as error:
                    failures.append(error)

        await asyncio.gather(*(annotate(pod) for pod in listing.items if pod))
        if failures:
            raise failures[0]


def mounts(pod: Pod, secret: str) -> bool:
    """Whether the pod has a volume that shows the Secret, by itself or projected with others."""
    for volume in items_of(fields_of(pod.raw.get("spec")).get("volumes")):
        if fields_of(volume.get("secret")).get("secretName") == secret:
            return True
        sources = items_of(fields_of(volume.get("projected")).get("sources"))
        if any(fields_of(source.get("secret")).get("name") == secret for source in sources):
            return True
    return False
