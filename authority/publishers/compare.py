"""What to do with a target, judged by what it shows; pure."""

from authority.publishers.interface import PublishError, PublishOutcome
from tidemark import note as signed_note
from tidemark.bundle import Bundle, StatementError
from tidemark.note import NoteError
from tidemark.trust import Trust
from tidemark.verify import Mark, VerifiedBundle


def compare(target: str, found: Bundle | None, wanted: VerifiedBundle, trust: Trust) -> PublishOutcome:
    """``UNCHANGED`` or ``NEWER`` where the target is to be left alone, ``WRITTEN`` where it is to be written.

    Only a statement that our keys signed can stand against a write; garbage in a target, and statements signed by
    others, are written over.

    Raises:
        PublishError: the target shows the same sequence with another text, signed by us: agents would call the bundle
            that we have to write an equivocation, so nothing but a new statement helps.
    """
    if found == wanted.bundle:
        return PublishOutcome.UNCHANGED
    mark = signed_mark(found, trust) if found is not None else None
    if mark is None or mark.sequence < wanted.sequence or mark.digest == wanted.digest:
        return PublishOutcome.WRITTEN
    if mark.sequence > wanted.sequence:
        return PublishOutcome.NEWER
    raise PublishError(
        f"{target}: expected sequence {wanted.sequence} to be the statement {wanted.digest[:16]}…, found a validly "
        f"signed {mark.digest[:16]}…: two authorities have written it; find the other one, then force a rotation"
    )


def signed_mark(bundle: Bundle, trust: Trust) -> Mark | None:
    """Sequence and digest of the bundle's statement where our keys signed it; None elsewhere.

    The bundle's ``ca.crt`` is not looked at: a damaged one does not make the statement another.
    """
    try:
        signed_note.verify(signed_note.parse(bundle.note), trust.keys, trust.threshold)
        statement, digest = bundle.unverified_statement()
    except (NoteError, StatementError):
        return None
    return Mark(statement.sequence, digest) if statement.trust_domain == trust.trust_domain else None
