"""What operators ask for, decided on the journal: a forced rotation, and which CA a withdrawal is about; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from authority.fleet.view import AgentView, FleetView
from authority.journal.history import EpochCa, History
from authority.journal.record_types import Entry, WithdrawalRecord
from authority.journal.replay import replay
from authority.rotation.actions import Prepare
from authority.rotation.snapshot import Scene
from authority.rotation.withdrawal import replacement_of
from tidemark.bundle import Cause
from tidemark.epoch import EpochClock
from tidemark.verify import MAX_CERTIFICATES

_PREFIX = re.compile(r"[0-9a-f]{6,64}")

_SHORT = 16

_TOOTHLESS = (
    "the root is in the bundle, so peers go on to accept a leaf that comes with the revoked CA in its chain until that "
    "CA ends; 'include_root = false' is what makes a revocation cut it off"
)


@dataclass(frozen=True, slots=True)
class WithdrawalRequest:
    """A withdrawal as it is asked for: ``ca`` is an epoch or a fingerprint's beginning, "" the newest CA.

    ``cause`` is ROLLBACK or REVOCATION; ``urgent`` that the CA is left out at once.
    """

    cause: Cause
    ca: str
    urgent: bool


@dataclass(frozen=True, slots=True)
class WithdrawalPreview:
    """What a withdrawal would do: ``replacement`` is None where a new CA is made for it.

    ``breaks`` and ``warnings`` are sentences: what stops working where it is urgent, and what it cannot achieve.
    """

    ca: EpochCa
    replacement: EpochCa | None
    breaks: tuple[str, ...]
    warnings: tuple[str, ...]


def force(history: History, clock: EpochClock, roots: int, now: int) -> Prepare:
    """The preparation of a CA that an operator wants now: for the highest epoch prepared so far, or the present one.

    Room is left for the CAs of the epochs to come, so that a forced rotation never keeps a scheduled one from
    happening.

    Raises:
        RotationRefused: the bundles to come would hold more certificates than agents accept.
    """
    epoch = max(clock.epoch_at(now), history.highest_prepared(clock))
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
    return Prepare(epoch, Cause.FORCED, history.intent_for(epoch))


def chosen(history: History, wanted: WithdrawalRequest, now: int) -> EpochCa:
    """The CA that is to be withdrawn.

    Raises:
        RotationRefused: there is no such CA, more than one, or nothing to be added to what was asked for before.
    """
    name = wanted.cause.value
    trusted = [ca for ca in history.cas if not ca.is_expired(now) and not ca.withdrawn]
    if wanted.ca:
        found = _named(trusted, wanted.ca)
    elif wanted.cause is Cause.REVOCATION:
        raise RotationRefused("revocation: expected the CA by its epoch or fingerprint (--ca), found none named")
    else:
        found = [ca for ca in trusted if ca.withdrawal is None][-1:]
    if len(found) > 1:
        several = ", ".join(ca.sha256[:_SHORT] for ca in found)
        raise RotationRefused(f"{name}: expected one CA by {wanted.ca!r}, found {several}; name its fingerprint")
    if not found:
        there = ", ".join(f"{ca.sha256[:_SHORT]} (epoch {ca.epoch})" for ca in trusted) or "none"
        raise RotationRefused(f"{name}: expected a CA that is trusted, by {wanted.ca or 'age'!r}, found only {there}")
    (ca,) = found
    earlier = ca.withdrawal
    if earlier and (earlier.urgent or not wanted.urgent) and wanted.cause in (Cause.ROLLBACK, earlier.cause):
        raise RotationRefused(
            f"{name}: expected a CA that nobody has withdrawn, found that the {earlier.cause.value} of "
            f"{ca.sha256[:_SHORT]} (epoch {ca.epoch}) is under way; status shows what it waits for, and "
            f"--now waits no longer"
        )
    return ca


def _named(cas: Sequence[EpochCa], name: str) -> list[EpochCa]:
    by_epoch = [ca for ca in cas if name == str(ca.epoch)]
    if by_epoch or not _PREFIX.fullmatch(name.lower()):
        return by_epoch
    return [ca for ca in cas if ca.sha256.startswith(name.lower())]


def prospect(scene: Scene, wanted: WithdrawalRequest, *, include_root: bool) -> WithdrawalPreview:
    """What the withdrawal would do. Raises RotationRefused."""
    history, now = scene.history, scene.now
    ca = chosen(history, wanted, now)
    asked = WithdrawalRecord(now, ca.sha256, wanted.cause, wanted.urgent, automatic=False, who="", reason="")
    then = replay((*history.entries, Entry(history.head + 1, asked)))
    replacement = replacement_of(then.find(ca.sha256) or ca, then, scene.clock, now)
    breaks = _breaks(ca, replacement, history, scene.fleet) if wanted.urgent else ()
    warnings = (_TOOTHLESS,) if include_root and wanted.cause is Cause.REVOCATION else ()
    return WithdrawalPreview(ca, replacement, breaks, warnings)


def _breaks(bad: EpochCa, replacement: EpochCa | None, history: History, fleet: FleetView) -> tuple[str, ...]:
    if not fleet.readable:
        return ("nobody knows what breaks: the list of agents cannot be read",)
    expected = [agent for agent in fleet.agents if agent.expected]
    proving = history.containing(replacement.sha256) if replacement else frozenset()
    issuers = {agent.name: _leaf_issuer(agent) for agent in expected}
    groups = {
        "serve a leaf that it signed, which others refuse until it is re-issued": [
            name for name, issuer in issuers.items() if issuer == bad.sha256
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


class RotationRefused(Exception):
    """What an operator asked for cannot be had now; the message says why and what to do."""
