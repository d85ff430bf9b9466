"""docs/install.md from an empty cluster to the first proven rotation: what it says is typed, and works.

The API server is the fake one; OpenBao, kubectl, the authority and the agent are real. A pod's volumes are what
was made before it: one that nobody made fails the test, as it would keep the pod from starting.
"""

import ipaddress
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoPermissionMissing
from authority.openbao.login import TokenLogin
from authority.openbao.transport import OpenBaoTransport
from authority.support.backoff import REQUEST_PAUSES
from tests.harness.authority.deployment import Program, ask, command
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.documents.install_guide import AuthorityPod, admit, environment_of, furnish, template_of
from tests.harness.documents.markdown import beginning, fenced, inline, section
from tests.harness.documents.terminal import Terminal
from tests.harness.kubernetes.accounts import Rule
from tests.harness.kubernetes.apiserver import ApiServer
from tests.harness.kubernetes.kinds import CONFIG_MAP, MUTATING_WEBHOOKS, SECRET
from tests.harness.kubernetes.node import AgentsPod, FakeNode
from tests.harness.openbao.server import CLOSED, ROOT_TOKEN, OpenBaoServer, serving
from tests.harness.openbao.server import ask as ask_openbao
from tests.harness.waiting import eventually
from tidemark.certificates import fingerprint, not_after, not_before, parse_leaf, to_pem
from tidemark.trust import Trust

