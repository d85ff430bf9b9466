"""The table ``[kubernetes]``: what it may say, and its faults by key."""

from pathlib import Path

import pytest

from authority.config.kubernetes import CertManagerConfig, KubernetesConfig, SecretName
from authority.config.load import AuthorityConfig, AuthorityConfigError, parse
from authority.kubernetes.credentials import InCluster, Kubeconfig

BASE = Path("/etc/tidemark")
IN_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
LEAF = '[[leaves]]\nname = "nats"\ndns = ["localhost"]\n'


def read(text: str, environment: dict[str, str] | None = None) -> AuthorityConfig:
    return parse(f'trust_domain = "bus.example.com"\n{text}'.encode(), "authority.toml", BASE, environment or {})


def faults(text: str, environment: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(AuthorityConfigError) as caught:
        read(text, environment)
    return caught.value.faults


def test_smallest_kubernetes_table_in_a_pod() -> None:
    access = InCluster("https://10.96.0.1:443")
    expected = KubernetesConfig(access, "", (), "tidemark-authority", "tidemark-authority", nudge=False)
    assert read("[kubernetes]", IN_POD).kubernetes == expected
    assert read("").kubernetes is None


def test_complete_kubernetes_table() -> None:
    config = read(
        """
        [kubernetes]
        kubeconfig = "kube/config"
        context = "prod"
        namespace = "tidemark"
        fleet = ["nats", "apps"]
        audience = "receipts"
        lease = "authority"
        nudge = true
        """
        + LEAF
        + 'secret = "nats/nats-server-tls"'
    )
    assert config.kubernetes == KubernetesConfig(
        Kubeconfig(BASE / "kube/config", "prod"), "tidemark", ("nats", "apps"), "receipts", "authority", nudge=True
    )
    assert config.leaves[0].place == SecretName("nats", "nats-server-tls")


def test_api_server_with_an_ipv6_address() -> None:
    kubernetes = read("[kubernetes]", {"KUBERNETES_SERVICE_HOST": "fd00::1"}).kubernetes
    assert kubernetes is not None
    assert kubernetes.access == InCluster("https://[fd00::1]:443")


CERT_MANAGER = '[kubernetes]\nkubeconfig = "c"\n[kubernetes.cert_manager]\n'


def test_cert_manager_table_names_the_certificates_to_renew() -> None:
    kubernetes = read(CERT_MANAGER + 'namespaces = ["nats", "apps"]\nissuer = "tidemark"').kubernetes
    assert kubernetes is not None
    assert kubernetes.cert_manager == CertManagerConfig(("nats", "apps"), "tidemark")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[kubernetes]", "kubernetes.kubeconfig: expected a kubeconfig file, or to run in a pod"),
        ('[kubernetes]\ncontext = "prod"', "kubernetes.context: expected the key 'kubeconfig' as well"),
        ('[kubernetes]\nkubeconfig = "c"\nfleet = ["Nats"]', "kubernetes.fleet: expected names of namespaces"),
        ('[kubernetes]\nkubeconfig = "c"\nfleet = ["a", "a"]', "kubernetes.fleet: expected each namespace once"),
        ('[kubernetes]\nkubeconfig = "c"\nnamespace = "a.b"', "kubernetes.namespace: expected the name of a namespace"),
        ('[kubernetes]\nkubeconfig = "c"\nlease = "-"', "kubernetes.lease: expected a name that Kubernetes allows"),
        ('[kubernetes]\nkubeconfig = "c"\nlabel = "x"', "kubernetes.label: unknown; expected one of audience"),
        (CERT_MANAGER + 'issuer = "a"', "kubernetes.cert_manager.namespaces: expected 1 or more, found 0"),
        (CERT_MANAGER + 'namespaces = ["a"]', "kubernetes.cert_manager.issuer: expected text, found no such key"),
        (
            CERT_MANAGER + 'namespaces = ["a", "a"]\nissuer = "a"',
            "kubernetes.cert_manager.namespaces: expected each namespace once",
        ),
        (
            CERT_MANAGER + 'namespaces = ["a"]\nissuer = "A"',
            "kubernetes.cert_manager.issuer: expected a name that Kubernetes allows",
        ),
        (LEAF + 'secret = "nats/tls"', "leaves: secret: expected a [kubernetes] table as well, found none"),
        (LEAF + 'secret = "tls"\n[kubernetes]\nkubeconfig = "c"', "leaves[0].secret: expected 'namespace/name'"),
        (
            LEAF + 'secret = "nats/tls"\ndirectory = "leaf"\n[kubernetes]\nkubeconfig = "c"',
            "leaves[0].directory: expected a directory or 'secret', found both",
        ),
        (LEAF, "leaves[0].directory: expected text, found no such key"),
        (
            '[kubernetes]\nkubeconfig = "c"\nfleet = ["nats"]\n[[agents]]\nname = "nats-0"',
            "agents: expected none where kubernetes.fleet says whose pods they are",
        ),
    ],
)
def test_one_fault_is_one_sentence(text: str, part: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(part)


def test_two_leaves_in_one_secret_are_refused() -> None:
    leaves = "".join(LEAF.replace("nats", name) + 'secret = "nats/tls"\n' for name in ("one", "two"))
    (fault,) = faults(leaves + '[kubernetes]\nkubeconfig = "c"')
    assert fault == "leaves: secret: expected each once, found 'nats/tls' more than once"
