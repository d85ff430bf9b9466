"""Serving the injector: HTTPS for the API server, under a certificate that the webhook configuration trusts.

``/inject`` answers AdmissionReviews. ``keep_ca_bundle`` has the MutatingWebhookConfiguration trust the control CA: it
sets ``caBundle`` of every webhook there and touches nothing else, so whoever applies the rest (a GitOps controller) has
to leave out or ignore ``.webhooks[].clientConfig.caBundle``.
"""

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Never

from aiohttp import web
from lightkube.resources.admissionregistration_v1 import MutatingWebhookConfiguration

from authority.injector.admission import Decision, ReviewError, decide
from authority.injector.sidecar import SidecarSettings
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import KubernetesError
from authority.web.connection_limit import in_turn

LOOK_SECONDS = 15.0
"""How often ``caBundle`` is looked at: so long a foreign one may keep labelled pods from being created."""

_LARGEST_REVIEW = 8 * 1024 * 1024  # the API server takes objects of up to 3 MiB, and sends two of them

log = logging.getLogger("authority")


def application(settings: SidecarSettings) -> web.Application:
    """``POST /inject``, and ``GET /livez``. What is no AdmissionReview is answered with 400 and a sentence."""

    async def inject(request: web.Request) -> web.Response:
        try:
            decision = decide(await request.read(), settings)
        except ReviewError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        _tell(decision)
        return web.json_response(decision.response())

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    made = web.Application(middlewares=[in_turn], client_max_size=_LARGEST_REVIEW)
    made.add_routes([web.post("/inject", inject), web.get("/livez", livez)])
    return made


def _tell(decision: Decision) -> None:
    if decision.refusal:
        log.warning("injection_refused", extra={"fields": {"pod": decision.pod, "error": decision.refusal}})
    elif decision.patch:
        log.info("injected", extra={"fields": {"pod": decision.pod, "warnings": list(decision.warnings)}})


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
