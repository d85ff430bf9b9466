"""The bundle: ``ca.crt`` (what workloads read) and ``bundle.note`` (the signed statement over it), as values and bytes.

A statement's text is the line ``tidemark/bundle/v1``, then one line of JSON. Reading is strict about what it knows
(every field there, of its type, given once) and ignores what it does not know, so that later authorities may add.
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
    """What an anchor is: the CA of an epoch, or a root above those."""

    INTERMEDIATE = "intermediate"
    ROOT = "root"


class Cause(StrEnum):
    """Why a statement was made (its field ``reason``)."""

    ROTATION = "rotation"
    FORCED = "forced"
    ROLLBACK = "rollback"
    REVOCATION = "revocation"


def check_trust_domain(name: str) -> str:
    """Return ``name`` if it can name a deployment: 1 to 64 letters, digits, '.', '_', '-' (X.509's limit for O).

    Raises:
        ValueError: anything else.
    """
    if not _TRUST_DOMAIN.fullmatch(name):
        raise ValueError(f"trust domain {name[:80]!r}: expected 1 to 64 letters, digits, '.', '_' or '-'")
    return name


@dataclass(frozen=True, slots=True)
class Anchor:
    """One certificate of ``ca.crt``. ``sha256`` is of its DER; instants are Unix seconds; roots have no epoch."""

    role: Role
    epoch: int | None
    sha256: str
    not_before: int
    not_after: int

    def to_fields(self) -> dict[str, object]:
        """As it stands in the statement."""
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
    """What the authority says about one ``ca.crt`` (docs/architecture.md, "The statement").

    ``sequence`` rises strictly from 1; ``epoch`` is the first anchor's and counts by ``clock``; ``issued_at``,
    ``next_update`` and ``expires_at`` are Unix seconds; ``anchors`` stand in the order of ``ca.crt``, newest
    intermediate first, then roots; ``withdrawn``, ``ca_sha256`` and ``previous`` are SHA-256 digests in hex.

    Raises:
        StatementError: the fields contradict each other.
    """

    trust_domain: str
    sequence: int
    clock: EpochClock
    epoch: int
    cause: Cause
    issued_at: int
    next_update: int
    expires_at: int
    anchors: tuple[Anchor, ...]
    withdrawn: tuple[str, ...]
    ca_sha256: str
    previous: str

    def __post_init__(self) -> None:
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
    """A statement's digest: SHA-256 of its text, in hex. It names the statement in chains, receipts and stores."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Bundle:
    """The two files as they travel; nothing about them is trusted yet."""

    ca: bytes
    note: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
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
        """``{"ca.crt": …, "bundle.note": …}``, as stores and JetStream carry it; every verified bundle can be so.

        Raises:
            UnicodeDecodeError: one of the files is not UTF-8 (and would not pass verification).
        """
        return dump_object({CA_FILE: self.ca.decode(), NOTE_FILE: self.note.decode()}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Bundle":
        """Read what ``to_json`` wrote.

        Raises:
            FieldError: not an object with these two texts.
        """
        fields = parse_object(data)
        longest = len(data)
        return cls(fields.string(CA_FILE, longest).encode(), fields.string(NOTE_FILE, longest).encode())
