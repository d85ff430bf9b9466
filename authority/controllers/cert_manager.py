"""Sequencer: after a withdrawal, cert-manager's Certificates are marked for re-issuance, each on its own.

What is marked is read off the journal and the Certificates at every look, so that a crash forgets none and marks none
twice. Nothing is marked before the issuer was switched: cert-manager would ask the withdrawn CA again.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from authority.controllers.cert_manager_api import CertManagerClient
from authority.controllers.context import ControllerContext
from authority.journal.interface import JournalConflict, JournalError
from authority.kubernetes.errors import KubernetesError, ObjectConflict, ObjectMissing
from authority.rotation.actions import Step
from authority.rotation.events import CertificateMarked, StepFailed
from authority.rotation.leaf_renewal import signing_ca
from authority.rotation.reissue import Issuance, is_due, outdated_before
from authority.support.backoff import Backoff
from authority.support.clock_skew import ClockDiffers

_SOON = 0.5
"""Seconds until the next look where something is on its way."""


class CertManagerController:
    """Runs until it is cancelled, also where cert-manager is not configured.

    ``active`` names the CA that the issuer was told to sign with, by its intent; None before it was told of any.
    """

    def __init__(
        self, surroundings: ControllerContext, cert_manager: CertManagerClient | None, active: Callable[[], str | None]
    ) -> None:
        self._here = surroundings
        self._cert_manager = cert_manager
        self._active = active

    async def run(self) -> None:
        """Look at every namespace until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._cert_manager is not None:
                for namespace in self._cert_manager.config.namespaces:
                    name = f"certificates in {namespace}"
                    group.create_task(self._keep(self._cert_manager, namespace), name=name)
            await asyncio.Event().wait()

    async def _keep(self, cert_manager: CertManagerClient, namespace: str) -> None:
        """The first look is for a missing right, with nothing withdrawn as well: not to be told on the day of need."""
        changed = self._here.timeline.watch()
        pauses = Backoff[str](self._here.heartbeat)
        is_readable = False
        while True:
            changed.clear()
            seconds: float = self._here.heartbeat
            try:
                history = await self._here.timeline.read()
                before = outdated_before(history, self._here.now())
                if before is not None or not is_readable:
                    issuances = await cert_manager.issuances(namespace)
                    is_readable = True
                    if before is not None:
                        seconds = await self._mark(cert_manager, issuances, before, pauses)
                pauses.succeeded("")
            except JournalConflict:
                seconds = _SOON
            except (KubernetesError, JournalError, ClockDiffers) as error:
                is_readable = False
                seconds = self._failed(pauses, "", namespace, _told(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def _mark(
        self, cert_manager: CertManagerClient, issuances: tuple[Issuance, ...], before: int, pauses: Backoff[str]
    ) -> float:
        """Mark those that are due, none waiting for another; seconds until the next look."""
        self._here.check_clock()
        signing = signing_ca(self._here.timeline.history, self._here.now())
        if signing is None or signing.intent != self._active():
            return _SOON
        tolerance, seconds = self._here.timing.tolerance_seconds, float(self._here.heartbeat)
        for one in issuances:
            now = self._here.now()
            if not is_due(one, cert_manager.config.issuer, before, tolerance, now) or one.name in pauses.backing_off():
                continue
            self._here.timeline.check_lease()
            try:
                await cert_manager.mark(one, now)
            except ObjectMissing:
                continue  # it was deleted meanwhile
            except ObjectConflict:
                seconds = _SOON  # somebody wrote meanwhile: it is decided anew
            except KubernetesError as error:
                self._failed(pauses, one.name, one.full_name, str(error))
            else:
                pauses.succeeded(one.name)
                self._here.observe(CertificateMarked(now, one.full_name, before))
        return min(seconds, pauses.seconds_left() or seconds)

    def _failed(self, pauses: Backoff[str], thing: str, target: str, error: str) -> float:
        seconds = pauses.failed(thing)
        self._here.observe(StepFailed(self._here.now(), Step.REISSUE, target, error, seconds))
        return seconds


def _told(error: Exception) -> str:
    return f"{error}; is cert-manager installed?" if isinstance(error, ObjectMissing) else str(error)
