"""The wire formats as files, made from ``ca.crt`` with a fixed key and fixed times; the test compares byte for byte.

``python -m tests.harness.contract.golden_files`` writes them anew. A difference means that agents, authorities and
applications of different versions would no longer understand each other: a changelog entry or a new format version.
"""

import hashlib

from tests.harness.contract.ca_factory import CLOCK, DOMAIN, EPOCH, NOW, SECOND, SIGNER
from tests.harness.paths import VECTORS
from tidemark import note
from tidemark.bundle import Anchor, Bundle, Cause, Role, Statement, digest_of
from tidemark.certificates import Certificate, fingerprint, not_after, not_before, parse_certificates
from tidemark.receipt import AgentState, Failure, LeafReport, Level, PodClass, Receipt, TargetReport
from tidemark.trust import Trust
from tidemark.verify import Mark

FOLDER = VECTORS / "bundle-v1"


def _anchor(place: int, certificate: Certificate) -> Anchor:
    root = certificate.issuer == certificate.subject
    return Anchor(
        role=Role.ROOT if root else Role.INTERMEDIATE,
        epoch=None if root else EPOCH - place,
        sha256=fingerprint(certificate),
        not_before=not_before(certificate),
        not_after=not_after(certificate),
    )


def statement(ca_crt: bytes) -> Statement:
    return Statement(
        trust_domain=DOMAIN,
        sequence=42,
        clock=CLOCK,
        epoch=EPOCH,
        cause=Cause.ROTATION,
        issued_at=NOW - 60,
        next_update=CLOCK.prepare_at(EPOCH + 1),
        expires_at=CLOCK.expiry(EPOCH),
        anchors=tuple(_anchor(place, certificate) for place, certificate in enumerate(parse_certificates(ca_crt))),
        withdrawn=("c0" * 32,),
        ca_sha256=hashlib.sha256(ca_crt).hexdigest(),
        previous="ab" * 32,
    )


def trust(ca_crt: bytes) -> Trust:
    root = ca_crt[ca_crt.rindex(b"-----BEGIN") :].decode()
    return Trust(DOMAIN, (SIGNER.verifier, SECOND.verifier), 1, 40, 600, root)


def receipt(made: Statement) -> Receipt:
    mark = Mark(made.sequence, digest_of(made.text()))
    return Receipt(
        pod="nats-0",
        uid="0c6fa3a4-9d39-4d4d-a9c3-5a1f0d5b2f60",
        nonce="5f2c9e",
        number=3,
        version="0.1.0",
        pod_class=PodClass.REQUIRED,
        state=AgentState.PROVEN,
        targets=(TargetReport("signal:?process=nats-server", Level.PROVEN, Level.PROVEN, "CA list of 4 names"),),
        highest=mark,
        installed=mark,
        proven=mark,
        reverted=None,
        leaf=LeafReport("aa" * 32, f"CN=intermediate epoch {EPOCH}", made.anchors[0].sha256, "5aa5", NOW, NOW + 2400),
        failure=Failure("reload", "no process named nats-server", NOW, 41, "ab" * 32),
        stages={"verify": 0.0025, "prove": 0.5},
        keys=(f"{SIGNER.name}+{SIGNER.verifier.hash}",),
        clock=NOW + 1,
    )


def files(ca_crt: bytes) -> dict[str, bytes]:
    """Every file of the folder but ``ca.crt``, by name."""
    made = statement(ca_crt)
    signed = bytes(note.sign(made.text(), [SIGNER, SECOND]))
    return {
        "statement.txt": made.text().encode(),
        "bundle.note": signed,
        "bundle.json": Bundle(ca_crt, signed).to_json(),
        "trust.toml": trust(ca_crt).dump().encode(),
        "receipt.json": receipt(made).to_json(),
    }


if __name__ == "__main__":
    for name, data in files((FOLDER / "ca.crt").read_bytes()).items():
        (FOLDER / name).write_bytes(data)
        print(FOLDER / name, len(data))
