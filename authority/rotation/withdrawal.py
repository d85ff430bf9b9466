"""Withdrawal: how a CA is taken out of use before its time; rollback and revocation are one procedure. Pure.

Its steps (docs/architecture.md, "The trip of a withdrawal") are read off the journal and the receipts at every look, so
that a crash forgets none:

1. the replacement is trusted: its gate opens, as any other;
2. it is activated;
3. leaves are re-issued: no expected agent may still serve one that the bad CA signed;
4. the bad CA is left out of the next statement, and listed in it as withdrawn;
5. clients that are still connected with a certificate it signed are listed
   (``authority.controllers.connection_monitor``).

An urgent withdrawal (``--now``) begins with 4 and opens the replacement's gate by hand.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from authority.fleet.view import AgentView
from authority.journal.history import EpochCa, History, distrusting_digests
from authority.rotation.gate import gate_of, last_resort_at
from authority.rotation.snapshot import Scene
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock
from tidemark.receipt import AgentState, PodClass

_REFUSED_RELOAD = "reload_refused"


class WithdrawalStage(StrEnum):
    """How far a withdrawal has come; each waits for what its comment says."""

    TRUSTING = "trusting"  # the replacement: made, and proven by the fleet
    REISSUING = "reissuing"  # every agent with a leaf of another CA
    LEAVING_OUT = "leaving_out"  # the statement without the CA
    DISTRUSTING = "distrusting"  # every agent's proof of that statement
    DONE = "done"


@dataclass(frozen=True, slots=True)
class WithdrawalProgress:
    """One withdrawal at one instant; ``waiting`` names agents, at ``until`` the stage ends whatever they do."""

    ca: EpochCa
    stage: WithdrawalStage
    replacement: EpochCa | None
    waiting: tuple[str, ...]
    until: int | None


@dataclass(frozen=True, slots=True)
class LeafReissue:
    """Step 3 of one withdrawal: ``waiting`` are expected agents whose leaf may be one that the bad CA signed."""

    is_done: bool
    waiting: tuple[str, ...]


def pending(history: History, now: int) -> tuple[EpochCa, ...]:
    """CAs that are to be withdrawn and still stand in the newest statement, by order of issue."""
    return tuple(ca for ca in history.cas if ca.withdrawal and not ca.withdrawn and not ca.is_expired(now))


def unreplaced(history: History, now: int) -> tuple[EpochCa, ...]:
    """CAs that are to be withdrawn and whose replacement has not been activated, by order of issue."""
    left_first = [
        ca
        for ca in history.cas
        if ca.withdrawal and ca.withdrawal.urgent and ca.left_out and not ca.is_expired(now)
        if history.activated_position < ca.left_out.position
    ]
    return tuple(ca for ca in (*pending(history, now), *left_first) if not is_replaced(ca, history, now))


def is_replaced(bad: EpochCa, history: History, now: int) -> bool:
    """Whether a CA signs that may take the place of ``bad``: for a revocation, one that was issued since."""
    signing = history.signing
    if bad.withdrawal is None or signing is None or signing.is_expired(now) or not signing.may_sign:
        return False
    return bad.withdrawal.cause is Cause.ROLLBACK or signing.position > bad.withdrawal.position


def replacement_of(bad: EpochCa, history: History, clock: EpochClock, now: int) -> EpochCa | None:
    """The CA that takes the place of ``bad``, signing already or not yet; None: a new one has to be made."""
    if bad.withdrawal is None or is_replaced(bad, history, now):
        return history.signing
    if bad.withdrawal.cause is Cause.REVOCATION:
        since = [ca for ca in _able(history, now) if ca.position > bad.withdrawal.position]
        return since[-1] if since else None
    return _newest_older(bad, history, clock, now) or _newest_newer(bad, history, now)


def replacements(history: History, clock: EpochClock, now: int) -> Mapping[str, bool]:
    """By fingerprint, the CAs that are to take over as soon as their gates open; True: at once, gate or no gate."""
    wanted: dict[str, bool] = {}
    for bad in unreplaced(history, now):
        ca = replacement_of(bad, history, clock, now)
        if ca is not None and bad.withdrawal is not None:
            wanted[ca.sha256] = wanted.get(ca.sha256, False) or bad.withdrawal.urgent
    return wanted


def is_one_missing(history: History, clock: EpochClock, now: int) -> bool:
    """Whether a withdrawal needs a new CA; an urgent one brings its own with the next statement."""
    lacking = [bad for bad in unreplaced(history, now) if replacement_of(bad, history, clock, now) is None]
    return any(bad.left_out or not (bad.withdrawal and bad.withdrawal.urgent) for bad in lacking)


def _able(history: History, now: int) -> list[EpochCa]:
    return [ca for ca in history.cas if ca.may_sign and not ca.is_expired(now)]


def _newest_older(bad: EpochCa, history: History, clock: EpochClock, now: int) -> EpochCa | None:
    """One that would have to be replaced itself at once, by the last resort, is none."""
    older = [ca for ca in _able(history, now) if ca.number < bad.number and now < last_resort_at(ca, clock)]
    return older[-1] if older else None


def _newest_newer(bad: EpochCa, history: History, now: int) -> EpochCa | None:
    newer = [ca for ca in _able(history, now) if ca.number > bad.number]
    return newer[-1] if newer else None


def reissue(bad: EpochCa, scene: Scene) -> LeafReissue:
    """Look at step 3, with the replacement activated.

    A leaf counts where another CA signed it and it was issued since the activation: an older one may be what an agent
    showed before a leaf of ``bad``, still on its way then, reached it. A CA that never signed has left no leaves.
    """
    if bad.intent and bad.activated_at is None:
        return LeafReissue(True, ())
    expected = [agent for agent in scene.fleet.agents if agent.expected]
    waiting = tuple(agent.name for agent in expected if not _has_another(agent, bad, scene))
    return LeafReissue(scene.fleet.readable and bool(expected) and not waiting, waiting)


def _activated_at(history: History) -> int:
    return history.activations[-1].at if history.activations else 0


def _has_another(agent: AgentView, bad: EpochCa, scene: Scene) -> bool:
    if not agent.fresh or agent.received is None or agent.received.receipt.leaf is None:
        return False
    leaf, signing = agent.received.receipt.leaf, scene.history.signing
    if signing is not None and leaf.issuer_sha256 == signing.sha256 != bad.sha256:
        return signing.signed_since_activation(leaf.not_before, scene.tolerance_seconds)
    begin = _activated_at(scene.history) - scene.tolerance_seconds
    return leaf.issuer_sha256 != bad.sha256 and leaf.not_before >= begin


def leave_out_at(bad: EpochCa, history: History, clock: EpochClock) -> int:
    """The last resort of step 3: an epoch before ``bad`` expires, and no earlier than P after the activation."""
    ripe = _activated_at(history) + min(clock.prepare_seconds, bad.clock.prepare_seconds)
    return max(last_resort_at(bad, clock), ripe)


def to_leave_out(scene: Scene) -> tuple[EpochCa, ...]:
    """The CAs that the next statement, due now, is to leave out."""
    history, now = scene.history, scene.now

    def is_due(bad: EpochCa) -> bool:
        if bad.withdrawal is not None and bad.withdrawal.urgent:
            return True
        if not is_replaced(bad, history, now):
            return False
        return reissue(bad, scene).is_done or now >= leave_out_at(bad, history, scene.clock)

    return tuple(bad for bad in pending(history, now) if is_due(bad))


def cause_of(cas: Iterable[EpochCa]) -> Cause:
    """Why a statement leaves these out: revocation where one of them is revoked."""
    causes = [ca.withdrawal.cause for ca in cas if ca.withdrawal]
    return Cause.REVOCATION if Cause.REVOCATION in causes else Cause.ROLLBACK


def progress(scene: Scene) -> tuple[WithdrawalProgress, ...]:
    """Every withdrawal of a CA that has not expired yet, by order of issue."""
    cas = [ca for ca in scene.history.cas if (ca.withdrawal or ca.withdrawn) and not ca.is_expired(scene.now)]
    return tuple(_progress(ca, scene) for ca in cas)


def _progress(bad: EpochCa, scene: Scene) -> WithdrawalProgress:
    history, fleet, clock, now = scene.history, scene.fleet, scene.clock, scene.now
    ca = replacement_of(bad, history, clock, now)
    if bad.left_out is not None:
        proving = distrusting_digests(bad, history)
        waiting = tuple(agent.name for agent in fleet.agents if agent.expected and not agent.has_proven(proving))
        is_done = fleet.readable and not waiting
        return WithdrawalProgress(
            bad, WithdrawalStage.DONE if is_done else WithdrawalStage.DISTRUSTING, ca, waiting, None
        )
    if not is_replaced(bad, history, now):
        waiting = gate_of(ca, history, fleet, clock, now).waiting if ca else ()
        until = last_resort_at(history.signing, clock) if history.signing else None
        return WithdrawalProgress(bad, WithdrawalStage.TRUSTING, ca, waiting, until)
    leaves = reissue(bad, scene)
    if leaves.is_done:
        return WithdrawalProgress(bad, WithdrawalStage.LEAVING_OUT, ca, (), None)
    return WithdrawalProgress(bad, WithdrawalStage.REISSUING, ca, leaves.waiting, leave_out_at(bad, history, clock))


def automatic_rollback(scene: Scene, above: Fraction) -> tuple[EpochCa, str] | None:
    """The CA to be rolled back unasked, and why; None where there is no need or it would not help.

    More than ``above`` of the required agents have put the newest statement's set back. Where the server refuses every
    reload, or a bundle was rejected, that says nothing about the CA.
    """
    history, newest = scene.history, scene.history.newest
    if newest is None or newest.statement.cause not in (Cause.ROTATION, Cause.FORCED) or not scene.fleet.readable:
        return None
    required = [a for a in scene.fleet.agents if a.expected and a.pod_class is PodClass.REQUIRED]
    count = sum(_has_reverted(agent, newest.digest) for agent in required)
    bad = history.find(newest.statement.anchors[0].sha256)
    if count <= above * len(required) or bad is None or not bad.may_sign:
        return None
    if _is_one_of_this_epoch(scene) or not _has_long_replacement(bad, scene):
        return None
    return bad, f"{count} of {len(required)} required agents have put statement {newest.statement.sequence} back"


def _is_one_of_this_epoch(scene: Scene) -> bool:
    """Whether a CA was rolled back unasked since the epoch began."""
    withdrawals = [ca.withdrawal for ca in scene.history.cas if ca.withdrawal and ca.withdrawal.automatic]
    return any(scene.clock.epoch_at(asked.at) == scene.clock.epoch_at(scene.now) for asked in withdrawals)


def _has_long_replacement(bad: EpochCa, scene: Scene) -> bool:
    """Whether the CA that would take over, made already, has two epochs left."""
    history, clock, now, signing = scene.history, scene.clock, scene.now, scene.history.signing
    may_go_on = signing is not None and signing.may_sign and signing.sha256 != bad.sha256
    replacement = signing if may_go_on else _newest_older(bad, history, clock, now)
    return replacement is not None and replacement.not_after - now >= 2 * clock.epoch_seconds


def _has_reverted(agent: AgentView, digest: str) -> bool:
    if not agent.fresh or agent.received is None:
        return False
    receipt = agent.received.receipt
    if receipt.state is not AgentState.REVERTED or receipt.reverted is None or receipt.reverted.digest != digest:
        return False
    failure = receipt.failure  # of another statement, it hides why this one was put back
    return failure is not None and failure.digest == digest and failure.reason != _REFUSED_RELOAD
