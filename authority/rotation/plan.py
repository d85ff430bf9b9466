"""The plan: what the journal, the fleet and the time ask for next; pure.

The rotation controller asks for the next action, carries it out, and asks again. Every action can be repeated: what
was done is in the journal, and asking again after a crash leads to the same end (docs/architecture.md, invariant 10).
"""

from collections.abc import Sequence

from authority.journal.history import EpochCa, History, SignedStatement, sequence_of
from authority.journal.record_types import Opening
from authority.rotation.actions import (
    Action,
    Activate,
    Hold,
    Prepare,
    RemoveAnchors,
    Retire,
    Step,
    SwitchSigner,
    Wait,
    Withdraw,
)
from authority.rotation.compaction import due_compaction
from authority.rotation.deadlines import last_resort_at, next_preparation_at, removal_due_at, ripe_at
from authority.rotation.gate import Gate, gate_of
from authority.rotation.replacement import pending_withdrawals, replacement_of
from authority.rotation.snapshot import Snapshot
from authority.rotation.withdrawal import automatic_rollback, cause_of, due_removals
from tidemark.bundle import Cause


def next_action(snapshot: Snapshot, backing_off: frozenset[Step] = frozenset()) -> Action:
    """What to do now.

    ``backing_off`` are steps that failed a moment ago: they are passed over until they may be tried again, so that no
    step keeps another from being done.
    """
    gates = [gate_of(ca, snapshot) for ca in awaited(snapshot)]
    # The order is that of urgency: first withdrawals, then which CA signs, then the CA of the next epoch. Deletions
    # stand last, because nothing waits for them.
    due = (
        _due_withdrawal(snapshot),
        _due_removal(snapshot),
        _due_activation(snapshot, gates),
        _due_switch(snapshot),
        _due_preparation(snapshot),
        _due_retirement(snapshot),
        due_compaction(snapshot.history, snapshot.clock, snapshot.now),
    )
    for work in due:
        if work is not None and work.step not in backing_off:
            return work
    return Wait(_next_change_at(snapshot, gates), _hold(snapshot, gates))


def awaited(snapshot: Snapshot) -> tuple[EpochCa, ...]:
    """The CAs whose gates count, by order of issue: candidates, and an older CA that is to replace a withdrawn one."""
    wanted = {ca.sha256 for ca in snapshot.history.candidates} | snapshot.successors.keys()
    return tuple(ca for ca in snapshot.history.cas if ca.sha256 in wanted and not ca.is_expired(snapshot.now))


def _hold(snapshot: Snapshot, gates: Sequence[Gate]) -> Hold | None:
    """The oldest CA that should be signing by now and whose gate is closed, if there is one."""
    signing, clock = snapshot.signing, snapshot.clock
    if signing is None:
        return None
    # A CA is late only after P since its publication: before, agents have had no time to prove it.
    for gate in gates:
        if gate.ca.issue_order < signing.issue_order:
            continue  # it replaces a withdrawn CA: what it waits for is reported with the withdrawal
        late_from = gate.ca.published_at + clock.prepare_seconds
        since = late_from if gate.ca.forced else max(gate.ca.start, late_from)
        if snapshot.now >= since and gate.closed is not None:
            until = max(last_resort_at(signing, clock), ripe_at(gate.ca, signing, clock))
            return Hold(gate.ca, since, until, gate.closed, gate.waiting)
    return None


def _due_withdrawal(snapshot: Snapshot) -> Withdraw | None:
    found = automatic_rollback(snapshot)
    return Withdraw(*found) if found else None


def _due_removal(snapshot: Snapshot) -> RemoveAnchors | None:
    history, clock, now = snapshot.history, snapshot.clock, snapshot.now
    cas = due_removals(snapshot)
    if not cas:
        return None
    lacking = [ca for ca in cas if replacement_of(ca, history, clock, now) is None]
    added = _unscheduled(snapshot) if lacking else None
    return RemoveAnchors(cas, cause_of(cas), added, next_preparation_at(history, clock, now))


def _due_activation(snapshot: Snapshot, gates: Sequence[Gate]) -> Activate | None:
    history, clock, now = snapshot.history, snapshot.clock, snapshot.now
    if snapshot.ca_ids is None:
        return None  # nothing is known of the keys: the CA could turn out to be lost
    newest_first = gates[::-1]

    # 1. An urgent withdrawal has its replacement sign at once, gate or no gate.
    for gate in newest_first:
        if snapshot.successors.get(gate.ca.sha256, False):
            return _activate(gate, gate.opening or Opening.OVERRIDE, history)

    # 2. With no CA that signs, any CA is better than none.
    if snapshot.signing is None:
        chosen = _bootstrap(snapshot, newest_first)
        return _activate(chosen, Opening.BOOTSTRAP, history) if chosen else None

    # 3. The newest CA whose gate is open and whose time has come.
    ending = now >= last_resort_at(snapshot.signing, clock)
    for gate in newest_first:
        is_due = ending or gate.ca.forced or gate.ca.sha256 in snapshot.successors or now >= gate.ca.start
        if gate.opening is not None and is_due:
            return _activate(gate, gate.opening, history)

    # 4. The last resort, only where step 3 found no open gate: the signing CA must not expire first.
    for gate in newest_first:
        is_newer = gate.ca.issue_order > snapshot.signing.issue_order
        if ending and is_newer and now >= ripe_at(gate.ca, snapshot.signing, clock):
            return _activate(gate, Opening.LAST_RESORT, history)
    return None


