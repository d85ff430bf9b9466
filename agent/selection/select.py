"""Selects the set to install among what the sources show; pure.

Bundles and leaf are judged apart: a rejected bundle does not keep out a renewed leaf or a good bundle of the other
source, and a leaf that does not fit does not keep out a bundle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from agent.selection.trust_set import TrustSet, compose
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle, StatementError
from tidemark.certificates import Leaf, LeafRejected, parse_leaf
from tidemark.trust import Trust
from tidemark.verify import SECURITY_EVENTS, BundleRejected, Known, Mark, Reason, VerifiedBundle, verify

Files = Mapping[str, bytes]


class BundleSource(StrEnum):
    """How a bundle arrived."""

    MOUNT = "mount"
    JETSTREAM = "jetstream"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that a source shows is not installed."""

    reason: str
    """One word, for metrics and receipts."""
    detail: str
    """A sentence: what was expected and found."""
    claimed: Mark | None = None
    """The sequence and digest that a rejected bundle claims; None where the bundle is not readable."""
    retry_at: int | None = None
    """When the bundle would pass, in Unix seconds, where time alone mends the fault."""
    security: bool = False
    """Whether the fault means that another writer than the authority made the bundle."""
    source: BundleSource = BundleSource.MOUNT
    judged: bool = True
    """Whether there was a bundle to verify; False where the source could not be read."""


@dataclass(frozen=True, slots=True)
class SourceContents:
    """What the sources show: files by name, or why there are none."""

    bundle: Files | Refusal
    """The mounted bundle."""
    leaf: Files | Refusal | None
    """The mounted leaf; None where the agent does not manage the leaf."""
    announced: tuple[Bundle | Refusal, ...] = ()
    """The bundles that arrived over JetStream."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of a selection."""

    trust_set: TrustSet | None
    """The set that should be installed; None where there is none."""
    adopted: VerifiedBundle | None
    """The highest bundle that passed verification; None where none did."""
    source: BundleSource
    """How the adopted bundle arrived."""
    refused: tuple[Refusal, ...]
    """Why the other bundles are not installed."""
    leaf_refused: Refusal | None
    """Why the mounted leaf is not installed; None where it is."""
    mounted: int = 0
    """The sequence of the mounted bundle; 0 where that is not authentic."""


def choose(shown: SourceContents, trust: Trust, known: Known, installed: TrustSet | None, now: int) -> Choice:
    """Verify every bundle, adopt the highest that passes, then judge the leaf. ``now`` is in Unix seconds.

    A bundle or leaf that does not pass leaves the installed one in place. ``known.shown`` counts for the mount alone: a
    lower statement of the broker is no replay, as a stream may be restored from a backup.
    """
    passed: list[tuple[VerifiedBundle, BundleSource]] = []
    refused: list[Refusal] = []
    mounted = 0
    for candidate, source in [
        (shown.bundle, BundleSource.MOUNT),
        *((each, BundleSource.JETSTREAM) for each in shown.announced),
    ]:
        judged = _judge(candidate, source, trust, known, now)
        if isinstance(judged, Refusal):
            refused.append(judged)
        else:
            passed.append((judged, source))
        if source is BundleSource.MOUNT:
            mounted = _authentic_sequence(judged)
    adopted, source = max(passed, key=lambda one: one[0].sequence, default=(None, BundleSource.MOUNT))
    if adopted is not None:
        refused += _equivocations(passed, adopted, trust, known, now)
    verified = adopted or (installed.verified if installed else None)
    if verified is None:
        return Choice(None, None, source, tuple(refused), None, mounted)
    if shown.leaf is None:
        return Choice(TrustSet(verified), adopted, source, tuple(refused), None, mounted)
    trust_set: TrustSet | None = None
    complaint: LeafRejected | None
    try:
        trust_set, complaint = compose(verified, _mounted_leaf(shown.leaf), installed, now)
    except LeafRejected as error:
        complaint = error
    leaf_refused = Refusal(f"leaf_{complaint.reason}", str(complaint)) if complaint else None
    return Choice(trust_set, adopted, source, tuple(refused), leaf_refused, mounted)


def _judge(
    candidate: Files | Bundle | Refusal, source: BundleSource, trust: Trust, known: Known, now: int
) -> VerifiedBundle | Refusal:
    if isinstance(candidate, Refusal):
        return replace(candidate, source=source)
    bundle = candidate if isinstance(candidate, Bundle) else Bundle(candidate[CA_FILE], candidate[NOTE_FILE])
    try:
        return verify(bundle, trust, known if source is BundleSource.MOUNT else replace(known, shown=0), now)
    except BundleRejected as error:
        security = error.reason in SECURITY_EVENTS
        return Refusal(error.reason.value, str(error), claimed_mark(bundle), error.retry_at, security, source)


def _authentic_sequence(judged: VerifiedBundle | Refusal) -> int:
    if isinstance(judged, VerifiedBundle):
        return judged.sequence
    return judged.claimed.sequence if judged.reason == Reason.SUPERSEDED and judged.claimed else 0


def _equivocations(
    passed: Sequence[tuple[VerifiedBundle, BundleSource]], adopted: VerifiedBundle, trust: Trust, known: Known, now: int
) -> list[Refusal]:
    """Refuse another text of the adopted sequence: neither text was known before, so each passed by itself."""
    now_known = replace(known, highest=Mark(adopted.sequence, adopted.digest), installed=None)
    judged = [
        _judge(other.bundle, source, trust, now_known, now)
        for other, source in passed
        if other.sequence == adopted.sequence and other.digest != adopted.digest
    ]
    return [refusal for refusal in judged if isinstance(refusal, Refusal)]


def claimed_mark(bundle: Bundle) -> Mark | None:
    """The sequence and digest that a bundle claims, for reports; not verified. None: not readable."""
    try:
        statement, digest = bundle.unverified_statement()
    except StatementError:
        return None
    return Mark(statement.sequence, digest)


def _mounted_leaf(shown: Files | Refusal) -> Leaf | LeafRejected:
    if isinstance(shown, Refusal):
        return LeafRejected(shown.reason, shown.detail)
    try:
        return parse_leaf(shown[LEAF_FILE], shown[KEY_FILE])
    except LeafRejected as error:
        return error
