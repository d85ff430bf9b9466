"""The choice of the set to install: what the sources show, judged by what is known; pure.

A bundle that is rejected keeps neither a renewed leaf out nor a good bundle of the other source, and a leaf that does
not fit does not keep a bundle out.
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
    """Which way a bundle came."""

    MOUNT = "mount"
    JETSTREAM = "jetstream"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that a source shows is not taken.

    ``claimed`` is what a rejected bundle says it is (None: unreadable); ``retry_at`` (Unix seconds) is set where time
    alone will mend it; ``security``: someone else than the authority wrote it; ``judged``: there was a bundle, or what
    should have been one.
    """

    reason: str
    detail: str
    claimed: Mark | None = None
    retry_at: int | None = None
    security: bool = False
    source: BundleSource = BundleSource.MOUNT
    judged: bool = True


@dataclass(frozen=True, slots=True)
class SourceContents:
    """What the sources show: files by name, or why there are none. ``leaf`` is None where no leaf is managed;
    ``announced`` are bundles that came over JetStream."""

    bundle: Files | Refusal
    leaf: Files | Refusal | None
    announced: tuple[Bundle | Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """``trust_set`` is to be in place (None: there is nothing to install); ``adopted`` the highest bundle that passed
    (None: none did) and ``source`` the way it came, ``refused`` why others did not; ``leaf_refused`` why the mounted
    leaf stays out; ``mounted`` the sequence of the mount's bundle, where that is authentic."""

    trust_set: TrustSet | None
    adopted: VerifiedBundle | None
    source: BundleSource
    refused: tuple[Refusal, ...]
    leaf_refused: Refusal | None
    mounted: int = 0


def choose(shown: SourceContents, trust: Trust, known: Known, installed: TrustSet | None, now: int) -> Choice:
    """Judge every bundle, take the highest that passes, then judge the leaf; what does not pass leaves the installed
    one in place. ``known.shown`` is the mount's: what the broker shows is never a replay, as a stream may be restored.
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
    """Two sources that show two texts of one sequence: neither was known before, so each passed by itself."""
    now_known = replace(known, highest=Mark(adopted.sequence, adopted.digest), installed=None)
    judged = [
        _judge(other.bundle, source, trust, now_known, now)
        for other, source in passed
        if other.sequence == adopted.sequence and other.digest != adopted.digest
    ]
    return [refusal for refusal in judged if isinstance(refusal, Refusal)]


def claimed_mark(bundle: Bundle) -> Mark | None:
    """What a bundle says it is, for reports; nothing is checked."""
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
