"""The plan: what the journal, the fleet and the time ask for next; pure.

The sequencer asks, does what it is told, and asks again. Every action can be repeated: what was done is in the journal,
and asking again after a crash leads to the same end (invariant 10).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from authority.events import Step
from authority.fleet import FleetView
from authority.gate import Closed, Gate, gate_of, last_resort_at, ripe_at
from authority.history import EpochCa, History, SignedStatement
from authority.journal import ActivationRecord, Entry, Opening, OverrideRecord, StatementRecord
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock
from tidemark.verify import MAX_CERTIFICATES

FOLD_AT = 16
"""Records that nobody needs any more are folded away once there are so many of them."""


@dataclass(frozen=True, slots=True)
class World:
    """What a decision rests on.

    ``intents`` are the CAs that the issuer holds: those found at the start and those asked for since. ``active`` is
    the intent that the issuer was last told to sign with, None where that is not known.
    """

    history: History
    fleet: FleetView
    intents: frozenset[str]
    active: str | None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the CA of ``epoch`` under ``intent`` and publish a statement that contains it."""

    epoch: int
    cause: Cause
    intent: str
    step: Step = Step.PREPARE


@dataclass(frozen=True, slots=True)
class Activate:
    """Record that ``ca`` signs from here on; ``skipped`` are the fingerprints of older CAs that never will."""

    ca: EpochCa
    opening: Opening
    unproven: tuple[str, ...]
    skipped: tuple[str, ...]
    step: Step = Step.ACTIVATE


@dataclass(frozen=True, slots=True)
class Switch:
    """Tell the issuer to sign with ``ca``, which the journal says is activated."""

    ca: EpochCa
    step: Step = Step.SWITCH


@dataclass(frozen=True, slots=True)
class Retire:
    """Delete CAs and their keys: an epoch after their expiry, or never published (``orphans``)."""

    intents: tuple[str, ...]
    orphans: bool
    step: Step = Step.RETIRE


@dataclass(frozen=True, slots=True)
class Fold:
    """Replace the journal's records up to ``through`` by those of ``keep``."""

    keep: tuple[Entry, ...]
    through: int
    step: Step = Step.FOLD


