"""The injector as the API server meets it: the running program, over HTTPS, trusted by what is in ``caBundle``."""

import asyncio
import base64
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from authority.config.load import AuthorityConfigError, load
from authority.injector.ca_bundle import reconcile_ca_bundle
from authority.kubernetes.client import KubernetesClient
from authority.kubernetes.credentials import Kubeconfig
from authority.pki.control_ca import read_control_certificate
from tests.harness.authority.deployment import AuthorityDeployment, Program, command
from tests.harness.kubernetes.accounts import Rule, rules_of
from tests.harness.kubernetes.admission_reviews import Json, admitted, check_valid, pod, review
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import MUTATING_WEBHOOKS
from tests.harness.paths import MANIFESTS
from tests.harness.ports import free_port
from tests.harness.waiting import eventually
from tidemark.certificates import to_pem

NAME = "tidemark-injector"
USER = "system:serviceaccount:tidemark:tidemark-authority"
RBAC = yaml.safe_load_all((MANIFESTS / "base" / "injector" / "rbac.yaml").read_text())
RIGHTS = rules_of(RBAC)[USER]
OTHERS = [
    Rule(frozenset(verbs.split()), frozenset([group]), frozenset([resource]))
    for group, resource, verbs in (
        ("", "namespaces", "list watch"),
        ("", "secrets", "get list watch create patch delete"),
        ("", "configmaps", "list create"),
        ("coordination.k8s.io", "leases", "get create update"),
    )
]
"""What the rest of an authority in Kubernetes needs."""


def configuration(ca_bundle: str = "") -> Json:
    """As manifests/base/injector has it, and one more webhook beside it."""
    client: Json = {"service": {"name": NAME, "namespace": "tidemark", "path": "/inject", "port": 443}}
    common = {"sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail"}
    webhooks = [
        {"name": f"{name}.tidemark.io", "clientConfig": client | ({"caBundle": ca_bundle} if ca_bundle else {})}
        | common
        for name in ("inject", "other")
    ]
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": NAME},
        "webhooks": webhooks,
    }


class Injector:
    """A running authority whose table ``[injector]`` names this API server."""

    def __init__(self, root: Path, server: ApiServer) -> None:
        self.port = free_port()
        self.server = server
        root.mkdir()
        token = server.accounts.issue("tidemark", "tidemark-authority")
        kubeconfig = server.kubeconfig(root / "kubeconfig", token)
        table = [
            "[injector]",
            f'listen = "127.0.0.1:{self.port}"',
            'names = ["localhost", "tidemark-injector.tidemark.svc"]',
            'image = "tidemark-agent:0.1.0"',
            'authority_url = "https://tidemark-authority.tidemark.svc:8443"',
            f'webhook = "{NAME}"',
            "[kubernetes]",
            f'kubeconfig = "{kubeconfig}"',
        ]
        self.deployment = AuthorityDeployment.create(root, preset="testing", more="\n".join(table))
        self.deployment.init()

    @property
    def ca(self) -> bytes:
        return to_pem([read_control_certificate(self.deployment.state)])

    def bundles(self) -> list[bytes]:
        """What the webhooks trust."""
        found = self.server.store.get(MUTATING_WEBHOOKS, "", NAME)
        return [base64.b64decode(webhook["clientConfig"].get("caBundle", "")) for webhook in found["webhooks"]]

    async def until_trusted(self) -> None:
        async def trusted() -> bool:
            return self.bundles() == [self.ca, self.ca]

        await eventually(trusted, "caBundle to be the control CA")

    async def ask(self, body: bytes, path: str = "/inject") -> tuple[int, Any]:
        """Ask as the API server does: trusting what caBundle says, for the Service's name."""
        context = ssl.create_default_context(cadata=self.bundles()[0].decode())
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.post(
                f"https://127.0.0.1:{self.port}{path}?timeout=5s",
                data=body,
                server_hostname="tidemark-injector.tidemark.svc",
                headers={"Content-Type": "application/json"},
            ) as response,
        ):
            return response.status, await (response.json() if response.status == 200 else response.text())


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    async with ApiServer(tmp_path / "apiserver").running() as server:
        server.namespace("tidemark")
        server.accounts.rules[USER] = [*OTHERS, *RIGHTS]
        server.store.put(MUTATING_WEBHOOKS, configuration())
        yield server


@pytest.fixture
async def injector(tmp_path: Path, server: ApiServer) -> AsyncIterator[Injector]:
    injector = Injector(tmp_path / "authority", server)
    async with Program(injector.deployment) as program:
        await program.start()
        await injector.until_trusted()
        yield injector


