"""Leaves that cert-manager issues: which of its Certificates a withdrawal has made old, and how they are marked.

A Certificate is marked as ``cmctl renew`` does it: the condition ``Issuing`` becomes true, and cert-manager issues anew
(https://cert-manager.io/docs/reference/cmctl/#renew). Its status is written over the version that was decided upon.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lightkube.generic_resource import create_namespaced_resource

from authority.config.kubernetes import CertManagerConfig
from authority.journal.history import EpochCa, History
from authority.journal.interface import ActivationRecord
from authority.kubernetes.client import KubernetesClient, Selection
from authority.rotation.withdrawal import is_replaced

GROUP = "cert-manager.io"

FAILURE_SECONDS = 300
"""How long a Certificate is left alone whose re-issuance has failed."""

Certificate: Any = create_namespaced_resource(GROUP, "v1", "Certificate", "certificates")


@dataclass(frozen=True, slots=True)
class Issuance:
    """What is kept of a Certificate at ``version``; instants in Unix seconds, None where there is none.

    ``not_before`` is that of the leaf in its Secret; ``conditions`` are all of its status, as they stand there.
    """

    namespace: str
    name: str
    version: str
    generation: int | None
    issuer: str
    not_before: int | None
    failed_at: int | None
    conditions: tuple[dict[str, Any], ...]

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def is_issuing(self) -> bool:
        """Whether cert-manager issues already, or is about to."""
        return any((each.get("type"), each.get("status")) == ("Issuing", "True") for each in self.conditions)


def issuance(certificate: Any) -> Issuance:
    """Take from a Certificate what is kept of it; pure. ``issuer`` is "" where it is of another group's kind."""
    metadata, status = certificate.metadata, certificate.status or {}
    reference = (certificate.spec or {}).get("issuerRef") or {}
    is_ours = reference.get("group") in (None, "", GROUP)
    return Issuance(
        namespace=metadata.namespace or "",
        name=metadata.name or "",
        version=metadata.resourceVersion or "",
        generation=metadata.generation,
        issuer=reference.get("name", "") if is_ours else "",
        not_before=_seconds(status.get("notBefore")),
        failed_at=_seconds(status.get("lastFailureTime")),
        conditions=tuple(status.get("conditions") or ()),
    )


def outdated_before(history: History, now: int) -> int | None:
    """When leaves began that no withdrawn CA has signed; None where nothing is withdrawn, or not yet replaced; pure.

    Until a bad CA is left out that is the last activation, as step 3 of its withdrawal has it (``withdrawal.reissue``);
    from then on the one that took over from it, so that rotations to come ask for no more leaves.
    """
    bad = [ca for ca in history.cas if (ca.withdrawal or ca.withdrawn) and not ca.is_expired(now)]
    instants = [_replaced_at(ca, history, now) for ca in bad]
    return max((instant for instant in instants if instant is not None), default=None)


def _replaced_at(bad: EpochCa, history: History, now: int) -> int | None:
    if bad.intent and bad.activated_at is None:
        return None  # it never signed
    if bad.left_out is None:
        return history.activations[-1].at if is_replaced(bad, history, now) else None
    activations = [
        (each.position, each.record) for each in history.entries if isinstance(each.record, ActivationRecord)
    ]
    last = max((position for position, record in activations if record.ca == bad.sha256), default=bad.position)
    return next((record.at for position, record in activations if position > last), None)


def is_due(one: Issuance, issuer: str, before: int, tolerance_seconds: int, now: int) -> bool:
    """Whether the Certificate is to be marked; pure. OpenBao sets a leaf's NotBefore a tolerance before its issue.

    One that was issued in the second of ``before`` is marked too: which CA signed it cannot be told.
    """
    if one.issuer != issuer or one.is_issuing or one.not_before is None:
        return False
    has_just_failed = one.failed_at is not None and before <= one.failed_at and now < one.failed_at + FAILURE_SECONDS
    return one.not_before + tolerance_seconds <= before and not has_just_failed


def marked(one: Issuance, now: int) -> dict[str, Any]:
    """The merge patch of ``status`` that marks it; pure. A merge patch replaces lists, so it has every condition."""
    condition: dict[str, Any] = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance triggered by tidemark-authority: a CA was withdrawn",
        "lastTransitionTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if one.generation is not None:
        condition["observedGeneration"] = one.generation
    others = [each for each in one.conditions if each.get("type") != "Issuing"]
    return {"metadata": {"resourceVersion": one.version}, "status": {"conditions": [*others, condition]}}


def _seconds(instant: Any) -> int | None:
    """RFC 3339, as the API server has it."""
    return int(datetime.fromisoformat(instant).timestamp()) if isinstance(instant, str) else None


@dataclass(frozen=True, slots=True)
class CertManager:
    """The Certificates in the cluster that have the configured issuer."""

    client: KubernetesClient
    config: CertManagerConfig

    async def issuances(self, namespace: str) -> tuple[Issuance, ...]:
        """Every Certificate of a namespace. Raises KubernetesError: Missing where cert-manager is not installed."""
        return (await self.client.list(Selection(Certificate, namespace), issuance)).items

    async def mark(self, one: Issuance, now: int) -> None:
        """Have it issued anew. Raises KubernetesError: Conflict where it changed since, Missing where it is gone."""
        await self.client.merge_status(Certificate.Status, one.name, one.namespace, marked(one, now))
