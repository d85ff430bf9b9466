"""The fleet from Kubernetes: the agents' pods in the configured namespaces, watched (docs/architecture.md, "Fleet").

Expected are running pods with the label ``tidemark.io/agent=true`` that are not being deleted; ``authority.fleet.view``
judges by their readiness and their receipts which of them count. A receipt counts for the pod uid that sent it, as its
token shows.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from authority.fleet.members import PodIdentity, UnexpectedAgent
from authority.fleet.view import ExpectedAgent
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.informer import Informer, WatchFailed
from authority.kubernetes.nudge import AGENT_LABEL
from authority.kubernetes.raw_objects import Pod, fields_of, items_of, text_of
from authority.kubernetes.selection import Selection
from tidemark.receipt import PodClass, Receipt

CLASS_LABEL = "tidemark.io/class"

_PHASES = frozenset({"Pending", "Running", "Succeeded", "Failed", "Unknown"})
_NOT_RUNNING = frozenset({"Pending", "Succeeded", "Failed"})
_STATUSES = ("True", "False", "Unknown")
_NOBODY = "?"  # no token has this uid, so no receipt counts for the pod


@dataclass(frozen=True, slots=True)
class AgentPod:
    """What is kept of a pod. ``since`` (Unix seconds) is when its readiness last changed.

    ``strange`` names what could not be read of it.
    """

    namespace: str
    name: str
    uid: str
    pod_class: PodClass
    is_running: bool
    is_terminating: bool
    is_ready: bool
    since: int
    strange: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """``namespace/name``: what the agent is called in the fleet."""
        return f"{self.namespace}/{self.name}"


def agent_pod(pod: Pod) -> AgentPod:
    """Take from a pod what is kept of it; pure.

    What it does not say, or says in a way that nobody understands, is taken as what keeps the gate closed: a required
    agent that is there and ready, and has proven nothing.
    """
    metadata, status = fields_of(pod.raw.get("metadata")), fields_of(pod.raw.get("status"))
    uid, phase, deleted = (
        text_of(metadata.get("uid")),
        text_of(status.get("phase")),
        text_of(metadata.get("deletionTimestamp")),
    )
    conditions = items_of(status.get("conditions"))
    ready = next((condition for condition in conditions if condition.get("type") == "Ready"), None)
    instants = (
        ready.get("lastTransitionTime") if ready is not None else None,
        status.get("startTime"),
        metadata.get("creationTimestamp"),
    )
    since = next((_instant(instant) for instant in instants if instant is not None), None)
    is_legible = {
        "metadata.name": bool(pod.metadata.name),
        "metadata.namespace": bool(pod.metadata.namespace),
        "metadata.uid": bool(uid),
        "metadata.deletionTimestamp": bool(deleted) or metadata.get("deletionTimestamp") is None,
        "status.phase": phase in _PHASES,
        "status.conditions": isinstance(status.get("conditions") or [], list) and all(conditions),
        "status of the condition Ready": ready is None or ready.get("status") in _STATUSES,
        "the instants": since is not None,
    }
    strange = tuple(name for name, legible in is_legible.items() if not legible)
    is_application = fields_of(metadata.get("labels")).get(CLASS_LABEL) == PodClass.APPLICATION
    return AgentPod(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=uid or _NOBODY,
        pod_class=PodClass.APPLICATION if is_application else PodClass.REQUIRED,
        is_running=phase not in _NOT_RUNNING,
        is_terminating=bool(deleted),
        is_ready=bool(strange) or (ready is not None and ready["status"] == "True"),
        since=since or 0,
        strange=strange,
    )


def _instant(value: object) -> int | None:
    """Unix seconds of an RFC 3339 instant; None where it is none."""
    try:
        instant = datetime.fromisoformat(text_of(value))
        return int(instant.timestamp()) if instant.tzinfo is not None else None
    except ValueError:
        return None


def expected(pods: Sequence[AgentPod]) -> tuple[ExpectedAgent, ...]:
    """Running pods that nobody deletes, in the order of their names; pure."""
    return tuple(
        ExpectedAgent(pod.full_name, pod.pod_class, pod.uid, pod.is_ready, pod.since)
        for pod in sorted(pods, key=lambda pod: pod.full_name)
        if pod.is_running and not pod.is_terminating
    )


class PodMembers:
    """Implements ``Members``. ``on_change`` is called when pods came, changed or went.

    A namespace whose pods nobody can say makes the whole fleet unreadable; a pod that cannot be read does not, and is
    waited for. ``failed`` takes both.
    """

    def __init__(
        self, client: KubernetesClient, namespaces: Sequence[str], on_change: Callable[[], None], failed: WatchFailed
    ) -> None:
        self._on_change = on_change
        self._failed = failed
        self._expected: tuple[ExpectedAgent, ...] | None = None
        self._watches = {
            namespace: Informer(
                client, Selection(Pod, namespace, labels=(AGENT_LABEL,)), self._take, self._changed, failed
            )
            for namespace in namespaces
        }

    def expected(self) -> tuple[ExpectedAgent, ...] | None:
        """The agents that should be there; None where nobody can say."""
        pods: list[AgentPod] = []
        if not all(watch.is_synced for watch in self._watches.values()):
            return None
        if self._expected is None:
            for watch in self._watches.values():
                pods += watch.objects or ()
            self._expected = expected(pods)
        return self._expected

    def admit(self, receipt: Receipt, sender: PodIdentity | None) -> Receipt:
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

    def _take(self, pod: Pod) -> AgentPod:
        taken = agent_pod(pod)
        if taken.strange:
            found = f"found {', '.join(taken.strange)} missing or strange; it is waited for as one that is ready"
            self._failed(f"pod {taken.full_name}", f"pod {taken.full_name}: expected a pod, {found}", 0.0)
        return taken

    def _changed(self) -> None:
        self._expected = None
        self._on_change()
