"""The state file: what an agent must know after a restart, to and from JSON; pure.

The file lies in the output directory and holds no secret. It can only make the agent refuse lower statements, or let it
put back a set that was proven; the set itself is verified again when it is read.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from tidemark.strict_json import Fields, dump_object, parse_object
from tidemark.verify import Mark

STATE_FILE = ".tidemark.json"


@dataclass(frozen=True, slots=True)
class ProvenSet:
    """The last proven set."""

    directory: str
    """The name of its directory in the output directory."""
    mark: Mark
    """Sequence and digest of its statement."""
    leaf_sha256: str | None
    """Fingerprint of its leaf; None without one."""
    issuer_sha256: str
    """Fingerprint of the CA that signed the leaf; "" without one."""


@dataclass(frozen=True, slots=True)
class PersistentState:
    """The content of the state file."""

    highest: Mark | None = None
    """The highest statement that was ever verified."""
    shown: dict[str, int] = field(default_factory=dict)
    """The highest authentic sequence that each mount has shown, by the mount's path."""
    proven: ProvenSet | None = None
    """None before the first proof."""

    def to_json(self) -> bytes:
        """The state as one line of JSON."""
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
