"""Controller of the configured workloads' leaf certificates; no workload waits for another.

A leaf is renewed when another CA signs, at half of its life, and where the target holds another leaf than it should;
also while a rotation is held. A leaf never outlives the CA that signed it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from authority.controllers.context import ControllerContext
from authority.issuer.interface import IssuerError
from authority.issuer.serialized import SerializedIssuer
from authority.journal.interface import JournalConflict, JournalError
from authority.journal.store import NotLeading
from authority.publishers.interface import PublishError
from authority.publishers.leaf_store import LeafStore
from authority.rotation.actions import Step
from authority.rotation.events import LeafWritten, StepFailed
from authority.rotation.leaf_renewal import (
    LeafSubject,
    cause_of_renewal,
    checked_leaf,
    leaf_request,
    renewal_at,
    signer_of,
    signing_ca,
)
from authority.support.backoff import Backoff
from authority.support.clock_skew import ClockDiffers
from tidemark.certificates import (
    Certificate,
    LeafRejected,
    PemError,
    not_after,
    parse_certificates,
)


@dataclass(frozen=True, slots=True)
class LeafState:
    """The leaf in a workload's target, as it was last read."""

    target: str

    not_after: int | None = None
    """Unix seconds; None where no leaf was read."""

    ca: str = ""
    """Fingerprint of the CA that signed the leaf."""

    error: str = ""
    """Why the last try failed, "" where it did not."""


class LeafController:
    """Runs one task for each workload until it is cancelled."""

    def __init__(
        self, context: ControllerContext, issuer: SerializedIssuer, stores: Sequence[tuple[LeafSubject, LeafStore]]
    ) -> None:
        self._context = context
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
                group.create_task(self._run_workload(workload, store), name=f"leaf {workload.name}")
            await asyncio.Event().wait()

    async def _run_workload(self, workload: LeafSubject, store: LeafStore) -> None:
        changed = self._context.journal.watch()
        backoff = Backoff[str](self._context.heartbeat)
        while True:
            changed.clear()
            seconds: float
            try:
                seconds = await self._reconcile(workload, store)
                backoff.succeeded(workload.name)
            except NotLeading:
                seconds = self._context.heartbeat  # the controllers are about to be stopped
            except JournalConflict:
                continue  # the decision rests on a history that has moved on
            except (IssuerError, PublishError, JournalError, LeafRejected, ClockDiffers) as error:
                seconds = backoff.failed(workload.name)
                self._states[workload.name] = replace(self._states[workload.name], error=str(error))
                self._context.observe(StepFailed(self._context.now(), Step.LEAF, workload.name, str(error), seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def _reconcile(self, workload: LeafSubject, store: LeafStore) -> float:
        """Compare the target with the leaf that it should hold, and renew where due; seconds until the next time."""
        context = self._context
        history, now = await context.journal.read(), context.now()
        current = _certificate(await store.read())
        cause = cause_of_renewal(current, workload, history, context.timing, now)
        signing = signing_ca(history, now)
        if cause is not None and signing is not None:
            # Checked only where a leaf is due: with a wrong clock nothing is signed, but states are still reported.
            context.check_clock()
            request = leaf_request(workload, signing, context.timing, now)
            # Confirmed before the signature and again before the write: another replica may have taken over in between,
            # and a leaf of the CA that signed before would replace its leaf.
            await context.journal.confirm(history)
            issued = await self._issuer.issue_leaf(signing.ca_id, request)
            current = checked_leaf(issued, signing, now)
            await context.journal.confirm(history)
            await store.write(issued)
            context.observe(LeafWritten(now, workload.name, store.name, cause, signing.sha256, not_after(current)))
        if current is None:
            return context.heartbeat
        signer = signer_of(current, history)
        self._states[workload.name] = LeafState(store.name, not_after(current), signer.sha256 if signer else "")
        until_renewal = renewal_at(current, context.timing) - context.now()
        return min(until_renewal, context.heartbeat) if until_renewal > 0 else context.heartbeat


def _certificate(pem: bytes | None) -> Certificate | None:
    """The leaf of a chain in PEM; None where there is none or it does not parse."""
    try:
        return parse_certificates(pem or b"")[0]
    except PemError:
        return None
