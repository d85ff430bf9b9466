"""Keeps the control CA in the webhook configuration's ``caBundle``."""

import asyncio
import base64
from collections.abc import Callable
from typing import Never

from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration

from authority.injector.server import log
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.errors import KubernetesError

LOOK_SECONDS = 15.0
"""How often ``caBundle`` is looked at: so long a foreign one may keep labelled pods from being created."""


async def set_ca_bundle(client: KubernetesClient, name: str, ca: bytes) -> bool:
    """Have every webhook of this configuration trust ``ca`` (PEM); returns whether any had to be told.

    Raises:
        KubernetesError: the configuration is not there, or may not be read or patched.
    """
    found = await client.get(MutatingWebhookConfiguration, name, "")
    if found is None:
        raise KubernetesError(
            f"MutatingWebhookConfiguration {name}: expected it, found none; apply manifests/base/injector"
        )
    wanted = base64.b64encode(ca).decode()
    stale = [webhook.name for webhook in found.webhooks or [] if webhook.clientConfig.caBundle != wanted]
    if stale:  # merged by name, so that nothing else of the webhooks is written
        webhooks = [{"name": webhook, "clientConfig": {"caBundle": wanted}} for webhook in stale]
        await client.merge(MutatingWebhookConfiguration, name, "", {"webhooks": webhooks})
    return bool(stale)


async def keep_ca_bundle(
    client: KubernetesClient,
    name: str,
    ca: bytes,
    failed: Callable[[KubernetesError], None],
    look_seconds: float = LOOK_SECONDS,
) -> Never:
    """Do so for ever, whoever writes another. Failures are told and tried again."""
    while True:
        try:
            if await set_ca_bundle(client, name, ca):
                log.info("ca_bundle_set", extra={"fields": {"webhook": name}})
        except KubernetesError as error:
            failed(error)
        await asyncio.sleep(look_seconds)
