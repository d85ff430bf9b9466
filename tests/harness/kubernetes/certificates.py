"""The serving certificate of the fake API server, below a CA of its own."""

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from authority.pki import certificates, keystore
from authority.pki.certificates import CaName, LeafNames, Validity
from tidemark.certificates import to_pem


def serving_files(directory: Path) -> tuple[Path, Path, Path]:
    """Paths of the CA, of the certificate and of its key, made in ``directory`` where they are missing."""
    files = tuple(directory / name for name in ("kubernetes-ca.crt", "apiserver.crt", "apiserver.key"))
    if not all(file.exists() for file in files):
        directory.mkdir(parents=True, exist_ok=True)
        validity = Validity(int(time.time()) - 3600, int(time.time()) + 86400)
        above = certificates.root(
            CaName("kubernetes", "kubernetes"), ec.generate_private_key(ec.SECP256R1()), validity, 0
        )
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certificates.leaf(LeafNames("kube-apiserver", ("kubernetes",), ("127.0.0.1",)), key, validity, above)
        for file, data in zip(
            files, (to_pem([above.certificate]), to_pem([leaf]), keystore.key_pem(key, None)), strict=True
        ):
            file.write_bytes(data)
    return files[0], files[1], files[2]
