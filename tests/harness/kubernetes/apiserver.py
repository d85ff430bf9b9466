"""A Kubernetes API server for tests: real HTTPS, with the semantics that the API's documentation promises.

https://kubernetes.io/docs/reference/using-api/api-concepts/ (lists, watches, bookmarks, 410, continue), .../
server-side-apply/, .../access-authn-authz/. A test may intercept requests (``interfere``): to answer, to write an
object first, or to lose an answer.
"""

import asyncio
import base64
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.harness.kubernetes import discovery, status
from tests.harness.kubernetes.accounts import Accounts, Wish
from tests.harness.kubernetes.certificates import serving_files
from tests.harness.kubernetes.kinds import KINDS, NAMESPACE, POD, TOKEN_REVIEW, ResourceKind
from tests.harness.kubernetes.selectors import name_of, selects
from tests.harness.kubernetes.status import StatusFailure
from tests.harness.kubernetes.store import Change, Store
from tests.harness.servers import end

Json = dict[str, Any]
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Interference = Callable[[web.Request, Answering], Awaitable[web.StreamResponse]]

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:/namespaces/(?P<ns>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?"
    r"(?P<status>/status)?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_LONGEST_WATCH = 1800.0


@dataclass(frozen=True)
class Asked:
    """A request, taken apart; ``verb`` as RBAC names it."""

    kind: ResourceKind
    verb: str
    namespace: str
    name: str
    query: Json
    manager: str
    of_status: bool = False

    @property
    def resource(self) -> str:
        """The resource as RBAC names it."""
        return f"{self.kind.plural}/status" if self.of_status else self.kind.plural


@dataclass
class ApiServer:
    """Serves the verbs of the API; a method for each. ``clock`` is the time of its ``Date`` header and time stamps,
    ``bookmark_seconds`` the interval of bookmarks."""

    directory: Path
    clock: Callable[[], float] = time.time
    bookmark_seconds: float = 0.5
    interfere: Interference | None = None
    gone_as_event: bool = True
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.clock)
        self.accounts = Accounts(self.clock, self._pod_exists)
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._watches: set[asyncio.Event] = set()
        self.bookmarked = 0
        self._pages: dict[str, tuple[int, list[Json]]] = {}
        self.ca_file, self._chain, self._key = serving_files(self.directory)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ApiServer"]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        """Listen; after a stop, on the same address."""
        application = web.Application(client_max_size=8 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", self._answer)
        application.on_response_prepare.append(self._date)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._chain, self._key)
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=context, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            self.close_watches()
            await end(self._runner)
            self._runner = None

    def close_watches(self) -> None:
        """End every running watch, as a real server does at times."""
        for ended in self._watches:
            ended.set()

    @property
    def watches(self) -> int:
        return len(self._watches)

    def namespace(self, name: str, **labels: str) -> None:
        """For tests: a namespace with these labels (``_`` and ``__`` in their names stand for ``-`` and ``/``)."""
        self.store.put(NAMESPACE, {"metadata": {"name": name, "labels": dict(labels)}})

    def kubeconfig(self, path: Path, token: str, namespace: str = "tidemark") -> Path:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _pod_exists(self, pod: tuple[str, str, str]) -> bool:
        found = self.store.find(POD, pod[0], pod[1])
        return found is not None and found["metadata"]["uid"] == pod[2]

    async def _date(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(self.clock(), usegmt=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        if self.interfere is not None:
            return await self.interfere(request, self._handle)
        return await self._handle(request)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._serve(request)
        except StatusFailure as error:
            return _json(error.body, status=error.code)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        holder = self.accounts.authenticate(token) if scheme == "Bearer" else None
        if holder is None:
            raise status.unauthorized()
        if request.method == "GET" and (found := discovery.document(request.path)) is not None:
            return _json(found)
        asked = _taken_apart(request)
        kind, name = asked.kind, asked.name
        wish = Wish(asked.verb, kind.group, asked.resource, asked.namespace, name)
        if not self.accounts.allows(holder.user, wish):
            raise status.forbidden(holder.user, wish)
        match asked.verb:
            case "watch":
                return await self._watch(request, asked)
            case "list":
                return _json(self._list(asked))
            case "get":
                return _json(self.store.get(kind, asked.namespace, name))
            case "create":
                return _json(self._create(asked, await _body(request)), status=201)
            case "update":
                body = await _body(request)
                return _json(self.store.update(kind, asked.namespace, name, body, asked.manager))
            case "delete":
                self.store.delete(kind, asked.namespace, name)
                return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        return _json(self._patch(request.content_type, asked, await _body(request)))

    def _create(self, asked: Asked, body: Json) -> Json:
        if asked.kind is TOKEN_REVIEW:
            return body | {
                "metadata": {"creationTimestamp": None},
                "status": self.accounts.review(body.get("spec") or {}),
            }
        return self.store.create(asked.kind, asked.namespace, body, asked.manager)

    def _patch(self, content_type: str, asked: Asked, body: Json) -> Json:
        if content_type in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
            strategic = content_type.startswith("application/strategic")
            if strategic and asked.kind.custom:
                detail = "the body of the request was in an unknown format - accepted media types include: "
                raise StatusFailure(415, "UnsupportedMediaType", f"{detail}application/merge-patch+json")
            where = asked.kind, asked.namespace, asked.name
            return self.store.merge(*where, body, asked.manager, strategic=strategic, of_status=asked.of_status)
        if asked.of_status:
            raise status.bad_request(f"{asked.resource}: this server takes merge patches of it, and nothing else")
        if content_type != "application/apply-patch+yaml":
            raise StatusFailure(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content_type}"
            )
        if "fieldManager" not in asked.query:
            raise status.bad_request("fieldManager is required for apply patch")
        force = asked.query.get("force") == "true"
        return self.store.apply(asked.kind, asked.namespace, asked.name, body, asked.manager, force=force)

    def _list(self, asked: Asked) -> Json:
        """The selected objects, or a page of them; all pages of a list show one version."""
        if resumed := asked.query.get("continue"):
            version, rest = self._pages.pop(resumed, (0, []))
            if version < self.store.compacted or version == 0:
                raise StatusFailure(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list"
                )
        else:
            selected = selects(asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))
            version, rest = self.store.version, self.store.select(asked.kind, asked.namespace, selected)
        limit = int(asked.query.get("limit") or 0) or len(rest)
        metadata = {"resourceVersion": str(version)}
        page, rest = rest[:limit], rest[limit:]
        if rest:
            metadata["continue"] = base64.urlsafe_b64encode(f"{version}/{len(self._pages)}".encode()).decode()
            metadata["remainingItemCount"] = str(len(rest))
            self._pages[metadata["continue"]] = (version, rest)
        items = [{name: value for name, value in one.items() if name not in ("apiVersion", "kind")} for one in page]
        kind = asked.kind
        return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        selected = selects(asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))
        version = int(asked.query.get("resourceVersion") or 0)
        first: Sequence[Json] = ()
        if version == 0:  # whatever there is now, then what changes
            first = [
                {"type": "ADDED", "object": one} for one in self.store.select(asked.kind, asked.namespace, selected)
            ]
            version = self.store.version
        if not self.gone_as_event:
            self.store.check_remembered(version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        ended = asyncio.Event()
        self._watches.add(ended)
        try:
            await response.prepare(request)
            self.store.check_remembered(version)
            for event in first:
                await response.write(_line(event))
            await self._stream(response, asked, version, ended)
        except StatusFailure as error:
            await response.write(_line({"type": "ERROR", "object": error.body}))
        except ConnectionError:
            return response
        finally:
            self._watches.discard(ended)
        with suppress(ConnectionError):
            await response.write_eof()
        return response

    async def _stream(self, response: web.StreamResponse, asked: Asked, version: int, ended: asyncio.Event) -> None:
        selected = selects(asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", ""))
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + float(asked.query.get("timeoutSeconds") or _LONGEST_WATCH)
        bookmarks = asked.query.get("allowWatchBookmarks") == "true"
        while not ended.is_set() and loop.time() < ends_at:
            changed = self.store.changed
            for change in self.store.since(version):
                version = change.version
                if (event := _event(change, asked, selected)) is not None:
                    await response.write(_line(event))
            waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(ended.wait())]
            pause = min(self.bookmark_seconds, max(0.0, ends_at - loop.time()))
            done, pending = await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
            if not done and bookmarks:
                version = self.bookmarked = self.store.version
                await response.write(_line(_bookmark(asked.kind, version)))


def _event(change: Change, asked: Asked, selected: Callable[[Json], bool]) -> Json | None:
    if change.kind is not asked.kind or asked.namespace not in ("", change.namespace):
        return None
    kind = change.seen_through(selected)
    return {"type": kind, "object": change.new} if kind else None


def _bookmark(kind: ResourceKind, version: int) -> Json:
    """An empty object of its kind, as Go writes one: what is required and not there is null."""
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    rest: Json = {"spec": {"containers": None}, "status": {}} if kind is POD else {}
    body = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata} | rest
    return {"type": "BOOKMARK", "object": body}


def _json(body: Json, status: int = 200) -> web.Response:
    """The exact content type of a kube-apiserver, which names no charset."""
    return web.Response(body=json.dumps(body).encode(), status=status, headers={"Content-Type": "application/json"})


def _line(event: Json) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"  # Go escapes no U+0085


async def _body(request: web.Request) -> Json:
    try:
        body = yaml.safe_load(await request.read())  # JSON is YAML
    except yaml.YAMLError as error:
        raise status.bad_request(f"the body does not parse: {error}") from None
    if not isinstance(body, dict):
        raise status.bad_request("the body is no object")
    return body


def _taken_apart(request: web.Request) -> Asked:
    found = _PATH.fullmatch(request.path)
    of_status = found is not None and found["status"] is not None
    namespaces = re.fullmatch(r"/api/v1/namespaces(?:/([^/]+))?", request.path)
    query = dict(request.query)
    if namespaces is not None:
        kind, namespace, name = NAMESPACE, "", namespaces[1] or ""
    elif found is not None and (found["group"] or "", found["plural"]) in KINDS:
        kind = KINDS[found["group"] or "", found["plural"]]
        namespace, name = found["ns"] or "", found["name"] or ""
        if of_status and not (kind.custom and request.method == "PATCH"):
            raise StatusFailure(404, "NotFound", "the server could not find the requested resource")
    else:
        raise StatusFailure(404, "NotFound", "the server could not find the requested resource")
    verb = _VERBS.get(request.method, "")
    if request.method == "GET":
        verb = "watch" if query.get("watch") in ("true", "1") else "get" if name else "list"
        name = name or name_of(query.get("fieldSelector", ""))
    manager = query.get("fieldManager") or request.headers.get("User-Agent", "unknown").partition("/")[0]
    return Asked(kind, verb, namespace, name, query, manager, of_status)


def too_many_requests(seconds: int) -> web.Response:
    """As the max-in-flight filter answers: not even a Status."""
    text = "Too many requests, please try again later.\n"
    return web.Response(status=429, text=text, headers={"Retry-After": str(seconds)})


def internal_error(code: int = 500) -> web.Response:
    body = StatusFailure(code, "InternalError", "Internal error occurred: etcdserver: leader changed").body
    return _json(body, status=code)
