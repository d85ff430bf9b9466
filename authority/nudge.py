"""An annotation on the agents' pods that mount a Secret, so that their kubelets bring its new content at once.

A kubelet looks after a pod's Secrets about once a minute; whatever changes in the pod makes it look now (0.2 s instead
of up to 90 s). Nothing depends on it: what could not be nudged is told, tried again, and arrives by itself meanwhile.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from authority.any_object import Pod, rows, table
from authority.kubernetes_access import KubernetesError
from authority.kubernetes_client import KubernetesClient, Missing, Selection

AGENT_LABEL = ("tidemark.io/agent", "true")

NUDGE_ANNOTATION = "tidemark.io/nudge"

_AT_ONCE = 16


@dataclass(slots=True)
class Nudge:
    """``complain`` takes what went wrong, in a sentence; what was left undone is done with the next call."""

    client: KubernetesClient
    complain: Callable[[str], None]
    _owed: dict[tuple[str, str], str] = field(default_factory=dict)

    async def pods(self, namespace: str, secret: str, content: str) -> None:
        """Annotate the agents' pods of the namespace that mount the Secret; ``content`` names what it holds now."""
        self._owed[namespace, secret] = content
        await self.again()

    async def again(self) -> None:
        """Do what was left undone."""
        for (namespace, secret), content in list(self._owed.items()):
            try:
                await self._pods(namespace, secret, content)
            except KubernetesError as error:
                self.complain(f"{error}; the kubelets there bring {secret} by themselves, within about 90 s")
            else:
                self._owed.pop((namespace, secret), None)

    async def _pods(self, namespace: str, secret: str, content: str) -> None:
        mounting = Selection(Pod, namespace, labels=(AGENT_LABEL,))
        listing = await self.client.list(mounting, lambda pod: pod.metadata.name if mounts(pod, secret) else "")
        turns = asyncio.Semaphore(_AT_ONCE)

        async def annotate(pod: str) -> None:
            async with turns:
                try:
                    await self.client.annotate(Pod, pod, namespace, {NUDGE_ANNOTATION: content})
                except Missing:
                    return  # the pod is gone

        results = await asyncio.gather(*(annotate(pod) for pod in listing.items if pod), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def mounts(pod: Pod, secret: str) -> bool:
    """Whether the pod has a volume that shows the Secret, by itself or projected with others."""
    for volume in rows(table(pod.raw.get("spec")).get("volumes")):
        if table(volume.get("secret")).get("secretName") == secret:
            return True
        sources = rows(table(volume.get("projected")).get("sources"))
        if any(table(source.get("secret")).get("name") == secret for source in sources):
            return True
    return False
