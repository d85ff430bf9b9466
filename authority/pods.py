"""The fleet from Kubernetes: the agents' pods in the configured namespaces, watched (design, "Fleet").

Expected are running pods with the label ``tidemark.io/agent=true`` that are not being deleted; ``authority.fleet``
judges by their readiness and their receipts which of them count. A receipt counts for the pod uid that sent it, as its
token shows.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lightkube.resources.core_v1 import Pod

from authority.fleet import Expected
from authority.kubernetes_client import KubernetesClient, Selection
from authority.kubernetes_watch import Failing, Watch
from authority.nudge import AGENT_LABEL
from authority.roster import UnexpectedAgent
from authority.tokens import Sender
from tidemark.receipt import PodClass, Receipt

CLASS_LABEL = "tidemark.io/class"


@dataclass(frozen=True, slots=True)
class AgentPod:
    """What is kept of a pod. ``since`` (Unix seconds) is when its readiness last changed."""

    namespace: str
    name: str
    uid: str
    pod_class: PodClass
    is_running: bool
    is_terminating: bool
    is_ready: bool
    since: int

    @property
    def full_name(self) -> str:
        """``namespace/name``: what the agent is called in the fleet."""
        return f"{self.namespace}/{self.name}"


def agent_pod(pod: Pod) -> AgentPod:
    """Take from a pod what is kept of it; pure."""
    metadata, status = pod.metadata, pod.status
    if metadata is None:
        raise ValueError("pod: expected metadata, found none")
    conditions = (status.conditions if status is not None else None) or ()
    ready = next((condition for condition in conditions if condition.type == "Ready"), None)
    instants = (
        ready.lastTransitionTime if ready is not None else None,
        status.startTime if status is not None else None,
        metadata.creationTimestamp,
    )
    since = next((instant for instant in instants if instant is not None), None)
    is_application = (metadata.labels or {}).get(CLASS_LABEL) == PodClass.APPLICATION
    return AgentPod(
        namespace=metadata.namespace or "",
        name=metadata.name or "",
        uid=metadata.uid or "",
        pod_class=PodClass.APPLICATION if is_application else PodClass.REQUIRED,  # what is not known is waited for
        is_running=status is not None and status.phase == "Running",
        is_terminating=metadata.deletionTimestamp is not None,
        is_ready=ready is not None and ready.status == "True",
        since=int(since.timestamp()) if since is not None else 0,
    )


def expected(pods: Sequence[AgentPod]) -> tuple[Expected, ...]:
    """Running pods that nobody deletes, in the order of their names; pure."""
    return tuple(
        Expected(pod.full_name, pod.pod_class, pod.uid, pod.is_ready, pod.since)
        for pod in sorted(pods, key=lambda pod: pod.full_name)
        if pod.is_running and not pod.is_terminating
    )


class PodMembers:
    """Keeps to ``authority.roster.Members``. ``on_change`` is called when pods came, changed or went.

    ``failed`` takes what could not be watched; a namespace whose pods nobody can say makes the whole fleet unreadable.
    """

    def __init__(
        self, client: KubernetesClient, namespaces: Sequence[str], on_change: Callable[[], None], failed: Failing
    ) -> None:
        self._on_change = on_change
        self._expected: tuple[Expected, ...] | None = None
        self._watches = {
            namespace: Watch(client, Selection(Pod, namespace, labels=(AGENT_LABEL,)), agent_pod, self._changed, failed)
            for namespace in namespaces
        }

    def expected(self) -> tuple[Expected, ...] | None:
        """The agents that should be there; None where nobody can say."""
        pods: list[AgentPod] = []
        if not all(watch.is_known for watch in self._watches.values()):
            return None
        if self._expected is None:
            for watch in self._watches.values():
                pods += watch.known or ()
            self._expected = expected(pods)
        return self._expected

    def admit(self, receipt: Receipt, sender: Sender | None) -> Receipt:
        """The receipt under the pod's name in the fleet. Raises UnexpectedAgent."""
        if sender is None:
            raise UnexpectedAgent(f"receipt of {receipt.pod!r}: expected the projected token of its pod, found another")
        if (receipt.pod, receipt.uid) != (sender.pod, sender.uid):
            raise UnexpectedAgent(
                f"receipt of {receipt.pod!r}, uid {receipt.uid!r}: expected that of the pod whose token came with it, "
                f"{sender.pod!r}, uid {sender.uid!r}; set TIDEMARK_POD and TIDEMARK_POD_UID from the downward API"
            )
        watch = self._watches.get(sender.namespace)
        pod = watch.find(sender.namespace, sender.pod) if watch is not None else None
        if pod is None or pod.uid != sender.uid:
            raise UnexpectedAgent(
                f"receipt of {sender.namespace}/{sender.pod}: expected a pod labelled {'='.join(AGENT_LABEL)} in a "
                f"namespace of kubernetes.fleet, found none with uid {sender.uid!r}"
            )
        return replace(receipt, pod=pod.full_name)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace, watch in self._watches.items():
                group.create_task(watch.run(), name=f"watch pods in {namespace}")

    def _changed(self) -> None:
        self._expected = None
        self._on_change()
