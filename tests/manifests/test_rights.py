"""Nobody gets a right that is not on the list, and what RBAC cannot narrow, an admission policy does."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.manifests.admission_policies import Request, denials
from tests.harness.manifests.build import BUILT, Object, build, one, pods
from tests.harness.manifests.rights import ALLOWED, AUTHORITY, NARROWED, NUDGE, granted
from tests.harness.paths import MANIFESTS

DOCUMENT = MANIFESTS.parent / "docs/kubernetes.md"
WRITING = {"create", "update", "patch", "delete", "deletecollection"}
AUTHORITY_ACCOUNT = "system:serviceaccount:tidemark:tidemark-authority"


@pytest.mark.parametrize("path", BUILT)
def test_manifests_grant_only_listed_rights(path: str) -> None:
    assert set(granted(build(path))) <= ALLOWED


def test_every_listed_right_is_granted() -> None:
    given = {right for path in BUILT for right in granted(build(path))}
    assert given == ALLOWED


def test_documented_calls_need_exactly_the_listed_rights() -> None:
    """The table in docs/kubernetes.md: verbs, resource with its names, and why."""
    _, *rows = re.findall(r"^\| ([a-z, ]+?) +\| ([\w/]+).*?\|.*?\|.*?\|$", DOCUMENT.read_text(), re.MULTILINE)
    called = {(verb, resource) for verbs, resource in rows for verb in verbs.split(", ")}
    assert called == {(right.verb, right.resource) for right in ALLOWED}


@pytest.mark.parametrize("path", BUILT)
def test_rights_have_no_wildcards_no_escalation_and_no_exec(path: str) -> None:
    for right in granted(build(path)):
        assert "*" not in (right.group, right.resource, right.verb), right
        is_a_status = right.resource == "certificates/status"
        assert "/" not in right.resource or is_a_status, f"{right}: no exec, no attach, no ephemeral containers"
        assert right.verb not in {"escalate", "bind", "impersonate", "deletecollection"}, right


def test_every_rbac_rule_has_a_comment_above() -> None:
    for file in MANIFESTS.rglob("*.yaml"):
        lines = file.read_text().splitlines()
        for before, line in itertools.pairwise(lines):
            if re.match(r"  - apiGroups:", line):
                assert before.strip().startswith("# "), f"{file}: {line}: expected a comment above it"


def test_admission_policies_narrow_every_write_that_rbac_cannot_name() -> None:
    unnamed = {
        right
        for right in AUTHORITY | NUDGE
        if right.name == "*" and right.verb in WRITING and right.resource not in {"tokenreviews", "leases"}
    }
    assert unnamed == {right for right in NARROWED if right.name == "*"}


@pytest.mark.parametrize("overlay", ["overlays/openbao", "overlays/embedded"])
def test_policies_deny_and_match_the_service_account_of_the_authority(overlay: str) -> None:
    objects = build(overlay)
    for name in {NARROWED[right] for right in granted(objects) if right in NARROWED}:
        binding = one(objects, "ValidatingAdmissionPolicyBinding", name)
        assert binding["spec"] == {"policyName": name, "validationActions": ["Deny"]}
    (account,) = {right.account for right in granted(objects)}
    assert f"system:serviceaccount:{account.replace('/', ':')}" == AUTHORITY_ACCOUNT
    deployment = one(objects, "Deployment", "tidemark-authority")
    assert deployment["metadata"]["namespace"] == "tidemark"
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "tidemark-authority"


# The policies, as the API server evaluates them.

ENABLED = {"metadata": {"name": "nats", "labels": {"tidemark.io/bundle": "enabled"}}}
OWN = {"metadata": {"name": "tidemark", "labels": {"kubernetes.io/metadata.name": "tidemark"}}}
OTHER = {"metadata": {"name": "kube-system", "labels": {"kubernetes.io/metadata.name": "kube-system"}}}
BARE: Object = {"metadata": {"name": "bare"}}


def secret(name: str, kind: str = "Opaque") -> Object:
    return {"metadata": {"name": name}, "type": kind, "data": {"ca.crt": "eA=="}}


def verdict(
    name: str,
    namespace: Object,
    operation: str,
    resource: str,
    *,
    new: Object | None = None,
    old: Object | None = None,
    user: str = AUTHORITY_ACCOUNT,
) -> list[str]:
    policy = one(build("overlays/openbao"), "ValidatingAdmissionPolicy", name)
    return denials(policy, Request(user, operation, resource, namespace, new, old))


def written(namespace: Object, operation: str, new: Object, **more: Any) -> list[str]:
    old = new if operation != "CREATE" else None
    return verdict(
        "tidemark-authority-secrets",
        namespace,
        operation,
        "secrets",
        new=new if operation != "DELETE" else None,
        old=old,
        **more,
    )


@pytest.mark.parametrize(
    ("namespace", "operation", "new"),
    [
        (ENABLED, "CREATE", secret("nats-ca-tls")),
        (ENABLED, "UPDATE", secret("nats-ca-tls")),
        (ENABLED, "CREATE", secret("nats-server-tls", "kubernetes.io/tls")),
        (ENABLED, "UPDATE", secret("nats-server-tls", "kubernetes.io/tls")),
        (OWN, "CREATE", secret("nats-ca-bundle-epoch-82611-17")),
        (OWN, "DELETE", secret("nats-ca-bundle-epoch-82611-17")),
    ],
)
def test_secrets_policy_allows_bundles_leaves_and_history(namespace: Object, operation: str, new: Object) -> None:
    assert written(namespace, operation, new) == []


@pytest.mark.parametrize(
    ("namespace", "operation", "new"),
    [
        (ENABLED, "CREATE", secret("nats-ca-tls", "kubernetes.io/service-account-token")),
        (ENABLED, "CREATE", secret("token", "kubernetes.io/service-account-token")),
        (ENABLED, "CREATE", secret("other")),
        (ENABLED, "DELETE", secret("nats-ca-tls")),
        (ENABLED, "DELETE", secret("nats-server-tls", "kubernetes.io/tls")),
        (ENABLED, "CREATE", secret("nats-ca-bundle-epoch-82611-17")),
        (OTHER, "CREATE", secret("nats-ca-tls")),
        (BARE, "CREATE", secret("nats-ca-tls")),
        (OTHER, "CREATE", secret("any", "kubernetes.io/tls")),
        (OWN, "CREATE", secret("any", "kubernetes.io/service-account-token")),
        (OWN, "CREATE", secret("nats-ca-bundle-epoch-82611-17", "kubernetes.io/service-account-token")),
        (OWN, "UPDATE", secret("tidemark-tokens")),
        (OWN, "DELETE", secret("tidemark-tokens")),
        (OWN, "DELETE", secret("nats-ca-bundle-epoch-82611-17-more")),
    ],
)
def test_secrets_policy_denies_every_other_write(namespace: Object, operation: str, new: Object) -> None:
    (found,) = written(namespace, operation, new)
    assert found.endswith(f"found {namespace['metadata']['name']}/{new['metadata']['name']}")


@pytest.mark.parametrize(
    "user", ["system:serviceaccount:nats:nats", "alice", "system:serviceaccount:tidemark:tidemark-authority-2"]
)
def test_secrets_policy_ignores_other_users(user: str) -> None:
    assert written(OTHER, "CREATE", secret("any", "kubernetes.io/service-account-token"), user=user) == []


def trust(name: str = "tidemark-trust") -> Object:
    return {"metadata": {"name": name}, "data": {"trust.toml": ""}}


def test_trust_policy_allows_creation_and_denies_changes() -> None:
    def asked(namespace: Object, operation: str, name: str = "tidemark-trust") -> list[str]:
        old = None if operation == "CREATE" else trust(name)
        return verdict("tidemark-authority-trust", namespace, operation, "configmaps", new=trust(name), old=old)

    assert asked(ENABLED, "CREATE") == []
    assert asked(ENABLED, "CREATE", "coredns")
    assert asked(OTHER, "CREATE")
    assert asked(BARE, "CREATE")
    assert asked(ENABLED, "UPDATE")
    assert asked(ENABLED, "DELETE")


def pod(*, annotations: dict[str, str] | None, labels: dict[str, str] | None = None, image: str = "nats:1") -> Object:
    metadata: Object = {"name": "nats-0", "labels": labels or {"tidemark.io/agent": "true"}}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": {"containers": [{"name": "nats", "image": image}]}}


NUDGED = {"tidemark.io/nudge": "17"}


def nudged(new: Object | None, old: Object | None, operation: str = "UPDATE", resource: str = "pods") -> list[str]:
    return verdict("tidemark-authority-nudge", ENABLED, operation, resource, new=new, old=old)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, NUDGED),
        ({}, NUDGED),
        ({"tidemark.io/nudge": "16"}, NUDGED),
        ({"a": "1"}, {"a": "1"} | NUDGED),
        ({"a": "1"} | NUDGED, {"a": "1"}),
    ],
)
def test_nudge_policy_allows_a_change_of_its_annotation(before: dict[str, str] | None, after: dict[str, str]) -> None:
    assert nudged(pod(annotations=after), pod(annotations=before)) == []


AGENT = {"tidemark.io/agent": "true"}


@pytest.mark.parametrize(
    ("after", "before"),
    [
        (pod(annotations=NUDGED, image="evil:1"), pod(annotations=None)),
        (pod(annotations=NUDGED | {"b": "1"}), pod(annotations=None)),
        (pod(annotations=NUDGED | {"a": "2"}), pod(annotations={"a": "1"})),
        (pod(annotations=NUDGED), pod(annotations={"a": "1"})),
        (pod(annotations=None), pod(annotations={"a": "1"})),
        (pod(annotations=NUDGED, labels=AGENT | {"more": "1"}), pod(annotations=None)),
        (pod(annotations=NUDGED, labels={"app": "web"}), pod(annotations=None, labels={"app": "web"})),
        (pod(annotations=NUDGED, labels=AGENT), pod(annotations=None, labels={"app": "web"})),
    ],
)
def test_nudge_policy_denies_every_other_change_of_a_pod(after: Object, before: Object) -> None:
    assert nudged(after, before)


@pytest.mark.parametrize("field", ["ownerReferences", "finalizers"])
def test_nudge_policy_denies_changes_of_owners_and_finalizers(field: str) -> None:
    after, before = pod(annotations=NUDGED), pod(annotations=None)
    after["metadata"][field] = before["metadata"][field] = ["one"]
    assert nudged(after, before) == []
    after["metadata"][field] = ["two"]
    assert nudged(after, before)
    del after["metadata"][field]
    assert nudged(after, before)


def test_nudge_policy_denies_creation_deletion_and_ephemeral_containers() -> None:
    one_pod = pod(annotations=None)
    assert nudged(one_pod, None, "CREATE")
    assert nudged(None, one_pod, "DELETE")
    assert nudged(pod(annotations=NUDGED), one_pod, "UPDATE", "pods/ephemeralcontainers")


def ours() -> Object:
    return one(build("overlays/openbao"), "MutatingWebhookConfiguration", "tidemark-injector")


def patched(change: Callable[[Object], object]) -> list[str]:
    """What comes of a change to the first webhook."""
    new = ours()
    change(new["webhooks"][0])
    return verdict("tidemark-authority-webhook", OTHER, "UPDATE", "mutatingwebhookconfigurations", new=new, old=ours())


def test_webhook_policy_allows_a_change_of_the_ca_bundle() -> None:
    assert patched(lambda webhook: webhook["clientConfig"].update(caBundle="eA==")) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda webhook: webhook["clientConfig"].update(url="https://elsewhere.example.com"),
        lambda webhook: webhook["clientConfig"]["service"].update(namespace="elsewhere"),
        lambda webhook: webhook["rules"][0].update(resources=["pods", "secrets"]),
        lambda webhook: webhook.update(objectSelector={}),
        lambda webhook: webhook.update(namespaceSelector={}),
        lambda webhook: webhook.pop("matchConditions"),
        lambda webhook: webhook.update(matchConditions=[]),
        lambda webhook: webhook.update(matchPolicy="Exact"),
        lambda webhook: webhook.update(failurePolicy="Ignore"),
        lambda webhook: webhook.update(reinvocationPolicy="Never"),
        lambda webhook: webhook.update(sideEffects="Some"),
        lambda webhook: webhook.update(timeoutSeconds=30),
        lambda webhook: webhook.update(name="another.tidemark.io"),
    ],
)
def test_webhook_policy_denies_every_other_change(change: Callable[[Object], object]) -> None:
    assert patched(change) == ["the authority changes nothing of a webhook but its caBundle"]


def test_webhook_policy_denies_adding_and_deleting_webhooks() -> None:
    more = ours()
    more["webhooks"].append({**ours()["webhooks"][0], "name": "more.tidemark.io"})
    for operation, new, old in (("UPDATE", more, ours()), ("DELETE", None, ours()), ("CREATE", ours(), None)):
        found = verdict(
            "tidemark-authority-webhook", OTHER, operation, "mutatingwebhookconfigurations", new=new, old=old
        )
        assert found


@pytest.mark.parametrize("path", BUILT)
def test_only_the_authority_mounts_a_token_for_the_api_server(path: str) -> None:
    """The agent's one token is good for receipts; whatever the pod says, no other one is mounted into it."""
    for name, template in pods(build(path)):
        spec = template["spec"]
        if name == "Deployment/tidemark-authority":
            continue
        assert spec["automountServiceAccountToken"] is False, name
        (agent,) = (each for each in spec["initContainers"] if each["name"] == "tidemark-agent")
        mounted = {mount["mountPath"]: mount["name"] for mount in agent["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert "emptyDir" in volumes[mounted["/var/run/secrets/kubernetes.io/serviceaccount"]]
        tokens = [
            source["serviceAccountToken"]
            for volume in spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "serviceAccountToken" in source
        ]
        assert [token["audience"] for token in tokens] == ["tidemark-authority"]
