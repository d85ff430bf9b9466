"""A selection that is kept up to date over everything that a real API server does to watches."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from lightkube.resources.core_v1 import ConfigMap, Namespace

from authority.kubernetes import informer
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.informer import Informer
from authority.kubernetes.selection import Selection
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error, too_many_requests
from tests.harness.kubernetes.kinds import CONFIG_MAP, NAMESPACE
from tests.harness.waiting import eventually

LABELLED = Selection(Namespace, labels=(("on", "yes"),))


@asynccontextmanager
async def watching(
    client: KubernetesClient, failures: list[str], selection: Selection[Namespace] = LABELLED
) -> AsyncIterator[Callable[[], set[str] | None]]:
    """Runs a watch; gives what it knows, by name."""
    watch: Informer[Namespace, str] = Informer(
        client, selection, _name, lambda: None, lambda _, error, __: failures.append(error)
    )
    task = asyncio.create_task(watch.run())
    try:
        yield lambda: None if watch.objects is None else set(watch.objects)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _name(one: Namespace | ConfigMap) -> str:
    assert one.metadata is not None
    return one.metadata.name or ""


async def test_copy_follows_objects_that_come_change_and_leave(server: ApiServer, client: KubernetesClient) -> None:
    server.namespace("a", on="yes")
    async with watching(client, []) as known:
        assert known() is None
        await eventually(lambda: known() == {"a"}, "what is there")
        server.namespace("b")
        server.namespace("c", on="yes")
        await eventually(lambda: known() == {"a", "c"}, "what was labelled later")
        server.namespace("a", on="no")
        await eventually(lambda: known() == {"c"}, "what lost its label to leave")
        server.store.delete(NAMESPACE, "", "c")
        await eventually(lambda: known() == set(), "what was deleted to leave")


async def test_unicode_line_end_within_an_object_ends_no_event(server: ApiServer, client: KubernetesClient) -> None:
    """Who may annotate an object could else stop the watch of all of them."""
    failures: list[str] = []
    async with watching(client, failures) as known:
        await eventually(lambda: known() == set() and server.watches, "the watch")
        metadata = {"name": "a", "labels": {"on": "yes"}, "annotations": {"text": "one\u0085two\u2028three"}}
        server.store.put(NAMESPACE, {"metadata": metadata})
        server.namespace("b", on="yes")
        await eventually(lambda: failures or known() == {"a", "b"}, "what came")
    assert failures == []


async def test_next_watch_begins_where_the_last_one_ended(server: ApiServer, client: KubernetesClient) -> None:
    async with watching(client, []) as known:
        await eventually(lambda: known() == set() and server.watches, "the watch")
        for number in range(3):
            server.close_watches()
            server.namespace(f"n{number}", on="yes")
            names = {f"n{count}" for count in range(number + 1)}
            await eventually(lambda names=names: known() == names, "what happened meanwhile")  # type: ignore[misc]
    assert len(begun(server)) == 4
    assert len(listed(server)) == 1


@pytest.mark.parametrize("as_event", [True, False])
async def test_expired_version_leads_to_a_new_list(server: ApiServer, client: KubernetesClient, as_event: bool) -> None:
    server.gone_as_event = as_event
    server.bookmark_seconds = 60
    async with watching(client, []) as known:
        await eventually(lambda: known() == set() and server.watches, "the watch")
        await server.stop()
        server.namespace("a", on="yes")
        server.store.compact()
        await server.start()
        await eventually(lambda: known() == {"a"}, "what the new list shows")


async def test_bookmarks_keep_the_version_from_expiring(server: ApiServer, client: KubernetesClient) -> None:
    server.bookmark_seconds = 0.02
    async with watching(client, []) as known:
        await eventually(lambda: known() == set() and server.watches, "the watch")
        server.store.put(CONFIG_MAP, {"metadata": {"name": "other", "namespace": "tidemark"}})
        version = server.store.version
        server.store.compact()  # only who has seen a bookmark since can go on
        await eventually(lambda: server.bookmarked > version, "a bookmark")
        server.close_watches()
        await eventually(lambda: len(begun(server)) == 2, "the next watch")
        assert f"resourceVersion={version + 1}" in begun(server)[-1]
    assert len(listed(server)) == 1


def begun(server: ApiServer) -> list[str]:
    return [line for line in server.requests if "watch=true" in line]


def listed(server: ApiServer) -> list[str]:
    return [line for line in server.requests if line.startswith("GET") and "watch=true" not in line]


@pytest.mark.parametrize("answer", [internal_error, lambda: too_many_requests(0)])
async def test_refused_watch_is_reported_and_retried(
    server: ApiServer, client: KubernetesClient, answer: Callable[[], web.Response]
) -> None:
    refusing = True

    async def refuse(request: web.Request, handle: Answering) -> web.StreamResponse:
        return answer() if refusing and "watch" in request.query else await handle(request)

    server.interfere = refuse
    failures: list[str] = []
    async with watching(client, failures) as known:
        await eventually(lambda: len(failures) >= 2, "failures")
        refusing = False
        server.namespace("a", on="yes")
        await eventually(lambda: known() == {"a"}, "what is there")
    assert "expected to watch namespaces, found" in failures[0]


async def test_unconfirmed_copy_is_no_longer_synced(
    server: ApiServer, client: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(informer, "STALE_SECONDS", 0.5)
    server.bookmark_seconds = 0.05
    async with watching(client, []) as known:
        await eventually(lambda: known() == set(), "the list")
        await server.stop()
        await eventually(lambda: known() is None, "doubt")
        await server.start()
        await eventually(lambda: known() == set(), "certainty")