Json = dict[str, Any]
HOUR = 3600
IN_THE_POD = "kubectl -n tidemark exec deploy/tidemark-authority -c authority -- tidemark-authority"


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBaoServer]:
    """Empty: what is made there is made as the document says."""
    with serving(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """An empty cluster."""
    async with ApiServer(tmp_path / "apiserver").running() as server:
        yield server


@pytest.fixture
def terminal(server: ApiServer, tmp_path: Path) -> Terminal:
    """An administrator's; the pod's files are below ``tmp_path/pod``."""
    admin = server.kubeconfig(tmp_path / "admin", server.accounts.administrator())
    return Terminal(tmp_path / "terminal", {"ADMIN": str(admin), "POD": str(tmp_path / "pod")})


async def nats_has_all(server: ApiServer) -> bool:
    there = [server.store.find(SECRET, "nats", name) for name in ("nats-ca-tls", "nats-server-tls")]
    return all([*there, server.store.find(CONFIG_MAP, "nats", "tidemark-trust")])


async def rotate(terminal: Terminal, pod: AuthorityPod) -> None:
    """The first rotation, from a terminal at the API."""
    before = await signing(pod)
    (at_the_api, control_ca, *_) = fenced(beginning("operate.md"), "sh")
    forward, _, rest = at_the_api.partition("\n")
    assert "port-forward" in forward
    (block,) = fenced(section("install.md", "The first rotation"), "sh")
    printed = await terminal.type(control_ca, rest, block, instead={"https://localhost:8443": pod.url})
    made = str(json.loads(printed[printed.rindex("\n{") :])["ca"])

    async def signs() -> bool:
        return await signing(pod) == made

    assert before != made
    await eventually(signs, "the new CA to sign, once it is proven")


async def follow_nats(terminal: Terminal, server: ApiServer, pod: AuthorityPod, program: Program, folder: Path) -> None:
    """The example of NATS, an agent's pod in it, and the first rotation."""
    (block,) = fenced(section("install.md", "NATS"), "sh")
    await terminal.type(block)
    admit(server)
    await program.start()
    await eventually(lambda: nats_has_all(server), "bundle, leaf and trust file in the namespace")
    async with FakeNode(server, folder / "node").running() as node, AgentsPod(node, "nats", "nats-0").running(pod.url):

        async def is_proven() -> bool:
            async with pod.session(pod.token("operator")) as session:
                agents = (await ask(session, "/api/v1/fleet"))["agents"]
            return [agent["state"] for agent in agents] == ["proven"]

        await eventually(is_proven, "the first proof")
        await rotate(terminal, pod)


async def test_install_guide_with_openbao_leads_to_a_proven_rotation(
    terminal: Terminal, server: ApiServer, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    set_up, apply, *cert_manager, renewals = fenced(section("install.md", "With OpenBao"), "sh")
    (terminal.folder / "openbao-ca.pem").write_bytes(openbao.ca_file.read_bytes())
    (terminal.folder / "kubernetes-ca.crt").write_bytes(server.ca_file.read_bytes())
    server.accounts.rules["system:serviceaccount:openbao:openbao"] = [TOKEN_REVIEWS]
    reviewer = server.accounts.issue("openbao", "openbao")
    elsewhere = f"{server.url} kubernetes_ca_cert=@kubernetes-ca.crt token_reviewer_jwt={reviewer}"
    await terminal.type(
        set_up,
        instead={
            "https://openbao.example.com:8200": openbao.url,
            "…": ROOT_TOKEN,
            "https://kubernetes.default.svc": elsewhere,
        },
    )
    await terminal.type(apply)
    pod = furnish(server, tmp_path / "pod", {"https://openbao.openbao.svc:8200": openbao.url})
    (container,) = template_of(server)["containers"]
    assert container["args"] == ["run"]
    async with Program(pod) as program:
        await follow_nats(terminal, server, pod, program, tmp_path)
        await terminal.type(*cert_manager)
        await cert_manager_has_a_leaf_signed(server, openbao, await signing(pod))
        await terminal.type(renewals, f"{IN_THE_POD} status")
        await look_into_openbao(terminal, set_up)
        await replace_keys(terminal, pod)
    assert "found 403" not in program.log.read_text(), "a right is missing"


TOKEN_REVIEWS = Rule(frozenset({"create"}), frozenset({"authentication.k8s.io"}), frozenset({"tokenreviews"}))
"""What the ClusterRole system:auth-delegator allows, of which OpenBao needs this."""


async def signing(pod: AuthorityPod) -> str:
    async with pod.session(pod.token("operator")) as session:
        return str((await ask(session, "/api/v1/status"))["signing"]["sha256"])


async def cert_manager_has_a_leaf_signed(server: ApiServer, openbao: OpenBaoServer, ca: str) -> None:
    """As cert-manager's issuer asks Vault: a login with a token of its own audience, then one request."""
    documents = [list(yaml.safe_load_all(block)) for block in fenced(section("install.md", "With OpenBao"), "yaml")]
    objects = {one["kind"]: one for one in documents[0]}
    issuer, wanted = objects["Issuer"], objects["Certificate"]["spec"]
    vault, auth = issuer["spec"]["vault"], issuer["spec"]["vault"]["auth"]["kubernetes"]
    assert server.store.find(SECRET, "nats", vault["caBundleSecretRef"]["name"]), "made by the block before"
    audience = f"vault://{issuer['metadata']['namespace']}/{issuer['metadata']['name']}"
    login = auth["mountPath"].removeprefix("/v1/") + "/login"
    async with aclosing(OpenBaoTransport(openbao.access(TokenLogin(ROOT_TOKEN)), REQUEST_PAUSES)) as transport:

        async def token_of(account: str, audience: str) -> str:
            jwt = server.accounts.issue("nats", account, audience=audience)
            answer = await transport.send("POST", login, {"role": auth["role"], "jwt": jwt}, "")
            return str(((answer[1] or {}).get("auth") or {}).get("client_token", ""))

        token = await token_of(auth["serviceAccountRef"]["name"], audience)
        assert not await token_of("default", audience), "another account"
        assert not await token_of("nats", "openbao"), "the authority's audience"
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, wanted["commonName"])])
    names = [
        *map(x509.DNSName, wanted["dnsNames"]),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in wanted["ipAddresses"]),
    ]
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    csr = request.add_extension(x509.SubjectAlternativeName(names), critical=False).sign(key, hashes.SHA256())
    asked = {
        "common_name": wanted["commonName"],
        "alt_names": ",".join(wanted["dnsNames"]),
        "ip_sans": ",".join(wanted["ipAddresses"]),
        "ttl": f"{wanted['duration'].removesuffix('h')}h0m0s",
        "csr": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "exclude_cn_from_sans": "true",
    }
    async with OpenBaoClient(openbao.access(TokenLogin(token))) as client:
        answer = await client.write(vault["path"], asked)
        for method, path, body in [*CLOSED, *OF_THE_AUTHORITY]:
            with pytest.raises(OpenBaoPermissionMissing) as denied:
                await ask_openbao(client, method, path, body)
            assert denied.value.path == path
    chain = "\n".join([answer["certificate"], answer["ca_chain"][0]])
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    leaf = parse_leaf(chain.encode(), private)
    assert fingerprint(leaf.chain[0]) == ca, "of the CA that signs"
    signed = leaf.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(signed) == set(names)
    life = not_after(leaf.certificate) - not_before(leaf.certificate)
    assert 12 * HOUR <= life <= 12 * HOUR + 900, "as long as was asked for, and backdated by the tolerance"


