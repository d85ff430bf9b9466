"""The receipt: what an agent installed and proved, as a value and as the JSON it posts to the authority.

``POST /api/v1/receipts`` takes one receipt and answers ``{"newest_sequence": N}``.
"""

from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any

from tidemark.strict_json import Fields, dump_object, format_instant, parse_object
from tidemark.verify import Mark

MAX_BYTES = 64 * 1024
"""A receipt above this size is refused unread."""

LONGEST_DETAIL = 1000
"""Characters of an error that a receipt carries; the rest is cut, or a long error would cost the whole receipt."""


class Level(IntEnum):
    """How sure it is that a workload uses a set; the order counts."""

    NONE = 0
    SIGNALLED = 1
    RELOADED = 2
    PROVEN = 3

    @property
    def word(self) -> str:
        """As receipts, metrics and people write it."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Level":
        """Read a level's word; raises ValueError."""
        for level in cls:
            if level.word == word:
                return level
        raise ValueError(f"level: expected one of {', '.join(level.word for level in cls)}, found {word[:80]!r}")


class PodClass(StrEnum):
    """Whether activation waits for an agent without end (``required``) or until a deadline (``application``)."""

    REQUIRED = "required"
    APPLICATION = "application"


class AgentState(StrEnum):
    """Where an agent stands with the newest set that it took up."""

    STARTING = "starting"  # nothing installed yet
    INSTALLED = "installed"  # in the output directory; the workload has not shown yet that it uses it
    PROVEN = "proven"  # every target reached the level it allows
    REVERTED = "reverted"  # the proof failed; the last proven set is back in place
    RELOAD_REFUSED = "reload_refused"  # the proof failed and so did the way back: the server refuses every reload
    LEAF_ORPHANED = "leaf_orphaned"  # proven, but no leaf fits the bundle (its CA was withdrawn)


@dataclass(frozen=True, slots=True)
class TargetReport:
    """One target: its URL without secrets, the level reached for the installed set, and the most it can reach."""

    target: str
    level: Level
    allowed: Level
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LeafReport:
    """The leaf that a workload serves. ``issuer_sha256`` is the fingerprint of the CA that signed it."""

    sha256: str
    issuer: str
    issuer_sha256: str
    serial: str
    not_before: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The last thing that went wrong, and with which statement (sequence 0: none could be read)."""

    reason: str
    detail: str
    at: int
    sequence: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One agent's report. Instants are Unix seconds of its own clock (``clock``: when it was sent), stages seconds.

    ``pod`` and ``uid`` name the workload, ``nonce`` this start of the agent; ``number`` rises with each receipt of a
    start, so that an older one that arrives late is not believed. ``highest`` is the highest statement verified,
    ``installed`` the one in the output directory, ``proven`` the last that every target showed it uses (at the level
    it allows) together with ``leaf``; ``reverted`` the one that was put back. ``keys`` are the verifier keys that the
    agent trusts, as ``name+hash``.
    """

    pod: str
    uid: str
    nonce: str
    number: int
    version: str
    pod_class: PodClass
    state: AgentState
    targets: tuple[TargetReport, ...]
    highest: Mark | None
    installed: Mark | None
    proven: Mark | None
    reverted: Mark | None
    leaf: LeafReport | None
    failure: Failure | None
    stages: dict[str, float]
    keys: tuple[str, ...]
    clock: int

    def to_json(self) -> bytes:
        """One line of JSON."""
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
            FieldError, ValueError: too large, not JSON, or a field missing or of another form.
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
    """What a receipt can carry of a text from elsewhere: short, and in UTF-8."""
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
