"""The Kubernetes client over real HTTPS: what it retries, what it raises by name, how it renews its credentials."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import ConfigMap, Namespace, Pod, Secret

from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import InCluster, Kubeconfig
from authority.kubernetes.errors import (
    ApiServerRefused,
    ApiServerUnreachable,
    KubernetesError,
    KubernetesLoginRefused,
    KubernetesPermissionMissing,
    NamespaceTerminating,
    ObjectConflict,
    ObjectExists,
    ObjectMissing,
)
from authority.kubernetes.selection import ALL_NAMESPACES, Selection
from authority.support.clock_skew import ClockDiffers, check_clock
from tests.harness.kubernetes.apiserver import Answering, ApiServer, internal_error, too_many_requests
from tests.harness.kubernetes.certificates import serving_files
from tests.harness.kubernetes.kinds import NAMESPACE, SECRET

QUICK = (0.01, 0.02)


def secret(name: str, version: str | None = None, **data: str) -> Secret:
    return Secret(metadata=ObjectMeta(name=name, resourceVersion=version), data=data)


class Interfering:
    """Answers the first ``count`` requests itself."""

    def __init__(self, count: int, answer: web.Response | None) -> None:
        self.left = count
        self.answer = answer

    async def __call__(self, request: web.Request, handle: Answering) -> web.StreamResponse:
        if self.left == 0:
            return await handle(request)
        self.left -= 1
        if self.answer is not None:
            return web.Response(status=self.answer.status, text=self.answer.text, headers=self.answer.headers)
        await handle(request)  # done, and the answer is lost
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@pytest.mark.parametrize("answer", [internal_error(500), internal_error(503), too_many_requests(0)])
async def test_transient_failure_is_retried(server: ApiServer, client: KubernetesClient, answer: web.Response) -> None:
    server.interfere = Interfering(2, answer)
    await client.create(secret("a"), "tidemark")
    assert server.store.find(SECRET, "tidemark", "a") is not None


async def test_lasting_failure_is_raised_after_the_last_try(server: ApiServer, client: KubernetesClient) -> None:
    server.interfere = Interfering(3, too_many_requests(0))
    with pytest.raises(ApiServerUnreachable, match="list secrets in tidemark, found 429"):
        await client.list(Selection(Secret, "tidemark"), lambda one: one)


async def test_retry_waits_as_long_as_retry_after_asks(server: ApiServer, client: KubernetesClient) -> None:
    server.interfere = Interfering(1, too_many_requests(1))
    began = asyncio.get_running_loop().time()
    await client.get(Secret, "a", "tidemark")
    assert asyncio.get_running_loop().time() - began >= 1


async def test_create_retried_after_a_lost_answer_raises_object_exists(
    server: ApiServer, client: KubernetesClient
) -> None:
    server.interfere = Interfering(1, None)
    with pytest.raises(ObjectExists):
        await client.create(secret("a"), "tidemark")


async def test_each_refusal_raises_the_error_that_names_it(server: ApiServer, client: KubernetesClient) -> None:
    made = await client.create(secret("a", x="MQ=="), "tidemark")
    assert made.metadata is not None
    await client.apply(secret("a", made.metadata.resourceVersion, x="Mg=="), "tidemark")
    with pytest.raises(ObjectConflict, match="apply secret tidemark/a, found 409: Operation cannot be fulfilled"):
        await client.apply(secret("a", made.metadata.resourceVersion, x="Mw=="), "tidemark")
    with pytest.raises(ApiServerRefused, match="422"):
        await client.create(secret("Upper"), "tidemark")
    with pytest.raises(ObjectMissing):
        await client.create(secret("a"), "elsewhere")
    assert await client.get(Secret, "none", "tidemark") is None
    await client.delete(Secret, "none", "tidemark")
    server.store.terminate(NAMESPACE, "", "tidemark")
    with pytest.raises(NamespaceTerminating):
        await client.create(secret("b"), "tidemark")


async def test_list_reads_every_page(server: ApiServer, client: KubernetesClient) -> None:
    for number in range(3):
        server.namespace(f"n{number}", on="yes")
    for number in range(501):
        server.store.create(SECRET, "n0", {"metadata": {"name": f"s{number}"}}, "test")
    found = await client.list(Selection(Secret), lambda one: one.metadata and one.metadata.name)
    assert len(set(found.items)) == 501
    assert len([line for line in server.requests if "limit=500" in line]) == 2
    assert found.version == str(server.store.version)
    named = Selection(Secret, ALL_NAMESPACES, fields=(("metadata.name", "s7"),))
    assert len((await client.list(named, lambda one: one)).items) == 1
    labelled = Selection(Namespace, labels=(("on", "yes"),))
    assert len((await client.list(labelled, lambda one: one)).items) == 3


async def test_missing_permission_and_unknown_token_are_told_apart(server: ApiServer, tmp_path: Path) -> None:
    token = server.accounts.issue("tidemark", "nobody")
    async with KubernetesClient(Kubeconfig(server.kubeconfig(tmp_path / "file", token)), QUICK) as client:
        with pytest.raises(KubernetesPermissionMissing, match=r"cannot list resource \"pods\".*docs/kubernetes.md"):
            await client.list(Selection(Pod, "nats"), lambda one: one)
        server.accounts.expire(token)
        with pytest.raises(KubernetesLoginRefused) as refused:
            await client.get(ConfigMap, "a", "tidemark")
        assert token not in str(refused.value)


async def test_replaced_service_account_token_is_read_again(server: ApiServer, tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(server.ca_file.read_bytes())
    (account / "namespace").write_text("tidemark\n")
    first = server.accounts.administrator()
    (account / "token").write_text(first)
    async with KubernetesClient(InCluster(server.url, account), QUICK) as client:
        assert client.namespace == "tidemark"
        await client.create(secret("a"), "tidemark")
        (account / "token").write_text(server.accounts.administrator() + "\n")
        server.accounts.expire(first)
        assert await client.get(Secret, "a", "tidemark") is not None


async def listen_below_another_ca(server: ApiServer) -> bytes:
    """Every connection ends; those to come are below the CA that is returned."""
    await server.stop()
    shutil.rmtree(server.directory)
    serving_files(server.directory)
    await server.start()
    return server.ca_file.read_bytes()


@pytest.mark.parametrize("is_in_cluster", [True, False])
async def test_replaced_ca_of_the_api_server_is_trusted_without_restart(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_in_cluster: bool
) -> None:
    ca_file = tmp_path / "ca.crt"
    ca_file.write_bytes(server.ca_file.read_bytes())
    (tmp_path / "namespace").write_text("tidemark\n")
    (tmp_path / "token").write_text(server.accounts.administrator())
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", (tmp_path / "token").read_text())
    kubeconfig.write_text(kubeconfig.read_text().replace(str(server.ca_file), str(ca_file)))
    access = InCluster(server.url, tmp_path) if is_in_cluster else Kubeconfig(kubeconfig)
    async with KubernetesClient(access, QUICK) as client:
        await client.create(secret("a"), "tidemark")
        new_ca = await listen_below_another_ca(server)
        with pytest.raises(ApiServerUnreachable, match="certificate verify failed"):
            await client.get(Secret, "a", "tidemark")
        ca_file.write_bytes(new_ca)
        assert await client.get(Secret, "a", "tidemark") is not None
        assert not caplog.records
        ca_file.write_bytes(new_ca[:-40])
        for _ in range(2):
            await server.stop()
            await server.start()
            assert await client.get(Secret, "a", "tidemark") is not None
    (record,) = caplog.records
    assert record.getMessage() == "ca_reload_failed"
    source = tmp_path if is_in_cluster else kubeconfig
    error = record.__dict__["fields"]["error"]
    assert error.startswith(f"{source}: expected credentials for Kubernetes, found: {ca_file}: [")


async def test_unusable_credentials_are_named(server: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(KubernetesError, match="nowhere: expected credentials"):
        KubernetesClient(InCluster(server.url, tmp_path / "nowhere"))
    good = yaml.safe_load(server.kubeconfig(tmp_path / "good", "token").read_text())
    bad = tmp_path / "bad"
    for broken in ("- a list", "key: [", yaml.safe_dump(good | {"current-context": "other"}), yaml.safe_dump({})):
        bad.write_text(broken)
        with pytest.raises(KubernetesError, match=f"{bad}: expected credentials"):
            KubernetesClient(Kubeconfig(bad))
    with pytest.raises(KubernetesError, match="absent"):
        KubernetesClient(Kubeconfig(tmp_path / "absent"))


async def test_unreachable_server_is_named_and_used_once_it_is_back(
    server: ApiServer, client: KubernetesClient
) -> None:
    await server.stop()
    with pytest.raises(ApiServerUnreachable, match="get secret tidemark/a, found"):
        await client.get(Secret, "a", "tidemark")
    await server.start()
    assert await client.get(Secret, "a", "tidemark") is None


async def test_clock_of_the_api_server_is_compared_with_ours(server: ApiServer, client: KubernetesClient) -> None:
    check_clock({"the API server": client}, time.time(), 5)  # before the first answer nothing is known
    await client.get(Secret, "a", "tidemark")
    check_clock({"the API server": client}, time.time(), 5)
    server.clock = lambda: time.time() - 100
    await client.get(Secret, "a", "tidemark")
    with pytest.raises(ClockDiffers, match=r"within 5 s of the API server's, found it \+10[01] s off"):
        check_clock({"the API server": client}, time.time(), 5)
