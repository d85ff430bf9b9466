"""The documented form of what every issuer makes (docs/architecture.md), judged by another library's verification."""

import ipaddress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from authority.issuer.interface import CaRequest, IssuedLeaf, LeafRequest
from tidemark.certificates import Leaf, is_ca, issued_by, key_identifier, not_after, parse_leaf


def assert_ca_form(ca: x509.Certificate, root: x509.Certificate, request: CaRequest) -> None:
    """Names, end, constraints and key usage of an intermediate CA that the root signed."""
    names = [(attribute.oid._name, attribute.value) for attribute in ca.subject]
    assert names == [
        ("organizationName", request.trust_domain),
        ("commonName", f"intermediate epoch {request.epoch}"),
        ("serialNumber", key_identifier(ca)[:16]),
    ]
    assert issued_by(ca, root)
    assert is_ca(ca)
    assert not_after(ca) == request.not_after
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    above = ca.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert above == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert issued_by(root, root)
    assert root.subject != ca.subject


def assert_leaf_form(
    issued: IssuedLeaf, ca: x509.Certificate, root: x509.Certificate, request: LeafRequest, now: int
) -> Leaf:
    """A leaf of the CA for the request's names: it serves under each of them, under no other, and connects."""
    leaf = parse_leaf(issued.certificate_pem, issued.key_pem)
    assert leaf.chain == (ca,)
    assert not_after(leaf.certificate) == request.not_after
    policy = PolicyBuilder().store(Store([root])).time(datetime.fromtimestamp(now, UTC))
    for name in _names(request):
        assert policy.build_server_verifier(name).verify(leaf.certificate, [ca]) == [leaf.certificate, ca, root]
    assert policy.build_client_verifier().verify(leaf.certificate, [ca]).chain == [leaf.certificate, ca, root]
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("nats-1.example.com")).verify(leaf.certificate, [ca])
    assert "PRIVATE" not in repr(issued)
    return leaf


def _names(request: LeafRequest) -> list[x509.DNSName | x509.IPAddress]:
    """The names a client may ask for: a wildcard stands for one label (RFC 6125, section 6.4.3)."""
    dns_names = [x509.DNSName(name.replace("*", "any")) for name in request.dns_names]
    return [*dns_names, *(x509.IPAddress(ipaddress.ip_address(address)) for address in request.ip_addresses)]
