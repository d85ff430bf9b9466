"""An application is asked over HTTP to reload, and answers with what it uses."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.workloads.http_reloader import HttpReloader
from agent.workloads.interface import Expectation, NotProven, WorkloadAbsent
from agent.workloads.target_urls import parse_target
from agent.workloads.targets import HttpTarget
from tests.harness.agent.sandbox import write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.ports import free_port

EXPECTED = Expectation(7, "c" * 64, (), None, Path("/out"), 0.0)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def application() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def serve(answer: Answer, tls: ssl.SSLContext | None = None) -> str:
        app = web.Application()
        app.router.add_post("/-/reload", answer)
        runners.append(web.AppRunner(app))
        await runners[-1].setup()
        port = free_port()
        await web.TCPSite(runners[-1], "127.0.0.1", port, ssl_context=tls).start()
        return f"{'https' if tls else 'http'}://127.0.0.1:{port}/-/reload"

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_application_gets_the_digests(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    url = await application(answer)
    reloaded = await HttpReloader(HttpTarget(url), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {"sequence": 7, "ca_sha256": "c" * 64, "leaf_sha256": None, "directory": "/out"}


async def test_refusal_of_an_application_is_quoted(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=500, text="no such file: ca.crt")

    url = await application(answer)
    with pytest.raises(NotProven, match=r"expected status 2xx, found 500: no such file: ca\.crt"):
        await HttpReloader(HttpTarget(url), http).reload(EXPECTED, 5.0)


async def test_redirect_is_not_followed(application: Serve, http: aiohttp.ClientSession) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    other = await application(echo)

    async def send_away(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(other)

    with pytest.raises(NotProven, match="expected status 2xx, found 307"):
        await HttpReloader(HttpTarget(await application(send_away)), http).reload(EXPECTED, 5.0)


@pytest.mark.parametrize("body", ["ok", "[]", "[" * 60_000])
async def test_answer_without_an_object_is_an_acknowledgement(
    application: Serve, http: aiohttp.ClientSession, body: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    reloaded = await HttpReloader(HttpTarget(await application(answer)), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {}


async def test_answer_in_pieces_is_read_whole(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"ca_', b'sha256":"', b"c" * 64, b'"}'):
            await response.write(piece)
            await asyncio.sleep(0.02)  # the pace
        return response

    reloaded = await HttpReloader(HttpTarget(await application(answer)), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {"ca_sha256": "c" * 64}


async def test_hanging_application_and_absent_application_are_told_apart(
    application: Serve, http: aiohttp.ClientSession
) -> None:
    release = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    url = await application(answer)
    with pytest.raises(NotProven, match=r"expected an answer within 0\.2 s, found none"):
        await HttpReloader(HttpTarget(url), http).reload(EXPECTED, 0.2)
    release.set()
    nobody = f"http://127.0.0.1:{free_port()}/-/reload"
    with pytest.raises(WorkloadAbsent, match=nobody):
        await HttpReloader(HttpTarget(nobody), http).reload(EXPECTED, 5.0)


def http_reloader(url: str, http: aiohttp.ClientSession) -> HttpReloader:
    target = parse_target(url)
    assert isinstance(target, HttpTarget)
    return HttpReloader(target, http)


async def test_token_is_read_at_each_request_and_a_wrong_token_is_no_fault_of_the_set(
    application: Serve, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.query_string == "all=yes"
        if request.headers.get("Authorization") != "Bearer second":
            raise web.HTTPUnauthorized(text="who are you?")
        return web.json_response({"ca_sha256": "c" * 64})

    token = tmp_path / "token"
    url = await application(answer)
    reloads = http_reloader(f"{url}?token_file={token}&all=yes", http)
    with pytest.raises(WorkloadAbsent, match=f"{token}: expected the token, found No such file") as caught:
        await reloads.reload(EXPECTED, 5.0)
    assert caught.value.reason == "not_permitted"
    token.write_text("first\n")
    with pytest.raises(WorkloadAbsent, match=f"with the token in {token}, found status 401: who are you") as caught:
        await reloads.reload(EXPECTED, 5.0)
    assert caught.value.reason == "not_permitted"
    assert "first" not in str(caught.value)
    token.write_text("second\n")
    assert (await reloads.reload(EXPECTED, 5.0)).answer == {"ca_sha256": "c" * 64}
    with pytest.raises(WorkloadAbsent, match="with no token_file=, found status 401"):
        await http_reloader(f"{url}?all=yes", http).reload(EXPECTED, 5.0)


async def test_request_over_tls_trusts_and_presents_the_sets_that_the_application_knows(
    application: Serve, http: aiohttp.ClientSession, tmp_path: Path, factory: BundleFactory
) -> None:
    factory.include_root = False
    old, new = tmp_path / "old", tmp_path / "new"
    write_set(old, factory.bundle(1, [factory.epoch, factory.epoch - 1]), factory.leaf())
    # A revocation: the leaf that the application serves by is an orphan of the new bundle.
    write_set(new, factory.bundle(2, [factory.epoch + 1]), factory.leaf(factory.ca(factory.epoch + 1)))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=old / "ca.crt")
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(old / "tls.crt", old / "tls.key")

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    url = await application(answer, tls)
    expected = replace(EXPECTED, directory=new, identities=(old, new))
    assert (await http_reloader(url, http).reload(expected, 5.0)).answer["sequence"] == 7
    assert (await http_reloader(f"{url}?tls_name=localhost", http).reload(expected, 5.0)).answer["sequence"] == 7
    with pytest.raises(WorkloadAbsent, match=f"{url}.*(CERTIFICATE_VERIFY_FAILED|certificate verify failed)"):
        await http_reloader(f"{url}?tls_name=another", http).reload(expected, 5.0)
    with pytest.raises(WorkloadAbsent, match=url):
        await http_reloader(url, http).reload(replace(expected, identities=(new,)), 5.0)
    with pytest.raises(WorkloadAbsent, match=f"{tmp_path}/nothing"):
        await http_reloader(url, http).reload(replace(expected, identities=(tmp_path / "nothing",)), 5.0)
