"""The receipt: an agent's report of what it installed and proved, as a value and as JSON.

The agent posts one receipt to ``/api/v1/receipts`` of the authority, which answers ``{"newest_sequence": N}``.
"""

from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any

from tidemark.strict_json import Fields, dump_object, format_instant, parse_object
from tidemark.verify import Mark

MAX_BYTES = 64 * 1024
"""Bytes in a receipt; a larger one is refused unread."""

LONGEST_DETAIL = 1000
"""Characters of a text from elsewhere; the rest is cut, or one long error would make the whole receipt too large."""


class Level(IntEnum):
    """How far it is proven that a workload uses a set; a higher level includes the lower ones."""

    NONE = 0
    SIGNALLED = 1
    RELOADED = 2
    PROVEN = 3

    @property
    def word(self) -> str:
        """The level in lower case, as receipts and metrics write it."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Level":
        """The level of this word. Raises ValueError."""
        for level in cls:
            if level.word == word:
                return level
        raise ValueError(f"level: expected one of {', '.join(level.word for level in cls)}, found {word[:80]!r}")


class PodClass(StrEnum):
    """Whether activation waits for an agent without end (``required``) or until a deadline (``application``)."""

    REQUIRED = "required"
    APPLICATION = "application"


class AgentState(StrEnum):
    """The state of an agent with the newest set that it installed."""

    STARTING = "starting"  # nothing installed yet
    INSTALLED = "installed"  # in the output directory; the workload has not yet proven that it uses the set
    PROVEN = "proven"  # every target reached the level it allows
    REVERTED = "reverted"  # the proof failed; the last proven set is back in place
    RELOAD_REFUSED = "reload_refused"  # the proof failed and so did the way back: the server refuses every reload
    LEAF_ORPHANED = "leaf_orphaned"  # proven, but no leaf fits the bundle (the leaf's CA was withdrawn)


@dataclass(frozen=True, slots=True)
class TargetReport:
    """How far one target is with the installed set."""

    target: str
    """The target's URL, without secrets."""
    level: Level
    """The level reached."""
    allowed: Level
    """The highest level that a target of this kind can reach."""
    detail: str = ""
    """A phrase for people: how the level was proven, or why not."""


