"""An annotation on the agents' pods that mount a Secret, so that their kubelets bring its new content at once.

A kubelet looks after a pod's Secrets about once a minute; whatever changes in the pod makes it look now (0.2 s instead
of up to 90 s). Nothing depends on it: what could not be nudged is told, tried again, and arrives by itself meanwhile.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Never

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import ApiServerUnreachable, KubernetesError, ObjectMissing
from authority.kubernetes.raw_objects import Pod, rows, table
from authority.kubernetes.selection import Selection

AGENT_LABEL = ("tidemark.io/agent", "true")

NUDGE_ANNOTATION = "tidemark.io/nudge"

AGAIN_SECONDS = 30.0
"""Until what was left undone is tried again."""

_AT_ONCE = 16


@dataclass(slots=True)
class Nudge:
    """``pods`` says what has changed, ``run`` does the rest: whoever writes Secrets waits for no pod.

    ``complain`` takes what went wrong, in a sentence; it is tried again.
    """

    client: KubernetesClient
    complain: Callable[[str], None]
    _owed: dict[tuple[str, str], str] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def pods(self, namespace: str, secret: str, content: str) -> None:
        """Have the agents' pods annotated that mount the Secret; ``content`` names what it holds now."""
        self._owed[namespace, secret] = content
        self._wake.set()

    async def run(self, again_seconds: float = AGAIN_SECONDS) -> Never:
        """Annotate until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(again_seconds if self._owed else None):
                    await self._wake.wait()
            self._wake.clear()
            for (namespace, secret), content in list(self._owed.items()):
                try:
                    await self._pods(namespace, secret, content)
                except KubernetesError as error:
                    self.complain(f"{error}; the kubelets there bring {secret} by themselves, within about 90 s")
                else:
                    if self._owed[namespace, secret] == content:  # nothing newer came meanwhile
                        del self._owed[namespace, secret]

    async def _pods(self, namespace: str, secret: str, content: str) -> None:
        mounting = Selection(Pod, namespace, labels=(AGENT_LABEL,))
        listing = await self.client.list(mounting, lambda pod: pod.metadata.name if mounts(pod, secret) else "")
        turns = asyncio.Semaphore(_AT_ONCE)
        failures: list[KubernetesError] = []

        async def annotate(pod: str) -> None:
            async with turns:
                if any(isinstance(failure, ApiServerUnreachable) for failure in failures):
                    return  # a minute of tries for each of them would be hours
                try:
                    await self.client.annotate(Pod, pod, namespace, {NUDGE_ANNOTATION: content})
                except ObjectMissing:
                    return  # the pod is gone
                except KubernetesError as error:
                    failures.append(error)

        await asyncio.gather(*(annotate(pod) for pod in listing.items if pod))
        if failures:
            raise failures[0]


def mounts(pod: Pod, secret: str) -> bool:
    """Whether the pod has a volume that shows the Secret, by itself or projected with others."""
    for volume in rows(table(pod.raw.get("spec")).get("volumes")):
        if table(volume.get("secret")).get("secretName") == secret:
            return True
        sources = rows(table(volume.get("projected")).get("sources"))
        if any(table(source.get("secret")).get("name") == secret for source in sources):
            return True
    return False
