"""cert-manager's Certificates in the Kubernetes API: how they are read, and how they are marked for re-issuance.

A Certificate is marked as ``cmctl renew`` does it: the condition ``Issuing`` becomes true, and cert-manager issues anew
(https://cert-manager.io/docs/reference/cmctl/#renew). The status is written over the version that was decided upon.
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
    """A Certificate, as far as a re-issuance concerns it; pure."""
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


def status_patch(certificate: Issuance, now: int) -> dict[str, Any]:
    """The merge patch of ``status`` that marks the Certificate; pure.

    A merge patch (RFC 7386) replaces lists as a whole, so the patch has every condition.
    """
    condition: dict[str, Any] = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance triggered by tidemark-authority: a CA was withdrawn",
        "lastTransitionTime": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if certificate.generation is not None:
        condition["observedGeneration"] = certificate.generation
    others = [each for each in certificate.conditions if each.get("type") != "Issuing"]
    return {"metadata": {"resourceVersion": certificate.version}, "status": {"conditions": [*others, condition]}}


def _seconds(instant: Any) -> int | None:
    """Unix seconds of an instant in RFC 3339, as the API server writes it."""
    return int(datetime.fromisoformat(instant).timestamp()) if isinstance(instant, str) else None


@dataclass(frozen=True, slots=True)
class CertManagerClient:
    """The Certificates in the cluster that have the configured issuer."""

    client: KubernetesClient
    config: CertManagerConfig

    async def issuances(self, namespace: str) -> tuple[Issuance, ...]:
        """Every Certificate of a namespace.

        Raises:
            KubernetesError: ObjectMissing where cert-manager is not installed.
        """
        return (await self.client.list(Selection(Certificate, namespace), issuance)).items

    async def mark(self, certificate: Issuance, now: int) -> None:
        """Have a Certificate issued anew.

        Raises:
            KubernetesError: ObjectConflict where the Certificate changed since, ObjectMissing where it is gone.
        """
        await self.client.merge_status(
            Certificate.Status, certificate.name, certificate.namespace, status_patch(certificate, now)
        )
