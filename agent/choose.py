"""The choice of the set to install: what the mounts show, judged by what is known; pure.

A bundle that is rejected does not keep a renewed leaf out, and a leaf that does not fit does not keep a bundle out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.trust_set import TrustSet, compose
from tidemark import note
from tidemark.bundle import CA_FILE, KEY_FILE, LEAF_FILE, NOTE_FILE, Bundle, Statement, StatementError, digest_of
from tidemark.certificates import Leaf, LeafRejected, parse_leaf
from tidemark.note import NoteError
from tidemark.trust import Trust
from tidemark.verify import SECURITY_EVENTS, BundleRejected, Known, Mark, VerifiedBundle, verify

Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something that a mount shows is not taken.

    ``claimed`` is what a rejected bundle says it is (None: unreadable); ``retry_at`` (Unix seconds) is set where time
    alone will mend it; ``security``: someone else than the authority wrote it.
    """

    reason: str
    detail: str
    claimed: Mark | None = None
    retry_at: int | None = None
    security: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """What the mounts show: files by name, or why there are none. ``leaf`` is None where no leaf is managed."""

    bundle: Files | Refusal
    leaf: Files | Refusal | None


@dataclass(frozen=True, slots=True)
class Choice:
    """``trust_set`` is to be in place (None: there is nothing to install); ``adopted`` the mount's bundle if it passed,
    ``refused`` why it did not; ``leaf_refused`` why the mounted leaf stays out."""

    trust_set: TrustSet | None
    adopted: VerifiedBundle | None
    refused: Refusal | None
    leaf_refused: Refusal | None


def choose(shown: Shown, trust: Trust, known: Known, installed: TrustSet | None, now: int) -> Choice:
    """Judge the bundle, then the leaf; what does not pass leaves the installed one in place."""
    adopted: VerifiedBundle | None = None
    refused: Refusal | None = None
    if isinstance(shown.bundle, Refusal):
        refused = shown.bundle
    else:
        bundle = Bundle(shown.bundle[CA_FILE], shown.bundle[NOTE_FILE])
        try:
            adopted = verify(bundle, trust, known, now)
        except BundleRejected as error:
            security = error.reason in SECURITY_EVENTS
            refused = Refusal(error.reason.value, str(error), claimed_mark(bundle), error.retry_at, security)
    verified = adopted or (installed.verified if installed else None)
    if verified is None:
        return Choice(None, None, refused, None)
    if shown.leaf is None:
        return Choice(TrustSet(verified), adopted, refused, None)
    try:
        trust_set, complaint = compose(verified, _mounted_leaf(shown.leaf), installed, now)
    except LeafRejected as error:
        return Choice(None, adopted, refused, _leaf_refusal(error))
    return Choice(trust_set, adopted, refused, _leaf_refusal(complaint) if complaint else None)


def claimed_mark(bundle: Bundle) -> Mark | None:
    """What a bundle says it is, for reports; nothing is checked."""
    try:
        text = note.parse(bundle.note).text
        return Mark(Statement.parse(text).sequence, digest_of(text))
    except (NoteError, StatementError):
        return None


def _mounted_leaf(shown: Files | Refusal) -> Leaf | LeafRejected:
    if isinstance(shown, Refusal):
        return LeafRejected(shown.reason, shown.detail)
    try:
        return parse_leaf(shown[LEAF_FILE], shown[KEY_FILE])
    except LeafRejected as error:
        return error


def _leaf_refusal(error: LeafRejected) -> Refusal:
    return Refusal(f"leaf_{error.reason}", str(error))
