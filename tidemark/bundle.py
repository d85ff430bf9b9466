"""The bundle: ``ca.crt`` (what workloads read) and ``bundle.note`` (the signed statement over it), as values and bytes.

A statement's text is the line ``tidemark/bundle/v1``, then one line of JSON. Every known field must be there once and
of its type; unknown fields are ignored, so that later authorities may add fields.
See docs/architecture.md, "The statement".
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from tidemark.epoch import ClockError, EpochClock
from tidemark.strict_json import (
    LATEST_INSTANT,
    FieldError,
    Fields,
    check_digest,
    dump_object,
    format_instant,
    parse_object,
)

FORMAT = "tidemark/bundle/v1"
CA_FILE = "ca.crt"
NOTE_FILE = "bundle.note"
LEAF_FILE = "tls.crt"
KEY_FILE = "tls.key"

NO_PREVIOUS = "0" * 64
"""``previous`` of the first statement of a trust domain."""

_TRUST_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class StatementError(ValueError):
    """The text is no statement; the message names the field, what was expected and what was found."""


class Role(StrEnum):
    """The kind of an anchor: the CA of an epoch, or a root above such CAs."""

    INTERMEDIATE = "intermediate"
    ROOT = "root"


class Cause(StrEnum):
    """Why a statement was made (its field ``reason``)."""

    ROTATION = "rotation"
    FORCED = "forced"
    ROLLBACK = "rollback"
    REVOCATION = "revocation"


def check_trust_domain(name: str) -> str:
    """Return ``name`` if it can name a deployment: 1 to 64 letters, digits, '.', '_', '-', with a letter or digit at
    both ends (64 is the limit of organizationName in RFC 5280, appendix A.1).

    Raises:
        ValueError: any other name.
    """
    if not _TRUST_DOMAIN.fullmatch(name):
        raise ValueError(f"trust domain {name[:80]!r}: expected 1 to 64 letters, digits, '.', '_' or '-'")
    return name


@dataclass(frozen=True, slots=True)
class Anchor:
    """One certificate of ``ca.crt``."""

    role: Role
    epoch: int | None
    """The epoch of an intermediate; None for a root."""
    sha256: str
    """Of the certificate's DER, as 64 lower-case hex digits."""
    not_before: int
    """Start of the validity, in Unix seconds."""
    not_after: int
    """Last second of the validity, in Unix seconds."""

    def to_fields(self) -> dict[str, object]:
        """The JSON object of this anchor in a statement."""
        fields: dict[str, object] = {"role": self.role.value}
        if self.epoch is not None:
            fields["epoch"] = self.epoch
        return fields | {
            "sha256": self.sha256,
            "not_before": format_instant(self.not_before),
            "not_after": format_instant(self.not_after),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> "Anchor":
        """Read one entry of ``anchors``; raises FieldError."""
        role = fields.member("role", Role)
        return cls(
            role=role,
            epoch=fields.integer("epoch") if role is Role.INTERMEDIATE else None,
            sha256=fields.digest("sha256"),
            not_before=fields.instant("not_before"),
            not_after=fields.instant("not_after"),
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """The authority's signed claim about one ``ca.crt`` (docs/architecture.md, "The statement").

    Twelve fields, because the wire format has them side by side and one signature covers them all. Instants are Unix
    seconds, digests SHA-256 as 64 lower-case hex digits.

    Raises:
        StatementError: the fields contradict each other.
    """

    trust_domain: str
    """The deployment; see ``check_trust_domain``."""
    sequence: int
    """Rises strictly, from 1."""
    clock: EpochClock
    """The durations by which epochs are counted."""
    epoch: int
    """The first anchor's."""
    cause: Cause
    """On the wire ``reason``."""
    issued_at: int
    """When the statement was signed, by the authority's clock."""
    next_update: int
    """When the next statement is due."""
    expires_at: int
    """The first anchor's ``not_after``."""
    anchors: tuple[Anchor, ...]
    """In the order of ``ca.crt``: intermediates from the newest on, then roots."""
    withdrawn: tuple[str, ...]
    """Digests (of the DER) of CAs that must not be trusted any more."""
    ca_sha256: str
    """Digest of the exact bytes of ``ca.crt``."""
    previous: str
    """Digest of the previous statement's text, or ``NO_PREVIOUS``."""

    def __post_init__(self) -> None:
        # Intermediates before roots: agents and the overlap check take the first anchors for the CAs of epochs.
        roles = [anchor.role for anchor in self.anchors]
        if not roles or roles[0] is not Role.INTERMEDIATE or roles != sorted(roles, key=lambda role: role is Role.ROOT):
            found = ", ".join(roles) or "none"
            raise StatementError(f"anchors: expected one intermediate or more, then roots, found {found}")
        first = self.anchors[0]
        if first.epoch != self.epoch:
            raise StatementError(f"epoch: expected the first anchor's, {first.epoch}, found {self.epoch}")
        if first.not_after != self.expires_at:
            expected, found = format_instant(first.not_after), format_instant(self.expires_at)
            raise StatementError(f"expires_at: expected the first anchor's not_after, {expected}, found {found}")
        if self.clock.expiry(self.epoch) > LATEST_INSTANT:
            raise StatementError(f"epoch: expected one that ends before the year 10000, found {self.epoch}")
        fingerprints = {anchor.sha256 for anchor in self.anchors}
        if len(fingerprints) != len(self.anchors):
            raise StatementError("anchors: expected each certificate once, found one twice")

    def text(self) -> str:
        """The text that is signed."""
        fields = {
            "trust_domain": self.trust_domain,
            "sequence": self.sequence,
            "epoch": self.epoch,
            "epoch_seconds": self.clock.epoch_seconds,
            "validity_seconds": self.clock.validity_seconds,
            "prepare_seconds": self.clock.prepare_seconds,
            "reason": self.cause.value,
            "issued_at": format_instant(self.issued_at),
            "next_update": format_instant(self.next_update),
            "expires_at": format_instant(self.expires_at),
            "anchors": [anchor.to_fields() for anchor in self.anchors],
            "withdrawn": list(self.withdrawn),
            "ca_sha256": self.ca_sha256,
            "previous": self.previous,
        }
        return f"{FORMAT}\n{dump_object(fields)}\n"

    @classmethod
    def parse(cls, text: str) -> "Statement":
        """Read a statement's text.

        Raises:
            StatementError: another format, a field missing, given twice or of another type, or a contradiction.
        """
        lines = text.split("\n")
        if len(lines) != 3 or lines[0] != FORMAT or lines[2]:
            raise StatementError(
                f"text: expected the line {FORMAT} and one line of JSON, found {lines[0][:80]!r} first"
            )
        try:
            fields = parse_object(lines[1])
            return cls(
                trust_domain=check_trust_domain(fields.string("trust_domain")),
                sequence=fields.integer("sequence", least=1),
                clock=EpochClock(
                    epoch_seconds=fields.integer("epoch_seconds"),
                    validity_seconds=fields.integer("validity_seconds"),
                    prepare_seconds=fields.integer("prepare_seconds"),
                ),
                epoch=fields.integer("epoch"),
                cause=fields.member("reason", Cause),
                issued_at=fields.instant("issued_at"),
                next_update=fields.instant("next_update"),
                expires_at=fields.instant("expires_at"),
                anchors=tuple(Anchor.from_fields(anchor) for anchor in fields.objects("anchors")),
                withdrawn=tuple(check_digest(sha256, "withdrawn") for sha256 in fields.strings("withdrawn")),
                ca_sha256=fields.digest("ca_sha256"),
                previous=fields.digest("previous"),
            )
        except StatementError:
            raise
        except (FieldError, ClockError, ValueError) as error:
            raise StatementError(str(error)) from None

    @property
    def intermediates(self) -> tuple[Anchor, ...]:
        """The CAs of epochs, newest first."""
        return tuple(anchor for anchor in self.anchors if anchor.role is Role.INTERMEDIATE)


def digest_of(text: str) -> str:
    """A statement's digest, which names it in chains, receipts and stores: SHA-256 of its text, in lower-case hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """The two files as they are published; neither is verified yet."""

    ca: bytes
    """``ca.crt``: PEM."""
    note: bytes
    """``bundle.note``: a signed note (https://c2sp.org/signed-note) whose text is a statement."""

    @property
    def size(self) -> int:
        """Bytes of both files together."""
        return len(self.ca) + len(self.note)

    @property
    def ca_sha256(self) -> str:
        """SHA-256 of the exact bytes of ``ca.crt``, in hex."""
        return hashlib.sha256(self.ca).hexdigest()

    def unverified_statement(self) -> tuple[Statement, str]:
        """The statement that the note carries, and its digest; no signature is checked.

        For bundles that were verified before they were stored, and for reports about bundles that are refused.

        Raises:
            StatementError: the note or its text does not parse.
        """
        # Imported only here: reading and writing the formats of this module needs no cryptography.
        from tidemark import note as signed_note  # noqa: PLC0415

        try:
            text = signed_note.parse(self.note).text
        except signed_note.NoteError as error:
            raise StatementError(str(error)) from None
        return Statement.parse(text), digest_of(text)

    def to_json(self) -> bytes:
        """``{"ca.crt": …, "bundle.note": …}`` in UTF-8, as stores and JetStream messages hold a bundle.

        Raises:
            UnicodeDecodeError: a file is not UTF-8; such a bundle does not pass verification.
        """
        return dump_object({CA_FILE: self.ca.decode(), NOTE_FILE: self.note.decode()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Bundle":
        """Read what ``to_json`` wrote.

        Raises:
            FieldError: not a JSON object with these two texts.
        """
        fields = parse_object(data)
        longest = len(data)
        return cls(fields.string(CA_FILE, longest).encode(), fields.string(NOTE_FILE, longest).encode())
