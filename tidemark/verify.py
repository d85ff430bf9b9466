"""Verification of a bundle: bytes, trust file, what is known and ``now`` in; VerifiedBundle or BundleRejected out.

The steps have the numbers of docs/architecture.md, "Verification steps"; the first step that fails is named. This
module reads no file and no clock. Only this module can make a VerifiedBundle, so a function that takes a VerifiedBundle
cannot be called with an unverified one.
"""

from dataclasses import InitVar, dataclass, field
from enum import StrEnum
from typing import final

from tidemark import note as signed_note
from tidemark.bundle import Bundle, Cause, Role, Statement, StatementError, digest_of
from tidemark.certificates import (
    Certificate,
    PemError,
    fingerprint,
    is_ca,
    is_valid_at,
    issued_by,
    not_after,
    not_before,
    parse_certificates,
)
from tidemark.note import NoteError, SignatureError
from tidemark.strict_json import format_instant
from tidemark.trust import Trust

MAX_BYTES = 512 * 1024
"""Bytes of ``ca.crt`` and ``bundle.note`` together."""

MAX_CERTIFICATES = 64
"""Certificates in ``ca.crt``."""

_LONGEST_PHRASE = 400


class Reason(StrEnum):
    """Why a bundle was not adopted; one word for metrics, receipts and alerts."""

    SIZE = "size"
    SIGNATURE = "signature"
    SHAPE = "shape"
    TRUST_DOMAIN = "trust_domain"
    DIGEST = "digest"
    HELD = "held"
    EXPIRED = "expired"
    PEM = "pem"
    ANCHORS = "anchors"
    FLOOR = "floor"
    EQUIVOCATION = "equivocation"
    SUPERSEDED = "superseded"
    REPLAY = "replay"
    OVERLAP = "overlap"


STEPS = {
    Reason.SIZE: 1,
    Reason.SIGNATURE: 2,
    Reason.SHAPE: 3,
    Reason.TRUST_DOMAIN: 4,
    Reason.DIGEST: 5,
    Reason.HELD: 6,
    Reason.EXPIRED: 7,
    Reason.PEM: 8,
    Reason.ANCHORS: 9,
    Reason.FLOOR: 10,
    Reason.EQUIVOCATION: 10,
    Reason.SUPERSEDED: 10,
    Reason.REPLAY: 10,
    Reason.OVERLAP: 11,
}
"""The number of the step that each reason belongs to."""

SECURITY_EVENTS = frozenset({Reason.SIGNATURE, Reason.EQUIVOCATION, Reason.REPLAY})
"""Reasons that mean that another writer wrote the Secret."""


class BundleRejected(ValueError):
    """A bundle is not adopted; the last good set stays.

    ``reason`` names the failed check and ``step`` its number. ``expected`` and ``got`` are phrases for people of at
    most 400 characters. ``retry_at`` (Unix seconds) is set for ``held`` alone: from then on the same bundle may pass.
    """

    def __init__(self, reason: Reason, expected: str, got: str, *, retry_at: int | None = None) -> None:
        expected, got = _cut(expected), _cut(got)
        super().__init__(f"bundle rejected at step {STEPS[reason]} ({reason}): expected {expected}, got {got}")
        self.reason = reason
        self.step = STEPS[reason]
        self.expected = expected
        self.got = got
        self.retry_at = retry_at


def _cut(phrase: str) -> str:
    return phrase if len(phrase) <= _LONGEST_PHRASE else phrase[:_LONGEST_PHRASE] + "…"


_SEAL = object()


@final
@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A bundle that passed every check; only this module makes one (``dataclasses.replace`` does not, either).

    Raises:
        TypeError: made elsewhere.
    """

    bundle: Bundle
    statement: Statement
    digest: str
    """Of the statement's text, as 64 lower-case hex digits."""
    certificates: tuple[Certificate, ...] = field(repr=False)
    """The anchors, in the order of ``ca.crt``."""
    signed_by: tuple[str, ...]
    """The trusted keys that signed the statement, as ``name+hash``."""
    already_installed: bool
    """Whether the statement is, text for text, the installed one."""
    _seal: InitVar[object]  # not a field: an instance that held the seal could be used to make another

    def __post_init__(self, _seal: object) -> None:
        if _seal is not _SEAL:
            raise TypeError("VerifiedBundle: expected to be made by tidemark.verify, found another maker")

    @property
    def sequence(self) -> int:
        """The statement's sequence."""
        return self.statement.sequence

    @property
    def intermediates(self) -> frozenset[str]:
        """Fingerprints (SHA-256 of the DER, lower-case hex) of the CAs of epochs."""
        return frozenset(anchor.sha256 for anchor in self.statement.intermediates)


@dataclass(frozen=True, slots=True)
class Mark:
    """Sequence and digest of a statement, which together name it."""

    sequence: int
    digest: str
    """Of the statement's text, as 64 lower-case hex digits."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a verifier knows from before when it judges a candidate."""

    highest: Mark | None = None
    """The highest statement ever verified here, stored durably; None before the first."""
    installed: VerifiedBundle | None = None
    """The installed set, from ``reopen``; None before the first."""
    shown: int = 0
    """The highest sequence that the candidate's source has shown before, where the source is a mount; 0 otherwise.

    Used only to tell a replay from a mount that lags behind: a candidate above ``highest`` is no replay.
    """


