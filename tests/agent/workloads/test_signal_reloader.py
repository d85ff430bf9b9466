"""Signals reach the process that is meant, and no other; applications are asked over HTTP."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.workloads.http_reloader import HttpReloader
from agent.workloads.interface import Expectation, NotProven, ReloadAnswer, WorkloadAbsent
from agent.workloads.signal_reloader import FIRST_SECOND, SignalReloader
from agent.workloads.targets import HttpTarget, SignalTarget, parse_target
from tests.harness.agent.sandbox import write_set
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.ports import free_port
from tests.harness.privileges import NOBODY, without_privileges
from tests.harness.processes import launch, started
from tests.harness.waiting import eventually

PYTHON = Path(sys.executable).resolve()
EXPECTED = Expectation(7, "c" * 64, (), None, Path("/out"), 0.0)
CATCHES_HUP = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, lambda *_: open(sys.argv[1], "w").write("told"))
open(sys.argv[1] + ".ready", "w").close()
while True:
    time.sleep(10)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []

    def run(*command: object) -> subprocess.Popen[bytes]:
        processes.append(launch(*command))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
async def workload(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """A process with a name of its own that writes ``told`` when it gets SIGHUP."""
    name = tmp_path / "tide-workload"
    name.symlink_to(PYTHON)
    process = start(name, "-c", CATCHES_HUP, tmp_path / "told")
    await eventually((tmp_path / "told.ready").exists, "the workload to start")
    return process


def reloader(url: str) -> SignalReloader:
    target = parse_target(url)
    assert isinstance(target, SignalTarget)
    return SignalReloader(target)


async def reload(url: str) -> ReloadAnswer:
    return await reloader(url).reload(EXPECTED, 5.0)


@pytest.mark.parametrize("by", ["process", "pidfile"])
async def test_the_workload_is_told_after_its_first_second(
    workload: subprocess.Popen[bytes], tmp_path: Path, by: str
) -> None:
    (tmp_path / "pid").write_text(f"{workload.pid}\n")
    url = "signal:?process=tide-workload" + (f"&pidfile={tmp_path}/pid" if by == "pidfile" else "")
    assert await reload(url) == ReloadAnswer()
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= started(workload.pid) + FIRST_SECOND
    await eventually((tmp_path / "told").exists, "the workload to be told")


async def test_a_workload_that_started_after_the_set_is_known(workload: subprocess.Popen[bytes]) -> None:
    signalled = reloader("signal:?process=tide-workload")
    assert await signalled.started_after(started(workload.pid) - 0.01)
    assert not await signalled.started_after(started(workload.pid))


async def test_a_stale_pid_file_hits_nobody(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    bystander = start("sleep", "60")
    (tmp_path / "pid").write_text(str(bystander.pid))
    with pytest.raises(
        WorkloadAbsent, match=f"expected the pid of a process named nats-server, found {bystander.pid}, which is sleep"
    ):
        await reload(f"signal:?pidfile={tmp_path}/pid")
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(bystander.wait, 0.2)


async def test_a_pid_file_with_the_number_of_a_thread_hits_nobody(tmp_path: Path) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        name = await eventually(lambda: Path(f"/proc/self/task/{thread.native_id}/comm").read_text().strip(), "a name")
        (tmp_path / "pid").write_text(str(thread.native_id))
        by_file = reloader(f"signal:?pidfile={tmp_path}/pid&process={name}")
        for ask in (by_file.reload(EXPECTED, 5.0), by_file.started_after(0.0)):
            with pytest.raises(WorkloadAbsent, match="expected a running process, found none with pid") as caught:
                await ask
            assert caught.value.reason == "stale_pidfile"
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("content", ["", "nobody", "-1", "0", "99999999999", "1 2", "1" * 300, "1" * 5000])
async def test_a_pid_file_without_a_pid_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "pid").write_text(content)
    with pytest.raises(WorkloadAbsent, match=f"{tmp_path}/pid: expected a pid in digits"):
        await reload(f"signal:?pidfile={tmp_path}/pid")


async def test_a_pid_file_of_a_process_that_ended_is_named(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    gone = start("true")
    await eventually(lambda: Path(f"/proc/{gone.pid}/stat").read_text().split()[2] == "Z", "a zombie")
    (tmp_path / "pid").write_text(str(gone.pid))
    for _ in ("not reaped", "reaped"):
        with pytest.raises(WorkloadAbsent, match=f"expected a running process, found none with pid {gone.pid}"):
            await reload(f"signal:?pidfile={tmp_path}/pid")
        gone.wait()


async def test_no_workload_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadAbsent, match="expected a process named tide-nobody, found none") as caught:
        await reload("signal:?process=tide-nobody")
    assert caught.value.reason == "no_process"
    with pytest.raises(WorkloadAbsent, match=f"{tmp_path}/pid: expected a pid file, found none"):
        await reload(f"signal:?pidfile={tmp_path}/pid")


async def test_two_processes_of_one_name_are_not_guessed_between(
    workload: subprocess.Popen[bytes], tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    start(tmp_path / "tide-workload", "-c", "import time; time.sleep(60)")
    with pytest.raises(WorkloadAbsent, match="expected one process named tide-workload, found 2"):
        await reload("signal:?process=tide-workload")
    assert not (tmp_path / "told").exists()


async def test_of_two_processes_of_one_name_the_agents_own_is_meant(
    open_folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    name = open_folder / "tide-shared"
    name.symlink_to(shutil.which("sleep") or "")
    if os.geteuid() == 0:  # another user's: nobody else can start one
        start(name, "60")
    with without_privileges():
        own = start(name, "60")
        assert await reload("signal:?process=tide-shared") == ReloadAnswer()
    assert await asyncio.to_thread(own.wait, 20) == -signal.SIGHUP


async def test_a_long_name_is_compared_whole(tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    name = tmp_path / "tide-workload-of-long-name"
    name.symlink_to(shutil.which("sleep") or "")
    process = start(name, "60")
    pid = await eventually(
        lambda: Path(f"/proc/{process.pid}/comm").read_text() == "tide-workload-o\n" and process.pid, "the name"
    )
    (tmp_path / "pid").write_text(str(pid))
    with pytest.raises(WorkloadAbsent, match="expected the pid of a process named tide-workload-of-another-name"):
        await reload(f"signal:?pidfile={tmp_path}/pid&process=tide-workload-of-another-name")
    assert await reload(f"signal:?process={name.name}") == ReloadAnswer()


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


async def test_an_application_gets_the_digests(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    url = await application(answer)
    reloaded = await HttpReloader(HttpTarget(url), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {"sequence": 7, "ca_sha256": "c" * 64, "leaf_sha256": None, "directory": "/out"}


async def test_an_application_that_refuses_is_quoted(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=500, text="no such file: ca.crt")

    url = await application(answer)
    with pytest.raises(NotProven, match=r"expected status 2xx, found 500: no such file: ca\.crt"):
        await HttpReloader(HttpTarget(url), http).reload(EXPECTED, 5.0)


async def test_nobody_answers_in_an_applications_place(application: Serve, http: aiohttp.ClientSession) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    other = await application(echo)

    async def send_away(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(other)

    with pytest.raises(NotProven, match="expected status 2xx, found 307"):
        await HttpReloader(HttpTarget(await application(send_away)), http).reload(EXPECTED, 5.0)


@pytest.mark.parametrize("said", ["ok", "[]", "[" * 60_000])
async def test_an_application_that_says_nothing_useful_acknowledges(
    application: Serve, http: aiohttp.ClientSession, said: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=said)

    reloaded = await HttpReloader(HttpTarget(await application(answer)), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {}


async def test_an_answer_that_comes_in_pieces_is_read_whole(application: Serve, http: aiohttp.ClientSession) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b'{"ca_', b'sha256":"', b"c" * 64, b'"}'):
            await response.write(piece)
            await asyncio.sleep(0.02)  # the pace
        return response

    reloaded = await HttpReloader(HttpTarget(await application(answer)), http).reload(EXPECTED, 5.0)
    assert reloaded.answer == {"ca_sha256": "c" * 64}


async def test_an_application_that_hangs_or_is_away_is_told_apart(
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


async def test_a_token_is_read_at_each_request_and_a_wrong_one_is_no_fault_of_the_set(
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


async def test_an_application_behind_tls_is_told_with_what_it_knows_by_now(
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


async def test_a_process_of_another_user_is_named_with_both_uids(
    open_folder: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    pid = start("sleep", "60").pid if os.geteuid() == 0 else 1
    name = await eventually(lambda: Path(f"/proc/{pid}/comm").read_text().strip(), "a name")
    pidfile = open_folder / "pid"
    pidfile.write_text(str(pid))
    with (
        without_privileges(),
        pytest.raises(WorkloadAbsent, match=f"uid {os.geteuid() or NOBODY} may signal, found uid 0") as caught,
    ):
        await reload(f"signal:?pidfile={pidfile}&process={name}")
    assert caught.value.reason == "not_permitted"
