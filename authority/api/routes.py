"""The HTTPS API: health, metrics, questions, receipts and requests (docs/architecture.md, "API").

Served with a certificate of the control CA. Who asks is told by bearer tokens alone: client certificates are not asked
for, so one of an intermediate opens nothing. Errors are JSON: ``{"error": "<a sentence>"}``.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from authority.api.leader_proxy import FORWARDED, LeaderProxy
from authority.api.tokens import TokenHolder, TokenReviewUnavailable, TokenRole, Tokens
from authority.api.views import Answer
from authority.controllers.leaf_requests import LeafOrder, read_workload
from authority.fleet.members import PodIdentity, UnexpectedAgent
from authority.observability import metrics
from authority.rotation.operator_requests import RotationRefused, WithdrawalRequest
from authority.web.connection_limit import connection_deadlines
from tidemark.bundle import Bundle, Cause
from tidemark.receipt import MAX_BYTES, Receipt
from tidemark.strict_json import FieldError, Fields, parse_object

_LONGEST_REASON = 500

_LONGEST_ADDRESS = 64

_KEPT_HEADERS = frozenset({"Allow", "WWW-Authenticate", "Retry-After"})


class Desk(Protocol):
    """What answers the questions and takes the requests, whatever they came in by."""

    def unready(self) -> str:
        """What keeps the authority from its work, "" where nothing does."""

    def metrics(self) -> bytes:
        """The text that Prometheus reads."""

    def status(self) -> Answer:
        """The deployment in short."""

    def fleet(self) -> Iterator[bytes]:
        """Every agent with its last receipt, as JSON in pieces."""

    def bundles(self) -> Answer:
        """Every statement that the journal holds."""

    def bundle(self, sequence: int) -> Bundle | None:
        """The bundle of this number, None where the journal does not hold it."""

    def receive(self, receipt: Receipt, sender: PodIdentity | None) -> int:
        """Take a receipt, of ``sender`` where its token shows one; returns the newest sequence.

        Raises:
            UnexpectedAgent: nobody expects this agent.
        """

    def withdrawals(self) -> Answer:
        """Every withdrawal of a CA that has not expired: each agent's time to distrust it, and who stays connected."""

    async def rotate(self, who: str, reason: str) -> Answer:
        """Force a rotation; returns what was made. Raises RotationRefused, TimeoutError."""

    async def override(self, who: str, reason: str) -> Answer:
        """Open the gate of the newest CA that waits; returns that CA. Raises RotationRefused, TimeoutError."""

    def prospect(self, wanted: WithdrawalRequest) -> Answer:
        """What a withdrawal would do. Raises RotationRefused."""

    async def withdraw(self, who: str, reason: str, wanted: WithdrawalRequest) -> Answer:
        """Record a withdrawal; returns what it does. Raises RotationRefused, TimeoutError."""

    async def leaf(self, order: LeafOrder) -> Answer:
        """Sign a leaf; returns it with its key. Raises RotationRefused, TimeoutError."""