def verify(candidate: Bundle, trust: Trust, known: Known, now: int) -> VerifiedBundle:
    """Check a candidate, step by step in the order of the steps' numbers. ``now`` is in Unix seconds.

    The trust file's tolerance applies to times of the authority's clock (``issued_at``, ``expires_at``). It does not
    apply to certificates: step 9 demands an intermediate that is valid at ``now``, as TLS stacks know no tolerance. The
    two agree, because a CA's NotBefore is its issuing time less the same tolerance: where step 6 accepts a first
    bundle, its CA is valid. ``issued_at`` and NotBefore are not compared: a rollback or a revocation is issued long
    after its CAs.

    Raises:
        BundleRejected: the first check that failed; ``held`` where only the clock forbids the bundle so far.
    """
    opened = _open(candidate, trust)  # 1 to 5
    # The installed statement passes here even if expired: an agent that restarts after an outage keeps its set.
    statement, digest = opened.statement, opened.digest
    if known.installed is not None and digest == known.installed.digest:
        return _seal(opened, known.installed.certificates, already_installed=True)
    _check_time(statement, trust.tolerance_seconds, now)  # 6, 7
    certificates = _certificates(candidate)  # 8
    _check_anchors(statement, certificates)  # 9
    # 9, the part that needs a clock; ``reopen`` leaves it out.
    if not any(is_valid_at(c, now) for c in certificates[: len(statement.intermediates)]):
        raise BundleRejected(Reason.ANCHORS, f"an intermediate valid at {format_instant(now)}", "none")
    _check_sequence(statement, digest, trust, known)  # 10
    if known.installed is not None:
        _check_overlap(statement, known.installed, trust.tolerance_seconds, now)  # 11
    return _seal(opened, certificates, already_installed=False)


