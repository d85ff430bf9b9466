"""PEM files: what is read, what is refused, and that OpenSSL and Go would read what is read here alike."""

import base64
import re
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.contract.ca_factory import CAS, Recipe, block, pem
from tidemark.certificates import (
    PemError,
    fingerprint,
    parse_certificates,
    to_pem,
)

FILE = pem(CAS)
FIRST, SECOND = CAS[0].pem, CAS[1].pem
LINES = FIRST.split(b"\n")


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
def test_forms_that_every_parser_accepts_are_read(form: str, tmp_path: Path) -> None:
    assert len(parse_certificates(GOOD[form])) == 2
    assert openssl(GOOD[form], tmp_path) == {
        c.public_bytes(serialization.Encoding.DER) for c in parse_certificates(GOOD[form])
    }


def headers(lines: list[bytes]) -> bytes:
    return b"\n".join([lines[0], b"Proc-Type: 4,ENCRYPTED", b"", *lines[1:]])


UNPADDED = next(
    made.der for made in (Recipe(f"unpadded {number}").make() for number in range(100)) if len(made.der) % 3 == 0
)
PADDED = block(UNPADDED).replace(b"\n-----END", b"=\n-----END")

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
    "padding after a complete group": (PADDED, "certificate 1: expected base64"),
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
def test_other_content_is_refused_with_its_place(fault: str) -> None:
    data, message = BAD[fault]
    with pytest.raises(PemError, match=message):
        parse_certificates(data)


def test_more_certificates_than_allowed_are_refused() -> None:
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
def test_accepted_files_mean_the_same_to_openssl_and_go(data: st.DataObject) -> None:
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
