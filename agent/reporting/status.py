"""The agent's status: the results of its steps, and what health, receipts and ``/status`` say of them; pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agent.selection.trust_set import TrustSet
from tidemark.certificates import not_after
from tidemark.receipt import AgentState, Failure, LeafReport, PodClass, Receipt, TargetReport
from tidemark.strict_json import format_instant
from tidemark.verify import Mark

MAX_JOURNEYS = 50


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Identifies this agent in receipts."""

    pod: str
    """Name of the pod."""
    uid: str
    """UID of the pod."""
    pod_class: PodClass
    """Whether the authority waits for this pod."""
    nonce: str
    """Random, another one at each start."""
    version: str
    """Version of the agent."""


@dataclass(frozen=True, slots=True)
class StatusWarning:
    """Something that an operator should mend, though the agent works.

    ``name`` is one word, and the name of the log event; ``detail`` is a sentence.
    """

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """The connection to the broker, the second source of bundles."""

    connected: bool
    """Whether announcements arrive."""
    detail: str
    """The server's URL; where there is no connection, why."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One completed journey, as ``/status`` shows it: a field for each key of the JSON, hence nine."""

    number: int
    """Counts the journeys since the start."""
    sequence: int
    """Of the statement; of a rejected bundle its own claim (0: unreadable)."""
    digest: str
    """Of the statement; of a rejected bundle its own claim ("": unreadable)."""
    leaf_sha256: str | None
    """Fingerprint of the leaf; None where the set has none or there was no set."""
    leaf_issuer_sha256: str | None
    """Fingerprint of the CA that signed the leaf; None where it is not known."""
    swapped_at: float
    """When the sources switched, in Unix seconds."""
    proven_at: float | None
    """When the last workload had proven the set, in Unix seconds; None where the journey ended otherwise."""
    outcome: str
    """The AgentState that it ended in (``installed``: superseded before it was proven), the reason for which the bundle
    was rejected, ``leaf_<reason>`` where the first set lacks a fitting leaf, or ``install_failed``."""
    stages: dict[str, float]
    """Duration of each stage, in seconds."""


@dataclass(frozen=True, slots=True)
class InstalledStatus:
    """The facts of the installed set that readiness and alerts need; instants in Unix seconds."""

    mark: Mark
    """Sequence and digest of its statement."""
    epoch: int
    """The epoch of its newest CA."""
    expires_at: int
    """When the bundle expires."""
    next_update: int
    """When a newer statement is due."""
    intermediates: tuple[tuple[int, int], ...]
    """``notBefore`` and ``notAfter`` of each intermediate CA."""
    leaf_not_after: int | None
    """When the leaf expires; None where the set has none."""
    heartbeat: float
    """How often a receipt is due, in seconds."""
    epoch_seconds: int
    """Length of an epoch (D)."""

    @classmethod
    def of(cls, trust_set: TrustSet) -> "InstalledStatus":
        """The facts of ``trust_set``."""
        statement, leaf = trust_set.verified.statement, trust_set.leaf
        return cls(
            mark=trust_set.mark,
            epoch=statement.epoch,
            expires_at=statement.expires_at,
            next_update=statement.next_update,
            intermediates=tuple((anchor.not_before, anchor.not_after) for anchor in statement.intermediates),
            leaf_not_after=not_after(leaf.certificate) if leaf else None,
            heartbeat=min(statement.clock.epoch_seconds / 4, 60.0),
            epoch_seconds=statement.clock.epoch_seconds,
        )


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """Everything that the agent reports. One flat value with many fields, because ``/status`` and receipts are flat."""

    identity: AgentIdentity
    state: AgentState = AgentState.STARTING
    targets: tuple[TargetReport, ...] = ()
    """One report for each target, in the order of the configuration."""
    highest: Mark | None = None
    """The highest statement that was ever verified."""
    installed: InstalledStatus | None = None
    """The set in the output directory."""
    proven: Mark | None = None
    """The statement that the workloads proved last."""
    reverted: Mark | None = None
    """The statement that was replaced by the last proven one; None after the next proof."""
    leaf: LeafReport | None = None
    """The leaf of the proven set."""
    failure: Failure | None = None
    """What is wrong now."""
    warnings: tuple[StatusWarning, ...] = ()
    """The warnings of the steps; ``warnings_at`` adds those that time brings about."""
    journeys: tuple[Journey, ...] = ()
    """The last ones, oldest first."""
    keys: tuple[str, ...] = ()
    """Name and hash of each verifier key of the trust file."""
    newest: int | None = None
    """The sequence that the authority named in its last answer to a receipt."""
    broker: BrokerStatus | None = None
    """None where no broker is configured, or none was asked yet."""
    polled: tuple[str, ...] = ()
    """Paths of the mounts whose changes are found by polling."""
    stages: dict[str, float] = field(default_factory=dict)
    """Duration of each stage of the last proven journey, in seconds."""