def reopen(installed: Bundle, trust: Trust) -> VerifiedBundle:
    """Read back a set that was verified when it was adopted: steps 1 to 5, 8 and 9, without those of time and sequence.

    An installed set may have expired during an outage; the next candidate is compared with it all the same.

    Raises:
        BundleRejected: the set is no longer what a trusted key signed.
    """
    opened = _open(installed, trust)
    certificates = _certificates(installed)
    _check_anchors(opened.statement, certificates)
    return _seal(opened, certificates, already_installed=True)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A bundle that passed steps 1 to 5: a trusted key signed its statement, which is about its ``ca.crt``."""

    bundle: Bundle
    statement: Statement
    digest: str
    signed_by: tuple[str, ...]


def _seal(opened: _Opened, certificates: tuple[Certificate, ...], *, already_installed: bool) -> VerifiedBundle:
    return VerifiedBundle(
        opened.bundle, opened.statement, opened.digest, certificates, opened.signed_by, already_installed, _SEAL
    )


def _open(candidate: Bundle, trust: Trust) -> _Opened:
    # 1. Sizes, before anything is parsed: no input may cost more than this.
    if candidate.size > MAX_BYTES:
        raise BundleRejected(Reason.SIZE, f"at most {MAX_BYTES} bytes", f"{candidate.size}")
    if (count := candidate.ca.count(b"-----BEGIN ")) > MAX_CERTIFICATES:
        raise BundleRejected(Reason.SIZE, f"at most {MAX_CERTIFICATES} certificates", f"{count}")
    # 2. Signature, before the text is read: nothing below parses what a stranger wrote.
    try:
        note = signed_note.parse(candidate.note)
        signed_by = signed_note.verify(note, trust.keys, trust.threshold)
    except SignatureError as error:
        raise BundleRejected(Reason.SIGNATURE, "a statement signed by a trusted key", str(error)) from None
    except NoteError as error:
        raise BundleRejected(Reason.SIGNATURE, "a signed note", str(error)) from None
    # 3. Shape.
    try:
        statement = Statement.parse(note.text)
    except StatementError as error:
        raise BundleRejected(Reason.SHAPE, "a statement of a known version with all its fields", str(error)) from None
    # 4. Trust domain.
    if statement.trust_domain != trust.trust_domain:
        raise BundleRejected(Reason.TRUST_DOMAIN, trust.trust_domain, statement.trust_domain)
    # 5. The statement is about exactly these bytes.
    if statement.ca_sha256 != candidate.ca_sha256:
        got = f"ca.crt of {len(candidate.ca)} bytes with SHA-256 {candidate.ca_sha256}"
        raise BundleRejected(Reason.DIGEST, f"ca.crt with SHA-256 {statement.ca_sha256}", got)
    keys = tuple(f"{key.name}+{key.hash}" for key in signed_by)
    return _Opened(candidate, statement, digest_of(note.text), keys)


def _check_time(statement: Statement, tolerance: int, now: int) -> None:
    # 6. Not from the future: one of the two clocks is wrong. The candidate is tried again once its time has come.
    if statement.issued_at > now + tolerance:
        raise BundleRejected(
            Reason.HELD,
            f"a statement issued by {format_instant(now)} + {tolerance} s",
            f"one issued at {format_instant(statement.issued_at)}: the clocks differ by {statement.issued_at - now} s",
            retry_at=statement.issued_at - tolerance,
        )
    # 7. Not expired.
    if now > statement.expires_at + tolerance:
        raise BundleRejected(
            Reason.EXPIRED,
            f"a statement that expires after {format_instant(now)} - {tolerance} s",
            f"one that expired at {format_instant(statement.expires_at)}",
        )


def _certificates(candidate: Bundle) -> tuple[Certificate, ...]:
    # 8. Nothing but certificates that parse: some servers skip a block that does not parse and accept the rest.
    try:
        return parse_certificates(candidate.ca, most=MAX_CERTIFICATES)
    except PemError as error:
        raise BundleRejected(Reason.PEM, "ca.crt of whole certificates and comments", str(error)) from None


def _check_anchors(statement: Statement, certificates: tuple[Certificate, ...]) -> None:
    # 9. Each certificate is the anchor listed in its place, may sign, and is not withdrawn.
    if len(certificates) != len(statement.anchors):
        raise BundleRejected(Reason.ANCHORS, f"{len(statement.anchors)} certificates", f"{len(certificates)}")
    roots = [c for c, a in zip(certificates, statement.anchors, strict=True) if a.role is Role.ROOT]
    for place, (certificate, anchor) in enumerate(zip(certificates, statement.anchors, strict=True), start=1):
        name = f"certificate {place}"
        if not is_ca(certificate):
            expected = f"{name} to be a CA (BasicConstraints CA, KeyUsage keyCertSign)"
            raise BundleRejected(Reason.ANCHORS, expected, "one that may not sign certificates")
        if fingerprint(certificate) != anchor.sha256:
            raise BundleRejected(Reason.ANCHORS, f"{name} with SHA-256 {anchor.sha256}", fingerprint(certificate))
        if (not_before(certificate), not_after(certificate)) != (anchor.not_before, anchor.not_after):
            got = f"{certificate.not_valid_before_utc:%FT%TZ} to {certificate.not_valid_after_utc:%FT%TZ}"
            expected = f"{format_instant(anchor.not_before)} to {format_instant(anchor.not_after)}"
            raise BundleRejected(Reason.ANCHORS, f"{name} valid from {expected}", got)
        if anchor.sha256 in statement.withdrawn:
            raise BundleRejected(Reason.ANCHORS, f"{name} not to be withdrawn", f"{anchor.sha256}, which is")
        if anchor.role is Role.ROOT and not issued_by(certificate, certificate):
            raise BundleRejected(Reason.ANCHORS, f"{name}, a root, to be signed by itself", "another signature")
        if anchor.role is Role.INTERMEDIATE and roots and not any(issued_by(certificate, root) for root in roots):
            raise BundleRejected(Reason.ANCHORS, f"{name} to be signed by a root of the bundle", "another issuer")
    end, due = statement.expires_at, statement.clock.expiry(statement.epoch)
    if end != due:
        expected = f"the first certificate to end at {format_instant(due)}, the end of epoch {statement.epoch}'s CA"
        raise BundleRejected(Reason.ANCHORS, expected, format_instant(end))


def _check_sequence(statement: Statement, digest: str, trust: Trust, known: Known) -> None:
    # 10. Sequence: forward only. The floor first, as it holds even where nothing was ever verified here.
    sequence = statement.sequence
    if sequence < trust.min_sequence:
        raise BundleRejected(Reason.FLOOR, f"sequence {trust.min_sequence} (min_sequence) or above", f"{sequence}")
    if known.highest is None or sequence > known.highest.sequence:
        return
    if sequence < min(known.highest.sequence, known.shown):
        expected = f"the mount to continue from sequence {known.shown}, which it has shown"
        raise BundleRejected(Reason.REPLAY, expected, f"{sequence}")
    if sequence < known.highest.sequence:
        expected = f"a sequence above {known.highest.sequence}, the highest verified"
        raise BundleRejected(Reason.SUPERSEDED, expected, f"{sequence}")
    if digest != known.highest.digest:
        expected = f"sequence {sequence} to be the statement {known.highest.digest[:16]}… seen before"
        raise BundleRejected(Reason.EQUIVOCATION, expected, f"{digest[:16]}…")


def _check_overlap(statement: Statement, installed: VerifiedBundle, tolerance: int, now: int) -> None:
    # 11. Overlap: a bundle without any CA in use would break every connection at once.
    if statement.cause is Cause.REVOCATION:
        return
    candidate = {anchor.sha256 for anchor in statement.intermediates}
    gone = [
        anchor.not_after <= now + tolerance or anchor.sha256 in statement.withdrawn
        for anchor in installed.statement.intermediates
    ]
    if not all(gone) and not candidate & installed.intermediates:
        got = f"none of the {len(installed.intermediates)} in place"
        raise BundleRejected(Reason.OVERLAP, "an intermediate in common with the installed bundle", got)
