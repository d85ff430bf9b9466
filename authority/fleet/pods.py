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
_UNKNOWN_UID = "?"  # no token has this uid, so no receipt counts for the pod


@dataclass(frozen=True, slots=True)
class AgentPod:
    """The parts of a pod that the fleet needs. Nine fields, since they are one flat record of one object."""

    namespace: str
    name: str
    uid: str
    pod_class: PodClass
    is_running: bool
    is_terminating: bool
    """Whether the pod is being deleted."""
    is_ready: bool
    since: int
    """When the readiness last changed, in Unix seconds."""
    unreadable: tuple[str, ...] = ()
    """The parts of the pod that are missing or not understood."""

    @property
    def full_name(self) -> str:
        """``namespace/name``: what the agent is called in the fleet."""
        return f"{self.namespace}/{self.name}"


def agent_pod(pod: Pod) -> AgentPod:
    """Read the parts of a pod that the fleet needs; pure.

    A part that is missing or not understood is read as the value that keeps the gate closed: a required agent that is
    running and ready, and has proven nothing.
    """
    metadata, status = fields_of(pod.raw.get("metadata")), fields_of(pod.raw.get("status"))
    uid, phase = text_of(metadata.get("uid")), text_of(status.get("phase"))
    deleted = text_of(metadata.get("deletionTimestamp"))
    conditions = items_of(status.get("conditions"))
    ready = next((condition for condition in conditions if condition.get("type") == "Ready"), None)
    transition = ready.get("lastTransitionTime") if ready is not None else None
    instants = (transition, status.get("startTime"), metadata.get("creationTimestamp"))
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
    unreadable = tuple(name for name, legible in is_legible.items() if not legible)
    is_application = fields_of(metadata.get("labels")).get(CLASS_LABEL) == PodClass.APPLICATION
    return AgentPod(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=uid or _UNKNOWN_UID,
        pod_class=PodClass.APPLICATION if is_application else PodClass.REQUIRED,
        is_running=phase not in _NOT_RUNNING,
        is_terminating=bool(deleted),
        is_ready=bool(unreadable) or (ready is not None and ready["status"] == "True"),
        since=since or 0,
        unreadable=unreadable,
    )


def _do_nothing() -> None:
    """Called on a change before anything has subscribed."""


def _instant(value: object) -> int | None:
    """Unix seconds of an RFC 3339 instant; None where ``value`` is not one."""
    try:
        instant = datetime.fromisoformat(text_of(value))
        return int(instant.timestamp()) if instant.tzinfo is not None else None
    except ValueError:
        return None


def expected(pods: Sequence[AgentPod]) -> tuple[ExpectedAgent, ...]:
    """Running pods that are not being deleted, in the order of their names; pure."""
    return tuple(
        ExpectedAgent(pod.full_name, pod.pod_class, pod.uid, pod.is_ready, pod.since)
        for pod in sorted(pods, key=lambda pod: pod.full_name)
        if pod.is_running and not pod.is_terminating
    )


class PodMembers:
    """Implements ``Members``.

    While the pods of one namespace are not known, the whole fleet is unreadable. A single pod that cannot be read does
    not make it so: the gate waits for that pod. ``failed`` is called for both.
    """

    def __init__(self, client: KubernetesClient, namespaces: Sequence[str], failed: WatchFailed) -> None:
        self._on_change: Callable[[], None] = _do_nothing
        self._failed = failed
        self._expected: tuple[ExpectedAgent, ...] | None = None
        self._informers = {
            namespace: Informer(
                client, Selection(Pod, namespace, labels=(AGENT_LABEL,)), self._read, self._pods_changed, failed
            )
            for namespace in namespaces
        }

    def subscribe(self, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called whenever pods come, change or go."""
        self._on_change = on_change

    def expected(self) -> tuple[ExpectedAgent, ...] | None:
        """The agents that should be there; None while the pods of a namespace are not known."""
        pods: list[AgentPod] = []
        if not all(informer.is_synced for informer in self._informers.values()):
            return None
        if self._expected is None:
            for informer in self._informers.values():
                pods += informer.objects or ()
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
        informer = self._informers.get(sender.namespace)
        pod = informer.find(sender.namespace, sender.pod) if informer is not None else None
        if pod is None or pod.uid != sender.uid:
            raise UnexpectedAgent(
                f"receipt of {sender.namespace}/{sender.pod}: expected a pod labelled {'='.join(AGENT_LABEL)} in a "
                f"namespace of kubernetes.fleet, found none with uid {sender.uid!r}"
            )
        return replace(receipt, pod=pod.full_name)

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace, informer in self._informers.items():
                group.create_task(informer.run(), name=f"watch pods in {namespace}")

    def _read(self, pod: Pod) -> AgentPod:
        read = agent_pod(pod)
        if read.unreadable:
            found = f"found {', '.join(read.unreadable)} missing or strange; it is waited for as one that is ready"
            self._failed(f"pod {read.full_name}", f"pod {read.full_name}: expected a pod, {found}", 0.0)
        return read

    def _pods_changed(self) -> None:
        self._expected = None
        self._on_change()
