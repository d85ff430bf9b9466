"""The plan: what the journal, the fleet and the time ask for next; pure.

The sequencer asks, does what it is told, and asks again. Every action can be repeated: what was done is in the journal,
and asking again after a crash leads to the same end (docs/architecture.md, invariant 10).
"""

from collections.abc import Sequence

from authority.journal.history import EpochCa, History, SignedStatement, sequence_of
from authority.journal.record_types import (
    ActivationRecord,
    Entry,
    LeafRecord,
    Opening,
    OverrideRecord,
    StatementRecord,
    WithdrawalRecord,
)
from authority.rotation.actions import (
    Action,
    Activate,
    Compact,
    Hold,
    Prepare,
    RemoveAnchors,
    Retire,
    Step,
    SwitchSigner,
    Wait,
    Withdraw,
)
from authority.rotation.gate import Gate, gate_of, last_resort_at, ripe_at
from authority.rotation.snapshot import Scene, Snapshot
from authority.rotation.withdrawal import (
    automatic_rollback,
    cause_of,
    is_one_missing,
    leave_out_at,
    pending,
    replacement_of,
    replacements,
    to_leave_out,
    unreplaced,
)
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock

FOLD_AT = 16
"""Records that nobody needs any more are folded away once there are so many of them."""


def next_action(world: Snapshot, clock: EpochClock, now: int, resting: frozenset[Step] = frozenset()) -> Action:
    """What to do at ``now``.

    ``resting`` are steps that failed a moment ago: they are left out until they may be tried again, so that none keeps
    another from being done.
    """
    history = world.history
    gates = [gate_of(ca, history, world.fleet, clock, now) for ca in awaited(history, clock, now)]
    due = (
        _withdrawal(world, clock, now),
        _leaving_out(world, clock, now),
        _activation(world, gates, clock, now),
        _switch(world, now),
        _preparation(history, clock, now),
        _retirement(world, now),
        _folding(history, clock, now),
    )
    for work in due:
        if work is not None and work.step not in resting:
            return work
    return Wait(_next_change(world, gates, clock, now), _hold(history, gates, clock, now))


def awaited(history: History, clock: EpochClock, now: int) -> tuple[EpochCa, ...]:
    """The CAs whose gates count: candidates, and an older one that is to replace a withdrawn CA; by order of issue."""
    wanted = {ca.sha256 for ca in history.candidates} | replacements(history, clock, now).keys()
    return tuple(ca for ca in history.cas if ca.sha256 in wanted and not ca.is_expired(now))


def next_preparation_at(history: History, clock: EpochClock, now: int) -> int:
    """When the CA of the next epoch that has none is due by the schedule, after ``now``."""
    return clock.prepare_at(max(clock.newest_due(now), history.highest_prepared(clock)) + 1)


def _hold(history: History, gates: Sequence[Gate], clock: EpochClock, now: int) -> Hold | None:
    """The oldest CA that should be signing by now and may not, if there is one."""
    signing = _signing(history, now)
    if signing is None:
        return None
    for gate in gates:
        if gate.ca.number < signing.number:
            continue  # it takes over from a withdrawn CA: what that waits for is told with the withdrawal
        late_from = gate.ca.published_at + clock.prepare_seconds
        since = late_from if gate.ca.forced else max(gate.ca.start, late_from)
        if now >= since and gate.closed is not None:
            until = max(last_resort_at(signing, clock), ripe_at(gate.ca, signing, clock))
            return Hold(gate.ca, since, until, gate.closed, gate.waiting)
    return None


def _signing(history: History, now: int) -> EpochCa | None:
    signing = history.signing
    return None if signing is None or signing.is_expired(now) else signing


def _preparation(history: History, clock: EpochClock, now: int) -> Prepare | None:
    """The present epoch's CA where it is missing (a start, an outage), then the next one's in its window.

    A withdrawn epoch is skipped, unless its CA's replacement is a new one, or nobody would be left to sign.
    """
    prepared, present = history.highest_prepared(clock), clock.epoch_at(now)
    missing = [epoch for epoch in (present, clock.newest_due(now)) if epoch > prepared]
    if _is_adopted(history.newest):
        missing.insert(0, max(present, prepared))
    if missing:
        return Prepare(missing[0], Cause.ROTATION, history.intent_for(missing[0]))
    if is_one_missing(history, clock, now) or _is_running_out(history, clock, now):
        return _unscheduled(history, clock, now)
    return None


def _unscheduled(history: History, clock: EpochClock, now: int) -> Prepare:
    epoch = max(clock.epoch_at(now), history.highest_prepared(clock))
    return Prepare(epoch, Cause.FORCED, history.intent_for(epoch))


def _is_running_out(history: History, clock: EpochClock, now: int) -> bool:
    """Whether the signing CA ends before another could take over: after withdrawals the schedule may be too slow."""
    if awaited(history, clock, now):
        return False
    signing = _signing(history, now)
    return signing is None or now >= last_resort_at(signing, clock) - clock.prepare_seconds


def _scene(world: Snapshot, clock: EpochClock, now: int) -> Scene:
    return Scene(world.history, world.fleet, clock, world.tolerance_seconds, now)


def _withdrawal(world: Snapshot, clock: EpochClock, now: int) -> Withdraw | None:
    found = automatic_rollback(_scene(world, clock, now), world.rollback_above)
    return Withdraw(*found) if found else None


def _leaving_out(world: Snapshot, clock: EpochClock, now: int) -> RemoveAnchors | None:
    history = world.history
    cas = to_leave_out(_scene(world, clock, now))
    if not cas:
        return None
    lacking = [ca for ca in cas if replacement_of(ca, history, clock, now) is None]
    added = _unscheduled(history, clock, now) if lacking else None
    return RemoveAnchors(cas, cause_of(cas), added, next_preparation_at(history, clock, now))


