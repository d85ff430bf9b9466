"""A pod of the NATS example without a kubelet: its agent with its environment, its server with its nats.conf.

Their mounts are folders, their ports free ones, and the server's process has a name of its own, as it has in a pod;
everything else is as in the manifests. The probes decide when the server starts, and when the pod is ready.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.forge import Forge
from tests.agent.rig import NATS_SERVER, eventually, free_port
from tests.agent.site import AgentProcess, Site
from tests.manifests.build import Object, build, one, pods


class Pod:
    """The example's pod under a folder."""

    def __init__(self, folder: Path, site: Site) -> None:
        ((_, template),) = pods(build("examples/nats"))
        (self.agent,) = template["spec"]["initContainers"]
        (self.server,) = template["spec"]["containers"]
        self.folder = folder
        ports = [each["containerPort"] for each in (*self.agent["ports"], *self.server["ports"])]
        self.here = {
            "/etc/tidemark/trust/trust.toml": str(site.trust_file),
            "/etc/tidemark/bundle": str(site.bundle_mount.path),
            "/etc/tidemark/leaf": str(site.leaf_mount.path),
            "/run/tidemark": str(site.out),
            "/run/nats": str(folder / "run"),
            "/data": str(folder / "data"),
            "process=nats-server": f"process=nats-{free_port()}",
            **{f":{port}": f":{free_port()}" for port in ports},
        }
        self.process: subprocess.Popen[bytes] | None = None

    def moved(self, text: str) -> str:
        """The same with this machine's folders and ports."""
        for old, new in self.here.items():
            text = text.replace(old, new)
        return text

    def environment(self) -> dict[str, str]:
        values = {entry["name"]: self.moved(entry.get("value", "nats-0")) for entry in self.agent["env"]}
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
            [program, self.server["args"][0], config, "-l", self.folder / "nats.log"],
            env={"PATH": os.environ["PATH"], "POD_NAME": "nats-0"},
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def probe(container: Object, name: str) -> str:
    return str(container[name]["httpGet"]["path"])


@pytest.fixture
def forge() -> Forge:
    return Forge(int(time.time()))


@pytest.fixture
def site(tmp_path: Path, forge: Forge) -> Site:
    return Site(tmp_path / "site", forge)


@pytest.fixture
def pod(tmp_path: Path, site: Site) -> Iterator[Pod]:
    made = Pod(tmp_path, site)
    yield made
    made.stop()


async def test_it_starts_on_a_verified_set_and_proves_a_rotation(
    pod: Pod, site: Site, forge: Forge, tmp_path: Path
) -> None:
    agent = AgentProcess(pod.environment())
    site.out.mkdir(parents=True)
    try:
        agent.start(tmp_path / "agent.log")
        await agent.answers(probe(pod.agent, "livenessProbe"))
        assert agent.get(probe(pod.agent, "startupProbe"))[0] == 503, "the mounts are empty: the server waits"
        site.show(forge.bundle(1), forge.leaf())
        await agent.answers(probe(pod.agent, "startupProbe"))
        pod.start_server()
        await agent.answers(probe(pod.agent, "readinessProbe"))
        leaf = forge.leaf(forge.ca(forge.epoch + 1))
        site.show(forge.bundle(2, [forge.epoch + 1, forge.epoch]), leaf)

        def is_proven() -> bool:
            status = agent.status()
            levels = [target["level"] for target in status["targets"]]
            shown = (status["state"], status["proven"]["sequence"], status["leaf"]["sha256"], levels)
            return bool(shown == ("proven", 2, leaf.sha256, ["proven"]))

        await eventually(is_proven, "the new CA and its leaf, proven")
    finally:
        agent.stop()
