"""Reconciles the ``caBundle`` of the webhook configuration with the control CA."""

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Never

from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError

log = logging.getLogger("authority")

RECONCILE_SECONDS = 15.0
"""How often ``caBundle`` is checked: for so long a wrong one may keep labelled pods from being created."""


async def set_ca_bundle(client: KubernetesClient, name: str, ca: bytes) -> bool:
    """Make every webhook of this configuration trust ``ca`` (PEM); returns whether any did not.

    Raises:
        KubernetesError: the configuration does not exist, or reading or patching it is refused.
    """
    found = await client.get(MutatingWebhookConfiguration, name, "")
    if found is None:
        raise KubernetesError(
            f"MutatingWebhookConfiguration {name}: expected it, found none; apply manifests/base/injector"
        )
    wanted = base64.b64encode(ca).decode()
    stale = [webhook.name for webhook in found.webhooks or [] if webhook.clientConfig.caBundle != wanted]
    if stale:
        # A strategic merge patch merges webhooks by name: nothing else of them is written.
        webhooks = [{"name": webhook, "clientConfig": {"caBundle": wanted}} for webhook in stale]
        await client.merge(MutatingWebhookConfiguration, name, "", {"webhooks": webhooks})
    return bool(stale)


async def reconcile_ca_bundle(
    client: KubernetesClient,
    name: str,
    ca: bytes,
    failed: Callable[[KubernetesError], None],
    every: float = RECONCILE_SECONDS,
) -> Never:
    """Set ``caBundle`` again whenever it differs, until cancelled; ``failed`` gets each failure, tried again later."""
    while True:
        try:
            if await set_ca_bundle(client, name, ca):
                log.info("ca_bundle_set", extra={"fields": {"webhook": name}})
        except KubernetesError as error:
            failed(error)
        await asyncio.sleep(every)
