"""Sequencer: the leaf certificates of the configured workloads, each on its own.

A leaf is renewed when another CA signs, at half of its life, and where the target does not show what it should; also
while a rotation is held. It never outlives the CA that signed it.
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
    checked,
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
    """What a workload's target shows, as it was last seen: ``ca`` is the fingerprint of the CA that signed it.

    ``error`` says why the last try failed, "" where it did not.
    """

    target: str
    not_after: int | None = None
    ca: str = ""
    error: str = ""


class LeafController:
    """Runs one task for each workload until it is cancelled."""

    def __init__(
        self, surroundings: ControllerContext, issuer: SerializedIssuer, stores: Sequence[tuple[LeafSubject, LeafStore]]
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

    async def _keep(self, workload: LeafSubject, store: LeafStore) -> None:
        changed = self._here.timeline.watch()
        pauses = Backoff[str](self._here.heartbeat)
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
                self._here.observe(StepFailed(self._here.now(), Step.LEAF, workload.name, str(error), seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def _look(self, workload: LeafSubject, store: LeafStore) -> float:
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
