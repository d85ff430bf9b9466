"""The agent's status: what came of its steps, and what health, receipts and people are told of it; pure."""

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
    """Who this agent is: its pod, and this start of it (``nonce``)."""

    pod: str
    uid: str
    pod_class: PodClass
    nonce: str
    version: str


@dataclass(frozen=True, slots=True)
class StatusWarning:
    """Something that an operator should mend, though the agent carries on."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """How the second source stands: whether announcements are heard; ``detail`` says from which server, or why not."""

    connected: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Journey:
    """One completed cycle. ``swapped_at`` and ``proven_at`` are seconds of the wall clock, ``stages`` durations.

    ``outcome`` is the AgentState it ended in (``installed``: overtaken by a newer candidate before it was proven), a
    reason for which the bundle was rejected, ``leaf_<reason>`` where the first set lacks a fitting leaf, or
    ``install_failed``. ``sequence`` and ``digest`` of a rejected bundle are its own claim (0 and "": unreadable).
    """

    number: int
    sequence: int
    digest: str
    leaf_sha256: str | None
    leaf_issuer_sha256: str | None
    swapped_at: float
    proven_at: float | None
    outcome: str
    stages: dict[str, float]


@dataclass(frozen=True, slots=True)
class InstalledStatus:
    """What readiness and alerts ask of the installed set; instants in Unix seconds.

    ``intermediates`` are their validities, ``heartbeat`` is how often a receipt is due, in seconds; ``epoch_seconds``
    the D that ``epoch`` counts by.
    """

    mark: Mark
    epoch: int
    expires_at: int
    next_update: int
    intermediates: tuple[tuple[int, int], ...]
    leaf_not_after: int | None
    heartbeat: float
    epoch_seconds: int

    @classmethod
    def of(cls, trust_set: TrustSet) -> "InstalledStatus":
        """Take them from the set."""
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
    """Everything the agent knows of itself. ``proven`` is what the workload last showed, with ``leaf``; ``reverted``
    the statement that was taken back; ``newest`` the sequence that the authority last named; ``broker`` the second
    source (None: not configured, or not asked yet).
    """

    identity: AgentIdentity
    state: AgentState = AgentState.STARTING
    targets: tuple[TargetReport, ...] = ()
    highest: Mark | None = None
    installed: InstalledStatus | None = None
    proven: Mark | None = None
    reverted: Mark | None = None
    leaf: LeafReport | None = None
    failure: Failure | None = None
    warnings: tuple[StatusWarning, ...] = ()
    journeys: tuple[Journey, ...] = ()
    keys: tuple[str, ...] = ()
    newest: int | None = None
    broker: BrokerStatus | None = None
    stages: dict[str, float] = field(default_factory=dict)


def state_of_proof(trust_set: TrustSet) -> AgentState:
    """The state once every target has shown the set at the level it allows."""
    return AgentState.LEAF_ORPHANED if trust_set.orphaned else AgentState.PROVEN


def with_journey(journeys: Sequence[Journey], journey: Journey) -> tuple[Journey, ...]:
    """The last journeys, oldest first."""
    return (*journeys, journey)[-MAX_JOURNEYS:]


def is_under_way(status: AgentStatus) -> bool:
    """Whether a set is on its way to the workload, so that a moment later more can be said."""
    if status.state in (AgentState.REVERTED, AgentState.RELOAD_REFUSED) or status.failure is not None:
        return False
    return status.highest is not None and status.highest != status.proven


def unstarted(status: AgentStatus) -> list[str]:
    """Why the workload must not start yet; empty once a verified set is in the output directory."""
    if status.installed is not None:
        return []
    return [f"no verified set is installed yet{_because(status)}"]


def unready(status: AgentStatus, now: int) -> list[str]:
    """Why the pod is not ready; empty when it is. Neither the authority nor staleness has a say in this."""
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
    """The receipt that says this; ``number`` rises with each one of a start."""
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