def state_of_proof(trust_set: TrustSet) -> AgentState:
    """The state once every workload has proven the set."""
    return AgentState.LEAF_ORPHANED if trust_set.orphaned else AgentState.PROVEN


def with_journey(journeys: Sequence[Journey], journey: Journey) -> tuple[Journey, ...]:
    """``journeys`` and one more, oldest first, at most ``MAX_JOURNEYS``."""
    return (*journeys, journey)[-MAX_JOURNEYS:]


def is_under_way(status: AgentStatus) -> bool:
    """Whether a set is on its way to the workloads, so that a receipt a moment later says more."""
    if status.state in (AgentState.REVERTED, AgentState.RELOAD_REFUSED) or status.failure is not None:
        return False
    return status.highest is not None and status.highest != status.proven


def unstarted(status: AgentStatus) -> list[str]:
    """Why the workload must not start yet; empty once a verified set is in the output directory."""
    if status.installed is not None:
        return []
    return [f"no verified set is installed yet{_because(status)}"]


def unready(status: AgentStatus, now: int) -> list[str]:
    """Why the pod is not ready; empty when it is. The authority's absence or an old bundle is no reason."""
    reasons = unstarted(status)
    if status.proven is None:
        reasons.append(f"the workload has not taken a set yet{_because(status)}")
    if status.installed and not any(begin <= now <= end for begin, end in status.installed.intermediates):
        reasons.append("no installed intermediate is valid now")
    return reasons


def _because(status: AgentStatus) -> str:
    return f": {status.failure.reason}: {status.failure.detail}" if status.failure else ""


def warnings_at(status: AgentStatus, now: int) -> list[StatusWarning]:
    """The warnings of the steps, and those that time brings about."""
    warnings = list(status.warnings)
    if status.broker is not None and not status.broker.connected:
        warnings.append(StatusWarning("broker_away", status.broker.detail))
    installed = status.installed
    if installed is None:
        return warnings
    if now > installed.expires_at:
        warnings.append(
            StatusWarning("bundle_expired", f"the bundle expired at {format_instant(installed.expires_at)}")
        )
    elif now > installed.next_update + installed.heartbeat:
        detail = f"a newer statement was due by {format_instant(installed.next_update)}, found none"
        warnings.append(StatusWarning("bundle_overdue", detail))
    if installed.leaf_not_after is not None and now > installed.leaf_not_after:
        warnings.append(
            StatusWarning("leaf_expired", f"the leaf expired at {format_instant(installed.leaf_not_after)}")
        )
    if status.newest is not None and status.newest > installed.mark.sequence:
        detail = f"the authority has published sequence {status.newest}, installed is {installed.mark.sequence}"
        warnings.append(StatusWarning("behind", detail))
    return warnings


def to_json(status: AgentStatus, now: int) -> dict[str, Any]:
    """The status as ``GET /status`` shows it; instants in RFC 3339, those of journeys in seconds."""
    installed = status.installed
    return {
        "state": status.state.value,
        "pod": status.identity.pod,
        "uid": status.identity.uid,
        "class": status.identity.pod_class.value,
        "nonce": status.identity.nonce,
        "version": status.identity.version,
        "ready": not unready(status, now),
        "highest": _mark(status.highest),
        "installed": installed
        and {
            **asdict(installed.mark),
            "epoch": installed.epoch,
            "next_update": format_instant(installed.next_update),
            "expires_at": format_instant(installed.expires_at),
        },
        "proven": _mark(status.proven),
        "reverted": _mark(status.reverted),
        "newest": status.newest,
        "broker": status.broker and asdict(status.broker),
        "polled": list(status.polled),
        "leaf": status.leaf
        and asdict(status.leaf)
        | {
            "not_before": format_instant(status.leaf.not_before),
            "not_after": format_instant(status.leaf.not_after),
        },
        "targets": [
            {"target": t.target, "level": t.level.word, "allowed": t.allowed.word, "detail": t.detail}
            for t in status.targets
        ],
        "failure": status.failure and asdict(status.failure) | {"at": format_instant(status.failure.at)},
        "warnings": [asdict(warning) for warning in warnings_at(status, now)],
        "stages": status.stages,
        "keys": list(status.keys),
        "journeys": [asdict(journey) for journey in status.journeys],
    }


def _mark(mark: Mark | None) -> dict[str, Any] | None:
    return asdict(mark) if mark else None


def receipt_of(status: AgentStatus, number: int, now: int) -> Receipt:
    """The receipt of ``status``; ``number`` rises with each receipt since the start, ``now`` is in Unix seconds."""
    return Receipt(
        pod=status.identity.pod,
        uid=status.identity.uid,
        nonce=status.identity.nonce,
        number=number,
        version=status.identity.version,
        pod_class=status.identity.pod_class,
        state=status.state,
        targets=status.targets,
        highest=status.highest,
        installed=status.installed.mark if status.installed else None,
        proven=status.proven,
        reverted=status.reverted,
        leaf=status.leaf,
        failure=status.failure,
        stages=status.stages,
        keys=status.keys,
        clock=now,
    )
