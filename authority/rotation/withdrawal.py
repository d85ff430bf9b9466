"""Withdrawal: how a CA is taken out of use before its time; rollback and revocation are one procedure. Pure.

The steps (docs/architecture.md, "The trip of a withdrawal") are derived from the journal and the receipts for each
snapshot, so that a crash forgets none:

1. the replacement is trusted: its gate opens, as any other;
2. the replacement is activated;
3. leaves are re-issued: no expected agent may still serve a leaf that the withdrawn CA signed;
4. the next statement is made without the withdrawn CA, and lists it as withdrawn;
5. clients that are still connected with a certificate of the withdrawn CA are listed
   (``authority.controllers.connection_monitor``).

An urgent withdrawal (``--now``) begins with step 4 and opens the replacement's gate by an override.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from authority.fleet.view import AgentView
from authority.journal.history import EpochCa, distrusting_digests
from authority.rotation.deadlines import last_resort_at, removal_due_at
from authority.rotation.gate import gate_of
from authority.rotation.replacement import is_replaced, newest_older, pending_withdrawals, replacement_of
from authority.rotation.snapshot import Snapshot
from tidemark.bundle import Cause
from tidemark.receipt import AgentState, PodClass

_REFUSED_RELOAD = "reload_refused"


class WithdrawalStage(StrEnum):
    """How far a withdrawal has come. The values are part of the API."""

    TRUSTING = "trusting"
    """Waits for the replacement to be made, and to be proven by the fleet."""

    REISSUING = "reissuing"
    """Waits for every agent to serve a leaf of another CA."""

    REMOVING = "leaving_out"
    """Waits for the statement without the CA."""

    DISTRUSTING = "distrusting"
    """Waits for every agent to prove that statement."""

    DONE = "done"


@dataclass(frozen=True, slots=True)
class WithdrawalProgress:
    """One withdrawal at one instant."""

    ca: EpochCa
    """The withdrawn CA."""

    stage: WithdrawalStage

    replacement: EpochCa | None
    """The CA that takes over; None where a new CA has to be made."""

    waiting: tuple[str, ...]
    """Names of the agents that the stage waits for."""

    until: int | None
    """Unix seconds; here the stage ends even where agents are waited for. None where the stage has no such end."""


@dataclass(frozen=True, slots=True)
class LeafReissue:
    """Step 3 of one withdrawal."""

    is_done: bool

    waiting: tuple[str, ...]
    """Names of the expected agents that may serve a leaf of the withdrawn CA."""


def leaf_reissue(withdrawn_ca: EpochCa, snapshot: Snapshot) -> LeafReissue:
    """How far step 3 has come, with the replacement activated.

    A leaf counts where another CA signed it and it was issued since the activation: an older leaf may be what an agent
    reported before a leaf of the withdrawn CA, still on its way then, arrived. A CA that never signed has left no
    leaves.
    """
    if withdrawn_ca.ca_id and withdrawn_ca.activated_at is None:
        return LeafReissue(True, ())
    # Applications are waited for as well: any agent that serves a leaf of the withdrawn CA breaks once it is removed.
    expected = [agent for agent in snapshot.fleet.agents if agent.expected]
    waiting = tuple(agent.name for agent in expected if not _serves_another_leaf(agent, withdrawn_ca, snapshot))
    # A fleet that is unreadable or empty has proven nothing: only the last resort ends the step then.
    return LeafReissue(snapshot.fleet.readable and bool(expected) and not waiting, waiting)


def _serves_another_leaf(agent: AgentView, withdrawn_ca: EpochCa, snapshot: Snapshot) -> bool:
    if not agent.fresh or agent.received is None or agent.received.receipt.leaf is None:
        return False
    leaf, signing = agent.received.receipt.leaf, snapshot.history.signing
    if signing is not None and leaf.issuer_sha256 == signing.sha256 != withdrawn_ca.sha256:
        return signing.signed_since_activation(leaf.not_before, snapshot.tolerance_seconds)
    begin = snapshot.history.last_activated_at - snapshot.tolerance_seconds
    return leaf.issuer_sha256 != withdrawn_ca.sha256 and leaf.not_before >= begin


def due_removals(snapshot: Snapshot) -> tuple[EpochCa, ...]:
    """The CAs that a statement, due now, is to be made without."""
    history, now = snapshot.history, snapshot.now

    def is_due(ca: EpochCa) -> bool:
        if ca.withdrawal is not None and ca.withdrawal.urgent:
            return True
        if not is_replaced(ca, history, now):
            return False
        return leaf_reissue(ca, snapshot).is_done or now >= removal_due_at(ca, history, snapshot.clock)

    return tuple(ca for ca in pending_withdrawals(history, now) if is_due(ca))


def cause_of(cas: Iterable[EpochCa]) -> Cause:
    """The cause of a statement without these CAs: revocation where one of them is revoked."""
    causes = [ca.withdrawal.cause for ca in cas if ca.withdrawal]
    return Cause.REVOCATION if Cause.REVOCATION in causes else Cause.ROLLBACK


def progress(snapshot: Snapshot) -> tuple[WithdrawalProgress, ...]:
    """Every withdrawal of a CA that has not expired yet, by order of issue."""
    cas = [ca for ca in snapshot.history.cas if (ca.withdrawal or ca.withdrawn) and not ca.is_expired(snapshot.now)]
    return tuple(_progress(ca, snapshot) for ca in cas)


def _progress(withdrawn_ca: EpochCa, snapshot: Snapshot) -> WithdrawalProgress:
    history, fleet, clock, now = snapshot.history, snapshot.fleet, snapshot.clock, snapshot.now
    ca = replacement_of(withdrawn_ca, history, clock, now)
    if withdrawn_ca.removal is not None:
        proving = distrusting_digests(withdrawn_ca, history)
        waiting = tuple(agent.name for agent in fleet.agents if agent.expected and not agent.has_proven(proving))
        stage = WithdrawalStage.DONE if fleet.readable and not waiting else WithdrawalStage.DISTRUSTING
        return WithdrawalProgress(withdrawn_ca, stage, ca, waiting, None)
    if not is_replaced(withdrawn_ca, history, now):
        waiting = gate_of(ca, snapshot).waiting if ca else ()
        until = last_resort_at(history.signing, clock) if history.signing else None
        return WithdrawalProgress(withdrawn_ca, WithdrawalStage.TRUSTING, ca, waiting, until)
    leaves = leaf_reissue(withdrawn_ca, snapshot)
    if leaves.is_done:
        return WithdrawalProgress(withdrawn_ca, WithdrawalStage.REMOVING, ca, (), None)
    until = removal_due_at(withdrawn_ca, history, clock)
    return WithdrawalProgress(withdrawn_ca, WithdrawalStage.REISSUING, ca, leaves.waiting, until)


def automatic_rollback(snapshot: Snapshot) -> tuple[EpochCa, str] | None:
    """The CA to be rolled back unasked, and why; None where there is no need or a rollback would not help.

    More than ``rollback_above`` of the required agents have put the newest statement's set back. Where the server
    refuses every reload, or a bundle was rejected, that says nothing about the CA.
    """
    history, newest = snapshot.history, snapshot.history.newest
    if newest is None or newest.statement.cause not in (Cause.ROTATION, Cause.FORCED) or not snapshot.fleet.readable:
        return None
    required = [a for a in snapshot.fleet.agents if a.expected and a.pod_class is PodClass.REQUIRED]
    count = sum(_has_reverted(agent, newest.digest) for agent in required)
    suspect = history.find(newest.statement.anchors[0].sha256)
    if count <= snapshot.rollback_above * len(required) or suspect is None or not suspect.may_sign:
        return None
    # At most one an epoch, and never into a CA that ends soon: a fault that has nothing to do with the CA must not walk
    # back through every CA that there is.
    if _was_one_rolled_back_this_epoch(snapshot) or not _has_lasting_replacement(suspect, snapshot):
        return None
    return suspect, f"{count} of {len(required)} required agents have put statement {newest.statement.sequence} back"


def _was_one_rolled_back_this_epoch(snapshot: Snapshot) -> bool:
    """Whether a CA was rolled back unasked since the epoch began."""
    withdrawals = [ca.withdrawal for ca in snapshot.history.cas if ca.withdrawal and ca.withdrawal.automatic]
    epoch = snapshot.clock.epoch_at(snapshot.now)
    return any(snapshot.clock.epoch_at(withdrawal.at) == epoch for withdrawal in withdrawals)


def _has_lasting_replacement(suspect: EpochCa, snapshot: Snapshot) -> bool:
    """Whether the CA that would take over, made already, has two epochs left."""
    history, clock, now, signing = snapshot.history, snapshot.clock, snapshot.now, snapshot.history.signing
    keeps_signing = signing is not None and signing.may_sign and signing.sha256 != suspect.sha256
    replacement = signing if keeps_signing else newest_older(suspect, history, clock, now)
    return replacement is not None and replacement.not_after - now >= 2 * clock.epoch_seconds


def _has_reverted(agent: AgentView, digest: str) -> bool:
    if not agent.fresh or agent.received is None:
        return False
    receipt = agent.received.receipt
    if receipt.state is not AgentState.REVERTED or receipt.reverted is None or receipt.reverted.digest != digest:
        return False
    failure = receipt.failure  # a failure of another statement hides why this statement was put back
    return failure is not None and failure.digest == digest and failure.reason != _REFUSED_RELOAD
