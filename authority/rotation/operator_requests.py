"""Decides what an operator's request comes to: a forced rotation, and which CA a withdrawal is about; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from authority.fleet.view import AgentView
from authority.journal.history import EpochCa, History
from authority.journal.record_types import Entry, WithdrawalRecord
from authority.journal.replay import replay
from authority.rotation.actions import Prepare
from authority.rotation.replacement import replacement_of
from authority.rotation.snapshot import Snapshot
from tidemark.bundle import Cause
from tidemark.verify import MAX_CERTIFICATES

_PREFIX = re.compile(r"[0-9a-f]{6,64}")

_SHORT = 16

_ROOT_IN_BUNDLE_WARNING = (
    "the root is in the bundle, so peers go on to accept a leaf that comes with the revoked CA in its chain until that "
    "CA ends; 'include_root = false' is what makes a revocation cut it off"
)


class RotationRefused(Exception):
    """What an operator asked for is not possible now; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class WithdrawalRequest:
    """A withdrawal that an operator asks for."""

    cause: Cause
    """ROLLBACK or REVOCATION."""

    ca: str
    """An epoch, or the beginning of a fingerprint; "" for the newest CA."""

    urgent: bool
    """Whether the CA is removed from the statements at once (``now`` in the API)."""


@dataclass(frozen=True, slots=True)
class WithdrawalPreview:
    """What a withdrawal would do."""

    ca: EpochCa
    """The CA that would be withdrawn."""

    replacement: EpochCa | None
    """The CA that would take over; None: a new CA would be made."""

    breaks: tuple[str, ...]
    """Sentences: what stops working where the withdrawal is urgent."""

    warnings: tuple[str, ...]
    """Sentences: what the withdrawal cannot achieve."""


def force(snapshot: Snapshot, roots: int) -> Prepare:
    """The preparation of a forced rotation: for the highest epoch prepared so far, or the present epoch.

    ``roots`` is how many roots bundles carry. Room is left for the CAs of the epochs to come, so that a forced rotation
    never keeps a scheduled rotation from happening.

    Raises:
        RotationRefused: the bundles to come would hold more certificates than agents accept.
    """
    history, clock, now = snapshot.history, snapshot.clock, snapshot.now
    epoch = max(clock.epoch_at(now), history.highest_prepared(clock))
    not_afters = [ca.not_after for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn]
    not_afters.append(clock.expiry(epoch))
    # At each preparation to come, the bundle holds that CA, those prepared meanwhile, and what has not expired by then.
    most = len(not_afters)
    for count, later in enumerate(range(epoch + 1, epoch + clock.validity_seconds // clock.epoch_seconds + 1), start=1):
        most = max(most, count + sum(not_after > clock.prepare_at(later) for not_after in not_afters))
    if most + roots > MAX_CERTIFICATES:
        raise RotationRefused(
            f"forced rotation: expected the bundles of the coming epochs to hold at most {MAX_CERTIFICATES} "
            f"certificates, found that with another CA now one would hold {most + roots}; wait until older CAs expire"
        )
    return Prepare(epoch, Cause.FORCED, history.ca_id_for(epoch))


def ca_to_withdraw(history: History, request: WithdrawalRequest, now: int) -> EpochCa:
    """The CA that is to be withdrawn.

    Raises:
        RotationRefused: there is no such CA, there are several, or an earlier request asked for as much or more.
    """
    name = request.cause.value
    trusted = [ca for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn]
    if request.ca:
        found = _named(trusted, request.ca)
    elif request.cause is Cause.REVOCATION:
        raise RotationRefused("revocation: expected the CA by its epoch or fingerprint (--ca), found none named")
    else:
        found = [ca for ca in trusted if ca.withdrawal is None][-1:]
    if len(found) > 1:
        several = ", ".join(ca.sha256[:_SHORT] for ca in found)
        raise RotationRefused(f"{name}: expected one CA by {request.ca!r}, found {several}; name its fingerprint")
    if not found:
        there = ", ".join(f"{ca.sha256[:_SHORT]} (epoch {ca.epoch})" for ca in trusted) or "none"
        raise RotationRefused(f"{name}: expected a CA that is trusted, by {request.ca or 'age'!r}, found only {there}")
    (ca,) = found
    earlier = ca.withdrawal
    if earlier and (earlier.urgent or not request.urgent) and request.cause in (Cause.ROLLBACK, earlier.cause):
        raise RotationRefused(
            f"{name}: expected a CA that is not being withdrawn, found that the {earlier.cause.value} of "
            f"{ca.sha256[:_SHORT]} (epoch {ca.epoch}) is under way; status shows what it waits for, and "
            f"--now waits no longer"
        )
    return ca


def _named(cas: Sequence[EpochCa], name: str) -> list[EpochCa]:
    by_epoch = [ca for ca in cas if name == str(ca.epoch)]
    if by_epoch or not _PREFIX.fullmatch(name.lower()):
        return by_epoch
    return [ca for ca in cas if ca.sha256.startswith(name.lower())]


def preview(snapshot: Snapshot, request: WithdrawalRequest, *, include_root: bool) -> WithdrawalPreview:
    """What the withdrawal would do. Raises RotationRefused."""
    history, now = snapshot.history, snapshot.now
    ca = ca_to_withdraw(history, request, now)
    record = WithdrawalRecord(now, ca.sha256, request.cause, request.urgent, automatic=False, who="", reason="")
    # What would follow is read from the journal as it would be, so that the preview and the plan cannot disagree.
    then = replay((*history.entries, Entry(history.head + 1, record)))
    replacement = replacement_of(then.find(ca.sha256) or ca, then, snapshot.clock, now)
    breaks = _breaks(ca, replacement, snapshot) if request.urgent else ()
    warnings = (_ROOT_IN_BUNDLE_WARNING,) if include_root and request.cause is Cause.REVOCATION else ()
    return WithdrawalPreview(ca, replacement, breaks, warnings)


def _breaks(withdrawn_ca: EpochCa, replacement: EpochCa | None, snapshot: Snapshot) -> tuple[str, ...]:
    if not snapshot.fleet.readable:
        return ("what breaks is not known: the list of agents cannot be read",)
    expected = [agent for agent in snapshot.fleet.agents if agent.expected]
    proving = snapshot.history.containing(replacement.sha256) if replacement else frozenset()
    issuers = {agent.name: _leaf_issuer(agent) for agent in expected}
    groups = {
        "serve a leaf that it signed, which others refuse until it is re-issued": [
            name for name, issuer in issuers.items() if issuer == withdrawn_ca.sha256
        ],
        "do not say who signed the leaf that they serve": [name for name, issuer in issuers.items() if not issuer],
        "have not proven the replacement, and refuse its leaves until they do": [
            agent.name for agent in expected if not agent.has_proven(proving)
        ],
    }
    return tuple(
        f"{len(names)} of {len(expected)} agents {what}: {', '.join(names)}" for what, names in groups.items() if names
    )


def _leaf_issuer(agent: AgentView) -> str:
    """Fingerprint of the CA that signed the leaf, "" where no fresh receipt says."""
    if not agent.fresh or agent.received is None or agent.received.receipt.leaf is None:
        return ""
    return agent.received.receipt.leaf.issuer_sha256
