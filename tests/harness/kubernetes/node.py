"""A node for tests: mounts that follow their objects as a kubelet keeps them, and a pod with its agent."""

import asyncio
import base64
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from authority.support import projected_directory as mount
from authority.support.projected_directory import FileContent
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import CONFIG_MAP, POD, SECRET, ResourceKind
from tests.harness.paths import CHECKOUT
from tests.harness.ports import free_port

AUDIENCE = "tidemark-authority"


@dataclass
class FakeNode:
    """Mounts under ``directory``; a change is there as soon as the object changed (as if every pod were nudged)."""

    server: ApiServer
    directory: Path
    mounts: dict[Path, tuple[ResourceKind, str, str]] = field(default_factory=dict)

    def mount(self, kind: ResourceKind, namespace: str, name: str) -> Path:
        path = self.directory / namespace / name
        path.mkdir(parents=True)
        self.mounts[path] = kind, namespace, name
        self._sync(path)
        return path

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeNode"]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            changed = self.server.store.changed
            for path in self.mounts:
                self._sync(path)
            await changed.wait()

    def _sync(self, path: Path) -> None:
        kind, namespace, name = self.mounts[path]
        found = self.server.store.find(kind, namespace, name)
        if found is None:
            return  # a deleted Secret's files stay
        decode = base64.b64decode if kind is SECRET else str.encode
        files = {key: decode(value) for key, value in (found.get("data") or {}).items()}
        if any(mount.read(path, key) != data for key, data in files.items()):
            mount.switch(path, {key: FileContent(data, 0o644) for key, data in files.items()}, int(time.time()))


@dataclass
class AgentsPod:
    """A pod with the real agent and an application that confirms every reload."""

    node: FakeNode
    namespace: str
    name: str
    reloads: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    """The statement that the application refuses: it keeps the set before and answers so."""

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def body(self, *, ready: bool) -> dict[str, Any]:
        status = "True" if ready else "False"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        volumes = [{"name": name, "secret": {"secretName": name}} for name in ("nats-ca-tls", "nats-server-tls")]
        return {
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {"tidemark.io/agent": "true"}},
            "spec": {"containers": [{"name": "nats"}], "volumes": volumes},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": now}],
            },
        }

    @asynccontextmanager
    async def running(self, authority_url: str) -> AsyncIterator["AgentsPod"]:
        server, node = self.node.server, self.node
        uid = server.store.put(POD, self.body(ready=False))["metadata"]["uid"]
        node.directory.mkdir(exist_ok=True)
        token = node.directory / f"{self.name}-token"
        token.write_text(server.accounts.issue(self.namespace, "nats", audience=AUDIENCE, pod=(self.name, uid)))
        listen = f"127.0.0.1:{free_port()}"
        async with self._application() as port:
            environment = {
                "PATH": os.environ["PATH"],
                "TIDEMARK_BUNDLE": str(node.mount(SECRET, self.namespace, "nats-ca-tls")),
                "TIDEMARK_LEAF": str(node.mount(SECRET, self.namespace, "nats-server-tls")),
                "TIDEMARK_TRUST": str(node.mount(CONFIG_MAP, self.namespace, "tidemark-trust") / "trust.toml"),
                "TIDEMARK_OUT": str(node.directory / f"{self.name}-out"),
                "TIDEMARK_POD": self.name,
                "TIDEMARK_POD_UID": uid,
                "TIDEMARK_TARGETS": f"http://127.0.0.1:{port}/-/reload",
                "TIDEMARK_AUTHORITY_URL": authority_url,
                "TIDEMARK_AUTHORITY_TOKEN_FILE": str(token),
                "TIDEMARK_LISTEN": listen,
            }
            with (node.directory / f"{self.name}-log").open("wb") as log:
                checkout = CHECKOUT
                command = (sys.executable, "-m", "agent")
                process = await asyncio.create_subprocess_exec(
                    *command, env=environment, cwd=checkout, stdout=log, stderr=log
                )
            readiness = asyncio.create_task(self._follow_readiness(f"http://{listen}/readyz"))
            try:
                yield self
            finally:
                readiness.cancel()
                process.kill()
                await asyncio.gather(process.wait(), readiness, return_exceptions=True)

    @asynccontextmanager
    async def _application(self) -> AsyncIterator[int]:
        async def reload(request: web.Request) -> web.Response:
            asked = await request.json()
            self.reloads.append(asked)
            used = self.reloads[0] if asked["sequence"] == self.refused else asked
            return web.json_response({"ca_sha256": used["ca_sha256"], "leaf_sha256": asked["leaf_sha256"]})

        application = web.Application()
        application.router.add_post("/-/reload", reload)
        async with TestServer(application) as server:
            assert server.port is not None
            yield server.port

    async def _follow_readiness(self, url: str) -> None:
        """Ask a probe path, as the kubelet does."""
        async with aiohttp.ClientSession() as session:
            ready = False
            while not ready:
                await asyncio.sleep(0.1)
                try:
                    async with session.get(url) as response:
                        ready = response.status == 200
                except aiohttp.ClientError:
                    continue
        status = {"status": self.body(ready=True)["status"]}
        self.node.server.store.merge(POD, self.namespace, self.name, status, "kubelet")
