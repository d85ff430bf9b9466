"""An authority that is configured for the cluster of the fake API server, with the rights of the manifests."""

import time
from pathlib import Path
from typing import Any

import yaml

from authority.app.provision import initialise
from authority.config.load import load
from tests.harness.authority.deployment import AuthorityDeployment
from tests.harness.kubernetes.accounts import rules_of
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.paths import MANIFESTS

CONFIG = """\
trust_domain = "bus.example.com"
preset = "testing"

[kubernetes]
kubeconfig = "kubeconfig"
fleet = ["nats"]
nudge = true

[[leaves]]
name = "nats"
secret = "nats/nats-server-tls"
dns = ["localhost"]
"""


def manifests() -> list[dict[str, Any]]:
    """The rights that the authority has in a cluster, as the manifests give them."""
    found: list[dict[str, Any]] = []
    for file in ("base/authority/rbac.yaml", "components/nudge/rbac.yaml"):
        found += yaml.safe_load_all((MANIFESTS / file).read_text())
    for document in yaml.safe_load_all((MANIFESTS / "examples/nats/authority-role.yaml").read_text()):
        document["metadata"]["namespace"] = "nats"
        found.append(document)
    return found


def furnish(server: ApiServer, root: Path, config: str = CONFIG) -> AuthorityDeployment:
    """A configured authority with its state, in a cluster with one labelled namespace."""
    server.namespace("nats", **{"tidemark.io/bundle": "enabled"})
    server.accounts.rules |= rules_of(manifests())
    root.mkdir()
    server.kubeconfig(root / "kubeconfig", server.accounts.issue("tidemark", "tidemark-authority"))
    (root / "authority.toml").write_text(config)
    initialise(load(root / "authority.toml", {}), int(time.time()))
    return AuthorityDeployment(root)
