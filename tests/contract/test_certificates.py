"""X.509 certificates: what the library only warns about is refused; CAs, issuers, validity, key identifiers."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import (
    CAS,
    NOW,
    OTHER_ROOT,
    ROOT,
    MadeCertificate,
    Recipe,
    block,
    ec_key,
    intermediate,
    leaf_recipe,
)
from tidemark.certificates import (
    PemError,
    fingerprint,
    is_ca,
    is_valid_at,
    issued_by,
    key_identifier,
    not_after,
    not_before,
    parse_certificates,
)


def patched(der: bytes, old: str, new: str) -> bytes:
    """The DER with one piece (hex) replaced by another of the same length."""
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert len(before) == len(after)
    assert der.count(before) >= 1
    return der.replace(before, after)


SUBJECT = "ca of odd looks"
ODD = Recipe(SUBJECT, serial=0x5AA5, identified=False)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), b"\x05\x00")
FEATURE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.24"), b"\x30\x03\x02\x01\x07")
X400 = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x04\xa3\x02\x30\x00")


def with_attribute(oid: x509.ObjectIdentifier, value: str) -> bytes:
    return replace(ODD, attributes=(x509.NameAttribute(oid, value),)).make().der


def off_curve(der: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return der.replace(point, point[:-1] + bytes([point[-1] ^ 1]))


ODD_DER: dict[str, tuple[Callable[[], bytes], str]] = {
    "version 7": (lambda: patched(ODD.make().der, "a003020102", "a003020106"), "InvalidVersion"),
    "a TLS feature that has no name": (lambda: replace(ODD, extensions=(FEATURE,)).make().der, "KeyError"),
    "a subject of bits": (
        lambda: patched(
            replace(ODD, name="\x00bits").make().der, "0c05" + b"\x00bits".hex(), "0305" + b"\x00bits".hex()
        ),
        "TypeError",
    ),
    "an extension twice": (
        lambda: patched(replace(ODD, extensions=(UNKNOWN,)).make().der, "0603551d63", "0603551d13"),
        "DuplicateExtension",
    ),
    "a general name of an unknown kind": (
        lambda: replace(ODD, extensions=(X400,)).make().der,
        "UnsupportedGeneralNameType",
    ),
    "serial number 0": (lambda: patched(ODD.make().der, "02025aa5", "02020000"), "certificate 1"),
    "serial number 0, short": (lambda: patched(replace(ODD, serial=5).make().der, "020105", "020100"), "serial number"),
    "a negative serial number": (lambda: patched(ODD.make().der, "02025aa5", "0202a55a"), "serial number"),
    "a country of one letter": (
        lambda: patched(with_attribute(NameOID.STATE_OR_PROVINCE_NAME, "D"), "0603550408", "0603550406"),
        "2",
    ),
    "a common name of 65 letters": (
        lambda: patched(with_attribute(NameOID.ORGANIZATION_NAME, "x" * 65), "060355040a", "0603550403"),
        "64",
    ),
    "a curve that Go cannot read": (
        lambda: replace(ODD, key=ec_key("k1", ec.SECP256K1())).make().der,
        "a curve that every workload can read, found secp256k1",
    ),
    "an unknown curve": (
        lambda: patched(ODD.make().der, "06082a8648ce3d030107", "06082a8648ce3d030177"),
        "a curve that every workload can read",
    ),
    "a key that is no point of its curve": (lambda: off_curve(ODD.make().der, ec_key(SUBJECT)), "ValueError"),
    "a month 13": (
        lambda: patched(
            ODD.make().der,
            ODD.make().certificate.not_valid_before_utc.strftime("%y%m%d").encode().hex(),
            b"261301".hex(),
        ),
        "certificate 1",
    ),
}


@pytest.mark.parametrize("setting", ["error", "ignore"])
@pytest.mark.parametrize("fault", ODD_DER)
def test_odd_certificates_are_refused_under_every_warning_filter(fault: str, setting: str) -> None:
    make, message = ODD_DER[fault]
    with warnings.catch_warnings():
        warnings.simplefilter(setting)  # type: ignore[arg-type]  # one of the two above
        with pytest.raises(PemError, match=message if setting == "ignore" else None):
            parse_certificates(block(make()))


def test_certificate_without_the_fault_is_read() -> None:
    assert parse_certificates(block(ODD.make().der))
    assert parse_certificates(block(with_attribute(NameOID.COUNTRY_NAME, "DE")))
    assert parse_certificates(block(with_attribute(NameOID.COMMON_NAME, "x" * 64)))
    for curve in (ec.SECP224R1(), ec.SECP384R1(), ec.SECP521R1()):
        assert parse_certificates(block(replace(ODD, key=ec_key("other curve", curve)).make().der))


def test_key_of_unknown_algorithm_is_read_and_verifies_nothing() -> None:
    der = patched(ODD.make().der, "06072a8648ce3d0201", "06072a8648ce3d0277")
    (certificate,) = parse_certificates(block(der))
    assert is_ca(certificate)
    assert not issued_by(certificate, certificate)


RICH = replace(
    ODD,
    extensions=(
        x509.SubjectKeyIdentifier.from_public_key(ec_key(SUBJECT).public_key()),
        x509.SubjectAlternativeName([x509.DNSName("a.test"), x509.DirectoryName(x509.Name([]))]),
        x509.NameConstraints([x509.DNSName("test")], None),
        x509.PolicyConstraints(1, 2),
        x509.InhibitAnyPolicy(3),
    ),
).make()


def verdict(data: bytes, setting: str) -> tuple[x509.Certificate, ...] | None:
    with warnings.catch_warnings():
        warnings.simplefilter(setting)  # type: ignore[arg-type]  # "error" or "ignore"
        try:
            return parse_certificates(data)
        except PemError as refused:
            str(refused)
            return None


@settings(max_examples=400)
@given(st.data())
def test_mutated_der_is_refused_or_read_whole_under_every_warning_filter(data: st.DataObject) -> None:
    der = bytearray(RICH.der)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    certificates = verdict(block(bytes(der)), "error")
    assert verdict(block(bytes(der)), "ignore") == certificates
    for certificate in certificates or ():
        assert certificate.public_bytes(serialization.Encoding.DER) == bytes(der)
        is_ca(certificate), is_valid_at(certificate, NOW), fingerprint(certificate), issued_by(certificate, certificate)


CA_KINDS: dict[str, tuple[Recipe, bool]] = {
    "a CA": (ODD, True),
    "keyCertSign alone": (replace(ODD, usages=("key_cert_sign",)), True),
    "no KeyUsage": (replace(ODD, usages=None), False),
    "KeyUsage without keyCertSign": (replace(ODD, usages=("crl_sign", "digital_signature")), False),
    "BasicConstraints say no": (replace(ODD, ca=False), False),
    "no BasicConstraints": (replace(ODD, constrained=False), False),
    "no extensions": (replace(ODD, constrained=False, usages=None), False),
}


@pytest.mark.parametrize("kind", CA_KINDS)
def test_ca_needs_basic_constraints_and_key_usage(kind: str) -> None:
    recipe, expected = CA_KINDS[kind]
    assert is_ca(recipe.make().certificate) is expected


ISSUER_KEYS: dict[str, Callable[[], ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey]] = {
    "EC": lambda: ec_key("issuer"),
    "Ed25519": lambda: ed25519.Ed25519PrivateKey.from_private_bytes(b"7" * 32),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("algorithm", ISSUER_KEYS)
def test_issued_by_means_name_and_key(algorithm: str) -> None:
    issuer = Recipe("issuer", key=ISSUER_KEYS[algorithm]()).make()
    issued = leaf_recipe(issuer).make().certificate
    assert issued_by(issued, issuer.certificate)
    assert issued_by(issuer.certificate, issuer.certificate)
    assert not issued_by(issued, Recipe("issuer", key=ec_key("another key")).make().certificate)
    assert not issued_by(issued, Recipe("another name", key=issuer.key).make().certificate)
    assert not issued_by(issuer.certificate, issued)


def test_validity_includes_its_first_and_last_second() -> None:
    certificate = Recipe("short", begin=NOW, end=NOW + 10).make().certificate
    assert (not_before(certificate), not_after(certificate)) == (NOW, NOW + 10)
    assert [is_valid_at(certificate, NOW + shift) for shift in (-1, 0, 10, 11)] == [False, True, True, False]


def test_validity_after_2049_and_until_9999_is_exact() -> None:
    far = 253_402_300_799  # 9999-12-31T23:59:59Z: "no well-defined expiration" of RFC 5280
    (certificate,) = parse_certificates(Recipe("for ever", end=far).make().pem)
    assert not_after(certificate) == far


def test_a_key_identifier_is_of_the_key_alone() -> None:
    one, two = Recipe("one", key=ec_key("k")).make(), Recipe("two", key=ec_key("k")).make()
    assert key_identifier(one.certificate) == key_identifier(two.certificate)
    assert key_identifier(one.certificate) != key_identifier(ROOT.certificate)
    subject = intermediate(CAS[0].epoch or 0).certificate.subject
    serial = subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value
    assert key_identifier(CAS[0].certificate).startswith(str(serial))


def test_roots_of_different_deployments_do_not_issue_for_each_other() -> None:
    made: MadeCertificate = OTHER_ROOT
    assert not issued_by(CAS[0].certificate, made.certificate)
