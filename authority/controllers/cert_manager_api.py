"""Leaves that cert-manager issues: which of its Certificates a withdrawal has made old, and how they are marked.

A Certificate is marked as ``cmctl renew`` does it: the condition ``Issuing`` becomes true, and cert-manager issues anew
(https://cert-manager.io/docs/reference/cmctl/#renew). Its status is written over the version that was decided upon.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lightkube.generic_resource import create_namespaced_resource

from authority.config.kubernetes import CertManagerConfig
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.selection import Selection
from authority.rotation.reissue import Issuance

GROUP = "cert-manager.io"

Certificate: Any = create_namespaced_resource(GROUP, "v1", "Certificate", "certificates")


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
class CertManagerClient:
    """The Certificates in the cluster that have the configured issuer."""

    client: KubernetesClient
    config: CertManagerConfig

    async def issuances(self, namespace: str) -> tuple[Issuance, ...]:
        """Every Certificate of a namespace. Raises KubernetesError: Missing where cert-manager is not installed."""
        return (await self.client.list(Selection(Certificate, namespace), issuance)).items

    async def mark(self, one: Issuance, now: int) -> None:
        """Have it issued anew. Raises KubernetesError: Conflict where it changed since, Missing where it is gone."""
        await self.client.merge_status(Certificate.Status, one.name, one.namespace, marked(one, now))
