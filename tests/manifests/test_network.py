"""What the NetworkPolicies let through, and what they keep out: each way that something has to go, from end to end.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that a policy selects is reached by
what a rule of any policy names, and by nothing else; a rule without peers names everybody.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.harness.manifests.build import Object, build, pods

OVERLAYS = ("overlays/openbao", "overlays/embedded")


class Place(NamedTuple):
    """Where a connection begins or ends: a pod's labels and its namespace's; neither outside of the cluster."""

    namespace: dict[str, str]
    pod: dict[str, str]


OUTSIDE = Place({}, {})
"""The API server, on either side; no selector names it."""
PROMETHEUS = Place({"kubernetes.io/metadata.name": "monitoring"}, {"app": "prometheus"})
OPENBAO = Place({"kubernetes.io/metadata.name": "openbao"}, {"app": "openbao"})
DNS = Place({"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"})
STRANGER = Place({"kubernetes.io/metadata.name": "shop"}, {"app": "shop"})


def place(path: str) -> Place:
    """The pod that this builds."""
    objects = build(path)
    ((_, template),) = pods(objects)
    (namespace,) = (item["metadata"] for item in objects if item["kind"] == "Namespace")
    labels = {"kubernetes.io/metadata.name": namespace["name"], **namespace["labels"]}
    return Place(labels, template["metadata"]["labels"])


def nats() -> Place:
    return place("examples/nats")


def application() -> Place:
    return place("examples/application")


def passes(path: str, direction: str, peer: Place, port: int) -> bool:
    """Whether the pod that this builds may be reached (``ingress``) by the peer, or reach it (``egress``)."""
    objects, here = build(path), place(path)
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]
    selecting = [spec for spec in policies if direction.capitalize() in spec["policyTypes"]]
    selecting = [spec for spec in selecting if _selects(spec["podSelector"], here.pod)]
    rules = [rule for spec in selecting for rule in spec.get(direction, [])]
    return not selecting or any(_names(rule, direction, here, peer) and port in _ports(rule, objects) for rule in rules)


def _names(rule: Object, direction: str, here: Place, peer: Place) -> bool:
    peers = rule.get("from" if direction == "ingress" else "to")
    return peers is None or any(_is(one, here, peer) for one in peers)


def _is(wanted: Object, here: Place, peer: Place) -> bool:
    """Without a namespaceSelector, it is a pod of the policy's own namespace."""
    near = peer.namespace == here.namespace
    in_namespace = _selects(wanted["namespaceSelector"], peer.namespace) if "namespaceSelector" in wanted else near
    return in_namespace and _selects(wanted.get("podSelector", {}), peer.pod)


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _ports(rule: Object, objects: list[Object]) -> Iterator[int]:
    """By number; a name is looked up in the main containers."""
    ((_, template),) = pods(objects)
    named = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    for each in rule["ports"]:
        yield each["port"] if isinstance(each["port"], int) else named[each["port"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_authority_ingress_admits_agents_prometheus_and_the_api_server(overlay: str) -> None:
    for peer in (nats(), application(), PROMETHEUS, place(overlay)):
        assert passes(overlay, "ingress", peer, 8443), peer
    assert passes(overlay, "ingress", OUTSIDE, 9443), "the API server asks the injector"
    for peer in (STRANGER, OUTSIDE):
        assert not passes(overlay, "ingress", peer, 8443), peer


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_authority_egress_admits_dns_api_server_nats_and_openbao(overlay: str) -> None:
    ways = [(DNS, 53), (OUTSIDE, 443), (OUTSIDE, 6443), (nats(), 4222), (nats(), 8222), (place(overlay), 8443)]
    assert [way for way in ways if not passes(overlay, "egress", *way)] == []
    assert passes(overlay, "egress", OPENBAO, 8200) is (overlay == "overlays/openbao")
    assert not passes(overlay, "egress", STRANGER, 8080)


def test_nats_ingress_admits_clients_peers_authority_and_prometheus() -> None:
    authority = place("overlays/openbao")
    for peer, port in ((application(), 4222), (authority, 4222), (nats(), 6222), (PROMETHEUS, 9465), (authority, 8222)):
        assert passes("examples/nats", "ingress", peer, port), (peer, port)
    for port in (6222, 8222, 9465):
        assert not passes("examples/nats", "ingress", STRANGER, port), port


@pytest.mark.parametrize("path", ["examples/nats", "examples/application"])
def test_agent_egress_admits_authority_broker_and_dns(path: str) -> None:
    for peer, port in ((place("overlays/openbao"), 8443), (nats(), 4222), (DNS, 53)):
        assert passes(path, "egress", peer, port), (peer, port)