def _is_adopted(newest: SignedStatement | None) -> bool:
    """Whether the newest statement was found in a target: it may lack CAs of ours, so it is followed at once."""
    return newest is not None and not newest.intent and newest.statement.cause in (Cause.ROTATION, Cause.FORCED)


def _activation(world: Snapshot, gates: Sequence[Gate], clock: EpochClock, now: int) -> Activate | None:
    history = world.history
    if world.intents is None:
        return None
    newest_first = gates[::-1]
    signing = _signing(history, now)
    wanted = replacements(history, clock, now)
    for gate in newest_first:
        if wanted.get(gate.ca.sha256, False):
            return _activate(gate, gate.opening or Opening.OVERRIDE, history)
    if signing is None:
        chosen = _bootstrap(newest_first, clock, now)
        return _activate(chosen, Opening.BOOTSTRAP, history) if chosen else None
    ending = now >= last_resort_at(signing, clock)
    for gate in newest_first:
        is_due = ending or gate.ca.forced or gate.ca.sha256 in wanted or now >= gate.ca.start
        if gate.opening is not None and is_due:
            return _activate(gate, gate.opening, history)
    for gate in newest_first:
        if ending and gate.ca.number > signing.number and now >= ripe_at(gate.ca, signing, clock):
            return _activate(gate, Opening.LAST_RESORT, history)
    return None


def _bootstrap(newest_first: Sequence[Gate], clock: EpochClock, now: int) -> Gate | None:
    """Nothing can be signed: the newest CA that the fleet trusts already, else has had time to, else any."""
    wishes = (
        [gate for gate in newest_first if gate.opening is not None],
        [gate for gate in newest_first if now >= gate.ca.published_at + clock.prepare_seconds],
        [gate for gate in newest_first if now >= gate.ca.start],
        newest_first,
    )
    return next((wish[0] for wish in wishes if wish), None)


def _activate(gate: Gate, opening: Opening, history: History) -> Activate:
    skipped = tuple(ca.sha256 for ca in history.candidates if ca.number < gate.ca.number)
    return Activate(gate.ca, opening, gate.unproven, skipped)


def _switch(world: Snapshot, now: int) -> SwitchSigner | None:
    signing = _signing(world.history, now)
    if signing is None or signing.lost or signing.intent == world.active:
        return None
    return SwitchSigner(signing)


def _retirement(world: Snapshot, now: int) -> Retire | None:
    """What nobody needs. A CA that no statement names goes once a statement of its number, or a later one, stands.

    Until then a replica that was paused may still commit the statement that brings it, or we may ask for it again. From
    then on the one's compare-and-set fails, and no CA will ever have the name again: a replica that is paused before it
    deletes it can do no harm either.
    """
    history, intents = world.history, world.intents or frozenset()
    expired = tuple(ca.intent for ca in history.cas if ca.intent in intents and now >= ca.retire_at)
    if expired:
        return Retire(expired, orphans=False)
    unnamed = intents - {ca.intent for ca in history.cas}
    orphans = tuple(sorted(intent for intent in unnamed if sequence_of(intent) < history.next_sequence))
    return Retire(orphans, orphans=True) if orphans else None


def _folding(history: History, clock: EpochClock, now: int) -> Compact | None:
    """What the CAs that live still rest on is kept, and of the statements all since the oldest one needed.

    So the chain that they form never has a gap, and an auditor who follows it finds none.
    """
    old = now - clock.validity_seconds - clock.epoch_seconds
    live = {ca.sha256 for ca in history.cas if now < ca.retire_at}
    first_of_live = {ca.position for ca in history.cas if ca.sha256 in live}
    needed = (
        signed.position
        for signed in history.statements
        if signed.at > old or signed.position in first_of_live or signed is history.newest
    )
    needed_from = next(needed, history.head)

    def is_needed(entry: Entry) -> bool:
        record = entry.record
        if record.at > old or entry.position == history.head:
            return True
        match record:
            case StatementRecord():
                return entry.position >= needed_from
            case ActivationRecord():
                return record is history.activations[-1] or record.ca in live
            case OverrideRecord() | WithdrawalRecord() | LeafRecord():
                return record.ca in live

    dropped = [entry.position for entry in history.entries if not is_needed(entry)]
    if len(dropped) < FOLD_AT:
        return None
    through = dropped[-1]
    keep = tuple(entry for entry in history.entries if entry.position <= through and is_needed(entry))
    return Compact(keep, through)


def _next_change(world: Snapshot, gates: Sequence[Gate], clock: EpochClock, now: int) -> int:
    """The next instant at which time alone may ask for something."""
    history = world.history
    instants = [next_preparation_at(history, clock, now)]
    signing = _signing(history, now)
    if signing is not None:
        ending = last_resort_at(signing, clock)
        instants += [ending - clock.prepare_seconds, ending, signing.not_after]
    for bad in {*pending(history, now), *unreplaced(history, now)}:
        instants += [leave_out_at(bad, history, clock), bad.not_after]
        if (replacement := replacement_of(bad, history, clock, now)) is not None:
            instants.append(last_resort_at(replacement, clock))  # from here on it is none
    for gate in gates:
        instants += [gate.ca.start, gate.deadline, gate.ca.published_at + clock.prepare_seconds]
        if signing is not None:
            instants.append(ripe_at(gate.ca, signing, clock))
    instants += [ca.retire_at for ca in history.cas if ca.intent in (world.intents or ())]
    return min(instant for instant in instants if instant > now)