async def test_api_server_is_answered_over_https(injector: Injector) -> None:
    made = pod({"tidemark.io/inject": "http"}, {"tidemark.io/reload-port": "9000"})
    status, answer = await injector.ask(review(made))
    assert status == 200
    check_valid(admitted(made, answer))
    status, answer = await injector.ask(review(pod({"tidemark.io/inject": "http"})))
    assert status == 200
    assert answer["response"]["status"]["message"].startswith("tidemark.io/reload-port: expected a number")
    assert await injector.ask(b"{}") == (
        400,
        "expected an AdmissionReview of admission.k8s.io/v1, found another object\n",
    )
    log = (injector.deployment.root / "log").read_text()
    assert "injected pod=shop/web-5d59d67564-" in log
    assert "injection_refused pod=shop/web-5d59d67564-" in log


async def test_ca_bundle_is_set_and_nothing_else_changed(injector: Injector) -> None:
    written = injector.server.store.get(MUTATING_WEBHOOKS, "", NAME)
    expected = configuration(base64.b64encode(injector.ca).decode())
    assert written["webhooks"] == expected["webhooks"]
    patches = [line for line in injector.server.requests if line.startswith("PATCH") and "webhook" in line]
    assert len(patches) == 1
    assert "mutatingwebhookconfigurations/tidemark-injector" in patches[0]


async def test_foreign_ca_bundle_is_replaced_and_a_failure_retried(tmp_path: Path, server: ApiServer) -> None:
    injector = Injector(tmp_path / "authority", server)
    server.store.delete(MUTATING_WEBHOOKS, "", NAME)
    complaints: list[str] = []
    kubeconfig = Kubeconfig(injector.deployment.root / "kubeconfig")
    async with KubernetesClient(kubeconfig) as client:
        keeping = asyncio.create_task(
            reconcile_ca_bundle(client, NAME, injector.ca, lambda error: complaints.append(str(error)), every=0.01)
        )
        await eventually(lambda: complaints, "the complaint")
        assert complaints[0] == (
            "MutatingWebhookConfiguration tidemark-injector: expected it, found none; apply manifests/base/injector"
        )
        server.store.put(MUTATING_WEBHOOKS, configuration(base64.b64encode(b"foreign").decode()))
        await injector.until_trusted()
        server.store.put(MUTATING_WEBHOOKS, configuration())  # as a GitOps controller would
        await injector.until_trusted()
        keeping.cancel()


async def test_injector_serves_without_the_right_to_set_the_ca_bundle(tmp_path: Path, server: ApiServer) -> None:
    server.accounts.rules[USER] = OTHERS
    injector = Injector(tmp_path / "authority", server)
    server.store.put(MUTATING_WEBHOOKS, configuration(base64.b64encode(injector.ca).decode()))
    async with Program(injector.deployment) as program:
        await program.start()
        status, _ = await injector.ask(review(pod({})))
        assert status == 200
        assert "compare the authority's role" in (injector.deployment.root / "log").read_text()
        assert await program.signal(signal.SIGTERM) == 0


async def test_taken_injector_port_is_named(tmp_path: Path, server: ApiServer) -> None:
    injector = Injector(tmp_path / "authority", server)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", injector.port))
        taken.listen()
        ended = await command("--config", injector.deployment.config_file, "run")
    assert ended.status == 2
    assert f"injector.listen: expected to listen on 127.0.0.1:{injector.port}, found" in ended.err


def test_injector_table_faults(tmp_path: Path) -> None:
    def read(table: str) -> Any:
        file = tmp_path / "authority.toml"
        file.write_text(f'trust_domain = "bus.example.com"\n[injector]\n{table}')
        return load(file, {}).injector

    assert read('image = "a"').names == ("tidemark-injector.tidemark.svc",)
    with pytest.raises(
        AuthorityConfigError, match=r"injector\.webhook: expected a \[kubernetes\] table as well, found none"
    ):
        read('image = "a"\nwebhook = "w"')
    with pytest.raises(AuthorityConfigError) as raised:
        read(
            'webhook = ""\npull_policy = "Sometimes"\nauthority_url = "http://x"\ndirectory = "run"\nuid = 0\n'
            'cpu = "much"\nnames = ["a b"]\nlisten = "x"\nimages = "a"\nnats_url = "nats://a:b@c"'
        )
    assert sorted(raised.value.faults) == [
        "injector.authority_url: expected https://host:port, found 'http://x'",
        "injector.cpu: expected a quantity such as 5m or 64Mi, found 'much'",
        "injector.directory: expected an absolute path, found 'run'",
        "injector.image: expected text, found no such key",
        *(fault for fault in raised.value.faults if fault.startswith("injector.images: unknown")),
        "injector.listen: expected host:port, such as '127.0.0.1:8443', found 'x'",
        "injector.names: expected DNS names and IP addresses, found 'a b'",
        "injector.nats_url: expected tls://host:port without a login, found another form",
        "injector.pull_policy: expected one of Always, IfNotPresent, Never, found 'Sometimes'",
        "injector.uid: expected 1 to 2147483647, found 0",
        "injector.webhook: expected 1 to 253 characters, found 0",
    ]
