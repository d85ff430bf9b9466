"""Controller of re-issuance: after a withdrawal, cert-manager's Certificates are marked to be issued anew.

Which Certificates are due follows from the journal and the Certificates alone, so that a crash forgets none and marks
none twice. None is marked before the issuer was switched: cert-manager would ask the withdrawn CA again.
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
"""Seconds until the next run where a change is under way."""


class CertManagerController:
    """Runs until it is cancelled, also where cert-manager is not configured.

    ``active`` returns the name of the CA that the issuer signs with for others; None where that is not known.
    """

    def __init__(
        self, context: ControllerContext, cert_manager: CertManagerClient | None, active: Callable[[], str | None]
    ) -> None:
        self._context = context
        self._cert_manager = cert_manager
        self._active = active

    async def run(self) -> None:
        """Reconcile every namespace until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._cert_manager is not None:
                for namespace in self._cert_manager.config.namespaces:
                    name = f"certificates in {namespace}"
                    group.create_task(self._run_namespace(self._cert_manager, namespace), name=name)
            await asyncio.Event().wait()

    async def _run_namespace(self, cert_manager: CertManagerClient, namespace: str) -> None:
        """Reconcile one namespace until cancelled.

        The first run lists the Certificates even where no CA is withdrawn: a missing right is reported before need.
        """
        changed = self._context.journal.watch()
        backoff = Backoff[str](self._context.heartbeat)
        is_readable = False
        while True:
            changed.clear()
            seconds: float = self._context.heartbeat
            try:
                history = await self._context.journal.read()
                before = outdated_before(history, self._context.now())
                if before is not None or not is_readable:
                    issuances = await cert_manager.issuances(namespace)
                    is_readable = True
                    if before is not None:
                        seconds = await self._mark(cert_manager, issuances, before, backoff)
                backoff.succeeded("")
            except JournalConflict:
                seconds = _SOON
            except (KubernetesError, JournalError, ClockDiffers) as error:
                is_readable = False
                seconds = self._failed(backoff, "", namespace, _describe(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def _mark(
        self, cert_manager: CertManagerClient, issuances: tuple[Issuance, ...], before: int, backoff: Backoff[str]
    ) -> float:
        """Mark the Certificates that are due, none waiting for another; seconds until the next run."""
        self._context.check_clock()
        signing = signing_ca(self._context.journal.history, self._context.now())
        # Until the issuer signs with the new CA, cert-manager would get another leaf of the withdrawn CA.
        if signing is None or signing.ca_id != self._active():
            return _SOON
        tolerance, seconds = self._context.timing.tolerance_seconds, float(self._context.heartbeat)
        for certificate in issuances:
            now = self._context.now()
            if not is_due(certificate, cert_manager.config.issuer, before, tolerance, now):
                continue
            if certificate.name in backoff.backing_off():
                continue
            self._context.journal.check_lease()
            try:
                await cert_manager.mark(certificate, now)
            except ObjectMissing:
                continue  # the Certificate was deleted meanwhile
            except ObjectConflict:
                seconds = _SOON  # another client wrote meanwhile: decide anew
            except KubernetesError as error:
                self._failed(backoff, certificate.name, certificate.full_name, str(error))
            else:
                backoff.succeeded(certificate.name)
                self._context.observe(CertificateMarked(now, certificate.full_name, before))
        return min(seconds, backoff.seconds_left() or seconds)

    def _failed(self, backoff: Backoff[str], key: str, target: str, error: str) -> float:
        seconds = backoff.failed(key)
        self._context.observe(StepFailed(self._context.now(), Step.REISSUE, target, error, seconds))
        return seconds


def _describe(error: Exception) -> str:
    return f"{error}; is cert-manager installed?" if isinstance(error, ObjectMissing) else str(error)
