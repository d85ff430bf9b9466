"""Every certificate that Tidemark or its tests make passes verifiers that keep to RFC 5280 (``strict_verifiers``)."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authority.issuer.embedded import EmbeddedIssuer, create_root
from authority.issuer.interface import CaRequest, Issuer, LeafRequest
from authority.openbao.control_ca import open_control_ca
from authority.pki import keystore
from authority.pki.certificates import LeafNames, Validity
from authority.pki.control_ca import ControlCa, EmbeddedControlCa, create_control_ca, read_control_ca
from authority.pki.keystore import KeyType
from tests.harness.agent.fake_authority import FakeAuthority
from tests.harness.authority.fixtures import empty_space, openbao, space
from tests.harness.contract import ca_factory
from tests.harness.contract.bundle_factory import BundleFactory
from tests.harness.contract.ca_factory import MadeCertificate, Recipe
from tests.harness.kubernetes.certificates import serving_files
from tests.harness.nats.cluster import ClusterCa
from tests.harness.openbao.server import TOLERANCE, OpenBaoNamespace, OpenBaoServer
from tests.harness.paths import CHECKOUT
from tests.harness.pki import certificates
from tests.harness.pki.strict_verifiers import Chain, NotVerified, Verifier, by_go, by_openssl, by_python
from tidemark.certificates import to_pem

__all__ = ["empty_space", "openbao", "space"]

DOMAIN = "bus.example.com"
VERIFIERS = [
    pytest.param(by_python, id="python"),
    pytest.param(by_openssl, id="openssl", marks=pytest.mark.needs("openssl")),
    pytest.param(by_go, id="go", marks=pytest.mark.needs("go")),
]


@pytest.fixture(params=VERIFIERS)
def passes(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Chain], None]:
    """Ends where one of the verifiers takes the chain; a fixture, so that each case runs with each of them."""
    verifier: Verifier = request.param
    return lambda chain: verifier(chain, tmp_path)


@pytest.fixture(params=VERIFIERS)
def refuses(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Chain], None]:
    """Ends where one of the verifiers refuses the chain."""
    verifier: Verifier = request.param

    def refuses(chain: Chain) -> None:
        with pytest.raises(NotVerified):
            verifier(chain, tmp_path)

    return refuses


async def issued(issuer: Issuer) -> list[Chain]:
    """What an application gets of this issuer: the CA of an epoch and the root are trusted, or the root alone."""
    now = int(time.time())
    (root,) = await issuer.roots()
    ca = await issuer.issue_ca(CaRequest("epoch-7-1", DOMAIN, 7, now - TOLERANCE, now + 7200))
    leaf = await issuer.issue_leaf(
        "epoch-7-1", LeafRequest("nats-0", ("localhost",), ("127.0.0.1",), now - TOLERANCE, now + 3600)
    )
    return [Chain(to_pem(anchors), leaf.certificate_pem, leaf.key_pem) for anchors in ([ca, root], [ca], [root])]


async def served(ca: ControlCa, *, alone: bool) -> Chain:
    """What a client of the authority's API sees."""
    now = int(time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    names = LeafNames("tidemark authority", ("localhost",), ("127.0.0.1",))
    certificate = await ca.sign(names, key, Validity(now - 86400, now + 3600))
    return Chain(to_pem([ca.certificate]), to_pem([certificate]), keystore.key_pem(key, None), serves_alone=alone)


@pytest.mark.parametrize("key_type", KeyType)
async def test_certificates_of_the_embedded_issuer_verify_strictly(
    tmp_path: Path, passes: Callable[[Chain], None], key_type: KeyType
) -> None:
    create_root(tmp_path / "state", DOMAIN, key_type, int(time.time()), None)
    for chain in await issued(EmbeddedIssuer(tmp_path / "state", key_type, None)):
        passes(chain)


async def test_certificates_of_the_embedded_control_ca_verify_strictly(
    tmp_path: Path, passes: Callable[[Chain], None]
) -> None:
    create_control_ca(tmp_path / "state", DOMAIN, int(time.time()), None)
    passes(await served(EmbeddedControlCa(read_control_ca(tmp_path / "state", None)), alone=False))


async def test_certificates_of_the_openbao_issuer_verify_strictly(
    space: OpenBaoNamespace, passes: Callable[[Chain], None]
) -> None:
    async with space.authority() as client:
        for chain in await issued(space.issuer(client)):
            passes(chain)


async def test_certificates_of_the_openbao_control_ca_verify_strictly(
    space: OpenBaoNamespace, passes: Callable[[Chain], None]
) -> None:
    async with space.authority() as client:
        passes(await served(await open_control_ca(client, space.layout), alone=True))


def test_serving_certificate_of_openbao_verifies_strictly(
    openbao: OpenBaoServer, passes: Callable[[Chain], None]
) -> None:
    crt, key = (openbao.ca_file.parent / name for name in ("vault-cert.pem", "vault-key.pem"))
    passes(Chain(openbao.ca_file.read_bytes(), crt.read_bytes(), key.read_bytes()))


def test_certificates_of_the_bundle_factory_verify_strictly(passes: Callable[[Chain], None]) -> None:
    factory = BundleFactory(int(time.time()))
    leaf = factory.leaf()
    passes(Chain(factory.ca_pem([factory.epoch]), leaf.crt, leaf.key))
    passes(Chain(to_pem([factory.root.certificate]), leaf.crt, leaf.key))


def test_certificates_of_the_ca_factory_verify_strictly(passes: Callable[[Chain], None]) -> None:
    root, ca, leaf = chain_of_the_factory()
    passes(Chain(root.pem, leaf.pem + ca.pem, leaf.key_pem))
    passes(Chain(ca.pem, leaf.pem, leaf.key_pem))


async def test_serving_certificate_of_the_fake_authority_verifies_strictly(passes: Callable[[Chain], None]) -> None:
    authority = FakeAuthority()
    passes(Chain(to_pem([authority.ca]), *authority.serving_certificate()))


def test_certificates_of_the_nats_cluster_verify_strictly(passes: Callable[[Chain], None]) -> None:
    ca = ClusterCa("one")
    passes(Chain(ca.pem, *ca.leaf()))


def test_serving_certificate_of_the_fake_api_server_verifies_strictly(
    tmp_path: Path, passes: Callable[[Chain], None]
) -> None:
    ca, crt, key = (file.read_bytes() for file in serving_files(tmp_path / "kubernetes"))
    passes(Chain(ca, crt, key))


def test_only_known_modules_make_certificates() -> None:
    """Whoever adds one adds a test above."""
    begin = "x509.Certificate" + "Builder()"  # not this line
    folders = ("agent", "authority", "bench", "examples", "playground", "tests", "tidemark")
    modules = [path for folder in folders for path in (CHECKOUT / folder).rglob("*.py") if begin in path.read_text()]
    assert {str(path.relative_to(CHECKOUT)) for path in modules} == {
        "authority/pki/certificates.py",
        str(Path(certificates.__file__).relative_to(CHECKOUT)),
        str(Path(ca_factory.__file__).relative_to(CHECKOUT)),
    }


def chain_of_the_factory(
    **changes: object,
) -> tuple[MadeCertificate, MadeCertificate, MadeCertificate]:
    """A root, a CA below it that is changed so, and a leaf, valid by the real clock."""
    now = int(time.time())
    root = Recipe("root", begin=now - 60, end=now + 3600).make()
    ca = Recipe("CA", root, begin=now - 60, end=now + 3600, path_length=0)
    ca = replace(ca, **changes)  # type: ignore[arg-type]  # test shorthand for any of its fields
    leaf = replace(ca_factory.leaf_recipe(ca.make()), begin=now - 60, end=now + 3600)
    return root, ca.make(), leaf.make()


@pytest.mark.parametrize("fault", [{"constrained": False}, {"usages": ("crl_sign",)}, {"begin": 1, "end": 2}])
def test_every_verifier_refuses_an_issuer_that_is_no_valid_ca(
    refuses: Callable[[Chain], None], fault: dict[str, object]
) -> None:
    root, ca, leaf = chain_of_the_factory(**fault)
    refuses(Chain(root.pem, leaf.pem + ca.pem, leaf.key_pem))


@pytest.mark.parametrize("verifier", VERIFIERS[:2])  # Go takes it
@pytest.mark.parametrize("fault", [{"identified": False}, {"usages": None}])
def test_strict_verifiers_refuse_missing_identifiers_and_usages(
    verifier: Verifier, tmp_path: Path, fault: dict[str, object]
) -> None:
    root, ca, leaf = chain_of_the_factory(**fault)
    with pytest.raises(NotVerified):
        verifier(Chain(root.pem, leaf.pem + ca.pem, leaf.key_pem), tmp_path)