class Api:
    """The API's routes; ``application`` serves them."""

    def __init__(
        self,
        desk: Desk,
        tokens: Tokens,
        *,
        open_reads: bool,
        forwarding: LeaderProxy | None = None,
    ) -> None:
        self._desk = desk
        self._forwarding = forwarding
        self._tokens = tokens
        self._open_reads = open_reads

    def application(self) -> web.Application:
        """What aiohttp runs."""
        application = web.Application(
            middlewares=[_errors_as_json, connection_deadlines, self._answered_by_leader], client_max_size=MAX_BYTES
        )
        application.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/status", self._status),
                web.get("/api/v1/fleet", self._fleet),
                web.get("/api/v1/bundles", self._bundles),
                web.get(r"/api/v1/bundles/{sequence:\d{1,16}}", self._bundle),
                web.post("/api/v1/receipts", self._receipts),
                web.get("/api/v1/withdrawals", self._withdrawals),
                web.post("/api/v1/rotate", self._rotate),
                web.post("/api/v1/override", self._override),
                web.post("/api/v1/rollback", partial(self._withdraw, Cause.ROLLBACK)),
                web.post("/api/v1/revoke", partial(self._withdraw, Cause.REVOCATION)),
                web.post("/api/v1/leaf", self._leaf),
            ]
        )
        return application

    @web.middleware
    async def _answered_by_leader(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._forwarding is None:
            return await handler(request)
        return await self._forwarding.answer(request, handler)

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = self._desk.unready()
        return web.json_response({"error": missing}, status=503) if missing else web.json_response({"ready": True})

    async def _metrics(self, request: web.Request) -> web.Response:
        self._admit_reader(request)
        return web.Response(body=self._desk.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        self._admit_reader(request)
        return web.json_response(self._desk.status())

    async def _fleet(self, request: web.Request) -> web.StreamResponse:
        self._admit_reader(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        pieces = self._desk.fleet()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)  # whatever else is due comes first
        await response.write_eof()
        return response

    async def _bundles(self, request: web.Request) -> web.Response:
        self._admit_reader(request)
        return web.json_response(self._desk.bundles())

    async def _bundle(self, request: web.Request) -> web.Response:
        self._admit_reader(request)
        sequence = int(request.match_info["sequence"])
        bundle = self._desk.bundle(sequence)
        if bundle is None:
            raise web.HTTPNotFound(text=f"bundle {sequence}: expected one that the journal holds, found none")
        return web.Response(body=bundle.to_json(), content_type="application/json")

    async def _receipts(self, request: web.Request) -> web.Response:
        sender = await self._sender(request)
        try:
            newest = self._desk.receive(Receipt.from_json(await request.read()), sender)
        except UnexpectedAgent as error:
            raise web.HTTPForbidden(text=str(error)) from None
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"receipt: {error}") from None
        response = web.json_response({"newest_sequence": newest})
        if FORWARDED not in request.headers:
            response.force_close()  # until the agent's next receipt an open connection would cost 0.3 MiB here
        return response

    async def _withdrawals(self, request: web.Request) -> web.Response:
        self._admit_reader(request)
        return web.json_response(self._desk.withdrawals())

    async def _rotate(self, request: web.Request) -> web.Response:
        order = await self._order(request)
        return await self._carry_out("rotate", self._desk.rotate(order.who, order.reason))

    async def _override(self, request: web.Request) -> web.Response:
        order = await self._order(request)
        return await self._carry_out("override", self._desk.override(order.who, order.reason))

    async def _withdraw(self, cause: Cause, request: web.Request) -> web.Response:
        order = await self._order(request)
        try:
            ca = order.fields.string("ca", 64) if "ca" in order.fields else ""
            urgent, preview = (name in order.fields and order.fields.flag(name) for name in ("now", "preview"))
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"{cause}: {error}") from None
        wanted = WithdrawalRequest(cause, ca, urgent=urgent)
        if not preview:
            return await self._carry_out(cause.value, self._desk.withdraw(order.who, order.reason, wanted))
        try:
            return web.json_response(self._desk.prospect(wanted))
        except RotationRefused as error:
            raise web.HTTPConflict(text=str(error)) from None

    async def _leaf(self, request: web.Request) -> web.Response:
        order = await self._order(request)
        try:
            workload = read_workload(order.fields)
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"leaf: {error}") from None
        return await self._carry_out("leaf", self._desk.leaf(LeafOrder(workload, order.who, order.reason)))

    async def _order(self, request: web.Request) -> "_Order":
        """What an operator's request says: who, why, and the rest of its fields."""
        holder, name = self._admit(request, TokenRole.OPERATOR), request.path.rpartition("/")[2]
        try:
            fields = parse_object(await request.read())
            reason = fields.string("reason", _LONGEST_REASON).strip()
        except FieldError as error:
            raise web.HTTPBadRequest(text=f"{name}: {error}") from None
        if not reason:
            raise web.HTTPBadRequest(text=f"{name}: field 'reason': expected why, found nothing")
        return _Order(f"{holder.name} from {_whence(request)}", reason, fields)

    async def _carry_out(self, name: str, write: Awaitable[Answer]) -> web.Response:
        try:
            return web.json_response(await write)
        except RotationRefused as error:
            raise web.HTTPConflict(text=str(error)) from None
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text=f"{name}: {error}") from None

    async def _sender(self, request: web.Request) -> PodIdentity | None:
        """Who sent a receipt: the pod of its token where somebody reviews them, else anybody with the agents' token."""
        if self._tokens.reviewer is None:
            self._admit(request, TokenRole.AGENT)
            return None
        token = _bearer_token(request)
        try:
            sender = await self._tokens.reviewer.sender(token) if token else None
        except TokenReviewUnavailable as error:
            raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": "1"}) from None
        if sender is None:
            raise _unauthorized(request, token, "a projected token of the authority's audience, bound to a pod")
        return sender

    def _admit_reader(self, request: web.Request) -> None:
        if not self._open_reads:
            self._holder(request)

    def _admit(self, request: web.Request, role: TokenRole) -> TokenHolder:
        holder = self._holder(request)
        if holder.role is not role:
            raise web.HTTPForbidden(
                text=f"{request.path}: expected the token of an {role}, found that of {holder.name}"
            )
        return holder

    def _holder(self, request: web.Request) -> TokenHolder:
        token = _bearer_token(request)
        holder = self._tokens.holder_of(token) if token else None
        if holder is None:
            raise _unauthorized(request, token, "a bearer token")
        return holder


def _bearer_token(request: web.Request) -> str:
    """The token that came with a request, "" for none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorized(request: web.Request, token: str, expected: str) -> web.HTTPUnauthorized:
    found = "one that is not known" if token else "none"
    text = f"{request.path}: expected {expected}, found {found}"
    return web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})


def _whence(request: web.Request) -> str:
    """The address that a request came from; of one that another replica passed on, what that one says as well."""
    told = request.headers.get(FORWARDED, "")[:_LONGEST_ADDRESS]
    return f"{request.remote}, for {told}" if told.isprintable() and told else str(request.remote)


@dataclass(frozen=True, slots=True)
class _Order:
    who: str
    reason: str
    fields: Fields


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        is_aiohttps_own = error.text == f"{error.status}: {error.reason}"
        sentence = f"{request.method} {request.path}: {error.reason.lower()}" if is_aiohttps_own else error.text
        headers = {name: value for name, value in error.headers.items() if name in _KEPT_HEADERS}
        return web.json_response({"error": sentence}, status=error.status, headers=headers)
