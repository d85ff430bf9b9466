"""The HTTPS API: health, metrics, status, receipts and operators' requests (docs/architecture.md, "API").

Served with a certificate of the control CA. Clients authenticate by bearer token alone: client certificates are not
requested, so a certificate of an intermediate CA opens nothing. Errors are JSON: ``{"error": "<a sentence>"}``.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from authority.api.authentication import Authenticator
from authority.api.leader_proxy import FORWARDED, LeaderProxy
from authority.api.operations import Operations
from authority.api.queries import Queries
from authority.api.tokens import TokenRole
from authority.api.views import Answer
from authority.controllers.leaf_requests import LeafOrder, read_workload
from authority.fleet.members import UnexpectedAgent
from authority.observability import metrics
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from authority.web.connection_limit import connection_deadlines
from tidemark.bundle import Cause
from tidemark.receipt import MAX_BYTES, Receipt
from tidemark.strict_json import FieldError, Fields, parse_object

_LONGEST_REASON = 500

_LONGEST_ADDRESS = 64

_KEPT_HEADERS = frozenset({"Allow", "WWW-Authenticate", "Retry-After"})


def application(
    queries: Queries, operations: Operations, authenticator: Authenticator, proxy: LeaderProxy | None = None
) -> web.Application:
    """The application that aiohttp serves; without ``proxy`` every request is answered here."""
    # Deadlines come before the proxy: they read the whole request, and limit how long a slow client may take for it.
    middlewares = [_errors_as_json, connection_deadlines, *([proxy.answer] if proxy else [])]
    made = web.Application(middlewares=middlewares, client_max_size=MAX_BYTES)
    made.add_routes(ReadRoutes(queries, authenticator).routes())
    made.add_routes(WriteRoutes(operations, authenticator).routes())
    return made


@dataclass(frozen=True, slots=True)
class ReadRoutes:
    """The routes that change nothing."""

    queries: Queries
    authenticator: Authenticator

    def routes(self) -> list[web.RouteDef]:
        """Every route with its method."""
        return [
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
            web.get("/api/v1/status", self._status),
            web.get("/api/v1/fleet", self._fleet),
            web.get("/api/v1/bundles", self._bundles),
            web.get(r"/api/v1/bundles/{sequence:\d{1,16}}", self._bundle),
            web.get("/api/v1/withdrawals", self._withdrawals),
        ]

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = self.queries.unready()
        return web.json_response({"error": missing}, status=503) if missing else web.json_response({"ready": True})

    async def _metrics(self, request: web.Request) -> web.Response:
        self.authenticator.require_reader(request)
        return web.Response(body=self.queries.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        self.authenticator.require_reader(request)
        return web.json_response(self.queries.status())

    async def _fleet(self, request: web.Request) -> web.StreamResponse:
        self.authenticator.require_reader(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        pieces = self.queries.fleet()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)  # lets other requests run between two pieces of a large fleet
        await response.write_eof()
        return response

    async def _bundles(self, request: web.Request) -> web.Response:
        self.authenticator.require_reader(request)
        return web.json_response(self.queries.bundles())

    async def _bundle(self, request: web.Request) -> web.Response:
        self.authenticator.require_reader(request)
        sequence = int(request.match_info["sequence"])
        bundle = self.queries.bundle(sequence)
        if bundle is None:
            raise web.HTTPNotFound(text=f"bundle {sequence}: expected one that the journal holds, found none")
        return web.Response(body=bundle.to_json(), content_type="application/json")

    async def _withdrawals(self, request: web.Request) -> web.Response:
        self.authenticator.require_reader(request)
        return web.json_response(self.queries.withdrawals())


@dataclass(frozen=True, slots=True)
class _OperatorRequest:
    """The parts that every request of an operator has."""

    who: str
    """The token's holder and the address, as the journal records them."""
    reason: str
    fields: Fields
    """All fields of the body."""