OF_THE_AUTHORITY: list[tuple[str, str, Json]] = [
    ("write", "pki/issuer/default/sign-intermediate", {"common_name": "x", "max_path_length": "0"}),
    ("write", "nats_int/issuer/default/sign/tidemark", {"csr": "x"}),
    ("write", "nats_int/config/issuers", {"default": "x"}),
    ("write", "nats_int/keys/generate/internal", {"key_name": "x"}),
    ("write", "control/sign/tidemark", {"csr": "x"}),
    ("write", "transit/sign/tidemark", {"input": "eA=="}),
    ("read", "secret/data/ca-bundles/journal/1", {}),
]
"""What the authority's policy opens, and cert-manager's does not."""


async def look_into_openbao(terminal: Terminal, set_up: str) -> None:
    """docs/openbao.md: other ways to set it up, and how to read what is there."""
    init, approle, kubernetes = fenced(section("openbao.md", "Setting it up"), "sh")
    assert set(kubernetes.splitlines()) <= set(set_up.splitlines()), "as in docs/install.md"
    assert "init --openbao > policy.hcl" in init
    await terminal.type(approle)
    (to_namespaces,) = fenced(section("operate.md", "The signing key"), "sh")
    await terminal.type(to_namespaces)
    (journal,) = fenced(section("openbao.md", "Reading the journal"), "sh")
    kept = json.loads(await terminal.type("bao kv list -format=json secret/ca-bundles"))
    records = json.loads(await terminal.type("bao kv list -format=json secret/ca-bundles/journal"))
    newest = max((name for name in kept if name.startswith("epoch-")), key=lambda name: int(name.rpartition("-")[2]))
    await terminal.type(journal, instead={"epoch-82905-311": newest, "000000000620": records[0]})


async def replace_keys(terminal: Terminal, pod: AuthorityPod) -> None:
    """docs/operate.md and docs/migrate.md: another signing key, another root, and one of somebody else's."""
    trust = f"{IN_THE_POD} trust"
    make, drop = inline(section("operate.md", "The signing key"), "bao")
    await terminal.type(make)
    assert len(Trust.parse((await terminal.type(trust)).encode()).keys) == 2
    second, default, delete = inline(section("operate.md", "The root"), "bao")
    (terminal.folder / "old-root.pem").write_bytes(to_pem([BundleFactory(int(time.time())).root.certificate]))
    foreign, _ = inline(section("migrate.md", "From the central exec watcher"), "bao")
    await terminal.type(second, foreign)
    assert await roots(pod) == 3
    await terminal.type(drop, default, delete)


async def roots(pod: AuthorityPod) -> int:
    """How many the next statement has."""
    async with pod.session(pod.token("operator")) as session:
        async with session.post("/api/v1/rotate", json={"reason": "another root"}) as response:
            assert response.status == 200, await response.text()
            sequence = (await response.json())["sequence"]
        bundle = await ask(session, f"/api/v1/bundles/{sequence}")
    statement = json.loads(bundle["bundle.note"].splitlines()[1])
    return [anchor["role"] for anchor in statement["anchors"]].count("root")


async def test_install_guide_with_embedded_issuer_leads_to_a_proven_rotation(
    terminal: Terminal, server: ApiServer, tmp_path: Path
) -> None:
    apply, operator_token = fenced(section("install.md", "Embedded"), "sh")
    await terminal.type(apply)
    pod = furnish(server, tmp_path / "pod", {})
    spec = template_of(server)
    (init,) = spec["initContainers"]
    done = await command(*init["args"], environment=environment_of(server, init, pod.root))
    assert done.status == 0, done.err
    assert b"ENCRYPTED" in (pod.state / "signer/a.key").read_bytes()
    async with Program(pod) as program:
        await terminal.type(operator_token)
        await follow_nats(terminal, server, pod, program, tmp_path)
        await terminal.type("kubectl apply -k manifests/overlays/embedded")  # as for an upgrade
        webhooks = server.store.get(MUTATING_WEBHOOKS, "", "tidemark-injector")["webhooks"]
        assert all(webhook["clientConfig"].get("caBundle") for webhook in webhooks), "it is not taken back"
    assert "found 403" not in program.log.read_text(), "a right is missing"
    (application,) = fenced(section("install.md", "An application"), "sh")
    (monitoring,) = fenced(section("install.md", "Monitoring"), "sh")
    await terminal.type(application, monitoring)
