"""Makes real, verified bundles with the embedded issuer and signer, for tests of their consumers."""

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from authority.issuer.embedded import EmbeddedIssuer, create_root
from authority.issuer.interface import CaRequest, IssuedLeaf, LeafRequest
from authority.journal.history import SignedStatement
from authority.pki.keystore import KeyType
from authority.signer.embedded import EmbeddedSigner, create_key, open_signer
from tidemark.bundle import NO_PREVIOUS, Anchor, Bundle, Cause, Role, Statement
from tidemark.certificates import fingerprint, not_after, not_before, to_pem
from tidemark.epoch import EpochClock
from tidemark.trust import Trust
from tidemark.verify import Known, VerifiedBundle, verify

DOMAIN = "bus.example.com"
CLOCK = EpochClock(epoch_seconds=1200, validity_seconds=4800, prepare_seconds=300)


@dataclass(frozen=True)
class IssuedBundles:
    """One trust domain with its keys; everything is made at the instant ``now``."""

    issuer: EmbeddedIssuer
    signer: EmbeddedSigner
    trust: Trust
    now: int

    @classmethod
    async def create(cls, state: Path, now: int) -> "IssuedBundles":
        create_root(state, DOMAIN, KeyType.EC_P256, now, None)
        create_key(state, None)
        signer = open_signer(state, DOMAIN, None)
        trust = Trust(DOMAIN, await signer.verifiers(), tolerance_seconds=600)
        return cls(EmbeddedIssuer(state, KeyType.EC_P256, None), signer, trust, now)

    async def bundle(self, sequence: int, cause: Cause = Cause.ROTATION, previous: str = NO_PREVIOUS) -> VerifiedBundle:
        """The statement of this number: its one CA is the current epoch's; another cause is another text."""
        epoch = CLOCK.epoch_at(self.now)
        ca = await self.issuer.issue_ca(
            CaRequest(f"epoch-{epoch}-{sequence}", DOMAIN, epoch, self.now - 600, CLOCK.expiry(epoch))
        )
        (root,) = await self.issuer.roots()
        pem = to_pem([ca, root])
        statement = Statement(
            trust_domain=DOMAIN,
            sequence=sequence,
            clock=CLOCK,
            epoch=epoch,
            cause=cause,
            issued_at=self.now,
            next_update=CLOCK.prepare_at(epoch + 1),
            expires_at=not_after(ca),
            anchors=(
                Anchor(Role.INTERMEDIATE, epoch, fingerprint(ca), not_before(ca), not_after(ca)),
                Anchor(Role.ROOT, None, fingerprint(root), not_before(root), not_after(root)),
            ),
            withdrawn=(),
            ca_sha256=Bundle(pem, b"").ca_sha256,
            previous=previous,
        )
        note = await self.signer.sign(statement.text())
        return verify(Bundle(pem, bytes(note)), self.trust, Known(), self.now)

    async def leaf(self, bundle: VerifiedBundle, name: str = "localhost") -> IssuedLeaf:
        """A leaf signed by the bundle's CA."""
        ca_id = f"epoch-{bundle.statement.epoch}-{bundle.sequence}"
        request = LeafRequest(name, (name,), ("127.0.0.1",), self.now - 600, self.now + 1200)
        return await self.issuer.issue_leaf(ca_id, request)


def signed(verified: VerifiedBundle) -> SignedStatement:
    """The bundle's statement as the journal has it."""
    return SignedStatement(
        position=verified.sequence,
        at=verified.statement.issued_at,
        ca_id="",
        bundle=verified.bundle,
        statement=verified.statement,
        digest=verified.digest,
        certificates=verified.certificates,
    )


@pytest.fixture
async def bundles(tmp_path: Path) -> IssuedBundles:
    """A trust domain of the test's own, by the real clock."""
    return await IssuedBundles.create(tmp_path / "state", int(time.time()))
