"""Sequencer: the leaf certificates of the configured workloads, each on its own.

A leaf is renewed when another CA signs, at half of its life, and where the target does not show what it should; also
while a rotation is held. It never outlives the CA that signed it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.x509.oid import NameOID

from authority.controllers.context import Surroundings
from authority.issuer.interface import IssuedLeaf, IssuerError, LeafRequest
from authority.issuer.serialized import SerializedIssuer
from authority.journal.history import EpochCa, History
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.store import NotLeading
from authority.publishers.interface import LeafStore, PublishError
from authority.rotation.events import Failed, LeafCause, LeafWritten, Step
from authority.support.backoff import Pauses
from authority.support.clock_skew import ClockDiffers
from tidemark.certificates import (
    Certificate,
    LeafRejected,
    PemError,
    fingerprint,
    issued_by,
    leaf_issuer,
    not_after,
    not_before,
    parse_certificates,
    parse_leaf,
)
from tidemark.epoch import Timing

_LONGEST_GRACE = 10


@dataclass(frozen=True, slots=True)
class Workload:
    """Whom a leaf is for. ``name`` is for logs and status; addresses stand in their usual text form."""

    name: str
    common_name: str
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeafState:
    """What a workload's target shows, as it was last seen: ``ca`` is the fingerprint of the CA that signed it.

    ``error`` says why the last try failed, "" where it did not.
    """

    target: str
    not_after: int | None = None
    ca: str = ""
    error: str = ""


def signing_ca(history: History, now: int) -> EpochCa | None:
    """The CA that leaves can be signed with at ``now``; pure."""
    signing = history.signing
    return None if signing is None or signing.is_expired(now) or not signing.intent else signing


def leaf_request(workload: Workload, signing: EpochCa, timing: Timing, now: int) -> LeafRequest:
    """The leaf that is due now: valid from a tolerance ago, for L, and never longer than its CA; pure."""
    return LeafRequest(
        common_name=workload.common_name,
        dns_names=workload.dns_names,
        ip_addresses=workload.ip_addresses,
        not_before=now - timing.tolerance_seconds,
        not_after=min(now + timing.leaf_seconds, signing.not_after),
    )


def checked(issued: IssuedLeaf, signing: EpochCa, now: int) -> Certificate:
    """The leaf, if it is one that agents take; pure. Raises LeafRejected."""
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    issuer = leaf_issuer(leaf, [signing.certificate], (), now)
    if fingerprint(issuer) != signing.sha256 or not_after(leaf.certificate) > signing.not_after:
        raise LeafRejected("chain", f"leaf: expected one that {signing.intent} signed and outlives, found another")
    return leaf.certificate


def cause_of_renewal(
    shown: Certificate | None, workload: Workload, history: History, timing: Timing, now: int
) -> LeafCause | None:
    """Why a new leaf is due where the target shows ``shown``; None where it is not; pure.

    At half-life it is due only where it would live longer: a leaf that ends with its CA cannot be prolonged by it. A
    withdrawal counts on leaves that were issued since its replacement was activated (``withdrawal.reissue``).
    """
    signing = signing_ca(history, now)
    if signing is None:
        return None
    if shown is None:
        return LeafCause.MISSING
    signer = signer_of(shown, history)
    if signer is None:
        return LeafCause.FOREIGN
    if signer.sha256 != signing.sha256:
        return LeafCause.ACTIVATION
    if not signing.signed_since_activation(not_before(shown), timing.tolerance_seconds):
        return LeafCause.ACTIVATION  # it signs again, and the leaf is from its first time
    if _names(shown) != _names_of(workload):
        return LeafCause.NAMES
    would_end = leaf_request(workload, signing, timing, now).not_after
    if now >= renewal_at(shown, timing) and would_end > not_after(shown):
        return LeafCause.HALF_LIFE
    return None


def signer_of(leaf: Certificate, history: History) -> EpochCa | None:
    """The CA of ours that signed the leaf; pure."""
    return next((ca for ca in reversed(history.cas) if issued_by(leaf, ca.certificate)), None)


def renewal_at(leaf: Certificate, timing: Timing) -> int:
    """Half of the life that the leaf really has, and a little grace; pure.

    By default L is two epochs, so half a leaf's life ends just when the next CA is activated: the grace lets that come
    first, or every workload would get two leaves an epoch. It never takes from what a delivery may need.
    """
    issued = not_before(leaf) + timing.tolerance_seconds
    spare = timing.leaf_seconds // 2 - timing.tolerance_seconds - timing.delivery_seconds
    grace = max(0, min(_LONGEST_GRACE, timing.clock.epoch_seconds // 10, spare))
    return issued + max(0, not_after(leaf) - issued) // 2 + grace


def _names(leaf: Certificate) -> tuple[list[str], set[str], set[str]]:
    common = [str(name.value) for name in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return common, set(), set()
    addresses = {str(address) for address in san.get_values_for_type(x509.IPAddress)}
    return common, set(san.get_values_for_type(x509.DNSName)), addresses


def _names_of(workload: Workload) -> tuple[list[str], set[str], set[str]]:
    return [workload.common_name], set(workload.dns_names), set(workload.ip_addresses)


class Leaves:
    """Runs one task for each workload until it is cancelled."""

    def __init__(
        self, surroundings: Surroundings, issuer: SerializedIssuer, stores: Sequence[tuple[Workload, LeafStore]]
    ) -> None:
        self._here = surroundings
        self._issuer = issuer
        self._stores = tuple(stores)
        self._states = {workload.name: LeafState(store.name) for workload, store in stores}

    @property
    def states(self) -> dict[str, LeafState]:
        """By workload's name."""
        return dict(self._states)

    async def run(self) -> None:
        """Keep every leaf fresh until cancelled, also where none is configured."""
        async with asyncio.TaskGroup() as group:
            for workload, store in self._stores:
                group.create_task(self._keep(workload, store), name=f"leaf {workload.name}")
            await asyncio.Event().wait()

    async def _keep(self, workload: Workload, store: LeafStore) -> None:
        changed = self._here.timeline.watch()
        pauses = Pauses[str](self._here.heartbeat)
        while True:
            changed.clear()
            seconds: float
            try:
                seconds = await self._look(workload, store)
                pauses.succeeded(workload.name)
            except NotLeading:
                seconds = self._here.heartbeat  # until we are stopped
            except JournalConflict:
                continue  # what was decided rests on what is no longer so
            except (IssuerError, PublishError, JournalError, LeafRejected, ClockDiffers) as error:
                seconds = pauses.failed(workload.name)
                self._states[workload.name] = replace(self._states[workload.name], error=str(error))
                self._here.observe(Failed(self._here.now(), Step.LEAF, workload.name, str(error), seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def _look(self, workload: Workload, store: LeafStore) -> float:
        """Compare the target with what it should show, renew where it is due; seconds until the next look."""
        here = self._here
        history, now = await here.timeline.read(), here.now()
        shown = _certificate(await store.read())
        cause = cause_of_renewal(shown, workload, history, here.timing, now)
        signing = signing_ca(history, now)
        if cause is not None and signing is not None:
            here.check_clock()
            request = leaf_request(workload, signing, here.timing, now)
            await here.timeline.confirm(history)
            issued = await self._issuer.issue_leaf(signing.intent, request)
            shown = checked(issued, signing, now)
            await here.timeline.confirm(history)
            await store.write(issued)
            here.observe(LeafWritten(now, workload.name, store.name, cause, signing.sha256, not_after(shown)))
        if shown is None:
            return here.heartbeat
        signer = signer_of(shown, history)
        self._states[workload.name] = LeafState(store.name, not_after(shown), signer.sha256 if signer else "")
        until_renewal = renewal_at(shown, here.timing) - here.now()
        return min(until_renewal, here.heartbeat) if until_renewal > 0 else here.heartbeat


def _certificate(pem: bytes | None) -> Certificate | None:
    """The leaf itself; None where there is none or nothing that parses."""
    try:
        return parse_certificates(pem or b"")[0]
    except PemError:
        return None