@dataclass(frozen=True, slots=True)
class Hold:
    """``ca`` should be signing since ``since`` and its gate is closed; at ``until`` the last resort opens it."""

    ca: EpochCa
    since: int
    until: int
    closed: Closed
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before ``until``, unless a receipt, a request or the list of agents changes something."""

    until: int
    hold: Hold | None


Work = Prepare | Activate | Switch | Retire | Fold
Action = Work | Wait


class RotationRefused(Exception):
    """A forced rotation cannot be had now; the message says why and what to do."""


def next_action(world: World, clock: EpochClock, now: int, resting: frozenset[Step] = frozenset()) -> Action:
    """What to do at ``now``.

    ``resting`` are steps that failed a moment ago: they are left out until they may be tried again, so that none keeps
    another from being done.
    """
    history = world.history
    gates = [gate_of(ca, history, world.fleet, clock, now) for ca in history.candidates if not ca.is_expired(now)]
    due = (
        _activation(history, gates, clock, now),
        _switch(world, now),
        _preparation(history, clock, now),
        _retirement(world, clock, now),
        _folding(history, clock, now),
    )
    for work in due:
        if work is not None and work.step not in resting:
            return work
    return Wait(_next_change(world, gates, clock, now), _hold(history, gates, clock, now))


def force(history: History, clock: EpochClock, roots: int, now: int) -> Prepare:
    """The preparation of a CA that an operator wants now: for the highest epoch prepared so far, or the present one.

    Room is left for the CAs of the epochs to come, so that a forced rotation never keeps a scheduled one from
    happening.

    Raises:
        RotationRefused: the bundles to come would hold more certificates than agents accept.
    """
    epoch = max(clock.epoch_at(now), _highest_prepared(history, clock))
    not_afters = [ca.not_after for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn]
    not_afters.append(clock.expiry(epoch))
    most = len(not_afters)
    for count, later in enumerate(range(epoch + 1, epoch + clock.validity_seconds // clock.epoch_seconds + 1), start=1):
        most = max(most, count + sum(not_after > clock.prepare_at(later) for not_after in not_afters))
    if most + roots > MAX_CERTIFICATES:
        raise RotationRefused(
            f"forced rotation: expected the bundles of the coming epochs to hold at most {MAX_CERTIFICATES} "
            f"certificates, found that with another CA now one would hold {most + roots}; wait until older CAs expire"
        )
    return Prepare(epoch, Cause.FORCED, _intent(epoch, history))


def _hold(history: History, gates: Sequence[Gate], clock: EpochClock, now: int) -> Hold | None:
    """The oldest CA that should be signing by now and may not, if there is one."""
    signing = _signing(history, now)
    if signing is None:
        return None
    for gate in gates:
        late_from = gate.ca.published_at + clock.prepare_seconds
        since = late_from if gate.ca.forced else max(gate.ca.start, late_from)
        if now >= since and gate.closed is not None:
            until = max(last_resort_at(signing, clock), ripe_at(gate.ca, signing, clock))
            return Hold(gate.ca, since, until, gate.closed, gate.waiting)
    return None


def _signing(history: History, now: int) -> EpochCa | None:
    signing = history.signing
    return None if signing is None or signing.is_expired(now) else signing


def _intent(epoch: int, history: History) -> str:
    return f"epoch-{epoch}-{history.next_sequence}"


def _highest_prepared(history: History, clock: EpochClock) -> int:
    """The highest epoch that has a CA of ours, counting by the present D; -1 where none has."""
    epochs = [ca.epoch for ca in history.cas if ca.intent and ca.clock.epoch_seconds == clock.epoch_seconds]
    return max(epochs, default=-1)


def _preparation(history: History, clock: EpochClock, now: int) -> Prepare | None:
    """The present epoch's CA where it is missing (a start, an outage), then the next one's in its window."""
    prepared, present = _highest_prepared(history, clock), clock.epoch_at(now)
    missing = [epoch for epoch in (present, clock.newest_due(now)) if epoch > prepared]
    if _is_adopted(history.newest):
        missing.insert(0, max(present, prepared))
    return Prepare(missing[0], Cause.ROTATION, _intent(missing[0], history)) if missing else None


def _is_adopted(newest: SignedStatement | None) -> bool:
    """Whether the newest statement was found in a target: it may lack CAs of ours, so it is followed at once."""
    return newest is not None and not newest.intent and newest.statement.cause in (Cause.ROTATION, Cause.FORCED)


def _activation(history: History, gates: Sequence[Gate], clock: EpochClock, now: int) -> Activate | None:
    newest_first = gates[::-1]
    signing = _signing(history, now)
    if signing is None:
        chosen = _bootstrap(newest_first, clock, now)
        return _activate(chosen, Opening.BOOTSTRAP, history) if chosen else None
    ending = now >= last_resort_at(signing, clock)
    for gate in newest_first:
        if gate.opening is not None and (ending or gate.ca.forced or now >= gate.ca.start):
            return _activate(gate, gate.opening, history)
    for gate in newest_first:
        if ending and now >= ripe_at(gate.ca, signing, clock):
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


def _switch(world: World, now: int) -> Switch | None:
    signing = _signing(world.history, now)
    return Switch(signing) if signing is not None and signing.intent != world.active else None


def _retirement(world: World, clock: EpochClock, now: int) -> Retire | None:
    cas = world.history.cas
    expired = tuple(ca.intent for ca in cas if ca.intent in world.intents and now >= ca.retire_at)
    if expired:
        return Retire(expired, orphans=False)
    needed = {ca.intent for ca in cas}
    if (coming := _preparation(world.history, clock, now)) is not None:
        needed.add(coming.intent)  # made before a crash or a failure, and about to be asked for again
    orphans = tuple(sorted(world.intents - needed))
    return Retire(orphans, orphans=True) if orphans else None


def _folding(history: History, clock: EpochClock, now: int) -> Fold | None:
    old = now - clock.validity_seconds - clock.epoch_seconds
    live = {ca.sha256 for ca in history.cas if now < ca.retire_at}
    first_of_live = {ca.first_sequence for ca in history.cas if ca.sha256 in live}
    needed_statements = {
        signed.position
        for signed in history.statements
        if signed is history.newest or signed.statement.sequence in first_of_live
    }

    def is_needed(entry: Entry) -> bool:
        record = entry.record
        if record.at > old or entry.position == history.head:
            return True
        match record:
            case StatementRecord():
                return entry.position in needed_statements
            case ActivationRecord():
                return record is history.activations[-1] or record.ca in live
            case OverrideRecord():
                return record.ca in live

    dropped = [entry.position for entry in history.entries if not is_needed(entry)]
    if len(dropped) < FOLD_AT:
        return None
    through = dropped[-1]
    keep = tuple(entry for entry in history.entries if entry.position <= through and is_needed(entry))
    return Fold(keep, through)


def _next_change(world: World, gates: Sequence[Gate], clock: EpochClock, now: int) -> int:
    """The next instant at which time alone may ask for something."""
    history = world.history
    instants = [clock.prepare_at(max(clock.newest_due(now), _highest_prepared(history, clock)) + 1)]
    signing = _signing(history, now)
    if signing is not None:
        instants += [last_resort_at(signing, clock), signing.not_after]
    for gate in gates:
        instants += [gate.ca.start, gate.deadline, gate.ca.published_at + clock.prepare_seconds]
        if signing is not None:
            instants.append(ripe_at(gate.ca, signing, clock))
    instants += [ca.retire_at for ca in history.cas if ca.intent in world.intents]
    return min(instant for instant in instants if instant > now)