@dataclass(frozen=True, slots=True)
class WriteRoutes:
    """Receipts of agents, and requests of operators."""

    operations: Operations
    authenticator: Authenticator

    def routes(self) -> list[web.RouteDef]:
        """Every route with its method."""
        return [
            web.post("/api/v1/receipts", self._receipts),
            web.post("/api/v1/rotate", self._rotate),
            web.post("/api/v1/override", self._override),
            web.post("/api/v1/rollback", partial(self._withdraw, Cause.ROLLBACK)),
            web.post("/api/v1/revoke", partial(self._withdraw, Cause.REVOCATION)),
            web.post("/api/v1/leaf", self._leaf),
        ]

    async def _receipts(self, request: web.Request) -> web.Response:
        sender = await self.authenticator.require_agent(request)
        try:
            newest = self.operations.receive(Receipt.from_json(await request.read()), sender)
        except UnexpectedAgent as error:
            raise web.HTTPForbidden(text=str(error)) from None
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"receipt: {error}") from None
        response = web.json_response({"newest_sequence": newest})
        if FORWARDED not in request.headers:
            # Until the agent's next receipt an open connection would cost 0.3 MiB here. The connection of another
            # replica stays open: it carries the receipts of many agents.
            response.force_close()
        return response

    async def _rotate(self, request: web.Request) -> web.Response:
        asked = await self._operator_request(request)
        return await self._carry_out("rotate", self.operations.rotate(asked.who, asked.reason))

    async def _override(self, request: web.Request) -> web.Response:
        asked = await self._operator_request(request)
        return await self._carry_out("override", self.operations.override(asked.who, asked.reason))

    async def _withdraw(self, cause: Cause, request: web.Request) -> web.Response:
        asked = await self._operator_request(request)
        try:
            ca = asked.fields.string("ca", 64) if "ca" in asked.fields else ""
            # On the wire "now" means without waiting for proofs; inside, "now" is always the time.
            urgent, preview = (name in asked.fields and asked.fields.flag(name) for name in ("now", "preview"))
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"{cause}: {error}") from None
        wanted = WithdrawalRequest(cause, ca, urgent=urgent)
        if not preview:
            return await self._carry_out(cause.value, self.operations.withdraw(asked.who, asked.reason, wanted))
        try:
            return web.json_response(self.operations.preview(wanted))
        except RotationRefused as error:
            raise web.HTTPConflict(text=str(error)) from None

    async def _leaf(self, request: web.Request) -> web.Response:
        asked = await self._operator_request(request)
        try:
            workload = read_workload(asked.fields)
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"leaf: {error}") from None
        return await self._carry_out("leaf", self.operations.leaf(LeafOrder(workload, asked.who, asked.reason)))

    async def _operator_request(self, request: web.Request) -> _OperatorRequest:
        holder = self.authenticator.require(request, TokenRole.OPERATOR)
        name = request.path.rpartition("/")[2]
        try:
            fields = parse_object(await request.read())
            reason = fields.string("reason", _LONGEST_REASON).strip()
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"{name}: {error}") from None
        if not reason:
            raise web.HTTPBadRequest(text=f"{name}: field 'reason': expected why, found nothing")
        return _OperatorRequest(f"{holder.name} from {_client_address(request)}", reason, fields)

    async def _carry_out(self, name: str, operation: Awaitable[Answer]) -> web.Response:
        try:
            return web.json_response(await operation)
        except RotationRefused as error:
            raise web.HTTPConflict(text=str(error)) from None
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text=f"{name}: {error}") from None


def _client_address(request: web.Request) -> str:
    """The address that a request came from, and of a forwarded request also the original one."""
    original = request.headers.get(FORWARDED, "")[:_LONGEST_ADDRESS]
    return f"{request.remote}, for {original}" if original.isprintable() and original else str(request.remote)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        # aiohttp's own errors (404, 405, 413) carry its text; ours carry a sentence.
        is_aiohttps_own = error.text == f"{error.status}: {error.reason}"
        sentence = f"{request.method} {request.path}: {error.reason.lower()}" if is_aiohttps_own else error.text
        headers = {name: value for name, value in error.headers.items() if name in _KEPT_HEADERS}
        return web.json_response({"error": sentence}, status=error.status, headers=headers)
