"""The example's three servers without a kubelet: its nats.conf, one after another in folders and on ports of its own.

They hold the files that an agent writes. The manifests' own probes say when they are ready, and their hook ends one.
"""

import asyncio
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.harness.agent.mounts import bundle_files, leaf_files
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.manifests.build import Object, build, one
from tests.harness.paths import NATS_SERVER
from tests.harness.ports import free_port
from tests.harness.waiting import eventually

OBJECTS = build("examples/nats")
STATEFUL_SET: Object = one(OBJECTS, "StatefulSet", "nats")["spec"]
SPEC: Object = STATEFUL_SET["template"]["spec"]
(SERVER,) = SPEC["containers"]
PORTS: dict[str, int] = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


class Member:
    """One server of the cluster; ``hosts`` are all routes of the configuration, with where each is here."""

    def __init__(self, folder: Path, number: int, ports: dict[str, int], hosts: dict[str, str]) -> None:
        self.name, self.ports = f"nats-{number}", ports
        self._here = {path: str(folder / path[1:]) for path in ("/run/tidemark", "/run/nats", "/data")}
        for path in self._here.values():
            Path(path).mkdir(parents=True)
        (text,) = one(OBJECTS, "ConfigMap", "nats-config")["data"].values()
        listening = {f'"0.0.0.0:{PORTS[name]}"': f'"127.0.0.1:{port}"' for name, port in ports.items()}
        for old, new in {**self._here, **hosts, **listening}.items():
            assert old in text, old
            text = text.replace(old, new)
        self.config = folder / "nats.conf"
        self.config.write_text(text)
        self.log = folder / "nats.log"
        self.process: subprocess.Popen[bytes] | None = None

    def install(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            (Path(self._here["/run/tidemark"]) / name).write_bytes(content)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [NATS_SERVER, SERVER["args"][0], self.config, "-l", self.log],
            env={"PATH": os.environ["PATH"], "POD_NAME": self.name},
        )

    def pre_stop(self) -> None:
        """The manifest's hook, as the kubelet runs it in the container."""
        program, *arguments = SERVER["lifecycle"]["preStop"]["exec"]["command"]
        assert program == NATS_SERVER.name
        moved = [word.replace("/run/nats", self._here["/run/nats"]) for word in arguments]
        subprocess.run([NATS_SERVER, *moved], check=True, timeout=60, capture_output=True)

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['monitor']}{path}", timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, {}
        except OSError:
            return 0, {}

    def succeeds(self, *probes: str) -> bool:
        return all(self.ask(SERVER[probe]["httpGet"]["path"])[0] == 200 for probe in probes)

    def is_routed_to(self, names: set[str]) -> bool:
        return {route["remote_name"] for route in self.ask("/routez")[1].get("routes", [])} == names

    def is_led_by(self, names: set[str]) -> bool:
        """Whether it knows JetStream's leader, and that is one of these."""
        return self.ask("/jsz")[1].get("meta_cluster", {}).get("leader", "") in names

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Member]]:
    numbers = range(STATEFUL_SET["replicas"])
    ports = [{name: free_port() for name in PORTS} for _ in numbers]
    domain = f"{STATEFUL_SET['serviceName']}.nats.svc.cluster.local:{PORTS['cluster']}"
    hosts = {f"nats://nats-{number}.{domain}": f"nats://127.0.0.1:{ports[number]['cluster']}" for number in numbers}
    made = [Member(tmp_path / str(number), number, ports[number], hosts) for number in numbers]
    yield made
    for member in made:
        member.stop()


async def test_servers_form_a_cluster_become_ready_and_one_shuts_down_cleanly(members: list[Member]) -> None:
    factory, names = BundleFactory(int(time.time())), {member.name for member in members}
    for member in members:
        member.install(bundle_files(factory.bundle(1)) | leaf_files(factory.leaf()))
    first, *others = members
    first.start()
    await eventually(lambda: first.ask("/varz")[0] == 200, "one server")
    assert not first.is_led_by(names), "alone it has no quorum: they start together"
    for member in others:
        member.start()
    for member in members:
        await eventually(partial(member.succeeds, *PROBES), f"{member.name} to be ready")
        await eventually(partial(member.is_routed_to, names - {member.name}), "routes with mutual TLS")
    await eventually(partial(first.is_led_by, names), "JetStream's leader")
    leaving = members[-1]
    leaving.pre_stop()
    await eventually(lambda: "Entering lame duck mode" in leaving.log.read_text(), "the hook to be heard")
    assert leaving.process is not None
    leaving.process.terminate()  # the kubelet's, at once after the hook: it does not cut the good order short
    async with asyncio.timeout(SPEC["terminationGracePeriodSeconds"]):
        await asyncio.to_thread(leaving.process.wait)
    assert "Initiating Shutdown" in leaving.log.read_text()
    for member in members[:-1]:
        await eventually(partial(member.succeeds, *PROBES), f"{member.name} goes on")
        await eventually(partial(member.is_led_by, names - {leaving.name}), "a leader that is there")


def test_grace_period_exceeds_the_lame_duck_duration() -> None:
    (text,) = one(OBJECTS, "ConfigMap", "nats-config")["data"].values()
    seconds = {
        key: int(value.removesuffix("s"))
        for key, _, value in (line.partition(": ") for line in text.splitlines())
        if key.startswith("lame_duck")
    }
    assert sum(seconds.values()) < SPEC["terminationGracePeriodSeconds"]
