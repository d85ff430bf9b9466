"""An authority's pod without a kubelet: its volumes below a folder, its programs with the template's arguments."""

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authority.support.projected_directory import FileContent, switch
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.kubernetes.accounts import rules_of
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import CONFIG_MAP, KINDS, SECRET

Json = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class AuthorityPod(AuthorityDeployment):
    """``root`` stands for ``/`` of its containers."""

    @property
    def config_file(self) -> Path:
        return self.root / "etc/tidemark/authority.toml"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/tidemark"


def template_of(server: ApiServer) -> Json:
    found = server.store.find(KINDS["apps", "deployments"], "tidemark", "tidemark-authority")
    assert found is not None, "expected the Deployment to be applied"
    made: Json = found["spec"]["template"]["spec"]
    return made


def admit(server: ApiServer) -> None:
    """Give accounts the rights of the applied roles."""
    kinds = [kind for (group, _), kind in KINDS.items() if group == RBAC]
    server.accounts.rules |= rules_of(one for kind in kinds for one in server.store.select(kind, "", lambda _: True))


def mount(server: ApiServer, root: Path) -> None:
    """Write every volume of the authority's container to its mount point; fails for a missing volume."""
    spec = template_of(server)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (container,) = spec["containers"]
    for where in container["volumeMounts"]:
        folder = root / where["mountPath"].removeprefix("/")
        folder.mkdir(parents=True, exist_ok=True)
        files = _files(server, volumes[where["name"]])
        if files:
            switch(folder, {name: FileContent(data, 0o440) for name, data in files.items()}, int(time.time()))


def _files(server: ApiServer, volume: Json) -> dict[str, bytes]:
    match volume:
        case {"secret": {"secretName": name}}:
            found = server.store.get(SECRET, "tidemark", name)
            return {key: base64.b64decode(data) for key, data in found["data"].items()}
        case {"configMap": {"name": name}}:
            found = server.store.get(CONFIG_MAP, "tidemark", name)
            return {key: data.encode() for key, data in found["data"].items()}
        case {"projected": {"sources": [{"serviceAccountToken": source}]}}:
            account = template_of(server)["serviceAccountName"]
            return {source["path"]: server.accounts.issue("tidemark", account, audience=source["audience"]).encode()}
        case {"emptyDir": _} | {"persistentVolumeClaim": _}:
            return {}
    raise AssertionError(f"no such volume is known here: {volume}")


def environment_of(server: ApiServer, container: Json, root: Path) -> dict[str, str]:
    """The container's environment, with the new paths of its mounts."""
    found = {}
    for entry in container["env"]:
        match entry:
            case {"value": value}:
                found[entry["name"]] = str(root / value.removeprefix("/")) if value.startswith("/") else value
            case {"valueFrom": {"secretKeyRef": reference}}:
                secret = server.store.get(SECRET, "tidemark", reference["name"])
                found[entry["name"]] = base64.b64decode(secret["data"][reference["key"]]).decode()
            case {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}:
                found[entry["name"]] = "127.0.0.1"
            case _:
                raise AssertionError(f"{entry} is not known here")
    return found


def furnish(server: ApiServer, root: Path, moved: Mapping[str, str]) -> AuthorityPod:
    """The pod with its volumes; its configuration is the mounted one, but for paths, addresses and ``moved``."""
    mount(server, root)
    pod = AuthorityPod(root)
    text = pod.config_file.read_text().replace('"/', f'"{root}/')
    addresses = {
        "0.0.0.0:8443": "127.0.0.1:0",
        "0.0.0.0:9443": "127.0.0.1:0",
        '"localhost"]\nopen_reads': '"localhost", "127.0.0.1"]\nopen_reads',
        "[kubernetes]\n": f'[kubernetes]\nkubeconfig = "{root}/kubeconfig"\n',
    }
    for old, new in {**addresses, **moved}.items():
        assert old in text, old
        text = text.replace(old, new)
    pod.config_file.unlink()  # the link, as the kubelet made it
    pod.config_file.write_text(text)
    admit(server)
    environment = environment_of(server, template_of(server)["containers"][0], root)
    (root / "environment").write_text("".join(f"export {name}='{value}'\n" for name, value in environment.items()))
    account = template_of(server)["serviceAccountName"]
    server.kubeconfig(root / "kubeconfig", server.accounts.issue("tidemark", account))
    return AuthorityPod(root, environment)
