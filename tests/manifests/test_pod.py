"""Pods of the examples without a kubelet: the agent with its environment, the server with its nats.conf.

Their mounts are folders, their ports free ones, and the server's process has a name of its own, as it has in a pod;
everything else is as in the manifests. The probes decide when the server starts, and when the pod is ready.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.harness.agent.sandbox import AgentProcess, AgentSandbox
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.manifests.build import Object, build, one, pods
from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.waiting import eventually


class Pod:
    """An example's pod under a folder; its ``workload`` is started by who tests it."""

    def __init__(self, path: str, folder: Path, sandbox: AgentSandbox) -> None:
        ((_, template),) = pods(build(path))
        (self.agent,) = template["spec"]["initContainers"]
        (self.workload,) = template["spec"]["containers"]
        self.folder = folder
        ports = {each["containerPort"] for each in (*self.agent["ports"], *self.workload["ports"])}
        self.here = {
            "/etc/tidemark/trust/trust.toml": str(sandbox.trust_file),
            "/etc/tidemark/bundle": str(sandbox.bundle_mount.path),
            "/etc/tidemark/leaf": str(sandbox.leaf_mount.path),
            "/run/tidemark": str(sandbox.out),
            "/run/nats": str(folder / "run"),
            "/data": str(folder / "data"),
            "process=nats-server": f"process=nats-{free_port()}",
            **{f":{port}": f":{free_port()}" for port in (*ports, RELOAD_PORT)},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def moved(self, text: str) -> str:
        """The same with this machine's folders and ports."""
        for old, new in self.here.items():
            text = text.replace(old, new)
        return text

    def environment(self) -> dict[str, str]:
        values = {entry["name"]: self.moved(entry.get("value", "pod-0")) for entry in self.agent["env"]}
        return values | {"TIDEMARK_LISTEN": self.moved("127.0.0.1:9465")}

    def start_server(self) -> None:
        """What a kubelet does once the agent's startup probe has succeeded."""
        (text,) = one(build("examples/nats"), "ConfigMap", "nats-config")["data"].values()
        (self.folder / "run").mkdir()
        config = self.folder / "nats.conf"
        config.write_text(self.moved(text))
        program = self.folder / self.here["process=nats-server"].removeprefix("process=")
        program.symlink_to(NATS_SERVER)
        self.process = subprocess.Popen(
            [program, self.workload["args"][0], config, "-l", self.folder / "nats.log"],
            env={"PATH": os.environ["PATH"], "POD_NAME": "nats-0"},
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


RELOAD_PORT = 9000
"""Where the component asks applications."""


def probe(container: Object, name: str) -> str:
    return str(container[name]["httpGet"]["path"])


@pytest.fixture
def factory() -> BundleFactory:
    return BundleFactory(int(time.time()))


@pytest.fixture
def sandbox(tmp_path: Path, factory: BundleFactory) -> AgentSandbox:
    return AgentSandbox(tmp_path / "sandbox", factory)


@pytest.fixture
def pod(tmp_path: Path, sandbox: AgentSandbox) -> Iterator[Pod]:
    made = Pod("examples/nats", tmp_path, sandbox)
    yield made
    made.stop()


async def test_nats_pod_starts_on_a_verified_set_and_proves_a_rotation(
    pod: Pod, sandbox: AgentSandbox, factory: BundleFactory, tmp_path: Path
) -> None:
    agent = AgentProcess(pod.environment())
    sandbox.out.mkdir(parents=True)
    try:
        agent.start(tmp_path / "agent.log")
        await agent.answers(probe(pod.agent, "livenessProbe"))
        assert agent.get(probe(pod.agent, "startupProbe"))[0] == 503, "the mounts are empty: the server waits"
        sandbox.mount(factory.bundle(1), factory.leaf())
        await agent.answers(probe(pod.agent, "startupProbe"))
        pod.start_server()
        await agent.answers(probe(pod.agent, "readinessProbe"))
        leaf = factory.leaf(factory.ca(factory.epoch + 1))
        sandbox.mount(factory.bundle(2, [factory.epoch + 1, factory.epoch]), leaf)

        def is_proven() -> bool:
            status = agent.status()
            levels = [target["level"] for target in status["targets"]]
            shown = (status["state"], status["proven"]["sequence"], status["leaf"]["sha256"], levels)
            return bool(shown == ("proven", 2, leaf.sha256, ["proven"]))

        await eventually(is_proven, "the new CA and its leaf, proven")
    finally:
        agent.stop()


async def test_application_pod_is_ready_after_it_confirms_the_reload(
    sandbox: AgentSandbox, factory: BundleFactory, tmp_path: Path
) -> None:
    pod = Pod("examples/application", tmp_path, sandbox)
    reloads: list[dict[str, Any]] = []

    async def reload(request: web.Request) -> web.Response:
        reloads.append(await request.json())
        return web.json_response({name: reloads[-1][name] for name in ("ca_sha256", "leaf_sha256")})

    application = web.Application()
    application.router.add_post("/-/reload", reload)
    agent = AgentProcess(pod.environment() | {"TIDEMARK_SPLAY": "0"})
    sandbox.out.mkdir(parents=True)
    try:
        agent.start(tmp_path / "agent.log")
        await agent.answers(probe(pod.agent, "livenessProbe"))
        assert agent.get(probe(pod.agent, "startupProbe"))[0] == 503, "the mounts are empty: the application waits"
        sandbox.mount(factory.bundle(1), factory.leaf())
        await agent.answers(probe(pod.agent, "startupProbe"))
        assert agent.get(probe(pod.agent, "readinessProbe"))[0] == 503, "it has not taken the set yet"
        port = int(pod.moved(f":{RELOAD_PORT}").removeprefix(":"))
        async with TestServer(application, port=port):
            await agent.answers(probe(pod.agent, "readinessProbe"))
        assert [one["sequence"] for one in reloads] == [1]
        assert agent.status()["targets"][0]["level"] == "proven"
    finally:
        agent.stop()
