"""PEM files and X.509 certificates: what is read, what is refused, and that nothing but PemError ever comes out."""

import base64
import re
import ssl
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.forge import CAS, NOW, OTHER_ROOT, ROOT, Made, Recipe, ec_key, intermediate, leaf_recipe, pem
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
    to_pem,
)

FILE = pem(CAS)
FIRST, SECOND = CAS[0].pem, CAS[1].pem
LINES = FIRST.split(b"\n")


def block(der: bytes, width: int = 64) -> bytes:
    encoded = base64.b64encode(der)
    lines = [encoded[i : i + width] for i in range(0, len(encoded), width)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def test_every_certificate_is_read_in_order() -> None:
    certificates = parse_certificates(FILE)
    assert certificates == tuple(ca.certificate for ca in CAS)
    assert to_pem(certificates) == FILE
    assert [fingerprint(certificate) for certificate in certificates] == [ca.sha256 for ca in CAS]


GOOD: dict[str, bytes] = {
    "CRLF": (FIRST + SECOND).replace(b"\n", b"\r\n"),
    "blanks at the ends of lines": (FIRST + SECOND).replace(b"\n", b" \t\n"),
    "blanks and CRLF": (FIRST + SECOND).replace(b"\n", b" \t\r\n"),
    "no newline at the end": (FIRST + SECOND).removesuffix(b"\n"),
    "empty lines between": b"\n\n" + FIRST + b"\n \t\n" + SECOND + b"\n\n",
    "comments": b"# epoch 1\n" + FIRST + b"#\n# a comment with caf\xc3\xa9 and a tab\t.\n" + SECOND + b"# end",
    "a comment of 200 bytes": b"#" + b"x" * 199 + b"\n" + FIRST + SECOND,
    "a comment that names a block": b"# -----BEGIN CERTIFICATE-----\n" + FIRST + SECOND,
    "lines of 76": block(CAS[0].der, 76) + SECOND,
    "one long line": block(CAS[0].der, 10_000) + SECOND,
    "the same certificate twice": FIRST + FIRST,
}


@pytest.mark.parametrize("form", GOOD)
def test_forms_that_every_reader_takes_alike(form: str, tmp_path: Path) -> None:
    assert len(parse_certificates(GOOD[form])) == 2
    assert openssl(GOOD[form], tmp_path) == {
        c.public_bytes(serialization.Encoding.DER) for c in parse_certificates(GOOD[form])
    }


def headers(lines: list[bytes]) -> bytes:
    return b"\n".join([lines[0], b"Proc-Type: 4,ENCRYPTED", b"", *lines[1:]])


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "found none"),
    "comments alone": (b"# nothing\n\n", "found none"),
    "garbage before": (b"garbage\n" + FIRST, "line 1: expected a CERTIFICATE block, found other text"),
    "garbage between": (FIRST + b"garbage\n" + SECOND, f"line {len(LINES)}: expected a CERTIFICATE block"),
    "garbage after": (FIRST + b"x", f"line {len(LINES)}: expected a CERTIFICATE block"),
    "a name above, as openssl prints it": (b"subject=CN=x\n" + FIRST, "line 1"),
    "a byte order mark": (b"\xef\xbb\xbf" + FIRST, "line 1"),
    "a blank before BEGIN": (b" " + FIRST, "line 1"),
    "a comment after a blank": (b" # comment\n" + FIRST, "line 1"),
    "a comment of 201 bytes": (b"#" + b"x" * 200 + b"\n" + FIRST, "line 1"),
    "a block in pieces of a long comment": (FIRST + b"#" + b"x" * 253 + b"-----BEGIN CERTIFICATE-----\n", "other text"),
    "a NUL in a comment": (b"# \x00\n" + FIRST, "line 1"),
    "a carriage return in a comment": (b"# \rx\n" + FIRST, "line 1"),
    "not UTF-8": (b"# \xff\n" + FIRST, "UTF-8, found another byte at 2"),
    "UTF-16": (FIRST.decode().encode("utf-16"), "UTF-8"),
    "two carriage returns": (FIRST.replace(b"\n", b"\r\r\n"), "line 1"),
    "old Mac line ends": (FIRST.replace(b"\n", b"\r"), "line 1"),
    "a carriage return at the very end": (FIRST.rstrip(b"\n") + b"\r", "found the end of the file"),
    "a blank before END": (FIRST.replace(b"-----END", b" -----END") + SECOND, "certificate 1: expected base64"),
    "cut in the first": (FIRST[: len(FIRST) // 2], "certificate 1: expected it to end"),
    "cut in the middle of the second": (FIRST + SECOND[: len(SECOND) // 2], "certificate 2: expected it to end"),
    "cut in the second, ended": (
        FIRST + SECOND[: len(SECOND) // 2] + b"\n-----END CERTIFICATE-----\n",
        "certificate 2",
    ),
    "no END before the next BEGIN": (b"\n".join(LINES[:-2]) + b"\n" + SECOND, "certificate 1"),
    "END alone": (b"-----END CERTIFICATE-----\n", "line 1"),
    "another END": (FIRST.replace(b"END CERTIFICATE", b"END CERTIFICATE REQUEST"), "certificate 1"),
    "an empty block": (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "certificate 1"),
    "an empty line after BEGIN": (
        b"\n".join([*LINES[:1], b"", *LINES[1:]]),
        "line 2: .*certificate 1, found an empty line",
    ),
    "an empty line inside": (b"\n".join([*LINES[:3], b"", *LINES[3:]]), "line 4: .* an empty line"),
    "an empty line before END": (b"\n".join([*LINES[:-2], b"", *LINES[-2:]]), "an empty line"),
    "PEM headers": (headers(LINES), "line 3"),
    "PEM headers in one piece": (
        b"\n".join([LINES[0], b"Comment: none", *LINES[1:]]),
        "certificate 1: expected base64",
    ),
    "a comment inside": (b"\n".join([*LINES[:3], b"# comment", *LINES[3:]]), "certificate 1: expected base64"),
    "a blank inside a line": (
        FIRST.replace(LINES[2], LINES[2][:9] + b" " + LINES[2][9:]),
        "certificate 1: expected base64",
    ),
    "padding inside": (FIRST.replace(LINES[2], LINES[2][:8] + b"=="), "certificate 1: expected base64"),
    "padding left out": (block(CAS[0].der[:-1]).replace(b"=", b""), "certificate 1"),
    "two certificates in one block": (block(CAS[0].der + CAS[1].der), "certificate 1"),
    "a byte too many": (block(CAS[0].der + b"\x00"), "certificate 1: expected one that parses"),
    "a byte too few": (block(CAS[0].der[:-1]), "certificate 1: expected one that parses"),
    "no DER": (block(b"hello"), "certificate 1: expected one that parses"),
    "a private key": (FIRST + CAS[0].key_pem, "found -----BEGIN PRIVATE KEY-----"),
    "a private key as certificate": (CAS[0].key_pem.replace(b"PRIVATE KEY", b"CERTIFICATE"), "certificate 1"),
    "a trusted certificate": (FIRST.replace(b"N CERT", b"N TRUSTED CERT"), "found -----BEGIN TRUSTED CERTIFICATE-----"),
    "an old label": (FIRST.replace(b"CERTIFICATE", b"X509 CERTIFICATE"), "found -----BEGIN X509 CERTIFICATE-----"),
    "a lower-case label": (FIRST.replace(b"CERTIFICATE", b"certificate"), "other text"),
    "more after BEGIN": (FIRST.replace(b"-----\n", b"----- x\n", 1), "line 1"),
}


@pytest.mark.parametrize("fault", BAD)
def test_anything_else_is_refused_and_says_where(fault: str) -> None:
    data, message = BAD[fault]
    with pytest.raises(PemError, match=message):
        parse_certificates(data)


def test_at_most_as_many_as_asked_for() -> None:
    assert len(parse_certificates(FIRST * 64)) == 64
    with pytest.raises(PemError, match="at most 64"):
        parse_certificates(FIRST * 65)
    with pytest.raises(PemError, match="at most 1"):
        parse_certificates(FIRST + SECOND, most=1)


SECRET = CAS[0].key_pem.split(b"\n")[1]
LEAKS = {
    "after a certificate": FIRST + CAS[0].key_pem,
    "without its label": FIRST + SECRET + b"\n",
    "in a certificate's place": CAS[0].key_pem.replace(b"PRIVATE KEY", b"CERTIFICATE"),
    "on the label's line": b"-----BEGIN PRIVATE KEY-----" + SECRET + b"\n",
    "as the label": b"-----BEGIN " + SECRET + b"-----\n",
    "cut": b"-----BEGIN CERTIFICATE-----\n" + SECRET[:30] + b"\n-----END CERTIFICATE-----\n",
    "with a blank": b"-----BEGIN CERTIFICATE-----\n" + SECRET + b" " + SECRET + b"\n-----END CERTIFICATE-----\n",
}


@pytest.mark.parametrize("place", LEAKS)
def test_a_private_key_in_the_file_is_refused_and_never_shown(place: str) -> None:
    with pytest.raises(PemError) as refused:
        parse_certificates(LEAKS[place])
    secret = SECRET.decode()
    assert [secret[i : i + 6] for i in range(len(secret) - 5) if secret[i : i + 6] in str(refused.value)] == []


def patched(der: bytes, old: str, new: str) -> bytes:
    """The DER with one piece (hex) replaced by another of the same length."""
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert len(before) == len(after)
    assert der.count(before) >= 1
    return der.replace(before, after)


SUBJECT = "ca of odd looks"
ODD = Recipe(SUBJECT, serial=0x5AA5)
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
    "a name of a kind that nobody reads": (
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
    "a curve that nobody knows": (
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
def test_odd_certificates_are_refused_whatever_the_warning_filter(fault: str, setting: str) -> None:
    make, message = ODD_DER[fault]
    with warnings.catch_warnings():
        warnings.simplefilter(setting)  # type: ignore[arg-type]  # one of the two above
        with pytest.raises(PemError, match=message if setting == "ignore" else None):
            parse_certificates(block(make()))


def test_the_odd_certificate_itself_is_fine() -> None:
    assert parse_certificates(block(ODD.make().der))
    assert parse_certificates(block(with_attribute(NameOID.COUNTRY_NAME, "DE")))
    assert parse_certificates(block(with_attribute(NameOID.COMMON_NAME, "x" * 64)))
    for curve in (ec.SECP224R1(), ec.SECP384R1(), ec.SECP521R1()):
        assert parse_certificates(block(replace(ODD, key=ec_key("other curve", curve)).make().der))


def test_a_key_of_an_unknown_algorithm_is_read_and_proves_nothing() -> None:
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
def test_mutated_der_is_refused_or_read_whole_whatever_the_warning_filter(data: st.DataObject) -> None:
    der = bytearray(RICH.der)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    certificates = verdict(block(bytes(der)), "error")
    assert verdict(block(bytes(der)), "ignore") == certificates
    for certificate in certificates or ():
        assert certificate.public_bytes(serialization.Encoding.DER) == bytes(der)
        is_ca(certificate), is_valid_at(certificate, NOW), fingerprint(certificate), issued_by(certificate, certificate)


def openssl(data: bytes, folder: Path) -> set[bytes] | None:
    """What OpenSSL takes from the file (DER), as every Python application does; None where it gives the file up."""
    path = folder / "ca.crt"
    path.write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        return None
    return set(context.get_ca_certs(binary_form=True))


_GO_BLOCK = re.compile(
    rb"(?:^|\n)-----BEGIN CERTIFICATE-----[ \t]*\r?\n(.*?\n)-----END CERTIFICATE-----[ \t]*(?:\r?\n|$)", re.DOTALL
)


def go(data: bytes) -> list[bytes]:
    """The blocks (DER) that Go's encoding/pem finds; those with headers or without base64 it skips silently."""
    found, at = [], 0
    while match := _GO_BLOCK.search(data, at):
        at = match.end() - 1  # the newline may be the one before the next block
        try:
            found.append(base64.b64decode(re.sub(rb"[ \t\r\n]", b"", match[1]), validate=True))
        except ValueError:
            continue
    return found


PIECES = [
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\t",
    b" \r\n",
    b"# x\n",
    b"#",
    b"",
    b"",
    b"-----",
    b"=",
    b"A",
    b":",
    *LINES[:2],
]


@settings(max_examples=600)
@given(st.data())
def test_what_is_accepted_means_the_same_to_openssl_and_to_go(data: st.DataObject) -> None:
    mutated = bytearray(FIRST + b"# comment\n" + SECOND)
    ends = st.deferred(lambda: st.sampled_from(line_ends(bytes(mutated))))
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(ends | ends | ends | st.integers(0, len(mutated)))
        mutated[at : at + data.draw(st.sampled_from([0, 0, 0, 1, 2, 65]))] = data.draw(st.sampled_from(PIECES))
    try:
        certificates = parse_certificates(bytes(mutated))
    except PemError:
        return
    ders = [certificate.public_bytes(serialization.Encoding.DER) for certificate in certificates]
    with TemporaryDirectory() as folder:
        assert openssl(bytes(mutated), Path(folder)) == set(ders)
    assert go(bytes(mutated)) == ders


def line_ends(data: bytes) -> list[int]:
    return [0, len(data), *(match.start() + shift for match in re.finditer(rb"\n", data) for shift in (0, 1))]


@given(st.binary(max_size=200))
def test_any_bytes_are_certificates_or_a_pem_error(data: bytes) -> None:
    for candidate in (data, FIRST + data, block(data)):
        try:
            assert parse_certificates(candidate)
        except PemError:
            continue


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
def test_a_ca_says_so_twice(kind: str) -> None:
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


def test_validity_counts_both_its_ends() -> None:
    certificate = Recipe("short", begin=NOW, end=NOW + 10).make().certificate
    assert (not_before(certificate), not_after(certificate)) == (NOW, NOW + 10)
    assert [is_valid_at(certificate, NOW + shift) for shift in (-1, 0, 10, 11)] == [False, True, True, False]


def test_validity_beyond_2049_and_without_end_reads_to_the_second() -> None:
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
    made: Made = OTHER_ROOT
    assert not issued_by(CAS[0].certificate, made.certificate)
