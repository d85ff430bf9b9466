"""The injector's web application: the API server posts AdmissionReviews to ``/inject``.

The API server verifies it by ``caBundle`` of the webhook configuration, which ``authority/injector/ca_bundle.py``
sets. A GitOps controller that applies that configuration has to leave out or ignore
``.webhooks[].clientConfig.caBundle``.
"""

import logging

from aiohttp import web

from authority.injector.admission import AdmissionDecision, ReviewError, decide
from authority.injector.sidecar import SidecarSettings
from authority.web.connection_limit import connection_deadlines

_LARGEST_REVIEW = 8 * 1024 * 1024  # the API server takes objects of up to 3 MiB, and sends two of them

log = logging.getLogger("authority")


def application(settings: SidecarSettings) -> web.Application:
    """``POST /inject``, and ``GET /livez``. Any other body is answered with 400 and a sentence."""

    async def inject(request: web.Request) -> web.Response:
        try:
            decision = decide(await request.read(), settings)
        except ReviewError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        _log_decision(decision)
        return web.json_response(decision.response())

    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    made = web.Application(middlewares=[connection_deadlines], client_max_size=_LARGEST_REVIEW)
    made.add_routes([web.post("/inject", inject), web.get("/livez", livez)])
    return made


def _log_decision(decision: AdmissionDecision) -> None:
    if decision.refusal:
        log.warning("injection_refused", extra={"fields": {"pod": decision.pod, "error": decision.refusal}})
    elif decision.patch:
        log.info("injected", extra={"fields": {"pod": decision.pod, "warnings": list(decision.warnings)}})
