"""What an agent keeps beside its sets, through restarts: how far it has come, and what was proven last; pure.

The file lies in the output directory and holds no secret. It only ever holds an agent back (no lower statement is
adopted) or lets it go back to a set that was proven; the set itself is verified again when it is read.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from tidemark.strict_json import Fields, dump_object, parse_object
from tidemark.verify import Mark

MEMORY_FILE = ".tidemark.json"


@dataclass(frozen=True, slots=True)
class ProvenSet:
    """The last proven set: its directory in the output directory, its statement, and its leaf."""

    directory: str
    mark: Mark
    leaf_sha256: str | None
    issuer_sha256: str


@dataclass(frozen=True, slots=True)
class PersistentState:
    """``highest`` is the highest statement ever verified; ``shown`` the highest sequence that each mount has shown."""

    highest: Mark | None = None
    shown: dict[str, int] = field(default_factory=dict)
    proven: ProvenSet | None = None

    def to_json(self) -> bytes:
        """One line of JSON."""
        fields: dict[str, Any] = {
            "highest": self.highest and asdict(self.highest),
            "shown": self.shown,
            "proven": self.proven and asdict(self.proven),
        }
        return dump_object(fields).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> "PersistentState":
        """Read what ``to_json`` wrote; raises FieldError."""
        fields = parse_object(data)
        return cls(
            highest=fields.optional("highest", lambda name: _mark(fields.object(name))),
            shown={mount: int(sequence) for mount, sequence in fields.numbers("shown").items()},
            proven=fields.optional("proven", lambda name: _proven(fields.object(name))),
        )


def _mark(fields: Fields) -> Mark:
    return Mark(fields.integer("sequence", least=1), fields.digest("digest"))


def _proven(fields: Fields) -> ProvenSet:
    return ProvenSet(
        directory=fields.string("directory", 80),
        mark=_mark(fields.object("mark")),
        leaf_sha256=fields.optional("leaf_sha256", fields.digest),
        issuer_sha256=fields.string("issuer_sha256", 64),
    )
