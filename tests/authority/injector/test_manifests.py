"""manifests/base/injector: who is sent to the injector, and that its parts meet each other and the table [injector]."""

import re
from pathlib import Path

import pytest

from authority.config.injector import InjectorConfig
from authority.config.load import parse
from tests.harness.manifests.admission_policies import evaluate
from tests.harness.manifests.build import Object, build, one, pods

OVERLAYS = ("overlays/openbao", "overlays/embedded")
EXAMPLES = ("examples/nats", "examples/application")


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return build(str(request.param))


def webhook(objects: list[Object]) -> Object:
    (found,) = one(objects, "MutatingWebhookConfiguration", "tidemark-injector")["webhooks"]
    made: Object = found
    return made


def injector(objects: list[Object]) -> InjectorConfig:
    (text,) = one(objects, "ConfigMap", "tidemark-authority-config")["data"].values()
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    found = parse(text.encode(), "authority.toml", Path("/etc/tidemark"), inside).injector
    assert found is not None
    return found


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#set-based-requirement"""
    for wanted in selector["matchExpressions"]:
        value = labels.get(wanted["key"])
        if not {"Exists": value is not None, "NotIn": value not in wanted.get("values", [])}[wanted["operator"]]:
            return False
    return True


def is_sent(objects: list[Object], namespace: dict[str, str], labels: dict[str, str]) -> bool:
    found = webhook(objects)
    return selects(found["namespaceSelector"], namespace) and selects(found["objectSelector"], labels)


def named(name: str, **labels: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name} | labels


LABELLED = {"tidemark.io/inject": "http"}


def test_webhook_gets_labelled_pods_only(objects: list[Object]) -> None:
    assert is_sent(objects, named("orders"), LABELLED)
    assert not is_sent(objects, named("orders"), {"app": "orders", "tidemark.io/agent": "true"})
    for namespace in ("kube-system", "kube-public", "kube-node-lease", "tidemark"):
        assert not is_sent(objects, named(namespace), LABELLED)
    assert not is_sent(objects, {"kubernetes.io/metadata.name": "orders", "tidemark.io/inject": "disabled"}, LABELLED)


def test_authority_and_nats_example_do_not_depend_on_the_webhook(objects: list[Object]) -> None:
    for built in (objects, *map(build, EXAMPLES)):
        for name, template in pods(built):
            assert not is_sent(objects, named("nats"), template["metadata"]["labels"]), name
    namespace = one(build("examples/nats"), "Namespace", "nats")["metadata"]
    labels = named(namespace["name"], **namespace["labels"])
    assert not is_sent(objects, labels, {"tidemark.io/inject": "nats"}), "whatever somebody labels there"


def test_webhook_gets_only_the_creation_of_pods(objects: list[Object]) -> None:
    (rule,) = webhook(objects)["rules"]
    assert (rule["resources"], rule["operations"], rule["apiGroups"]) == (["pods"], ["CREATE"], [""])


def test_webhook_fails_closed_within_its_timeout(objects: list[Object]) -> None:
    found = webhook(objects)
    assert (found["failurePolicy"], found["sideEffects"], found["reinvocationPolicy"]) == ("Fail", "None", "IfNeeded")
    assert found["timeoutSeconds"] <= 5
    assert found["admissionReviewVersions"] == ["v1"]


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        ({}, True),
        ({"annotations": {"a": "b"}}, True),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, False),
    ],
)
def test_match_condition_does_not_fail_without_annotations(objects: list[Object], metadata: Object, sent: bool) -> None:
    (condition,) = webhook(objects)["matchConditions"]
    assert evaluate(condition["expression"], {"object": {"metadata": metadata}}) is sent


def test_webhook_reaches_the_port_that_the_program_serves(objects: list[Object]) -> None:
    client, config = webhook(objects)["clientConfig"], injector(objects)
    assert "caBundle" not in client, "the authority's to set: applying this again must not take it back"
    service = one(objects, "Service", client["service"]["name"])
    assert service["metadata"]["namespace"] == client["service"]["namespace"]
    (port,) = service["spec"]["ports"]
    assert port["port"] == client["service"]["port"]
    ((_, template),) = pods(objects)
    (container,) = template["spec"]["containers"]
    (listening,) = (each for each in container["ports"] if each["name"] == port["targetPort"])
    assert config.listen.port == listening["containerPort"]
    assert f"{client['service']['name']}.{client['service']['namespace']}.svc" in config.names
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    policy = one(objects, "NetworkPolicy", "tidemark-injector")["spec"]
    assert policy["ingress"] == [{"ports": [{"port": port["targetPort"]}]}]
    assert client["service"]["path"] == "/inject"
    assert config.webhook == "tidemark-injector"


def test_injected_pod_equals_the_pod_of_the_components(objects: list[Object]) -> None:
    """Same image, same names of Secret, ConfigMap and audience, same authority."""
    settings = injector(objects).sidecar
    for path in EXAMPLES:
        ((_, template),) = pods(build(path))
        agent = next(each for each in template["spec"]["initContainers"] if each["name"] == "tidemark-agent")
        assert agent["image"] == settings.image
        values = {each["name"]: each.get("value") for each in agent["env"]}
        assert values["TIDEMARK_AUTHORITY_URL"] == settings.authority_url
        assert values["TIDEMARK_OUT"] == settings.directory
        assert agent["resources"]["requests"] == {"cpu": settings.cpu, "memory": settings.memory}
        assert agent["resources"]["limits"] == {"memory": settings.memory_limit}
        text = str(template["spec"]["volumes"])
        for name in (settings.bundle_secret, settings.trust_config_map, settings.audience):
            assert re.search(rf"'{name}'", text), name
