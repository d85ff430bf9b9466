"""The control CA in OpenBao: a mount of its own, so that every replica serves the API under the same CA."""

from cryptography.hazmat.primitives.asymmetric import ec

from authority.openbao.client import OpenBaoClient
from authority.openbao.errors import OpenBaoError
from authority.openbao.layout import OpenBaoLayout
from authority.openbao.pki import default_issuer, leaf_request
from authority.pki.certificates import LeafNames, Validity
from authority.pki.keystore import KeystoreError
from tidemark.certificates import Certificate, PemError, issued_by, parse_certificates
from tidemark.strict_json import format_instant


class OpenBaoControlCa:
    """Implements ``ControlCa``: the key stays in OpenBao."""

    def __init__(self, client: OpenBaoClient, layout: OpenBaoLayout, certificate: Certificate) -> None:
        self._client = client
        self._path = f"{layout.control}/sign/{layout.role}"
        self.certificate = certificate

    async def sign(self, names: LeafNames, key: ec.EllipticCurvePrivateKey, validity: Validity) -> Certificate:
        """Sign a certificate of the API; NotBefore is what the role says. Raises KeystoreError."""
        try:
            body = leaf_request(names, key) | {"not_after": format_instant(validity.not_after)}
            answer = await self._client.write(self._path, body)
            certificate = parse_certificates(str(answer.get("certificate")).encode(), most=1)[0]
        except (OpenBaoError, PemError) as error:
            raise KeystoreError(f"API certificate: {error}") from None
        if not issued_by(certificate, self.certificate) or certificate.public_key() != key.public_key():
            raise KeystoreError(f"{self._path}: expected the control CA's signature under our key, found another")
        return certificate


async def open_control_ca(client: OpenBaoClient, layout: OpenBaoLayout) -> OpenBaoControlCa:
    """Read the control CA's certificate. Raises KeystoreError."""
    try:
        certificate = await default_issuer(client, layout.control)
    except OpenBaoError as error:
        raise KeystoreError(str(error)) from None
    if certificate is None:
        raise KeystoreError(f"mount {layout.control}: expected the control CA, found none; run 'init --openbao' first")
    return OpenBaoControlCa(client, layout, certificate)
