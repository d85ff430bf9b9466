"""A workload's leaf: its files, and the chain that leads from it to an anchor."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dh, ec, ed25519, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import (
    CAS,
    EPOCH,
    NOW,
    OTHER_ROOT,
    ROOT,
    MadeCertificate,
    Recipe,
    block,
    ec_key,
    intermediate,
    leaf_recipe,
    pem,
)
from tidemark.certificates import Leaf, LeafRejected, leaf_issuer, parse_leaf

CA = CAS[0]
LEAF = leaf_recipe(CA).make()
ANCHORS = [ca.certificate for ca in CAS]


def leaf_of(*certificates: MadeCertificate) -> Leaf:
    return parse_leaf(pem(certificates), certificates[0].key_pem)


def issuer_of(
    *certificates: MadeCertificate,
    anchors: tuple[MadeCertificate, ...] = CAS,
    withdrawn: tuple[MadeCertificate, ...] = (),
    now: int = NOW,
) -> Any:
    above = [ca.certificate for ca in anchors]
    return leaf_issuer(leaf_of(*certificates), above, {ca.sha256 for ca in withdrawn}, now)


PKCS8, TRADITIONAL = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL


def private(key: Any, form: serialization.PrivateFormat = PKCS8, secret: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    written: bytes = key.private_bytes(serialization.Encoding.PEM, form, encryption)
    return written


X25519 = x25519.X25519PrivateKey.from_private_bytes(b"1" * 32)
SHORT = rsa.generate_private_key(65537, 1536)  # noqa: S505 - that is what it is for
KEYS: dict[str, Callable[[], Any]] = {
    "EC": lambda: ec_key("leaf"),
    "EC P-384": lambda: ec_key("leaf", ec.SECP384R1()),
    "Ed25519": lambda: ed25519.Ed25519PrivateKey.from_private_bytes(b"1" * 32),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_leaf_with_its_key_reads_as_it_is(algorithm: str) -> None:
    made = replace(leaf_recipe(CA), key=KEYS[algorithm]()).make()
    for form in (PKCS8, TRADITIONAL) if algorithm != "Ed25519" else (PKCS8,):
        key_pem = private(made.key, form)
        leaf = parse_leaf(made.pem + CA.pem, key_pem)
        assert leaf.certificate == made.certificate
        assert leaf.chain == (CA.certificate,)
        assert (leaf.certificate_pem, leaf.key_pem) == (made.pem + CA.pem, key_pem)
        assert leaf.sha256 == made.sha256
        assert leaf_issuer(leaf, ANCHORS, (), NOW) == CA.certificate


def test_repr_of_a_leaf_hides_its_key() -> None:
    assert "PRIVATE" not in repr(leaf_of(LEAF))
    assert LEAF.key_pem.decode().splitlines()[1] not in repr(leaf_of(LEAF))


def public_pem() -> bytes:
    return LEAF.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def unknown_algorithm(made: MadeCertificate) -> bytes:
    der = made.der.replace(bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0277"))
    return block(der)


REFUSED: dict[str, tuple[str, Callable[[], bytes], Callable[[], bytes]]] = {
    "no certificate": ("pem", lambda: b"", lambda: LEAF.key_pem),
    "garbage": ("pem", lambda: b"garbage", lambda: LEAF.key_pem),
    "cut in the chain": ("pem", lambda: LEAF.pem + CA.pem[:300], lambda: LEAF.key_pem),
    "the key in tls.crt": ("pem", lambda: LEAF.pem + LEAF.key_pem, lambda: LEAF.key_pem),
    "eleven certificates": ("pem", lambda: LEAF.pem * 11, lambda: LEAF.key_pem),
    "no key": ("key", lambda: LEAF.pem, lambda: b""),
    "a key cut in two": ("key", lambda: LEAF.pem, lambda: LEAF.key_pem[:100]),
    "a certificate as key": ("key", lambda: LEAF.pem, lambda: LEAF.pem),
    "a public key as key": ("key", lambda: LEAF.pem, public_pem),
    "an encrypted key": ("key", lambda: LEAF.pem, lambda: private(LEAF.key, secret=b"hunter2")),
    "an encrypted key, old form": (
        "key",
        lambda: LEAF.pem,
        lambda: private(LEAF.key, TRADITIONAL, secret=b"hunter2"),
    ),
    "another key": ("key_mismatch", lambda: LEAF.pem, lambda: private(ec_key("another"))),
    "another key of another kind": ("key_mismatch", lambda: LEAF.pem, lambda: private(KEYS["Ed25519"]())),
    "a key that TLS cannot use": (
        "key",
        lambda: replace(leaf_recipe(CA), key=X25519).make().pem,  # type: ignore[arg-type]  # what no recipe should have
        lambda: private(X25519),
    ),
    "an RSA key that is too short": (
        "pem",
        lambda: replace(leaf_recipe(CA), key=SHORT).make().pem,
        lambda: private(SHORT),
    ),
    "a key that cannot sign": ("key_mismatch", lambda: LEAF.pem, lambda: private(x25519.X25519PrivateKey.generate())),
    "the CA's key": ("key_mismatch", lambda: LEAF.pem + CA.pem, lambda: CA.key_pem),
    "the chain the wrong way round": ("key_mismatch", lambda: CA.pem + LEAF.pem, lambda: LEAF.key_pem),
    "a CA": ("ca", lambda: CA.pem, lambda: CA.key_pem),
    "a CA without KeyUsage": (
        "ca",
        lambda: replace(leaf_recipe(CA), ca=True, usages=None).make().pem,
        lambda: LEAF.key_pem,
    ),
    "a root": ("ca", lambda: ROOT.pem, lambda: ROOT.key_pem),
    "a key of an unknown algorithm": ("pem", lambda: unknown_algorithm(LEAF), lambda: LEAF.key_pem),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_files_without_a_usable_leaf_are_refused_with_their_reason(fault: str) -> None:
    reason, certificate_pem, key_pem = REFUSED[fault]
    key = key_pem()
    with pytest.raises(LeafRejected) as refused:
        parse_leaf(certificate_pem(), key)
    assert refused.value.reason == reason
    assert ("tls.key" if "key" in reason else "tls.crt") in str(refused.value)
    for line in filter(None, key.splitlines()[1:-1]):
        assert line.decode(errors="replace") not in str(refused.value)


def test_a_diffie_hellman_key_is_refused_though_the_library_only_warns() -> None:
    # RFC 3526, 2048 bits: any key of the group will do.
    prime = int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
        "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
        "49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D"
        "670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
        "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
        16,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        numbers = dh.DHParameterNumbers(prime, 2)
        key_pem = private(dh.DHPrivateNumbers(5, dh.DHPublicNumbers(32, numbers)).private_key())
    with pytest.raises(LeafRejected):
        parse_leaf(LEAF.pem, key_pem)


@settings(max_examples=300)
@given(st.data())
def test_mutated_files_are_refused_or_fit_each_other(data: st.DataObject) -> None:
    files = [bytearray(LEAF.pem + CA.pem), bytearray(LEAF.key_pem)]
    file = data.draw(st.sampled_from(files))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(file) - 1))
        file[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=1) | st.sampled_from([b"A", b"\n"]))
    try:
        leaf = parse_leaf(bytes(files[0]), bytes(files[1]))
        assert leaf.certificate.public_key() == LEAF.key.public_key()
        leaf_issuer(leaf, ANCHORS, (), NOW)
    except LeafRejected:
        return


# Chains


def test_the_issuer_is_the_ca_that_signed_it() -> None:
    for ca in CAS[:-1]:
        assert issuer_of(leaf_recipe(ca).make()) == ca.certificate


def test_a_chain_through_tls_crt_leads_to_a_root_that_is_the_only_anchor() -> None:
    assert issuer_of(LEAF, CA, anchors=(ROOT,)) == CA.certificate
    assert issuer_of(LEAF, CAS[1], ROOT, CA, anchors=(ROOT,)) == CA.certificate  # in any order


def test_without_its_intermediate_a_leaf_does_not_reach_the_root() -> None:
    assert reason_of(LEAF, anchors=(ROOT,)) == "chain"
    assert reason_of(LEAF, CAS[1], anchors=(ROOT,)) == "chain"


def reason_of(*certificates: MadeCertificate, **known: Any) -> str:
    with pytest.raises(LeafRejected) as refused:
        issuer_of(*certificates, **known)
    return refused.value.reason


def test_intermediates_without_a_root_are_sufficient_anchors() -> None:
    assert issuer_of(LEAF, anchors=(CA,)) == CA.certificate
    assert reason_of(LEAF, anchors=(CAS[1],)) == "chain"
    assert reason_of(LEAF, CA, anchors=(CAS[1],)) == "chain"


def test_root_in_tls_crt_is_no_anchor() -> None:
    other = Recipe("their intermediate", OTHER_ROOT).make()
    assert reason_of(leaf_recipe(other).make(), other, OTHER_ROOT) == "chain"


def test_withdrawn_ca_is_no_issuer_even_with_its_root_as_anchor() -> None:
    assert reason_of(LEAF, CA, withdrawn=(CA,), anchors=CAS[1:]) == "chain"
    assert reason_of(LEAF, CA, withdrawn=(CA,), anchors=CAS) == "chain"
    assert issuer_of(leaf_recipe(CAS[1]).make(), withdrawn=(CA,), anchors=CAS[1:]) == CAS[1].certificate


def test_no_chain_passes_through_a_withdrawn_ca_further_up() -> None:
    middle = Recipe("middle", ROOT).make()
    below = Recipe("below", middle).make()
    leaf = leaf_recipe(below).make()
    assert issuer_of(leaf, below, middle, anchors=(ROOT,)) == below.certificate
    assert reason_of(leaf, below, middle, anchors=(ROOT,), withdrawn=(middle,)) == "chain"
    assert reason_of(leaf, below, middle, anchors=(ROOT,), withdrawn=(ROOT,)) == "chain"


def test_leaf_validity_includes_its_first_and_last_second() -> None:
    leaf = replace(leaf_recipe(CA), begin=NOW, end=NOW + 10).make()
    assert issuer_of(leaf, now=NOW)
    assert issuer_of(leaf, now=NOW + 10)
    assert reason_of(leaf, now=NOW - 1) == "not_yet_valid"
    assert reason_of(leaf, now=NOW + 11) == "expired"


def test_every_ca_of_the_chain_must_be_valid() -> None:
    short = Recipe("short", ROOT, begin=NOW, end=NOW + 10).make()
    leaf = replace(leaf_recipe(short), begin=NOW - 60).make()
    for anchors, chain in (((short,), ()), ((ROOT,), (short,))):
        assert issuer_of(leaf, *chain, anchors=anchors, now=NOW + 10) == short.certificate
        assert reason_of(leaf, *chain, anchors=anchors, now=NOW + 11) == "chain"
        assert reason_of(leaf, *chain, anchors=anchors, now=NOW - 1) == "chain"
    old_root = Recipe("old root", end=NOW + 5).make()
    ca = Recipe("ca", old_root).make()
    assert reason_of(leaf_recipe(ca).make(), ca, anchors=(old_root,), now=NOW + 6) == "chain"


def test_certificate_that_is_no_ca_is_no_issuer() -> None:
    for changes in ({"ca": False}, {"usages": None}, {"usages": ("digital_signature",)}):
        impostor = replace(Recipe("impostor", ROOT), **changes).make()
        assert reason_of(leaf_recipe(impostor).make(), impostor, anchors=(ROOT,)) == "chain"
        assert reason_of(leaf_recipe(impostor).make(), anchors=(impostor, ROOT)) == "chain"


def test_a_name_without_the_key_is_no_issuer() -> None:
    forged = leaf_recipe(MadeCertificate(CA.certificate, ec_key("impostor"))).make()
    assert reason_of(forged) == "chain"
    assert reason_of(forged, CA) == "chain"


def test_the_path_length_of_every_ca_counts_anchors_too() -> None:
    root = Recipe("root of two levels", path_length=1).make()
    first = Recipe("first", root, path_length=0).make()
    assert issuer_of(leaf_recipe(first).make(), first, anchors=(root,)) == first.certificate
    below = Recipe("below", first).make()
    leaf = leaf_recipe(below).make()
    assert reason_of(leaf, below, first, anchors=(root,)) == "chain"  # first allows none below it
    assert reason_of(leaf, below, first, anchors=(first,)) == "chain"
    assert issuer_of(leaf, anchors=(below,)) == below.certificate
    wide = Recipe("first", root, key=first.key).make()  # the same CA again, without the limit
    assert reason_of(leaf, below, wide, anchors=(root,)) == "chain"  # but the root allows only one
    assert issuer_of(leaf, below, wide, anchors=(wide,)) == below.certificate


def test_the_longest_chain_that_tls_crt_takes() -> None:
    cas = [ROOT]
    for level in range(9):
        cas.append(Recipe(f"level {level}", cas[-1]).make())
    leaf = leaf_recipe(cas[-1]).make()
    assert issuer_of(leaf, *cas[1:], anchors=(ROOT,)) == cas[-1].certificate


def test_cas_that_sign_each_other_are_refused() -> None:
    one = Recipe("one", key=ec_key("one")).make()
    two = Recipe("two", one, key=ec_key("two")).make()
    one_by_two = Recipe("one", two, key=ec_key("one")).make()
    leaf = leaf_recipe(two).make()
    assert reason_of(leaf, two, one_by_two, one) == "chain"
    assert issuer_of(leaf, two, one_by_two, one, anchors=(one,)) == two.certificate


def test_many_cas_of_one_name_and_key_are_refused() -> None:
    alike = [Recipe("alike", key=ec_key("alike"), serial=serial).make() for serial in range(1, 10)]
    leaf = leaf_recipe(alike[0]).make()  # 9^9 paths, none of which leads anywhere
    assert reason_of(leaf, *alike) == "chain"
    assert issuer_of(leaf, *alike, anchors=(alike[8],)) == alike[8].certificate


def test_refusal_names_issuer_or_validity() -> None:
    with pytest.raises(LeafRejected, match=f"one of 4 anchors, found none for issuer .*intermediate epoch {EPOCH}"):
        issuer_of(LEAF, anchors=CAS[1:])
    with pytest.raises(LeafRejected, match=f"valid at {NOW + 10**6}, it ended at {NOW + 2400}"):
        issuer_of(LEAF, now=NOW + 10**6)


def test_a_leaf_of_the_next_epoch_fits_as_soon_as_its_ca_is_an_anchor() -> None:
    coming = intermediate(EPOCH + 1)
    now = NOW + 1000
    leaf = replace(leaf_recipe(coming), begin=now - 600, end=now + 2400).make()
    assert reason_of(leaf, coming, anchors=CAS[:-1], now=now) == "chain"
    assert issuer_of(leaf, coming, anchors=(coming, *CAS), now=now) == coming.certificate