@dataclass(frozen=True, slots=True)
class LeafReport:
    """The leaf that a workload serves. Digests are of the DER, as 64 lower-case hex digits."""

    sha256: str
    """Of the leaf."""
    issuer: str
    """The issuer's name (RFC 4514)."""
    issuer_sha256: str
    """Of the CA that signed the leaf."""
    serial: str
    """Serial number, in hex."""
    not_before: int
    """Unix seconds."""
    not_after: int
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of an agent."""

    reason: str
    """One word, as in metrics."""
    detail: str
    """A sentence for people: what was expected, what was found."""
    at: int
    """When, in Unix seconds."""
    sequence: int = 0
    """The statement's number; 0 where no statement could be read."""
    digest: str = ""
    """The statement's digest; empty where no statement could be read."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One agent's report of its whole state; each receipt replaces the one before.

    Seventeen fields, because the wire format has them side by side: the authority needs all of them at once to decide
    whether an agent counts as proven.
    """

    pod: str
    """The pod's name."""
    uid: str
    """The pod's UID."""
    nonce: str
    """Random, new at each start of the agent."""
    number: int
    """Rises with each receipt of a start, so that a receipt that arrives late does not replace a newer one."""
    version: str
    """The agent's version."""
    pod_class: PodClass
    """On the wire ``class``."""
    state: AgentState
    targets: tuple[TargetReport, ...]
    highest: Mark | None
    """The highest statement that the agent has verified."""
    installed: Mark | None
    """The statement in the output directory."""
    proven: Mark | None
    """The last statement that every target uses, together with ``leaf``, each at the level that it allows."""
    reverted: Mark | None
    """The statement that was taken out again after its proof failed."""
    leaf: LeafReport | None
    failure: Failure | None
    stages: dict[str, float]
    """Seconds that each stage of the last change took (detect, verify, install, reload, prove)."""
    keys: tuple[str, ...]
    """The verifier keys that the agent trusts, as ``name+hash``."""
    clock: int
    """When the receipt was sent: Unix seconds of the agent's clock."""

    def to_json(self) -> bytes:
        """One line of JSON; texts from elsewhere are cut to ``LONGEST_DETAIL`` characters."""
        fields: dict[str, Any] = {
            "pod": self.pod,
            "uid": self.uid,
            "nonce": self.nonce,
            "number": self.number,
            "version": self.version,
            "class": self.pod_class.value,
            "state": self.state.value,
            "targets": [
                asdict(t) | {"level": t.level.word, "allowed": t.allowed.word, "detail": _cut(t.detail)}
                for t in self.targets
            ],
            "highest": self.highest and asdict(self.highest),
            "installed": self.installed and asdict(self.installed),
            "proven": self.proven and asdict(self.proven),
            "reverted": self.reverted and asdict(self.reverted),
            "leaf": self.leaf
            and asdict(self.leaf)
            | _instants(self.leaf, "not_before", "not_after")
            | {"issuer": _cut(self.leaf.issuer)},
            "failure": self.failure
            and asdict(self.failure) | _instants(self.failure, "at") | {"detail": _cut(self.failure.detail)},
            "stages": self.stages,
            "keys": list(self.keys),
            "clock": format_instant(self.clock),
        }
        return dump_object(fields).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        """Read a receipt; unknown fields are ignored.

        Raises:
            ValueError: more than ``MAX_BYTES``, or a level that does not exist.
            FieldError: not JSON, or a field that is missing or has another form.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"receipt: expected at most {MAX_BYTES} bytes, found {len(data)}")
        fields = parse_object(data)
        return cls(
            pod=fields.string("pod", 253),
            uid=fields.string("uid", 64),
            nonce=fields.string("nonce", 64),
            number=fields.integer("number"),
            version=fields.string("version", 64),
            pod_class=fields.member("class", PodClass),
            state=fields.member("state", AgentState),
            targets=tuple(_target(target) for target in fields.objects("targets")),
            highest=_mark(fields, "highest"),
            installed=_mark(fields, "installed"),
            proven=_mark(fields, "proven"),
            reverted=_mark(fields, "reverted"),
            leaf=_leaf(fields.object("leaf")) if "leaf" in fields else None,
            failure=_failure(fields.object("failure")) if "failure" in fields else None,
            stages=fields.numbers("stages"),
            keys=tuple(fields.strings("keys")),
            clock=fields.instant("clock"),
        )


def _cut(text: str) -> str:
    """The part of a text from elsewhere that a receipt can hold: short, and in UTF-8."""
    return text[:LONGEST_DETAIL].encode(errors="replace").decode()


def _instants(value: object, *names: str) -> dict[str, str]:
    return {name: format_instant(getattr(value, name)) for name in names}


def _mark(fields: Fields, name: str) -> Mark | None:
    if name not in fields:
        return None
    inner = fields.object(name)
    return Mark(inner.integer("sequence"), inner.digest("digest"))


def _target(fields: Fields) -> TargetReport:
    return TargetReport(
        target=fields.string("target"),
        level=Level.parse(fields.string("level", 16)),
        allowed=Level.parse(fields.string("allowed", 16)),
        detail=fields.string("detail"),
    )


def _leaf(fields: Fields) -> LeafReport:
    return LeafReport(
        sha256=fields.digest("sha256"),
        issuer=fields.string("issuer"),
        issuer_sha256=fields.digest("issuer_sha256"),
        serial=fields.string("serial", 64),
        not_before=fields.instant("not_before"),
        not_after=fields.instant("not_after"),
    )


def _failure(fields: Fields) -> Failure:
    return Failure(
        reason=fields.string("reason", 64),
        detail=fields.string("detail"),
        at=fields.instant("at"),
        sequence=fields.integer("sequence"),
        digest=fields.string("digest", 64),
    )