def _bootstrap(snapshot: Snapshot, newest_first: Sequence[Gate]) -> Gate | None:
    """No CA signs: the newest CA that the fleet trusts already, else one that has had time to arrive, else any CA."""
    now, prepare_seconds = snapshot.now, snapshot.clock.prepare_seconds
    preferences = (
        [gate for gate in newest_first if gate.opening is not None],
        [gate for gate in newest_first if now >= gate.ca.published_at + prepare_seconds],
        [gate for gate in newest_first if now >= gate.ca.start],
        newest_first,
    )
    return next((preferred[0] for preferred in preferences if preferred), None)


def _activate(gate: Gate, opening: Opening, history: History) -> Activate:
    skipped = tuple(ca.sha256 for ca in history.candidates if ca.issue_order < gate.ca.issue_order)
    return Activate(gate.ca, opening, gate.unproven, skipped)


def _due_switch(snapshot: Snapshot) -> SwitchSigner | None:
    signing = snapshot.signing
    if signing is None or signing.lost or signing.ca_id == snapshot.active:
        return None
    return SwitchSigner(signing)


def _due_preparation(snapshot: Snapshot) -> Prepare | None:
    """The present epoch's CA where it is missing (a start, an outage), then the next epoch's in its window.

    A withdrawn epoch is skipped, unless the CA's replacement is a new CA, or no CA would be left to sign.
    """
    history, clock, now = snapshot.history, snapshot.clock, snapshot.now
    prepared, present = history.highest_prepared(clock), clock.epoch_at(now)
    missing = [epoch for epoch in (present, clock.newest_due(now)) if epoch > prepared]
    # A statement that was adopted from a target may lack CAs of ours: another is made at once, before any new epoch.
    if _is_adopted(history.newest):
        missing.insert(0, max(present, prepared))
    if missing:
        return Prepare(missing[0], Cause.ROTATION, history.ca_id_for(missing[0]))
    if _is_replacement_missing(snapshot) or _is_running_out(snapshot):
        return _unscheduled(snapshot)
    return None


def _unscheduled(snapshot: Snapshot) -> Prepare:
    epoch = max(snapshot.clock.epoch_at(snapshot.now), snapshot.history.highest_prepared(snapshot.clock))
    return Prepare(epoch, Cause.FORCED, snapshot.history.ca_id_for(epoch))


def _is_adopted(newest: SignedStatement | None) -> bool:
    """Whether the newest statement was found in a target: it may lack CAs of ours, so another follows at once."""
    return newest is not None and not newest.ca_id and newest.statement.cause in (Cause.ROTATION, Cause.FORCED)


def _is_replacement_missing(snapshot: Snapshot) -> bool:
    """Whether a withdrawal needs a new CA; an urgent withdrawal brings its own with the next statement."""
    return any(each.ca is None and (each.withdrawn_ca.withdrawn or not each.urgent) for each in snapshot.replacements)


def _is_running_out(snapshot: Snapshot) -> bool:
    """Whether the signing CA ends before another could take over: after withdrawals the schedule may be too slow."""
    if awaited(snapshot):
        return False
    signing, clock = snapshot.signing, snapshot.clock
    return signing is None or snapshot.now >= last_resort_at(signing, clock) - clock.prepare_seconds


def _due_retirement(snapshot: Snapshot) -> Retire | None:
    """The CAs that are needed no more: long expired, or named by no statement.

    A CA that no statement names is deleted once a statement of its number, or a later one, stands. Until then a replica
    that was paused may still commit the statement that brings the CA, or we may ask for it again. From then on that
    commit fails at its compare-and-set, and no CA will ever have the name again: a replica that is paused before it
    deletes the CA can do no harm either.
    """
    history, ca_ids = snapshot.history, snapshot.ca_ids or frozenset()
    expired = tuple(ca.ca_id for ca in history.cas if ca.ca_id in ca_ids and snapshot.now >= ca.retire_at)
    if expired:
        return Retire(expired, orphans=False)
    unnamed = ca_ids - {ca.ca_id for ca in history.cas}
    orphans = tuple(sorted(ca_id for ca_id in unnamed if sequence_of(ca_id) < history.next_sequence))
    return Retire(orphans, orphans=True) if orphans else None


def _next_change_at(snapshot: Snapshot, gates: Sequence[Gate]) -> int:
    """The next instant at which time alone may ask for something."""
    history, clock, now, signing = snapshot.history, snapshot.clock, snapshot.now, snapshot.signing
    instants = [next_preparation_at(history, clock, now)]
    if signing is not None:
        ending = last_resort_at(signing, clock)
        instants += [ending - clock.prepare_seconds, ending, signing.not_after]
    withdrawn = {*pending_withdrawals(history, now), *(each.withdrawn_ca for each in snapshot.replacements)}
    for ca in withdrawn:
        instants += [removal_due_at(ca, history, clock), ca.not_after]
        if (replacement := replacement_of(ca, history, clock, now)) is not None:
            instants.append(last_resort_at(replacement, clock))  # from here on it replaces nothing
    for gate in gates:
        instants += [gate.ca.start, gate.deadline, gate.ca.published_at + clock.prepare_seconds]
        if signing is not None:
            instants.append(ripe_at(gate.ca, signing, clock))
    instants += [ca.retire_at for ca in history.cas if ca.ca_id in (snapshot.ca_ids or ())]
    return min(instant for instant in instants if instant > now)
